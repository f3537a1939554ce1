"""Flags of the official examples and of transformers 4, and what says the same here: tables, and their reader.

A row of a table is a flag's name today; None, where nothing depends on the flag here; or a function of the flag's name
and value ("" where none is given) that returns today's arguments, or raises `UserError`.
"""

import contextlib
import difflib
import os
import sys
from collections.abc import Callable, Iterable, Mapping

from common.errors import UserError

Row = str | Callable[[str, str], list[str]] | None


def only(value: str, otherwise: str) -> Row:
    """A flag that may say what a script does anyway; another value is refused with the sentence `otherwise`."""

    def today(name: str, given: str) -> list[str]:
        if (given or "true").lower() != value:
            raise UserError(f"{name} {given}: {otherwise}")
        return []

    return today


def switch(on: str, off: str | None = None) -> Row:
    """A flag that is true or false: today's argument for either."""

    def today(name: str, given: str) -> list[str]:
        if (word := given.lower()) not in (*YES, *NO):
            raise UserError(f"{name} takes true or false")
        return [token for token in [on if word in YES else off] if token]

    return today


def _warmup_ratio(name: str, value: str) -> list[str]:
    with contextlib.suppress(ValueError):
        if 0 <= float(value) < 1:
            return [f"--warmup_steps={value}"]
    raise UserError(f"{name} {value}: must be a share from 0 up to 1; --warmup_steps takes steps")


def _logging_dir(name: str, folder: str) -> list[str]:
    os.environ["TENSORBOARD_LOGGING_DIR"] = folder  # which it is today
    return []


def _two_columns(name: str, value: str) -> list[str]:
    names = [column.strip() for column in value.split(",")]
    if len(names) != 2:
        raise UserError(f"{name} {value}: must be two names with a comma between")
    return [f"--premise_column={names[0]}", f"--hypothesis_column={names[1]}"]


YES, NO = ("", "yes", "true", "t", "y", "1"), ("no", "false", "f", "n", "0")
# The fields of TrainingArguments of transformers 4.57 and earlier that 5.23 does not have.
DROPPED: dict[str, Row] = {
    "--evaluation_strategy": "--eval_strategy",
    "--no_cuda": "--use_cpu",
    "--per_gpu_train_batch_size": "--per_device_train_batch_size",
    "--per_gpu_eval_batch_size": "--per_device_eval_batch_size",
    "--push_to_hub_model_id": "--hub_model_id",
    "--push_to_hub_token": "--hub_token",
    "--torchdynamo": "--torch_compile_backend",
    "--warmup_ratio": _warmup_ratio,
    "--logging_dir": _logging_dir,
    "--group_by_length": switch("--train_sampling_strategy=group_by_length", "--train_sampling_strategy=random"),
    "--adafactor": switch("--optim=adafactor"),
    "--include_inputs_for_metrics": switch("--include_for_metrics=inputs"),
    "--tpu_metrics_debug": switch("--debug=tpu_metrics_debug"),
    **dict.fromkeys(("--save_safetensors", "--no_save_safetensors", "--use_ipex", "--use_mps_device", "--ray_scope")),
    **dict.fromkeys(("--use_legacy_prediction_loop", "--jit_mode_eval", "--dispatch_batches", "--split_batches")),
    **dict.fromkeys(("--include_tokens_per_second", "--use_auth_token", "--past_index", "--mp_parameters")),
    **dict.fromkeys(("--tpu_num_cores", "--fp16_backend", "--half_precision_backend", "--fp16_opt_level")),
    **dict.fromkeys(("--fsdp_min_num_params", "--fsdp_transformer_layer_cls_to_wrap", "--push_to_hub_organization")),
}
_TOKENIZERS = dict.fromkeys(("--use_fast_tokenizer", "--no_use_fast_tokenizer"))
# run_qa.py
QUESTION_ANSWERING = {"--null_score_diff_threshold": "--null_threshold", **_TOKENIZERS}
# run_glue.py, run_xnli.py, run_classification.py
TEXT_CLASSIFICATION = {
    "--label_column_name": "--label_column",
    "--text_column_names": _two_columns,
    "--do_regression": only("false", "this script is for classes, not for scores"),
    **dict.fromkeys(("--shuffle_train_dataset", "--shuffle_seed", "--remove_columns", "--remove_splits")),
    **dict.fromkeys(("--text_column_delimiter", "--metric_name", "--ignore_mismatched_sizes")),
    **_TOKENIZERS,
}
# run_audio_classification.py, run_speech_recognition_ctc.py
SPEECH = {
    "--feature_extractor_name": "--tokenizer_name",
    "--tokenizer_name_or_path": "--tokenizer_name",
    "--eval_file": "--validation_file",
    **dict.fromkeys(
        ("--freeze_feature_encoder", "--freeze_feature_extractor"), switch("--freeze=convolution", "--freeze=none")
    ),
    **dict.fromkeys(("--no_freeze_feature_encoder", "--no_freeze_feature_extractor"), switch("--freeze=none")),
    "--ctc_loss_reduction": only("mean", "the loss is the mean over utterances"),
    "--ctc_zero_infinity": only("true", "an infinite loss is left out"),
    "--add_adapter": only("false", "no layers are added between encoder and head"),
    "--preprocessing_only": only("false", "what was prepared is in the cache anyway"),
    **dict.fromkeys(("--attention_mask", "--no_attention_mask", "--max_length_seconds", "--chars_to_ignore")),
    **dict.fromkeys(("--eval_metrics", "--unk_token", "--pad_token", "--word_delimiter_token")),
    "--ignore_mismatched_sizes": None,
}


def translate(tokens: Iterable[str], rows: Mapping[str, Row], known: set[str], where: str = "") -> list[str]:
    """Today's arguments for those given: dashes become underscores, older flags become today's, with a note each."""
    waiting, translated = list(tokens), []
    while waiting:
        token = waiting.pop(0)
        name, equals, value = token.partition("=")
        name = "--" + name[2:].replace("-", "_")
        if not token.startswith("--") or name in known:
            translated.append(name + equals + value if token.startswith("--") else token)
            continue
        if name not in rows:
            raise UserError(f"{where}unknown flag {name}{suggestion(name, known | rows.keys())}")
        row, today = rows[name], []
        if isinstance(row, str):
            today = [row + equals + value]
        else:
            given = [value] if equals else []
            while not equals and waiting and not waiting[0].startswith("--"):
                given.append(waiting.pop(0))
            today = row(name, " ".join(given)) if row else []
        if os.environ.get("RANK", "0") == "0":
            said = "has no effect here" if row is None else f"is {' '.join(today) or 'no flag'} today"
            print(f"note: {where}{name} {said}", file=sys.stderr, flush=True)
        translated += today
    return translated


def suggestion(name: str, candidates: Iterable[str]) -> str:
    """The end of a sentence about an unknown name: the nearest there is, if one is really near."""
    near = difflib.get_close_matches(name, sorted(candidates), n=1, cutoff=0.8)
    return f"; did you mean {near[0]}?" if near else "; see --help"
