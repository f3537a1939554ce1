"""A fork server for all tests of this folder, and for each script the flags of a training of seconds."""

import functools
import json
from pathlib import Path

import pytest

from tests.faults.forks import ForkServer

STEPS = ["--save_strategy", "steps", "--save_steps", "2", "--eval_strategy", "steps", "--eval_steps", "2"]
STEPS += ["--max_eval_samples", "12", "--max_predict_samples", "12", "--use_cpu", "--logging_steps", "1"]
TRAINING = [*STEPS, "--num_train_epochs", "2", "--per_device_train_batch_size", "8", "--max_train_samples", "28"]
SCRIPTS = ("run_qa", "run_nli_parsbert", "run_mnli_lora", "run_keyword", "run_asr", "run_ser", "run_fraud")


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    with ForkServer(tmp_path_factory.mktemp("home")) as server:
        yield server


@pytest.fixture(scope="session")
def flags_of(tmp_path_factory):
    """script -> the flags of a training on built-in data with a checkpoint every other step, and dropout."""

    @functools.cache
    def make(script: str) -> tuple[str, ...]:
        folder = tmp_path_factory.mktemp(script)
        if script == "run_fraud":
            import pandas as pd

            from common.demo.fraud import synthetic_cards

            pd.DataFrame(synthetic_cards(900, 60)).to_parquet(folder / "cards.parquet")
            sizes = ["--num_train_epochs", "5", "--per_device_train_batch_size", "64", "--baselines", "false"]
            return ("--train_file", str(folder / "cards.parquet"), *sizes)
        from common.demo.nli import farstail_demo, mnli_demo
        from common.demo.qa import question_answering_demo
        from common.demo.speech import asr_demo, emotion_demo, keyword_demo

        makers = {
            "run_qa": (
                question_answering_demo,
                "distilbert",
                "--max_length",
                "64",
                "--stride",
                "16",
                "--null_threshold",
                "0",
            ),
            "run_nli_parsbert": (farstail_demo, "bert", "--max_length", "48"),
            "run_mnli_lora": (mnli_demo, "roberta-base", "--max_length", "48", "--method", "lora"),
            "run_keyword": (keyword_demo, "distilhubert", "--keywords", "yes", "no", "--freeze", "encoder"),
            "run_asr": (asr_demo, "distilhubert", "--freeze", "encoder", "--eval_train_samples", "0"),
            "run_ser": (emotion_demo, "hubert", "--freeze", "convolution", "--eval_train_samples", "0"),
        }
        maker, architecture, *more = makers[script]
        made = maker(folder, architecture)
        config = Path(made["model"]) / "config.json"
        settings = json.loads(config.read_text())
        dropout = {name: 0.1 for name, value in settings.items() if "dropout" in name and value == 0}
        config.write_text(json.dumps(settings | dropout))
        return (*(f"--{name}={value}" for name, value in made.items()), *more, *TRAINING)

    return make
