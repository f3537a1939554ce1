"""A folder of its own, because `evaluate.load` asks for one."""
