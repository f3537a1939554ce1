"""Class predictions; a folder of its own because `evaluate.load("common/metrics/classification")` asks for one."""
