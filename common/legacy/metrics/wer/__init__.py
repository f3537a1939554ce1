"""Transcripts of speech; a folder of its own because `evaluate.load("common/legacy/metrics/wer")` asks for one."""
