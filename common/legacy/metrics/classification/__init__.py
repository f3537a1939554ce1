"""Class predictions; a folder of its own because `evaluate.load("common/legacy/metrics/classification")` asks for one."""
