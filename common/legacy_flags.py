"""Flags of the official examples and of transformers 4, and what says the same here: tables, and their reader.

A row of a table is a flag's name today; a value -> today's argument ("": none); a function of the flag's name and value
("" where none is given) that returns today's arguments, or raises `UserError`; or None, where nothing depends on it.
"""

import contextlib
import difflib
import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping

from common.errors import UserError

Row = str | Mapping[str, str] | Callable[[str, str], list[str]] | None


def only(value: str, otherwise: str) -> Row:
    """A flag that may say what a script does anyway; another value is refused with the sentence `otherwise`."""
    return {value: "", "otherwise": otherwise}


def _warmup_ratio(name: str, value: str) -> list[str]:
    with contextlib.suppress(ValueError):
        if 0 <= float(value) < 1:
            return [f"--warmup_steps={value}"]
    raise UserError(f"{name} {value}: must be a share from 0 up to 1; --warmup_steps takes steps")


def _logging_dir(name: str, folder: str) -> list[str]:
    os.environ["TENSORBOARD_LOGGING_DIR"] = folder  # which it is today
    return []


def _two_columns(name: str, value: str) -> list[str]:
    columns = [column.strip() for column in value.split(",")]
    if len(columns) != 2 or not all(columns):
        raise UserError(f"{name} {value}: must be the names of two columns with a comma between")
    return [f"--premise_column={columns[0]}", f"--hypothesis_column={columns[1]}"]


NEGATIVE = re.compile(r"-[\d.]+e[-+]?\d+", re.IGNORECASE)  # argparse takes such a number for a flag
TRUTH = dict.fromkeys(("yes", "y", "t", "1"), "true") | dict.fromkeys(("no", "n", "f", "0"), "false")
# Nothing depends on these here.
WITHOUT_EFFECT = """
    save_safetensors no_save_safetensors use_ipex use_mps_device ray_scope use_legacy_prediction_loop jit_mode_eval
    dispatch_batches split_batches include_tokens_per_second use_auth_token past_index mp_parameters tpu_num_cores
    tpu_metrics_debug include_inputs_for_metrics fp16_backend half_precision_backend fp16_opt_level
    fsdp_min_num_params fsdp_transformer_layer_cls_to_wrap push_to_hub_organization use_fast_tokenizer
    no_use_fast_tokenizer ignore_mismatched_sizes shuffle_train_dataset shuffle_seed remove_columns remove_splits
    text_column_delimiter metric_name attention_mask no_attention_mask max_length_seconds chars_to_ignore eval_metrics
    unk_token pad_token word_delimiter_token
"""
# Of all scripts: the fields of TrainingArguments of transformers 4.57 and earlier that 5.23 does not have.
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
    "--group_by_length": {
        "true": "--train_sampling_strategy=group_by_length",
        "false": "--train_sampling_strategy=random",
    },
    "--adafactor": {"true": "--optim=adafactor", "false": ""},
    **dict.fromkeys(f"--{name}" for name in WITHOUT_EFFECT.split()),
}
# run_qa.py
QUESTION_ANSWERING = {"--null_score_diff_threshold": "--null_threshold"}
# run_glue.py, run_xnli.py, run_classification.py
TEXT_CLASSIFICATION = {
    "--text_column_names": _two_columns,
    "--do_regression": only("false", "this script is for classes, not for scores"),
    **{f"--{name}_split_name": only(name, "give files for other splits") for name in ("train", "validation", "test")},
}
# run_audio_classification.py, run_speech_recognition_ctc.py
SPEECH = {
    "--feature_extractor_name": "--tokenizer_name",
    "--tokenizer_name_or_path": "--tokenizer_name",
    "--eval_file": "--validation_file",
    "--freeze_feature_encoder": {"true": "--freeze=convolution", "false": "--freeze=none"},
    "--freeze_feature_extractor": {"true": "--freeze=convolution", "false": "--freeze=none"},
    "--no_freeze_feature_encoder": {"true": "--freeze=none"},
    "--no_freeze_feature_extractor": {"true": "--freeze=none"},
    "--ctc_loss_reduction": only("mean", "the loss is the mean over utterances"),
    "--ctc_zero_infinity": only("true", "an infinite loss is left out"),
    "--add_adapter": only("false", "no layers are added between encoder and head"),
    "--preprocessing_only": only("false", "what was prepared is in the cache anyway"),
}


def translate(tokens: Iterable[str], rows: Mapping[str, Row], known: set[str], where: str = "") -> list[str]:
    """Today's arguments for those given: dashes become underscores, older flags become today's, with a note each."""
    waiting, translated = list(tokens), []
    given = {"--" + token[2:].partition("=")[0].replace("-", "_") for token in waiting if token.startswith("--")}
    while waiting:
        token = waiting.pop(0)
        name, equals, value = token.partition("=")
        name = "--" + name[2:].replace("-", "_")
        if token[:2] == "--" and not equals and waiting and NEGATIVE.fullmatch(waiting[0]):
            equals, value = "=", waiting.pop(0)
        if not token.startswith("--") or name in known:
            translated.append(name + equals + value if token.startswith("--") else token)
            continue
        if name not in rows:
            near = difflib.get_close_matches(name, sorted(known | rows.keys()), n=1, cutoff=0.8)
            raise UserError(f"{where}unknown flag {name}; {f'did you mean {near[0]}?' if near else 'see --help'}")
        if isinstance(rows[name], str):
            today = [rows[name] + equals + value]
        else:
            values = [value] if equals else []
            while not equals and waiting and not waiting[0].startswith("--"):
                values.append(waiting.pop(0))
            today = _today(name, rows[name], " ".join(values))
        if both := given & {argument.partition("=")[0] for argument in today}:
            raise UserError(f"{where}{name} is {both.pop()} today, which is given, too; leave one of them out")
        if os.environ.get("RANK", "0") == "0":
            said = "has no effect here" if rows[name] is None else f"is {' '.join(today) or 'no flag'} today"
            print(f"note: {where}{name} {said}", file=sys.stderr, flush=True)
        translated += today
    return translated


def _today(name: str, row: Row, value: str) -> list[str]:
    if row is None or callable(row):
        return row(name, value) if row else []
    word = value.lower() or "true"
    word = word if word in row else TRUTH.get(word, word)
    if word not in row:
        raise UserError(f"{name} {value}: {row.get('otherwise', 'must be true or false')}")
    return [row[word]] if row[word] else []
