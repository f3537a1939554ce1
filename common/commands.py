"""The scripts as commands of the installed package, in which they and `common` lie side by side."""

import importlib
import sys
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))


def _run(script: str) -> int:
    from common.errors import exit_status

    return exit_status(importlib.import_module(script).main, f"{script}.py")


run_qa, run_nli_parsbert, run_mnli_lora, run_asr, run_keyword, run_ser, run_fraud = (
    partial(_run, f"run_{name}") for name in ("qa", "nli_parsbert", "mnli_lora", "asr", "keyword", "ser", "fraud")
)
