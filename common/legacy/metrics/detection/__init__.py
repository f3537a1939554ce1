"""Scores of a detector; a folder of its own because `evaluate.load("common/legacy/metrics/detection")` asks for one."""
