"""The command line: types, files, spellings, precedence, phases, refusals and help."""

import json
import os
import subprocess
import sys
import textwrap
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Literal

import pytest

from common.legacy.arguments import DataArguments, ModelArguments, flag, parse_arguments
from common.legacy.errors import UserError
from common.legacy.spellings import DROPPED, Spelling, only

ROOT = Path(__file__).resolve().parents[2]


@dataclass
class TaskArguments:
    _argument_group_name = "toy task"

    window: int = flag(384, "tokens in a window; 100% of them are used")
    null_threshold: float | None = flag(None, "score difference above which there is no answer", "--threshold")
    layers: list[str] = field(default_factory=lambda: ["last"], metadata={"help": "layers to read"})
    method: Literal["mean", "max"] = flag("mean", "pooling")
    keep_case: bool = flag(True, "keep capital letters")


RECIPE = {
    "model": "recipe-model",
    "dataset": "recipe-data",
    "max_train_samples": 60000,
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


def parse(*argv, recipe=RECIPE, demo=DEMO, spellings=None):
    groups = (TaskArguments, DataArguments, ModelArguments)
    return parse_arguments(groups, argv, recipe=recipe, demo=demo, description="Toy.", spellings=spellings)


def refusal(*argv, **options) -> str:
    with pytest.raises(UserError) as caught:
        parse(*argv, **options)
    message = str(caught.value)
    assert "\n" not in message and "usage:" not in message
    return message


def source(parsed, name):
    return parsed.record[name]["source"]


def written(folder, text, name="run.yaml"):
    path = folder / name
    path.write_text(textwrap.dedent(text), encoding="utf-8")
    return str(path)


# precedence and the record


def test_groups_come_back_in_order_with_training_last():
    task, data, model, training = parse().groups
    assert (task.window, data.dataset, model.model, training.learning_rate) == (
        256,
        "recipe-data",
        "recipe-model",
        1e-5,
    )
    assert type(training).__name__ == "TrainingArguments"


def test_command_line_beats_file_beats_demo_beats_recipe_beats_default(tmp_path):
    path = written(tmp_path, "num_train_epochs: 7\nseed: 5\nwindow: 128\n")
    parsed = parse(path, "--demo", "--window", "64")
    values = {name: (entry["value"], entry["source"]) for name, entry in parsed.record.items()}
    assert values["window"] == (64, "command line")
    assert values["num_train_epochs"] == (7.0, "file run.yaml")
    assert values["seed"] == (5, "file run.yaml")
    assert values["model"] == ("tiny-model", "demo")
    assert values["learning_rate"] == (1e-5, "recipe")
    assert values["weight_decay"] == (0.0, "library default")
    assert values["method"] == ("mean", "script default")
    assert values["do_train"] == (True, "derived")
    assert parsed.explicit == {"demo", "window", "num_train_epochs", "seed"}
    task, _, _, training = parsed.groups
    assert (task.window, training.num_train_epochs, training.seed) == (64, 7.0, 5)


def test_a_value_given_that_equals_the_default_is_still_given():
    parsed = parse("--demo", "--max_train_samples", "60000", "--weight_decay", "0.0")
    assert parsed.groups[1].max_train_samples == 60000
    assert source(parsed, "max_train_samples") == source(parsed, "weight_decay") == "command line"


def test_without_demo_its_overrides_do_not_act(tmp_path):
    assert parse().groups[2].model == parse("--demo", "false").groups[2].model == "recipe-model"
    assert parse(written(tmp_path, "demo: true")).groups[2].model == "tiny-model"


def test_a_recipe_or_demo_of_unknown_names_is_a_bug_that_shows():
    with pytest.raises(KeyError, match="learning_rat"):
        parse(recipe={**RECIPE, "learning_rat": 1})
    with pytest.raises(KeyError, match="modle"):
        parse(demo={"modle": "x"})


def test_record_covers_every_field_and_is_json():
    parsed = parse("--lr_scheduler_type", "cosine", "--lr_scheduler_kwargs", '{"num_cycles": 0.25}')
    names = {item.name for group in parsed.groups for item in fields(group)}
    assert set(json.loads(json.dumps(parsed.record, allow_nan=False))) == names
    assert parsed.record["lr_scheduler_type"]["value"] == "cosine"
    assert parsed.record["lr_scheduler_kwargs"]["value"] == {"num_cycles": 0.25}
    assert parsed.record["eval_strategy"]["value"] == "epoch"


def test_secrets_are_used_but_not_recorded(tmp_path, capsys):
    path = written(tmp_path, "hub_token: hf_file\n")
    parsed = parse(path, "--token", "hf_one", "--hub-token=hf_two")
    assert parsed.groups[2].token == "hf_one" and parsed.groups[3].hub_token == "hf_two"
    assert parsed.record["token"]["value"] == parsed.record["hub_token"]["value"] == "***"
    assert parsed.command == ["test_arguments.py", path, "--token", "***", "--hub-token=***"]
    assert parse("--push_to_hub_token", "hf_three", "--seed", "1").command[1:] == [
        "--push_to_hub_token",
        "***",
        "--seed",
        "1",
    ]
    assert parse().record["token"]["value"] is None
    assert "hf_" not in capsys.readouterr().err


# types, spellings and typos on the command line


def test_aliases_dashes_and_equals_signs_are_the_same_flag():
    for argv in (
        ["--model_name_or_path", "m", "--max_validation_samples", "9", "--threshold", "0.5"],
        ["--model-name-or-path=m", "--max-eval-samples=9", "--null-threshold=0.5"],
    ):
        task, data, model, _ = parse(*argv).groups
        assert (model.model, data.max_eval_samples, task.null_threshold) == ("m", 9, 0.5)


def test_lists_and_switches():
    task = parse("--layers", "a", "b", "--no_keep_case").groups[0]
    assert task.layers == ["a", "b"] and task.keep_case is False
    assert parse("--keep_case", "false").groups[0].keep_case is False
    first, second = parse().groups[0], parse().groups[0]
    assert first.layers == ["last"] and first.keep_case is True and first.layers is not second.layers


@pytest.mark.parametrize(
    "argv, words",
    [
        (["--learning_rat", "3"], ["--learning_rat;", "did you mean --learning_rate?"]),
        (["--max-train-sample=3"], ["did you mean --max_train_samples?"]),
        (["--evaluation_strateg", "no"], ["did you mean --evaluation_strategy?"]),
        (["--learn", "3"], ["unknown flag --learn"]),
        (["--qqqq"], ["--qqqq", "--help"]),
        (["-lr", "3"], ["unknown flag -lr"]),
        (["--window", "many"], ["--window", "'many'", "int"]),
        (["--window"], ["--window", "expected one argument"]),
        (["--method", "median"], ["--method", "'median'", "'mean', 'max'"]),
        (["--demo", "perhaps"], ["--demo", "perhaps"]),
        (["data.csv"], ["'data.csv'", "no flag"]),
        (["--seed", "1", "late.yaml"], ["'late.yaml'", "comes first"]),
        (["--max_train_samples", "0"], ["--max_train_samples", "-1"]),
        (["--preprocessing_num_workers", "0"], ["--preprocessing_num_workers"]),
        (["--trust_remote_code"], ["--trust_remote_code", "never run"]),
    ],
)
def test_mistakes_are_one_sentence(argv, words):
    message = refusal(*argv)
    assert all(word in message for word in words), message


def test_negative_counts_mean_all():
    data = parse("--max_train_samples", "-1", "--max_eval_samples=-3").groups[1]
    assert data.max_train_samples is None and data.max_eval_samples is None


# what transformers 5 dropped


@pytest.mark.parametrize(
    "argv, name, value",
    [
        (["--warmup_ratio", "0.1"], "warmup_steps", 0.1),
        (["--warmup-ratio=0.06"], "warmup_steps", 0.06),
        (["--warmup_ratio", "0.0"], "warmup_steps", 0),
        (["--group_by_length"], "train_sampling_strategy", "group_by_length"),
        (["--group_by_length", "true"], "train_sampling_strategy", "group_by_length"),
        (["--group-by-length=False"], "train_sampling_strategy", "random"),
        (["--no_cuda"], "use_cpu", True),
        (["--no_cuda", "false"], "use_cpu", False),
        (["--evaluation_strategy", "no"], "eval_strategy", "no"),
        (["--per_gpu_train_batch_size", "3"], "per_device_train_batch_size", 3),
        (["--per_gpu_eval_batch_size=5"], "per_device_eval_batch_size", 5),
        (["--adafactor"], "optim", "adafactor"),
        (["--adafactor", "false"], "optim", "adamw_torch_fused"),
        (["--push_to_hub_model_id", "me/it"], "hub_model_id", "me/it"),
        (["--push_to_hub_token", "secret"], "hub_token", "secret"),
        (["--torchdynamo", "eager"], "torch_compile_backend", "eager"),
        (["--include_inputs_for_metrics"], "include_for_metrics", ["inputs"]),
        (["--tpu_metrics_debug"], "debug", ["tpu_metrics_debug"]),
    ],
)
def test_dropped_flags_act_as_they_did(argv, name, value, capsys):
    training = parse(*argv, "--seed", "7").groups[3]
    assert getattr(training, name) == value and training.seed == 7
    notes = capsys.readouterr().err.splitlines()
    assert len([line for line in notes if line.startswith("note: --")]) == 1


@pytest.mark.parametrize(
    "argv",
    [
        ["--use_mps_device"],
        ["--fp16_backend", "auto"],
        ["--half_precision_backend", "cuda_amp"],
        ["--fp16_opt_level=O2"],
        ["--save_safetensors"],
        ["--save_safetensors", "True"],
        ["--no-save-safetensors"],
        ["--use_ipex"],
        ["--jit_mode_eval", "false"],
        ["--dispatch_batches", "true"],
        ["--split_batches", "false"],
        ["--ray_scope", "last"],
        ["--past_index", "-1"],
        ["--include_tokens_per_second"],
        ["--mp_parameters", ""],
        ["--tpu_num_cores", "8"],
        ["--push_to_hub_organization", "us"],
        ["--fsdp_min_num_params", "0"],
        ["--fsdp_transformer_layer_cls_to_wrap", "BertLayer"],
        ["--use_legacy_prediction_loop"],
        ["--use_auth_token", "true"],
    ],
)
def test_flags_without_effect_are_consumed_with_a_note(argv, capsys):
    parsed = parse(*argv, "--seed", "7")
    assert parsed.explicit == {"seed"} and parsed.groups[3].seed == 7
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("note: ")]
    assert argv[0].split("=")[0].replace("-", "_")[2:] in line and "no effect" in line


def test_every_field_that_transformers_4_57_had_is_known():
    from transformers import TrainingArguments

    gone = [
        "overwrite_output_dir",
        "per_gpu_train_batch_size",
        "per_gpu_eval_batch_size",
        "warmup_ratio",
        "logging_dir",
        "save_safetensors",
        "no_cuda",
        "use_mps_device",
        "jit_mode_eval",
        "fp16_opt_level",
        "half_precision_backend",
        "tpu_num_cores",
        "tpu_metrics_debug",
        "past_index",
        "fsdp_min_num_params",
        "fsdp_transformer_layer_cls_to_wrap",
        "adafactor",
        "group_by_length",
        "use_legacy_prediction_loop",
        "include_inputs_for_metrics",
        "fp16_backend",
        "push_to_hub_model_id",
        "push_to_hub_organization",
        "push_to_hub_token",
        "mp_parameters",
        "torchdynamo",
        "ray_scope",
        "include_tokens_per_second",
    ]
    today = {item.name for group in (TrainingArguments, DataArguments) for item in fields(group)}
    assert {name for name in gone if f"--{name}" not in DROPPED} <= today
    assert not {name.removeprefix("--") for name in DROPPED} & today
    assert "gradient_checkpointing" in today


def test_logging_dir_becomes_the_environment_variable(monkeypatch):
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", "before")
    parse("--logging_dir", "logs/here")
    assert os.environ["TENSORBOARD_LOGGING_DIR"] == "logs/here"


@pytest.mark.parametrize("ratio", ["1", "1.5", "-0.1", "nan", "tenth"])
def test_a_warmup_ratio_that_is_no_share_is_refused(ratio):
    assert "--warmup_ratio" in refusal(f"--warmup_ratio={ratio}")


def test_a_dropped_flag_without_its_value_is_refused():
    assert "--warmup_ratio expects a value" in refusal("--warmup_ratio", "--seed", "1")
    assert "--use_ipex takes true or false" in refusal("--use_ipex", "maybe")


def test_a_script_adds_spellings_of_its_own(capsys):
    rows = {
        "--null_score_diff_threshold": "--null_threshold",
        "--version_2_with_negative": Spelling(switch=True, why="is found out from the data"),
        "--pool": Spelling(lambda value: [f"--method={value}"]),
    }
    argv = ["--version_2_with_negative", "--null_score_diff_threshold", "-1.5", "--pool", "max"]
    task = parse(*argv, spellings=rows).groups[0]
    assert (task.null_threshold, task.method) == (-1.5, "max")
    notes = capsys.readouterr().err
    assert "--null_threshold" in notes and "found out from the data" in notes and "--method=max" in notes
    assert "--version_2_with_negative" in refusal("--version_2_with_negativ", spellings=rows)


def test_a_flag_that_may_only_say_what_holds_anyway(capsys):
    rows = {"--language": only("--language", "fa", "this script is for Persian")}
    parse("--language", "FA", spellings=rows)
    assert "--language has no effect: it is fa anyway" in capsys.readouterr().err
    assert refusal("--language=de", spellings=rows) == "--language de: this script is for Persian"


def test_only_the_first_process_prints_notes(monkeypatch, capsys):
    monkeypatch.setenv("RANK", "1")
    parse("--use_ipex")
    assert "note" not in capsys.readouterr().err


# files of arguments


def test_yaml_values_have_the_types_of_their_flags(tmp_path):
    path = written(
        tmp_path,
        """\
        learning_rate: 5e-5
        window: 100
        keep_case: false
        layers: [first, '2', last]
        label_names: [start_positions]
        model_revision: 0123
        dataset_revision: 12e5678
        eval_strategy: no
        max_train_samples: -1
        null_threshold: -2.5e-1
        cache_dir: null
        run_name: a run with spaces
        model_name_or_path: named-by-alias
        lr_scheduler_kwargs: {min_lr: 1e-6, nested: true}
        group_by_length: true
        """,
    )
    parsed = parse(path)
    task, data, model, training = parsed.groups
    assert training.learning_rate == 5e-5 and isinstance(training.learning_rate, float)
    assert (task.window, task.keep_case, task.null_threshold) == (100, False, -0.25)
    assert task.layers == ["first", "2", "last"] and training.label_names == ["start_positions"]
    assert (model.model_revision, data.dataset_revision) == ("0123", "12e5678")
    assert training.eval_strategy == "no" and data.max_train_samples is None and model.cache_dir is None
    assert "cache_dir" not in parsed.explicit and source(parsed, "model") == "file run.yaml"
    assert (training.run_name, model.model) == ("a run with spaces", "named-by-alias")
    assert training.lr_scheduler_kwargs == {"min_lr": 1e-6, "nested": True}
    assert training.train_sampling_strategy == "group_by_length"


def test_json_files_say_the_same(tmp_path):
    content = {"learning_rate": 5e-5, "keep_case": False, "layers": ["a", "b"], "eval_strategy": "no", "seed": None}
    content["lr_scheduler_kwargs"] = {"num_cycles": 2}
    task, _, _, training = parse(written(tmp_path, json.dumps(content), "run.json"), "--seed", "3").groups
    assert (training.learning_rate, task.keep_case, task.layers) == (5e-5, False, ["a", "b"])
    assert (training.eval_strategy, training.seed, training.lr_scheduler_kwargs) == ("no", 3, {"num_cycles": 2})


def test_an_empty_file_changes_nothing(tmp_path):
    assert parse(written(tmp_path, "# nothing\n")).explicit == set()


@pytest.mark.parametrize(
    "name, text, words",
    [
        ("run.yaml", "seed: 1\nlearning_rat: 3\n", ["learning_rat", "did you mean learning_rate?"]),
        ("run.yaml", "learning_rate: fast\n", ["learning_rate", "'fast'"]),
        ("run.yaml", "window: 1.5\n", ["window", "'1.5'"]),
        ("run.yaml", "keep_case: perhaps\n", ["keep_case", "perhaps"]),
        ("run.yaml", "method: median\n", ["method", "'median'"]),
        ("run.yaml", "window: [1, 2]\n", ["window", "not a list"]),
        ("run.yaml", "dataset: {a: 1}\n", ["dataset", "not a mapping"]),
        ("run.yaml", "warmup_ratio: 3\n", ["warmup_ratio"]),
        ("run.yaml", "seed: 1\nwindow: [1, 2\n", ["line", "not valid YAML"]),
        ("run.yaml", "- seed\n- window\n", ["name: value"]),
        ("run.yaml", "just words\n", ["name: value"]),
        ("run.json", '{"seed": 1,\n "window": }', ["line 2", "not valid JSON"]),
        ("run.json", "[1, 2]", ["name: value"]),
    ],
)
def test_mistakes_in_a_file_name_the_file(tmp_path, name, text, words):
    message = refusal(written(tmp_path, text, name))
    assert name in message or "--warmup_ratio" in message
    assert all(word in message for word in words), message


def test_a_missing_file_is_one_sentence():
    assert "nowhere.yaml" in refusal("nowhere.yaml")


# phases and strategies


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
    ],
)
def test_phases_are_what_was_decided(argv, phases):
    parsed = parse(*argv)
    training = parsed.groups[3]
    assert (training.do_train, training.do_eval, training.do_predict) == phases
    assert tuple(parsed.record[name]["value"] for name in ("do_train", "do_eval", "do_predict")) == phases


def strategies(*argv):
    training = parse(*argv).groups[3]
    return training.eval_strategy.value, training.save_strategy.value, training.load_best_model_at_end


def test_strategies_follow_the_phases_unless_given():
    assert strategies() == ("epoch", "epoch", True)
    assert strategies("--do_eval") == ("no", "no", False)
    assert strategies("--do_train") == ("no", "epoch", False)
    assert strategies("--do_train", "--save_strategy", "steps") == ("no", "steps", False)
    assert strategies("--do_predict", "--eval_strategy", "epoch") == ("epoch", "no", False)
    assert strategies("--do_eval", "--load_best_model_at_end") == ("epoch", "epoch", True)
    assert source(parse("--do_eval"), "eval_strategy") == "derived"


def test_the_strategy_not_given_follows_the_one_given():
    assert strategies("--eval_strategy", "no") == ("no", "epoch", False)
    assert strategies("--save_strategy", "no") == ("epoch", "no", False)
    assert strategies("--eval_strategy", "steps") == ("steps", "steps", True)
    assert strategies("--save_strategy", "steps", "--save_steps", "800") == ("steps", "steps", True)
    bare = {"model": "m"}
    assert parse("--load_best_model_at_end", "--eval_strategy", "epoch", recipe=bare).groups[3].save_strategy == "epoch"
    assert "--load_best_model_at_end" in refusal("--load_best_model_at_end", recipe=bare)
    training = parse("--evaluation_strategy", "steps", "--eval_steps", "70").groups[3]
    assert (training.eval_steps, training.save_steps) == (70, 70)


# refusals and what follows from the machine


@pytest.mark.parametrize(
    "argv, words",
    [
        (["--fp16", "--use_cpu"], "--fp16 needs a GPU"),
        (["--train_sampling_strategy", "lenght"], "'lenght'"),
        (["--train_sampling_strategy", "batch_rebalance"], "choose one of random, sequential, group_by_length"),
        (["--bf16", "--fp16_full_eval", "--use_cpu", "--bf16_full_eval"], "training flags are refused"),
        (["--load_best_model_at_end", "--eval_strategy", "no", "--save_strategy", "epoch"], "--load_best_model_at_end"),
        (["--lr_scheduler_kwargs", "{broken"], "training flags are refused"),
        (["--accelerator_config", "nowhere-config.json"], "nowhere-config.json"),
        (["--accelerator_config", '{"bogus": true}'], "bogus"),
    ],
)
def test_combinations_that_cannot_work_are_refused(argv, words):
    assert words in refusal(*argv)


def test_half_precision_without_a_gpu(monkeypatch):
    import torch

    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    assert "--fp16 needs a GPU" in refusal("--fp16")
    if not torch.cuda.is_available():
        assert "use_cpu" in refusal("--bf16")
    assert parse("--bf16", "--use_cpu").groups[3].bf16 is True


def test_a_misspelt_sampling_strategy_in_a_recipe_is_refused_too():
    assert "lenght" in refusal(recipe={**RECIPE, "train_sampling_strategy": "lenght"})


def test_what_follows_from_the_machine_is_derived_unless_given():
    parsed = parse("--use_cpu")
    assert parsed.record["dataloader_pin_memory"] == {"value": False, "source": "derived"}
    assert parsed.record["ddp_find_unused_parameters"] == {"value": False, "source": "derived"}
    given = parse("--dataloader_pin_memory", "--ddp_find_unused_parameters", "true")
    assert given.groups[3].dataloader_pin_memory is True and given.groups[3].ddp_find_unused_parameters is True
    assert parse(recipe={**RECIPE, "ddp_find_unused_parameters": True}).groups[3].ddp_find_unused_parameters is True


def test_nothing_is_reported_anywhere_by_default():
    training = parse().groups[3]
    assert training.report_to == [] and training.output_dir == "runs/toy"


# help, and what is not imported


def run_python(code, *argv):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "100"}
    command = [sys.executable, "-c", textwrap.dedent(code), *argv]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)


def test_help_shows_the_scripts_own_flags_before_anything_heavy_is_imported():
    code = """
        import sys
        from tests.legacy.test_arguments import DEMO, RECIPE, DataArguments, ModelArguments, TaskArguments, parse_arguments

        class Watch:
            def flush(self):
                print(f"[flush torch={'torch' in sys.modules}]", file=sys.__stdout__)
            def write(self, text):
                return sys.__stdout__.write(text)

        sys.stdout = Watch()
        parse_arguments(
            (TaskArguments, DataArguments, ModelArguments), ["--seed", "3", "--help"],
            recipe=RECIPE, demo=DEMO, description="Answers 100% of questions.",
        )
        print("not reached")
    """
    done = run_python(code)
    assert done.returncode == 0, done.stderr
    text = done.stdout
    places = [
        text.index(word) for word in ("Answers 100%", "toy task:", "data:", "model:", "training (of transformers):")
    ]
    assert places == sorted(places)
    assert places[3] < text.index("[flush torch=False]") < places[4] < text.index("--learning_rate")
    assert "not reached" not in text and "%%" not in text and "--max-train-samples" not in text
    assert "--threshold" in text and "--no_keep_case" in text and "{mean,max}" in text and "100% of them" in text
    squeezed = " ".join(text.split())
    assert "(default: 60000; --demo: 32)" in squeezed and "(default: 1e-05)" in squeezed
    assert "(default: 256)" in squeezed and "384" not in squeezed


def test_a_training_class_of_its_own_never_imports_torch():
    code = """
        import json, sys
        from dataclasses import dataclass
        from common.legacy.arguments import DataArguments, flag, parse_arguments

        @dataclass
        class KerasTraining:
            _argument_group_name = "training"
            epochs: int = flag(20, "passes over the data")
            do_train: bool = flag(False, "train")
            do_eval: bool = flag(False, "evaluate")

        for argv in (["--epochs", "3", "--demo"], ["--help"]):
            try:
                parsed = parse_arguments(
                    (DataArguments,), argv, recipe={"epochs": 20}, demo={"sample_seed": 1}, description="d",
                    training=KerasTraining,
                )
                print(json.dumps(parsed.record), file=sys.stderr)
            finally:
                assert "torch" not in sys.modules and "tensorflow" not in sys.modules, "heavy import"
    """
    done = run_python(code)
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stderr.strip().splitlines()[-1])
    assert record["epochs"] == {"value": 3, "source": "command line"}
    assert record["sample_seed"] == {"value": 1, "source": "demo"}
    assert record["do_train"] == record["do_eval"] == {"value": True, "source": "derived"}
    assert "do_predict" not in record and "dataloader_pin_memory" not in record
    assert "passes over the data (default: 20)" in done.stdout


def test_a_dropped_flag_of_transformers_is_unknown_to_another_training_class():
    @dataclass
    class KerasTraining:
        epochs: int = flag(20, "passes over the data")

    with pytest.raises(UserError, match="unknown flag --warmup_ratio"):
        parse_arguments((TaskArguments,), ["--warmup_ratio", "0.1"], recipe={}, description="d", training=KerasTraining)
