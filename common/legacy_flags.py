"""Flags of the official examples and of transformers 4, and what says the same here: tables, and their reader."""

import contextlib
import difflib
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from common.errors import UserError


@dataclass(frozen=True)
class Spelling:
    """A flag that needs more than a new name (a mere new name is a string in the tables).

    today: its value (of a switch a bool, else the text) -> today's arguments, or UserError; none: `why` ends the note.
    switch: the value is true or false, and may be missing; otherwise there is one, or several with blanks between.
    """

    today: Callable[..., list[str]] = lambda value: []
    switch: bool = False
    why: str = ""


def only(name: str, value: str, otherwise: str) -> Spelling:
    """A flag that may say what a script does anyway; every other value is refused, with the sentence `otherwise`."""

    def today(given: str | bool) -> list[str]:
        if str(given).lower() != value:
            raise UserError(f"{name} {given}: {otherwise}")
        return []

    return Spelling(today, switch=value in ("true", "false"), why=f"has no effect: it is {value} anyway")


def unused(why: str, *names: str, switch: bool = False) -> dict[str, Spelling]:
    """Flags that nothing depends on here, with the reason."""
    return {name: Spelling(switch=switch, why=f"has no effect: {why}") for name in names}


def _warmup_ratio(value: str) -> list[str]:
    with contextlib.suppress(ValueError):
        if 0 <= float(value) < 1:
            return [f"--warmup_steps={value}"]
    raise UserError(f"--warmup_ratio {value}: must be a share from 0 up to 1; --warmup_steps takes steps")


def _two_columns(value: str) -> list[str]:
    names = value.split(",")
    if len(names) != 2:
        raise UserError(f"--text_column_names {value}: must be two names with a comma between")
    return [f"--premise_column={names[0]}", f"--hypothesis_column={names[1]}"]


def _if_true(*today: str) -> Spelling:
    return Spelling(lambda on: list(today) if on else [], switch=True, why="changes nothing when false")


# The fields of TrainingArguments of transformers 4.57 and earlier that 5.23 does not have.
DROPPED: dict[str, str | Spelling] = {
    "--evaluation_strategy": "--eval_strategy",
    "--no_cuda": "--use_cpu",
    "--per_gpu_train_batch_size": "--per_device_train_batch_size",
    "--per_gpu_eval_batch_size": "--per_device_eval_batch_size",
    "--push_to_hub_model_id": "--hub_model_id",
    "--push_to_hub_token": "--hub_token",
    "--torchdynamo": "--torch_compile_backend",
    "--warmup_ratio": Spelling(_warmup_ratio),
    "--logging_dir": Spelling(
        lambda folder: os.environ.update(TENSORBOARD_LOGGING_DIR=folder) or [],
        why="is the environment variable TENSORBOARD_LOGGING_DIR today, now set",
    ),
    "--group_by_length": Spelling(
        lambda on: [f"--train_sampling_strategy={'group_by_length' if on else 'random'}"], switch=True
    ),
    "--adafactor": _if_true("--optim=adafactor"),
    "--include_inputs_for_metrics": _if_true("--include_for_metrics=inputs"),
    "--tpu_metrics_debug": _if_true("--debug=tpu_metrics_debug"),
    **unused("transformers decides it", "--save_safetensors", "--no_save_safetensors", "--use_ipex", switch=True),
    **unused("transformers decides it", "--use_mps_device", "--use_legacy_prediction_loop", switch=True),
    **unused("see --torch_compile", "--jit_mode_eval", switch=True),
    **unused("see --accelerator_config", "--dispatch_batches", "--split_batches", switch=True),
    **unused("see --include_num_input_tokens_seen", "--include_tokens_per_second", switch=True),
    **unused("log in with `hf auth login`, or give --token", "--use_auth_token", switch=True),
    **unused("transformers has dropped it", "--ray_scope", "--past_index", "--mp_parameters", "--tpu_num_cores"),
    **unused("--fp16 and --bf16 are torch's", "--fp16_backend", "--half_precision_backend", "--fp16_opt_level"),
    **unused("see --fsdp_config", "--fsdp_min_num_params", "--fsdp_transformer_layer_cls_to_wrap"),
    **unused("see --hub_model_id ORGANIZATION/NAME", "--push_to_hub_organization"),
}

_TOKENIZERS = unused("tokenizers are fast ones", "--use_fast_tokenizer", "--no_use_fast_tokenizer", switch=True)
_HEADS = unused(
    "training replaces a head for other classes, all else refuses it", "--ignore_mismatched_sizes", switch=True
)
# run_qa.py
QUESTION_ANSWERING = {"--null_score_diff_threshold": "--null_threshold", **_TOKENIZERS}
# run_glue.py, run_xnli.py, run_classification.py
TEXT_CLASSIFICATION = {
    "--label_column_name": "--label_column",
    "--text_column_names": Spelling(_two_columns),
    "--do_regression": only("--do_regression", "false", "this script is for classes, not for scores"),
    **unused("rows are shuffled in every epoch", "--shuffle_train_dataset", switch=True),
    **unused("see --sample_seed", "--shuffle_seed"),
    **unused("only what is needed is read", "--remove_columns", "--remove_splits"),
    **unused("the model's own separator is used", "--text_column_delimiter"),
    **unused("all scores of the task are computed", "--metric_name"),
    **_TOKENIZERS,
    **_HEADS,
}
# run_audio_classification.py, run_speech_recognition_ctc.py
_FREEZE = Spelling(lambda on: [f"--freeze={'convolution' if on else 'none'}"], switch=True)
_THAW = Spelling(lambda on: ["--freeze=none"] if on else [], switch=True, why="changes nothing when false")
SPEECH = {
    "--feature_extractor_name": "--tokenizer_name",
    "--tokenizer_name_or_path": "--tokenizer_name",
    "--eval_file": "--validation_file",
    **dict.fromkeys(("--freeze_feature_encoder", "--freeze_feature_extractor"), _FREEZE),
    **dict.fromkeys(("--no_freeze_feature_encoder", "--no_freeze_feature_extractor"), _THAW),
    "--ctc_loss_reduction": only("--ctc_loss_reduction", "mean", "the loss is the mean over utterances"),
    "--ctc_zero_infinity": only("--ctc_zero_infinity", "true", "an infinite loss is left out"),
    "--add_adapter": only("--add_adapter", "false", "no layers are added between encoder and head"),
    "--preprocessing_only": only("--preprocessing_only", "false", "what was prepared is in the cache anyway"),
    **unused("padding never changes a score", "--attention_mask", "--no_attention_mask", switch=True),
    **unused("clips are taken whole", "--max_length_seconds"),
    **unused("see --punctuation", "--chars_to_ignore"),
    **unused("word and character error rates are computed", "--eval_metrics"),
    **unused("a vocabulary has its own", "--unk_token", "--pad_token", "--word_delimiter_token"),
    **_HEADS,
}


def translate(tokens: Iterable[str], rows: Mapping[str, str | Spelling], known: set[str], where: str = "") -> list[str]:
    """Today's arguments for those given: dashes become underscores, older flags become today's, with a note each."""
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
            given = [value] if equals else []
            while not equals and waiting and not waiting[0].startswith(is_flag) and not (row.switch and given):
                given.append(waiting.pop(0))
            if not given and not row.switch:
                raise UserError(f"{where}{name} expects a value")
            today = row.today(_truth(name, "".join(given)) if row.switch else " ".join(given))
            _note(f"{where}{name} is {' '.join(today)} today" if today else f"{where}{name} {row.why}")
            translated += today
    return translated


def _truth(name: str, value: str) -> bool:
    if value.lower() in ("", "yes", "true", "t", "y", "1"):
        return True
    if value.lower() in ("no", "false", "f", "n", "0"):
        return False
    raise UserError(f"{name} takes true or false")


def _note(text: str) -> None:
    if os.environ.get("RANK", "0") == "0":
        print(f"note: {text}", file=sys.stderr, flush=True)


def suggestion(name: str, candidates: Iterable[str]) -> str:
    """The end of a sentence about an unknown name: the nearest there is, if one is really near."""
    near = difflib.get_close_matches(name, sorted(candidates), n=1, cutoff=0.8)
    return f"; did you mean {near[0]}?" if near else "; see --help"
