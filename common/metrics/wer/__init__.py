"""Transcripts of speech; a folder of its own because `evaluate.load("common/metrics/wer")` asks for one."""
