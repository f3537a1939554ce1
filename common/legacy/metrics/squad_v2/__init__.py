"""SQuAD v2 scoring; a folder of its own because `evaluate.load("common/legacy/metrics/squad_v2")` asks for one."""
