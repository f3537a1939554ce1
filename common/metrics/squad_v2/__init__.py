"""SQuAD v2 scoring; a folder of its own because `evaluate.load("common/metrics/squad_v2")` asks for one."""
