"""The command line: values and their sources, files, flags of official examples, phases, refusals, help."""

import contextlib
import io
import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
import types
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import TrainingArguments
from transformers.hf_argparser import HfArgumentParser

from common.arguments import DataArguments, ModelArguments, RunArguments, TaskArguments, flag, parse_arguments
from common.errors import UserError
from common.legacy_flags import DROPPED, QUESTION_ANSWERING, SPEECH, TEXT_CLASSIFICATION, only
from common.training_flags import CommonTrainingArguments
from tests.helpers import ROOT, message

CASES = ROOT.parent / "shared" / "cases"


@dataclass
class ToyArguments(TaskArguments):
    """The flags of a script that there is not."""

    _argument_group_name = "toy task"

    window: int = flag(384, "tokens in a window; 100% of them are used", "--max_seq_length")
    stride: int = flag(128, "tokens that windows share", "--doc_stride")
    null_threshold: float | None = flag(None, "score difference above which there is no answer", "--threshold")
    version_2_with_negative: bool = flag(False, "allow no answer")
    layers: list[str] = flag(["last"], "layers to read")
    method: Literal["full", "lora"] = flag("full", "what is trained")
    keep_case: bool = flag(True, "keep capital letters")
    freeze: str = flag("encoder", "what is not trained")

    def __post_init__(self):
        super().__post_init__()
        if self.stride >= self.window:
            raise UserError(f"--stride {self.stride}: must be below --window {self.window}")


@dataclass
class Pairs(ToyArguments):
    """With columns."""

    premise_column: str | None = flag(None, "first text")
    hypothesis_column: str | None = flag(None, "second text")


RECIPE = {
    "model": "recipe-model",
    "dataset": "recipe/data",
    "max_train_samples": 60000,
    "max_eval_samples": 5000,
    "max_predict_samples": 700,
    "window": 256,
    "learning_rate": 1e-5,
    "num_train_epochs": 4.0,
    "output_dir": "runs/toy",
    "eval_strategy": "epoch",
    "save_strategy": "epoch",
    "load_best_model_at_end": True,
    "metric_for_best_model": "f1",
}
DEMO = {"model": "tiny-model", "max_train_samples": 32, "num_train_epochs": 1.0}
VARIANTS = {"method": {"lora": {"model": "large-model", "learning_rate": 3e-4, "num_train_epochs": 9.0}}}


def parse(*argv, kind=ToyArguments, recipe=RECIPE, demo=DEMO, variants=VARIANTS, **options):
    return parse_arguments(kind, argv, recipe=recipe, demo=demo, variants=variants, **options)


def refusal(*argv, **options) -> str:
    return message(parse, *argv, **options)


def written(folder, text, name="run.yaml"):
    path = folder / name
    path.write_text(textwrap.dedent(text), encoding="utf-8")
    return str(path)


# Values and their sources


def test_command_line_beats_file_beats_demo_beats_variant_beats_recipe_beats_default(tmp_path):
    path = written(tmp_path, "num_train_epochs: 7\nseed: 5\nwindow: 140\nmethod: lora\n")
    args = parse(path, "--demo", "--window", "129")
    values = {name: (entry["value"], entry["source"]) for name, entry in args.record.items()}
    assert values["window"] == (129, "command line") and args.window == 129
    assert values["num_train_epochs"] == (7.0, "file run.yaml") and args.training_args.num_train_epochs == 7
    assert values["model"] == ("tiny-model", "demo") and args.model == "tiny-model"
    assert values["learning_rate"] == (3e-4, "variant --method lora") and args.training_args.learning_rate == 3e-4
    assert values["dataset"] == ("recipe/data", "recipe")
    assert values["stride"] == (128, "script default") and values["weight_decay"] == (0.0, "library default")
    assert values["do_train"] == (True, "derived")
    assert args.explicit == {"demo", "window", "num_train_epochs", "seed", "method"}
    assert args.command == ["test_arguments.py", path, "--demo", "--window", "129"]
    everything = {item.name for group in (args, args.training_args) for item in fields(group)}
    assert set(json.loads(json.dumps(args.record, allow_nan=False))) == everything


def test_a_variant_sets_what_help_says_and_only_then():
    assert (parse().model, parse("--method", "lora").model) == ("recipe-model", "large-model")
    assert parse("--method", "lora", "--model", "mine").model == "mine"
    assert parse(recipe={**RECIPE, "method": "lora"}).training_args.learning_rate == 3e-4


def test_a_value_given_that_equals_the_default_is_still_given():
    args = parse("--demo", "--max_train_samples", "60000", "--weight_decay", "0.0")
    assert args.max_train_samples == 60000 and {"max_train_samples", "weight_decay"} <= args.explicit


def test_set_changes_only_what_nobody_chose():
    args = parse("--demo", "--stride", "7")
    args.set("the data", stride=1, model="other", window=10, learning_rate=0.5)
    assert (args.stride, args.model, args.window, args.training_args.learning_rate) == (7, "tiny-model", 10, 0.5)
    assert args.record["window"] == {"value": 10, "source": "the data"} and args.record["stride"]["value"] == 7


@pytest.mark.parametrize(
    "argv, change",
    [
        ([], {"recipe": {**RECIPE, "learning_rat": 1}}),
        (["--demo"], {"demo": {"modle": "x"}}),
        (["--method", "lora"], {"variants": {"method": {"lora": {"lerning_rate": 1}}}}),
        ([], {"variants": {"methode": {}}}),
    ],
)
def test_a_recipe_demo_or_variant_of_unknown_names_is_a_bug_that_shows(argv, change):
    with pytest.raises(KeyError, match=r"learning_rat|modle|lerning_rate|methode"):
        parse(*argv, **change)


@pytest.mark.parametrize(
    "argv, limits",
    [
        ([], (60000, 5000, 700)),
        (["--demo"], (32, 5000, 700)),
        (["--train_file", "a.csv"], (None, None, None)),
        (["--demo", "--train_file", "a.csv"], (None, None, None)),
        (["--dataset", "other/data"], (None, None, None)),
        (["--dataset_name", "recipe/data"], (60000, 5000, 700)),
        (["--validation_file", "v.csv"], (60000, None, 700)),
        (["--test_file", "t.csv"], (60000, 5000, None)),
        (["--train_file", "a.csv", "--max_train_samples", "10"], (10, None, None)),
        (["--max_train_samples", "-1", "--max_eval_samples=-3"], (None, None, 700)),
    ],
)
def test_limits_of_the_recipe_hold_for_its_own_data(argv, limits):
    args = parse(*argv)
    assert (args.max_train_samples, args.max_eval_samples, args.max_predict_samples) == limits
    if None in limits and "--max_train_samples" not in argv:
        assert args.record["max_eval_samples" if limits[1] is None else "max_predict_samples"]["source"] == "own data"


def test_files_are_several_values_or_several_flags():
    args = parse("--train_file", "a.csv", "b.csv", "--validation_file=v.csv", "--train_file", "c*.csv")
    assert (
        args.train_file == ["a.csv", "b.csv", "c*.csv"] and args.validation_file == ["v.csv"] and args.test_file == []
    )
    assert parse("--layers", "a", "b").layers == ["a", "b"] and parse().layers == ["last"]
    parse().layers.append("x")
    assert parse().layers == ["last"]


def test_aliases_dashes_and_equals_signs_are_the_same_flag():
    for argv in (
        ["--model_name_or_path", "m", "--max_validation_samples", "9", "--threshold", "0.5", "--no_keep_case"],
        ["--model-name-or-path=m", "--max-eval-samples=9", "--null-threshold=0.5", "--keep-case", "false"],
    ):
        args = parse(*argv)
        assert (args.model, args.max_eval_samples, args.null_threshold, args.keep_case) == ("m", 9, 0.5, False)


VALUES = {
    "window": st.integers(129, 10**6).map(str),
    "null_threshold": st.floats(-1e3, 1e3).map("{:f}".format),
    "keep_case": st.sampled_from(["true", "False", "yes", "no", "1", "0"]),
    "method": st.sampled_from(["full", "lora"]),
    "run_name": st.text("abc =.,'\"\\:#{}[]é", min_size=1),
    "learning_rate": st.sampled_from(["5e-5", "0.1", "1e-3"]),
    "lr_scheduler_type": st.sampled_from(["linear", "cosine"]),
}


@settings(max_examples=40, deadline=None)
@given(st.fixed_dictionaries({}, optional=VALUES))
def test_command_line_and_files_mean_what_they_mean_to_the_library(chosen):
    argv = [f"--{name}={value}" for name, value in chosen.items()]
    toy, training = HfArgumentParser((ToyArguments, TrainingArguments)).parse_args_into_dataclasses(
        [*argv, "--use_cpu"], look_for_args_file=False
    )
    name = Path(os.environ["XDG_CACHE_HOME"] + "-fuzz")
    files = {".json": json.dumps(chosen), ".yaml": yaml.safe_dump(chosen)}
    for suffix, text in files.items():
        name.with_suffix(suffix).parent.mkdir(parents=True, exist_ok=True)
        name.with_suffix(suffix).write_text(text, encoding="utf-8")
    for given_as in (argv, [str(name.with_suffix(".json"))], [str(name.with_suffix(".yaml"))]):
        args = parse(*given_as, recipe={}, variants={})
        assert args.explicit == set(chosen)
        assert all(
            getattr(args, one) == getattr(toy, one) for one in ("window", "null_threshold", "keep_case", "method")
        )
        for one in ("run_name", "learning_rate", "lr_scheduler_type"):
            assert getattr(args.training_args, one) == getattr(training, one)


def test_secrets_are_used_but_written_nowhere(tmp_path, capsys):
    path = written(tmp_path, "hub_token: hf_file\n")
    args = parse(path, "--token", "hf_one", "--hub-token=hf_two", "--run_name", "token", "--seed", "1")
    assert args.token == "hf_one" and args.training_args.hub_token == "hf_two"
    assert args.record["token"]["value"] == args.record["hub_token"]["value"] == "***"
    assert args.command[2:] == ["--token", "***", "--hub-token=***", "--run_name", "token", "--seed", "1"]
    assert parse("--push_to_hub_token", "hf_three").command[1:] == ["--push_to_hub_token", "***"]
    assert parse().record["token"]["value"] is None and parse().command == ["test_arguments.py"]
    assert parse("--use_auth_token", "hf_four").command[1:] == ["--use_auth_token", "***"]
    assert "hf_" not in capsys.readouterr().err
    urls = ["https://me:password@h.org/a.csv?key=secret", "http://h.org/b é.csv?X-Amz-Signature=secret"]
    args = parse("--train_file", *urls, f"--test_file={urls[0]}")
    assert args.train_file == urls, "used"
    shown = ["https://***@h.org/a.csv?***", "http://h.org/b é.csv?***"]
    assert args.command[1:] == ["--train_file", *shown, f"--test_file={shown[0]}"]
    assert args.record["train_file"]["value"] == shown and "secret" not in json.dumps(args.record)


# Mistakes


@pytest.mark.parametrize(
    "argv, words",
    [
        (["--learning_rat", "3"], ["--learning_rat;", "did you mean --learning_rate?"]),
        (["--max-train-sample=3"], ["did you mean --max_train_samples?"]),
        (["--evaluation_strateg", "no"], ["did you mean --evaluation_strategy?"]),
        (["--learn", "3"], ["unknown flag --learn; see --help"]),
        (["--epochs", "3"], ["unknown flag --epochs; see --help"]),
        (["-lr", "3"], ["'-lr': unknown flag"]),
        (["--window", "many"], ["--window", "'many'", "int"]),
        (["--window", "9" * 5000], ["--window", "int"]),
        (["--window"], ["--window", "expected one argument"]),
        (["--method", "median"], ["--method", "'median'", "'full', 'lora'"]),
        (["--demo", "perhaps"], ["--demo", "perhaps"]),
        (["data.csv"], ["'data.csv'"]),
        (["--seed", "1", "late.yaml"], ["'late.yaml'", "comes first"]),
        (["--stride", "900"], ["--stride 900", "--window 256"]),
        (["--max_train_samples", "0"], ["--max_train_samples", "-1"]),
        (["--preprocessing_num_workers", "0"], ["--preprocessing_num_workers"]),
        (["--learning_rate", "0"], ["--learning_rate 0.0: must be from"]),
        (["--learning_rate", "nan"], ["--learning_rate nan"]),
        (["--learning_rate=-1e-5"], ["--learning_rate"]),
        (["--per_device_train_batch_size", "0"], ["--per_device_train_batch_size 0: must be from 1 to"]),
        (["--num_train_epochs", "-1"], ["--num_train_epochs"]),
        (["--num_train_epochs", "inf"], ["--num_train_epochs inf"]),
        (["--seed", "-1"], ["--seed -1: must be from 0 to 4294967295"]),
        (["--sample_seed", "4294967296"], ["--sample_seed"]),
        (["--eval_steps", "0"], ["--eval_steps"]),
        (["--label_smoothing_factor", "1.5"], ["--label_smoothing_factor"]),
        (["--train_sampling_strategy", "lenght"], ["lenght", "group_by_length"]),
        (["--batch_eval_metrics"], ["--batch_eval_metrics"]),
        (["--fsdp", "full_shard"], ["--fsdp", "torchrun"]),
        (["--report_to", "wandb"], ["--report_to wandb", "not installed"]),
        (["--report_to", "wandbb"], ["--report_to wandbb"]),
        (["--optim", "galore_adamw"], ["galore"]),
        (["--optim", "adamw_bnb_8bit"], ["bitsandbytes"]),
        (["--optim", "adamm"], ["--optim"]),
        (["--fp16", "--use_cpu"], ["--fp16 needs a GPU"]),
        (["--push_to_hub"], ["--push_to_hub", "HF_HUB_OFFLINE"]),
        (["--lr_scheduler_kwargs", "{broken"], ["training flags are refused"]),
        (["--accelerator_config", '{"bogus": true}'], ["bogus"]),
        (["--deepspeed", "nowhere.json"], ["training flags are refused"]),
        (["--load_best_model_at_end", "--eval_strategy", "no", "--save_strategy", "epoch"], ["load_best_model_at_end"]),
        (["--do_train", "--early_stopping_patience", "2"], ["--early_stopping_patience"]),
        (["--lr_scheduler_kwargs", "[1]"], ["training flags are refused"]),
        (["--lr_scheduler_kwargs", '{"num_cycles": 2}'], ["training flags are refused", "num_cycles"]),
        (["--optim_args", "x"], ["training flags are refused"]),
        (["--report_to", ""], ["--report_to: its value is empty"]),
        (["--train_file", "a.csv", ""], ["--train_file: its value is empty"]),
        (["--early_stopping_threshold", "nan"], ["--early_stopping_threshold nan: must be"]),
        (["--warmup_ratio", "--seed", "1"], ["--warmup_ratio", "must be a share"]),
        (["--warmup_ratio", "1.5"], ["--warmup_ratio 1.5"]),
        (["--warmup_ratio=nan"], ["--warmup_ratio nan"]),
        (["--adafactor", "maybe"], ["--adafactor maybe: must be true or false"]),
        (["--warmup_ratio", "0.1", "--warmup_steps", "0"], ["--warmup_ratio is --warmup_steps today", "leave one"]),
        (["--evaluation-strategy=no", "--eval-strategy=no"], ["--evaluation_strategy is --eval_strategy today"]),
        (["--output_dir", " "], ["--output_dir: its value is empty"]),
        (["--run_name", "caf\udce9"], ["--run_name 'caf\\udce9': is not UTF-8"]),
        (["--train_file", "a.csv", "\udce9.csv"], ["--train_file '\\udce9.csv': is not UTF-8"]),
        (["--use_liger_kernel"], ["--use_liger_kernel"]),
        (["--torch_compile_mode", "x"], ["mode=x"]),
        (["--torch_compile_backend", "nope"], ["nope"]),
        (["--fp16_full_eval", "--use_cpu"], ["--fp16_full_eval needs a GPU"]),
        (["--bf16_full_eval"], ["halves the saved model", "--bf16"]),
        (["--dataloader_prefetch_factor", "0", "--dataloader_num_workers", "1"], ["--dataloader_prefetch_factor 0"]),
        (["--neftune_noise_alpha", "-1"], ["--neftune_noise_alpha"]),
    ],
)
def test_mistakes_are_one_sentence(argv, words):
    sentence = refusal(*argv)
    assert all(word in sentence for word in words), sentence
    assert len(sentence) < 400 and "usage:" not in sentence


def test_a_push_needs_a_token(monkeypatch):
    monkeypatch.setattr("huggingface_hub.is_offline_mode", lambda: False)
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    assert "hf auth login" in refusal("--push_to_hub")
    assert parse("--push_to_hub", "--token", "hf_one").training_args.push_to_hub is True


def test_a_misspelt_sampling_strategy_in_a_recipe_is_refused_too():
    assert "lenght" in refusal(recipe={**RECIPE, "train_sampling_strategy": "lenght"})


# Files of arguments


def test_values_in_a_file_have_the_types_of_their_flags(tmp_path):
    path = written(
        tmp_path,
        """\
        learning_rate: 5e-5
        window: 140
        keep_case: false
        layers: [first, '2', last]
        train_file: [a.csv, b.csv]
        label_names: [start_positions]
        model_revision: 0123
        dataset_revision: 12e5678
        eval_strategy: no
        max_train_samples: -1
        null_threshold: -2.5e-1
        cache_dir: null
        test_file: []
        run_name: a run with spaces
        model-name-or-path: named-by-alias
        lr_scheduler_type: cosine_with_min_lr
        lr_scheduler_kwargs: {"min_lr": 1e-6, "num_cycles": 2}
        group_by_length: true
        """,
    )
    args = parse(path)
    training = args.training_args
    assert training.learning_rate == 5e-5 and training.lr_scheduler_kwargs == {"min_lr": 1e-6, "num_cycles": 2}
    assert (args.window, args.keep_case, args.null_threshold) == (140, False, -0.25)
    assert args.layers == ["first", "2", "last"] and args.train_file == ["a.csv", "b.csv"] and args.test_file == []
    assert training.label_names == ["start_positions"] and training.eval_strategy == "no"
    assert (args.model_revision, args.dataset_revision) == ("0123", "12e5678")
    assert args.max_train_samples is None and args.cache_dir is None and not {"cache_dir", "test_file"} & args.explicit
    assert (training.run_name, args.model) == ("a run with spaces", "named-by-alias")
    assert training.train_sampling_strategy == "group_by_length"


@pytest.mark.parametrize(
    "text",
    [
        "lr_scheduler_kwargs:\n  min_lr: 1e-6\n",
        "lr_scheduler_kwargs: {min_lr: 1e-6}\n",
        "lr_scheduler_kwargs: '{\"min_lr\": 1e-6}'\n",
    ],
)
def test_a_mapping_in_a_file_in_all_its_forms(tmp_path, text):
    args = parse(written(tmp_path, f"lr_scheduler_type: cosine_with_min_lr\n{text}"))
    assert args.training_args.lr_scheduler_kwargs == {"min_lr": 1e-6}


def test_several_trackers(tmp_path, monkeypatch):
    monkeypatch.setattr("transformers.integrations.get_available_reporting_integrations", lambda: ["wandb", "mlflow"])
    for text in ("report_to: [wandb, mlflow]\n", "report_to:\n- wandb\n- mlflow\n", "report_to: wandb, mlflow\n"):
        assert parse(written(tmp_path, text)).training_args.report_to == ["wandb", "mlflow"]
    assert parse("--report_to", "wandb,mlflow").training_args.report_to == ["wandb", "mlflow"]
    assert parse(written(tmp_path, "report_to: [none]\n")).training_args.report_to == []
    for odd, name in (("wandb,none", "none"), ("wandb,tensorboard", "tensorboard"), ("wandb,,mlflow", "")):
        assert f"--report_to {name}: there is no such tracker" in refusal("--report_to", odd)


def test_the_home_folder_in_values_that_no_shell_has_seen(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    path = written(tmp_path, "cache_dir: ~/cache\ntrain_file: [~/a.csv, ~/b.csv]\n")
    args = parse(path, "--model=~/m", "--validation-file=~/v.csv", "--run_name=~")
    home = str(tmp_path)
    assert (args.model, args.cache_dir, args.training_args.run_name) == (f"{home}/m", f"{home}/cache", "~")
    assert args.train_file == [f"{home}/a.csv", f"{home}/b.csv"] and args.validation_file == [f"{home}/v.csv"]
    assert parse("--train_file", "x~/a.csv").train_file == ["x~/a.csv"]


def test_json_files_say_the_same(tmp_path):
    content = {"learning_rate": 5e-5, "keep_case": False, "layers": ["a", "b"], "eval_strategy": "no", "seed": None}
    content |= {"lr_scheduler_type": "cosine", "lr_scheduler_kwargs": {"num_cycles": 2}}
    content |= {"run_name": 'é "quoted" \\ \U0001f600', "train_file": "a.csv"}
    for text in (json.dumps(content, ensure_ascii=False), json.dumps(content, ensure_ascii=False, indent="\t")):
        args = parse(written(tmp_path, "\ufeff" + text, "run.json"), "--seed", "3")
        training = args.training_args
        assert (training.learning_rate, args.keep_case, args.layers) == (5e-5, False, ["a", "b"])
        assert (training.eval_strategy, training.seed, training.lr_scheduler_kwargs) == ("no", 3, {"num_cycles": 2})
        assert training.run_name == content["run_name"] and args.train_file == ["a.csv"]


def test_an_empty_file_changes_nothing(tmp_path):
    assert (
        parse(written(tmp_path, "# nothing\n")).explicit == parse(written(tmp_path, "{}", "a.json")).explicit == set()
    )


BILLION = "a: &a [x, x, x]\n" + "".join(f"{b}: &{b} [*{a}, *{a}, *{a}]\n" for a, b in zip("abcdefgh", "bcdefghi"))


@pytest.mark.parametrize(
    "name, text, words",
    [
        ("run.yaml", "seed: 1\nlearning_rat: 3\n", ["learning_rat", "did you mean --learning_rate?"]),
        ("run.yaml", "learning_rate: fast\n", ["learning_rate", "'fast'"]),
        ("run.yaml", "window: 1.5\n", ["window", "'1.5'"]),
        ("run.yaml", "window: [140, 150]\n", ["'150'", "one value too many"]),
        ("run.yaml", "dataset: {a: 1}\n", ["line 1", "dataset", "plain values"]),
        ("run.yaml", "layers: [a, [b]]\n", ["line 1", "layers", "plain values"]),
        ("run.yaml", "warmup_ratio: 3\n", ["warmup_ratio"]),
        ("run.yaml", "seed: 1\nwindow: [1, 2\n", ["line"]),
        ("run.yaml", "seed: 1\nwindow: 140\nseed: 2\n", ["line 3", "seed is given twice"]),
        ("run.json", '{"seed": 1, "seed": 1}', ["seed is given twice"]),
        ("run.yaml", "- seed\n- window\n", ["name: value"]),
        ("run.yaml", "just words\n", ["name: value"]),
        ("run.json", '{"seed": 1,\n "window": }}', ["line 2"]),
        ("run.json", "[1, 2]", ["name: value"]),
        ("run.yaml", BILLION + "learning_rate: *i\n", ["line 2", "aliases"]),
        ("run.yaml", "learning_rate: &a [*a]\n", ["aliases"]),
        ("run.yaml", "model: !!set {a, b}\n", ["tags"]),
        ("run.yaml", "model: !!python/object/apply:os.system [ls]\n", ["tags"]),
        ("run.yaml", "model: " + "[" * 20000 + "]" * 20000, ["nested too deeply"]),
        ("run.json", '{"model": ' + '{"a":' * 15000, ["line 1"]),
        ("run.json", '{"seed": ' + "9" * 5000 + "}", ["--seed", "int"]),
        ("run.yaml", "a: 1\n---\nb: 2\n", ["line"]),
        ("run.yaml", "model: a\x00b\n", ["run.yaml"]),
        ("run.yaml", "#" * 200_000, ["too large"]),
        ("run.yaml", "seed: 1\nlr_scheduler_kwargs:\n  ? [a]\n  : 1\n", ["line 2: lr_scheduler_kwargs", "unhashable"]),
        ("run.yaml", "lr_scheduler_kwargs: {a: 2024-99-99}\n", ["line 1: lr_scheduler_kwargs", "month"]),
        ("run.json", '{"run_name": "\\ud83d"}', ["--run_name", "is not UTF-8"]),
    ],
)
def test_mistakes_in_a_file_name_the_file(tmp_path, name, text, words):
    sentence = refusal(written(tmp_path, text, name))
    assert name in sentence or "--warmup_ratio" in sentence
    assert all(word in sentence for word in words) and len(sentence) < 400, sentence


def test_what_is_no_file_is_one_sentence(tmp_path):
    assert "nowhere.yaml: there is no such file" in refusal("nowhere.yaml")
    (tmp_path / "folder.yaml").mkdir()
    (tmp_path / "utf16.yaml").write_text("seed: 1", encoding="utf-16")
    names = ["folder.yaml", "utf16.yaml"]
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe.json")
        names.append("pipe.json")
    for name in names:
        assert name in refusal(str(tmp_path / name))


@pytest.mark.skipif(not CASES.is_dir(), reason="the cases are beside the repository of the project alone")
@pytest.mark.parametrize("name", ["laughs.yaml", "selfref.yaml", "set.yaml", "deep.yaml", "long_number.json"])
def test_files_that_broke_the_product_once(name):
    assert name in refusal(str(CASES / "inputs" / name))


# Flags of official examples


def test_an_official_command_for_the_task_runs_unchanged(tmp_path, capsys):
    content = {
        "model_name_or_path": "tiny-distilbert",
        "validation_file": "v40.json",
        "do_eval": True,
        "max_seq_length": 96,
        "doc_stride": 16,
        "output_dir": "x",
        "use_cpu": True,
        "overwrite_output_dir": True,
        "version_2_with_negative": True,
        "null_score_diff_threshold": 0.0,
    }
    args = parse(written(tmp_path, json.dumps(content), "hf.json"), legacy=QUESTION_ANSWERING)
    assert (args.model, args.window, args.stride, args.null_threshold) == ("tiny-distilbert", 96, 16, 0.0)
    assert args.version_2_with_negative and args.overwrite_output_dir and args.validation_file == ["v40.json"]
    assert (args.training_args.do_train, args.training_args.do_eval) == (False, True)
    assert capsys.readouterr().err.count("note: ") == 1


@pytest.mark.parametrize(
    "argv, name, value",
    [
        (["--warmup_ratio", "0.1"], "warmup_steps", 0.1),
        (["--warmup-ratio=0.06"], "warmup_steps", 0.06),
        (["--group_by_length"], "train_sampling_strategy", "group_by_length"),
        (["--group-by-length=False"], "train_sampling_strategy", "random"),
        (["--no_cuda"], "use_cpu", True),
        (["--evaluation_strategy", "no"], "eval_strategy", "no"),
        (["--per_gpu_train_batch_size", "3"], "per_device_train_batch_size", 3),
        (["--per_gpu_eval_batch_size=5"], "per_device_eval_batch_size", 5),
        (["--adafactor"], "optim", "adafactor"),
        (["--adafactor", "false"], "optim", "adamw_torch_fused"),
        (["--push_to_hub_model_id", "me/it"], "hub_model_id", "me/it"),
        (["--push_to_hub_token", "secret"], "hub_token", "secret"),
        (["--torchdynamo", "eager"], "torch_compile_backend", "eager"),
        (["--feature_extractor_name", "f"], "tokenizer_name", "f"),
        (["--eval_file", "e.csv"], "validation_file", ["e.csv"]),
        (["--freeze_feature_encoder"], "freeze", "convolution"),
        (["--freeze_feature_encoder", "false"], "freeze", "none"),
        (["--no_freeze_feature_encoder"], "freeze", "none"),
        (["--group_by_length", "1"], "train_sampling_strategy", "group_by_length"),
        (["--group_by_length=No"], "train_sampling_strategy", "random"),
    ],
)
def test_older_and_official_flags_act_as_they_did(argv, name, value, capsys):
    args = parse(*argv, "--seed", "7", legacy=SPEECH)
    found = getattr(args if hasattr(args, name) else args.training_args, name)
    assert found == value and args.training_args.seed == 7
    assert len([line for line in capsys.readouterr().err.splitlines() if line.startswith("note: --")]) == 1


def test_flags_without_effect_are_consumed_with_a_note(capsys):
    tables = {**DROPPED, **QUESTION_ANSWERING, **TEXT_CLASSIFICATION, **SPEECH}
    silent = [name for name, row in tables.items() if row is None]
    assert len(silent) > 30
    argv = [token for i, name in enumerate(silent) for token in ([name], [name, "-1"], [f"{name}=x"])[i % 3]]
    argv += ["--chars_to_ignore", ",", "?", "-"]
    args = parse(*argv, "--seed", "7", legacy=tables)
    assert args.explicit == {"seed"} and args.training_args.seed == 7
    notes = capsys.readouterr().err.splitlines()
    assert len(notes) == len(silent) + 1 and all(line.startswith("note: --") and "no effect" in line for line in notes)


def test_every_field_that_transformers_4_57_had_is_known():
    gone = """overwrite_output_dir per_gpu_train_batch_size per_gpu_eval_batch_size warmup_ratio logging_dir no_cuda
    save_safetensors use_mps_device jit_mode_eval fp16_opt_level half_precision_backend tpu_num_cores past_index
    tpu_metrics_debug fsdp_min_num_params fsdp_transformer_layer_cls_to_wrap adafactor group_by_length fp16_backend
    use_legacy_prediction_loop include_inputs_for_metrics push_to_hub_model_id push_to_hub_organization ray_scope
    push_to_hub_token mp_parameters torchdynamo include_tokens_per_second evaluation_strategy use_ipex"""
    today = {item.name for group in (TrainingArguments, TaskArguments) for item in fields(group)}
    assert {name for name in gone.split() if f"--{name}" not in DROPPED} <= today
    assert not {name.removeprefix("--") for name in DROPPED} & today


def test_logging_dir_becomes_the_environment_variable(monkeypatch, capsys):
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", "before")
    parse("--logging_dir", "logs/here")
    assert "--logging_dir is no flag today" in capsys.readouterr().err
    assert os.environ["TENSORBOARD_LOGGING_DIR"] == "logs/here"


def test_a_flag_that_may_only_say_what_holds_anyway(capsys):
    legacy = {"--language": only("fa", "this script is for Persian")}
    legacy["--ctc_zero_infinity"] = only("true", "an infinite loss is left out")
    parse("--language", "FA", "--ctc_zero_infinity", legacy=legacy)
    assert "--language is no flag today" in capsys.readouterr().err
    assert refusal("--language=de", legacy=legacy) == "--language de: this script is for Persian"
    assert "infinite loss" in refusal("--ctc_zero_infinity", "False", legacy=legacy)


def test_columns_and_splits_of_the_official_example(capsys):
    args = parse("--text_column_names", "a, b", "--train_split_name", "train", kind=Pairs, legacy=TEXT_CLASSIFICATION)
    assert (args.premise_column, args.hypothesis_column) == ("a", "b")
    for value in ("sentence", "a,b,c", "a,"):
        sentence = refusal("--text_column_names", value, kind=Pairs, legacy=TEXT_CLASSIFICATION)
        assert sentence == f"--text_column_names {value}: must be the names of two columns with a comma between"
    sentence = refusal("--validation_split_name", "dev", kind=Pairs, legacy=TEXT_CLASSIFICATION)
    assert sentence == "--validation_split_name dev: give files for other splits"


@pytest.mark.parametrize("flag_and_value", [["--null_threshold", "-1e-3"], ["--null-score-diff-threshold", "-1E-3"]])
def test_a_negative_number_with_an_exponent_is_a_value(flag_and_value):
    assert parse(*flag_and_value, "--seed", "3", legacy=QUESTION_ANSWERING).null_threshold == -1e-3


def test_only_the_first_process_prints_notes(monkeypatch, capsys):
    monkeypatch.setenv("RANK", "1")
    parse("--use_ipex")
    assert "note" not in capsys.readouterr().err


# Phases, strategies, machine


@pytest.mark.parametrize(
    "argv, phases",
    [
        ([], (True, True, False)),
        (["--test_file", "t.csv"], (True, True, True)),
        (["--do_train"], (True, False, False)),
        (["--do_eval"], (False, True, False)),
        (["--do_predict"], (False, False, True)),
        (["--do_train", "--do_predict"], (True, False, True)),
        (["--do_eval", "--test_file", "t.csv"], (False, True, False)),
        (["--do_train", "false"], (False, True, False)),
        (["--do_predict", "--eval_strategy", "epoch"], (False, False, True)),
        (["--do_train", "--eval_strategy", "epoch"], (True, True, False)),  # as official examples do
    ],
)
def test_phases_are_what_was_decided(argv, phases):
    args = parse(*argv)
    training = args.training_args
    assert (training.do_train, training.do_eval, training.do_predict) == phases
    assert tuple(args.record[name]["value"] for name in ("do_train", "do_eval", "do_predict")) == phases
    assert parse(phases=("do_train", "do_eval", "do_predict")).training_args.do_predict is True


def strategies(*argv, **options):
    training = parse(*argv, **options).training_args
    return training.eval_strategy.value, training.save_strategy.value, training.load_best_model_at_end


def test_strategies_follow_the_phases_unless_given():
    assert strategies() == ("epoch", "epoch", True)
    assert strategies("--do_eval") == ("no", "no", False)
    assert strategies("--do_train") == ("no", "epoch", False)
    assert strategies("--do_train", "--save_strategy", "steps") == ("no", "steps", False)
    assert strategies("--do_predict", "--eval_strategy", "epoch") == ("epoch", "no", False)
    assert strategies("--do_eval", "--load_best_model_at_end") == ("no", "no", False)
    assert "--load_best_model_at_end" in refusal("--do_train", "--load_best_model_at_end")
    assert parse("--do_eval").record["eval_strategy"]["source"] == "derived"


def test_the_strategy_not_given_follows_the_one_given():
    assert strategies("--eval_strategy", "no") == ("no", "epoch", False)
    assert strategies("--save_strategy", "no") == ("epoch", "no", False)
    assert strategies("--save_strategy", "best") == ("epoch", "best", True)
    bare = {"recipe": {"model": "m"}}
    assert strategies("--load_best_model_at_end", "--eval_strategy", "epoch", **bare) == ("epoch", "epoch", True)
    assert "--load_best_model_at_end" in refusal("--load_best_model_at_end", **bare)


BY_STEPS = {**RECIPE, "eval_strategy": "steps", "eval_steps": 300, "save_strategy": "steps", "save_steps": 300}


@pytest.mark.parametrize("recipe", [RECIPE, BY_STEPS])
@pytest.mark.parametrize(
    "argv, steps",
    [
        (["--eval_strategy", "steps", "--eval_steps", "70"], (70, 70)),
        (["--eval_steps", "70"], (70, 70)),
        (["--save_steps", "5000"], (5000, 5000)),
        (["--save_strategy", "steps", "--save_steps", "800"], (800, 800)),
        (["--eval_steps", "50", "--save_steps", "100"], (50, 100)),
        (["--eval_steps", "0.1", "--save_steps", "0.3"], (0.1, 0.3)),
    ],
)
def test_steps_given_alone_mean_that_strategy(argv, steps, recipe):
    training = parse(*argv, recipe=recipe).training_args
    assert strategies(*argv, recipe=recipe) == ("steps", "steps", True)
    assert (training.eval_steps, training.save_steps) == steps


def test_early_stopping_keeps_the_best():
    recipe = {**RECIPE, "load_best_model_at_end": False}
    assert strategies("--early_stopping_patience", "2", recipe=recipe) == ("epoch", "epoch", True)


def test_steps_that_do_not_fit_are_refused():
    assert "multiple" in refusal("--eval_steps", "50", "--save_steps", "75")


@pytest.mark.parametrize(
    "name, greater", [("loss", False), ("eval_f1", True), ("wer", False), ("eval_validation_f1", True)]
)
def test_which_metric_is_best_and_whether_more_is_better(name, greater):
    recipe = {**RECIPE, "metric_for_best_model": "wer", "greater_is_better": False}
    training = parse("--metric_for_best_model", name, recipe=recipe).training_args
    assert (training.metric_for_best_model, training.greater_is_better) == (name, greater)
    assert parse(recipe=recipe).training_args.greater_is_better is False


def test_what_follows_from_the_machine(monkeypatch):
    import torch

    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    for argv in ([], ["--use_cpu", "false"]):
        args = parse(*argv)
        assert args.record["use_cpu"] == {"value": True, "source": "derived"} and args.training_args.use_cpu is True
    assert "--fp16 needs a GPU" in refusal("--fp16")
    assert parse("--bf16").training_args.bf16 is True
    training = parse().training_args
    assert (
        training.dataloader_pin_memory is training.ddp_find_unused_parameters is training.remove_unused_columns is False
    )
    assert parse("--remove_unused_columns").training_args.remove_unused_columns is False
    assert parse("--ddp_find_unused_parameters", "true").training_args.ddp_find_unused_parameters is True
    assert training.report_to == [] and training.output_dir == "runs/toy"


# Help, and what is not imported


HEAVY = ("torch", "transformers", "datasets", "numpy", "pandas", "huggingface_hub", "sklearn", "tensorflow", "keras")


def helped(*argv, **options) -> str:
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown), pytest.raises(SystemExit) as stop:
        parse(*argv, **options)
    assert stop.value.code == 0
    return " ".join(shown.getvalue().split())


def test_help_says_what_a_run_without_the_flag_does():
    text = helped("--seed", "3", "--help")
    places = [
        text.index(word)
        for word in ("The command line: values", "toy task:", "data:", "model:", "training:", "--learning_rate")
    ]
    assert places == sorted(places) and "100% of them" in text and "%%" not in text
    assert "--window, --max_seq_length N tokens in a window; 100% of them are used (default: 256)" in text
    assert "(default: recipe-model; --method lora: large-model; --demo: tiny-model)" in text
    assert "(default: 1e-05; --method lora: 0.0003)" in text and "(default: 60000; --demo: 32)" in text
    assert "--method {full,lora}" in text and "--keep_case, --no_keep_case [true|false]" in text
    assert "--train_file TEXT ..." in text and "--adam_beta2" not in text
    assert "--adam_beta2" in helped("--help_all") and "--max-train-samples" not in text
    assert re.search(r"--do_train \[true\|false\] .*? \(default: True\)", text)
    for name, value in RECIPE.items():
        assert re.search(rf"--{name}[, ].*?default: {re.escape(str(value))}", text), name


def test_the_training_flags_in_help_have_the_defaults_of_the_library():
    library = {item.name: item.default for item in fields(TrainingArguments)}
    shown = {item.name: item.default for item in fields(CommonTrainingArguments)}
    same = {name: library[name] for name in shown if name not in ("output_dir", "report_to")}
    assert {name: shown[name] for name in same} == same
    assert TrainingArguments().output_dir == shown["output_dir"] and TrainingArguments().report_to == []


def script(folder: Path) -> str:
    """A script of its own, since this module imports what --help must not."""
    text = """
        \"\"\"A script for --help.\"\"\"
        import atexit, sys
        from dataclasses import dataclass
        from common.arguments import DataArguments, ModelArguments, RunArguments, TaskArguments, flag
        from common.arguments import parse_arguments, show_help

        @dataclass
        class Mine(TaskArguments):
            window: int = flag(384, "tokens")

        @dataclass
        class Rows(RunArguments, DataArguments):
            window: int = flag(384, "rows")

        @dataclass
        class KerasArguments:
            _argument_group_name = "training"
            output_dir: str = flag("out", "folder")
            epochs: int = flag(20, "passes over the data")
            seed: int = flag(42, "seed")
            do_train: bool = flag(False, "train")
            do_eval: bool = flag(False, "evaluate")

        atexit.register(lambda: print(sorted({name.split(".")[0] for name in sys.modules}), file=sys.stderr))
        keras = sys.argv.pop(1) == "keras"
        options = {"training": KerasArguments} if keras else {}
        show_help(Rows if keras else Mine, recipe={"window": 256}, **options)
        if "--interrupted" in sys.argv:
            raise KeyboardInterrupt  # while it imports
        args = parse_arguments(Rows if keras else Mine, recipe={"window": 256}, demo={"sample_seed": 1}, **options)
        training = args.training_args
        print(args.window, training.epochs, training.do_train, args.record["epochs"], args.sample_seed)
    """
    return written(folder, text, "run_toy.py")


def run(*argv) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "100"}
    return subprocess.run([sys.executable, *argv], capture_output=True, text=True, env=environment, timeout=120)


@pytest.mark.parametrize("kind", ["torch", "keras"])
def test_help_is_quick_and_imports_nothing_heavy(tmp_path, kind):
    before = time.monotonic()
    done = run(script(tmp_path), kind, "--help")
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - before < 5  # a tenth of a second on a machine that is not busy
    assert not set(HEAVY) & set(eval(done.stderr.splitlines()[-1]))
    assert "usage: run_toy.py" in done.stdout and "A script for --help." in done.stdout
    assert "(default: 256)" in done.stdout and ("--help_all" in done.stdout) == (kind == "torch")


def test_ctrl_c_before_the_slow_imports_have_ended_is_one_sentence(tmp_path):
    done = run(script(tmp_path), "torch", "--interrupted")
    assert done.returncode in (130, -signal.SIGINT) and "Traceback" not in done.stderr
    assert done.stderr.startswith("run_toy.py: interrupted before anything was trained")


def test_arguments_of_a_notebook(monkeypatch):
    @dataclass
    class Mine(TaskArguments):
        window: int = flag(384, "tokens")

    monkeypatch.setitem(sys.modules, "a_notebook", types.ModuleType("a_notebook"))
    Mine.__module__ = "a_notebook"  # which has no file, and no docstring
    args = parse("--window", "3", kind=Mine, recipe={}, demo={}, variants={})
    assert args.window == 3 and args.command == ["Mine", "--window", "3"]
    assert "usage: Mine" in helped("--help", kind=Mine, recipe={}, demo={}, variants={})


def test_help_into_a_pipe_that_closes_early(tmp_path):
    command = f'"{sys.executable}" "{script(tmp_path)}" torch --help 2>errors.txt | head -1'
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert done.stdout.startswith("usage: ") and "Error" not in (tmp_path / "errors.txt").read_text()


def test_a_training_class_of_its_own_never_imports_torch(tmp_path):
    done = run(script(tmp_path), "keras", "--epochs", "3", "--demo")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "256 3 True {'value': 3, 'source': 'command line'} 1"
    assert not {"torch", "tensorflow", "keras", "datasets"} & set(eval(done.stderr.splitlines()[-1]))


def test_a_training_class_of_its_own_has_its_own_flags():
    @dataclass
    class KerasTraining:
        epochs: int = flag(20, "passes over the data")
        seed: int = flag(42, "seed")

    @dataclass
    class Rows(RunArguments, DataArguments, ModelArguments):
        pass

    options = {"kind": Rows, "recipe": {}, "demo": {}, "variants": {}, "training": KerasTraining}
    assert "unknown flag --warmup_ratio" in refusal("--warmup_ratio", "0.1", **options)
    assert "--seed -3" in refusal("--seed", "-3", **options)
    assert parse("--epochs", "3", **options).training_args == KerasTraining(epochs=3)
