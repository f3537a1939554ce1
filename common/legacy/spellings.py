"""What older command lines say, and what it is called today: the flags that transformers 4 took and 5 does not."""

import difflib
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from common.legacy.errors import UserError


@dataclass(frozen=True)
class Spelling:
    """An older flag that needs more than a new name (a mere new name is written as a string in the table).

    today: takes the flag's value (a bool for a switch, else the string as given), returns today's arguments and may
        raise UserError; an empty list means that nothing is passed on, for the reason that `why` gives.
    switch: the value is optional and true or false; otherwise exactly one value is expected.
    """

    today: Callable[[Any], list[str]] = lambda value: []
    switch: bool = False
    why: str = ""


def _warmup_ratio(value: str) -> list[str]:
    try:
        share = float(value)
    except ValueError:
        raise UserError(f"--warmup_ratio: {value!r} is not a number") from None
    if not 0 <= share < 1:
        raise UserError(
            f"--warmup_ratio {value} is not a share from 0 up to 1; for a number of steps use --warmup_steps"
        )
    return [f"--warmup_steps={value}"]


def _logging_dir(value: str) -> list[str]:
    os.environ["TENSORBOARD_LOGGING_DIR"] = value
    return []


def _only_if_true(*today: str) -> Spelling:
    return Spelling(lambda on: list(today) if on else [], switch=True, why="changes nothing when false")


# What transformers 4 took and 5 does not: the fields of TrainingArguments 4.57 and earlier, compared with 5.23.
RENAMED = {
    "--evaluation_strategy": "--eval_strategy",
    "--no_cuda": "--use_cpu",
    "--per_gpu_train_batch_size": "--per_device_train_batch_size",
    "--per_gpu_eval_batch_size": "--per_device_eval_batch_size",
    "--push_to_hub_model_id": "--hub_model_id",
    "--push_to_hub_token": "--hub_token",
    "--torchdynamo": "--torch_compile_backend",
}
SWITCHES_WITHOUT_EFFECT = {
    "--use_mps_device": "an Apple GPU is used when there is one",
    "--save_safetensors": "weights are always saved as safetensors",
    "--no_save_safetensors": "weights are always saved as safetensors",
    "--use_ipex": "torch has what ipex brought",
    "--jit_mode_eval": "see --torch_compile",
    "--dispatch_batches": "see --accelerator_config '{\"dispatch_batches\": true}'",
    "--split_batches": "see --accelerator_config '{\"split_batches\": true}'",
    "--include_tokens_per_second": "see --include_num_input_tokens_seen",
    "--use_legacy_prediction_loop": "there is one prediction loop",
    "--use_auth_token": "log in with `hf auth login`, or give --token",
}
VALUES_WITHOUT_EFFECT = {
    "--fp16_backend": "there is one backend, torch's",
    "--half_precision_backend": "there is one backend, torch's",
    "--fp16_opt_level": "it was apex's; --fp16 and --bf16 are torch's",
    "--ray_scope": "there is no hyperparameter search here",
    "--past_index": "no model here reuses past states",
    "--mp_parameters": "it was for SageMaker's model parallelism",
    "--tpu_num_cores": "the launcher gives the number of processes",
    "--fsdp_min_num_params": "see --fsdp_config",
    "--fsdp_transformer_layer_cls_to_wrap": "see --fsdp_config",
    "--push_to_hub_organization": "see --hub_model_id ORGANIZATION/NAME",
}
DROPPED: dict[str, str | Spelling] = {
    **RENAMED,
    **{name: Spelling(switch=True, why=f"has no effect: {why}") for name, why in SWITCHES_WITHOUT_EFFECT.items()},
    **{name: Spelling(why=f"has no effect: {why}") for name, why in VALUES_WITHOUT_EFFECT.items()},
    "--warmup_ratio": Spelling(_warmup_ratio),
    "--logging_dir": Spelling(_logging_dir, why="is the environment variable TENSORBOARD_LOGGING_DIR today, now set"),
    "--group_by_length": Spelling(
        lambda on: [f"--train_sampling_strategy={'group_by_length' if on else 'random'}"], switch=True
    ),
    "--adafactor": _only_if_true("--optim=adafactor"),
    "--include_inputs_for_metrics": _only_if_true("--include_for_metrics=inputs"),
    "--tpu_metrics_debug": _only_if_true("--debug=tpu_metrics_debug"),
}


def only(name: str, value: str, otherwise: str) -> Spelling:
    """A flag that may say what a script does anyway; every other value is refused, with the sentence `otherwise`."""

    def today(given: str) -> list[str]:
        if given.lower() != value:
            raise UserError(f"{name} {given}: {otherwise}")
        return []

    return Spelling(today, why=f"has no effect: it is {value} anyway")


# What official examples on texts (run_glue.py, run_xnli.py, run_classification.py) take beside the flags here.
TEXT_CLASSIFICATION = {
    "--label_column_name": "--label_column",
    "--use_fast_tokenizer": Spelling(switch=True, why="has no effect: tokenizers are fast ones, always"),
    "--no_use_fast_tokenizer": Spelling(switch=True, why="has no effect: tokenizers are fast ones, always"),
    "--ignore_mismatched_sizes": Spelling(
        switch=True, why="has no effect: a head for other classes is replaced in training, and an error otherwise"
    ),
}


# What official examples on speech (run_audio_classification.py, run_speech_recognition_ctc.py) take beside those.
SPEECH = {
    "--feature_extractor_name": "--tokenizer_name",
    **{
        name: Spelling(lambda on: [f"--freeze={'convolution' if on else 'none'}"], switch=True)
        for name in ("--freeze_feature_encoder", "--freeze_feature_extractor")
    },
    "--attention_mask": Spelling(switch=True, why="has no effect: padding never changes a score"),
    "--ignore_mismatched_sizes": TEXT_CLASSIFICATION["--ignore_mismatched_sizes"],
}


def translate(tokens: Iterable[str], rows: Mapping[str, str | Spelling], known: set[str], where: str = "") -> list[str]:
    """Today's arguments for those given: dashes become underscores, older spellings become today's, with a note."""
    waiting, translated = list(tokens), []
    while waiting:
        token = waiting.pop(0)
        name, equals, value = token.partition("=")
        name = "--" + name[2:].replace("-", "_")
        row = rows.get(name)
        if not token.startswith("--") or name in known:
            translated.append(name + equals + value if token.startswith("--") else token)
        elif row is None:
            raise UserError(f"{where}unknown flag {name}{suggestion(name, known | rows.keys())}")
        elif isinstance(row, str):
            _note(f"{where}{name} is {row} today")
            translated.append(row + equals + value)
        else:
            is_flag = "-" if row.switch else "--"  # a value may be a negative number, true or false may not
            if not equals and waiting and not waiting[0].startswith(is_flag):
                value = waiting.pop(0)
            elif not equals and not row.switch:
                raise UserError(f"{where}{name} expects a value")
            today = row.today(_truth(name, value) if row.switch else value)
            _note(f"{where}{name} is {' '.join(today)} today" if today else f"{where}{name} {row.why}")
            translated += today
    return translated


def _truth(name: str, value: str) -> bool:
    if value.lower() in ("", "yes", "true", "t", "y", "1"):
        return True
    if value.lower() in ("no", "false", "f", "n", "0"):
        return False
    raise UserError(f"{name} takes true or false, not {value!r}")


def _note(text: str) -> None:
    if os.environ.get("RANK", "0") == "0":
        print(f"note: {text}", file=sys.stderr, flush=True)


def suggestion(name: str, candidates: Iterable[str]) -> str:
    """The end of a sentence about an unknown name: the closest of those there are."""
    close = difflib.get_close_matches(name, sorted(candidates), n=1)
    return f"; did you mean {close[0]}?" if close else "; --help lists all flags"
