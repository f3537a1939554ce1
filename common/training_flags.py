"""What the command line knows of transformers' TrainingArguments: help, ranges, what is refused, what follows.

transformers and torch are imported only inside of functions, after --help was answered.
"""

import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from common.errors import UserError

PHASES = ("do_train", "do_eval", "do_predict")
# The scripts give the model exactly what it takes, and every parameter that is trained has a part in the loss.
ALWAYS = {"remove_unused_columns": False, "ddp_find_unused_parameters": False}
SAMPLING_STRATEGIES = ("random", "sequential", "group_by_length")
# Least and greatest value of flags that torch or the trainer would take as they are, to fail or train nonsense later.
RANGES = {
    (1e-12, 1e3): "learning_rate",
    (1e-12, 1e9): "logging_steps eval_steps save_steps",
    (0, 1e9): "num_train_epochs weight_decay warmup_steps max_grad_norm adam_epsilon dataloader_num_workers "
    "early_stopping_threshold head_learning_rate stride tuning_samples neftune_noise_alpha",
    (0, 0.999999): "label_smoothing_factor adam_beta1 adam_beta2 lora_dropout",
    (1, 1e9): "per_device_train_batch_size per_device_eval_batch_size gradient_accumulation_steps save_total_limit "
    "early_stopping_patience preprocessing_num_workers max_length max_answer_length lora_rank lora_alpha neighbours "
    "max_categories alerts_per_day dataloader_prefetch_factor torch_empty_cache_steps eval_accumulation_steps",
    (1e-12, 1): "resample_ratio",
    (1e-6, 0.999999): "test_share validation_share holdout_share pruned_share",
    (1e-12, 1e12): "miss_cost alert_cost",
    (1, 1000): "n_best_size",
    (0, 2**32 - 1): "seed data_seed sample_seed split_seed pruning_seed",
}


def flag(default: Any, help: str, *aliases: str) -> Any:
    """A dataclass field that becomes `--name`, with one line of help and further names such as "--dataset_name"."""
    metadata = {"help": help, "aliases": list(aliases)}
    if isinstance(default, list):
        return field(default_factory=default.copy, metadata=metadata | {"action": "extend"})
    return field(default=default, metadata=metadata)


@dataclass
class CommonTrainingArguments:
    """The flags of TrainingArguments that --help shows, with the library's defaults; they are parsed by the library."""

    _argument_group_name = "training"

    output_dir: str = flag("trainer_output", "folder for the model and all results")
    do_train: bool = flag(False, "train; the defaults of these three are what is done if none of them is given")
    do_eval: bool = flag(False, "evaluate on the validation data")
    do_predict: bool = flag(False, "predict the test data; done too if --test_file is given and none of the three")
    learning_rate: float = flag(5e-5, "of the optimizer, at its highest")
    lr_scheduler_type: str = flag("linear", "how the learning rate changes: linear, cosine, constant, ...")
    warmup_steps: float = flag(0, "steps in which the learning rate rises; below 1: a share of all steps")
    weight_decay: float = flag(0.0, "of AdamW")
    label_smoothing_factor: float = flag(0.0, "share of the truth that goes to the other classes")
    num_train_epochs: float = flag(3.0, "passes over the training data")
    max_steps: int = flag(-1, "steps, instead of --num_train_epochs; negative: not used")
    per_device_train_batch_size: int = flag(8, "training examples a device and step")
    per_device_eval_batch_size: int = flag(8, "examples a device and step without training")
    gradient_accumulation_steps: int = flag(1, "batches that make one step")
    train_sampling_strategy: str = flag("random", "order of the training data: random, sequential, group_by_length")
    eval_strategy: str = flag("no", "when to evaluate in training: no, epoch, steps")
    eval_steps: float | None = flag(None, "steps between two evaluations; given alone, it means --eval_strategy steps")
    save_strategy: str = flag("steps", "when to save a checkpoint: no, epoch, steps, best")
    save_steps: float = flag(500, "steps between two checkpoints; given alone, it means --save_strategy steps")
    save_total_limit: int | None = flag(None, "newest checkpoints to keep, beside the best; unset: all")
    load_best_model_at_end: bool = flag(False, "keep the best model instead of the last one")
    metric_for_best_model: str | None = flag(None, "what is best: a score, or loss")
    logging_steps: float = flag(500, "steps between two lines of the log")
    seed: int = flag(42, "of weights, dropout and the order of the data")
    bf16: bool = flag(False, "mixed precision")
    use_cpu: bool = flag(False, "train on the processor; without a GPU this is so anyway")
    resume_from_checkpoint: str | None = flag(None, "auto: go on where a run stopped, if one did; or a checkpoint")
    report_to: str | None = flag(None, "trackers, with commas between: tensorboard, wandb, ...; unset: none")
    push_to_hub: bool = flag(False, "upload model and results at the end")


class Values(dict):
    """name -> value of what somebody chose; `sources` says who; `names`: all there are; `explicit`: the user's."""

    def __init__(self, names: Iterable[str], explicit: Iterable[str]):
        self.names, self.explicit, self.sources = set(names), set(explicit), {}

    def put(self, source: str, values: Mapping[str, Any]) -> None:
        """Sets values; `source` says who does."""
        if unknown := values.keys() - self.names:
            raise KeyError(f"the {source} sets {sorted(unknown)}, which is no argument")
        self.update(values)
        self.sources |= dict.fromkeys(values, source)

    def derive(self, **values: Any) -> None:
        """Sets what follows from other values, unless the user gave it."""
        self.put("derived", {name: values[name] for name in values.keys() & self.names - self.explicit})

    def of(self, group: type) -> dict[str, Any]:
        """Those that are fields of a dataclass."""
        return {field.name: self[field.name] for field in fields(group) if field.name in self}


def check_ranges(values: Values) -> None:
    """Raises UserError for a number that makes no sense."""
    ranges = {name: span for span, names in RANGES.items() for name in names.split()}
    for name, value in values.items():
        least, most = ranges.get(name, (-math.inf, math.inf))
        if isinstance(value, int | float) and not (least <= value <= most and -math.inf < value < math.inf):
            needed = f"from {least:g} to {most:.10g}" if name in ranges else "a finite number"
            raise UserError(f"--{name} {str(value)[:30]}: must be {needed}")


def training_arguments(values: Values) -> Any:
    """TrainingArguments of the values and what follows from them; `UserError` for what cannot be done."""
    import torch
    from transformers import Trainer, TrainingArguments, get_scheduler

    if not torch.accelerator.is_available():
        values.put("derived", {"use_cpu": True})  # even if false was given: several processes must meet in one training
    if "report_to" in values:
        values["report_to"] = [name.strip() for name in values["report_to"].split(",")]
    for applies, sentence in _refusals(values):
        if applies:
            raise UserError(sentence)
    values.derive(**ALWAYS)
    values.put("derived", {"remove_unused_columns": False})  # given, too: columns that are not needed are not there
    if values.get("use_cpu") or not torch.cuda.is_available():
        values.derive(dataloader_pin_memory=False)
    _derive_strategies(values)
    metric = values.get("metric_for_best_model")
    if metric and ("metric_for_best_model" in values.explicit or "greater_is_better" not in values):
        values.derive(greater_is_better=not metric.endswith(("loss", "wer", "cer")))
    try:
        settings = TrainingArguments(**values.of(TrainingArguments))
        if values.keys() & {"optim", "optim_args"}:
            Trainer.get_optimizer_cls_and_kwargs(settings)  # is its package there?
        if values.keys() & {"lr_scheduler_type", "lr_scheduler_kwargs"}:
            optimizer = torch.optim.SGD([torch.zeros(1)], settings.learning_rate)
            get_scheduler(settings.lr_scheduler_type, optimizer, 0, 1, settings.lr_scheduler_kwargs)
        if settings.torch_compile:
            torch.compile(torch.nn.Identity(), backend=settings.torch_compile_backend, mode=settings.torch_compile_mode)
    except (ValueError, TypeError, OSError, ImportError, RuntimeError) as error:
        raise UserError(f"the training flags are refused: {' '.join(str(error).split())}") from error
    for phase in PHASES:  # TrainingArguments turns do_eval on by itself when an eval_strategy is set
        setattr(settings, phase, bool(values.get(phase)))
    return settings


def _refusals(values: Values) -> list[tuple[bool, str]]:
    from huggingface_hub import get_token, is_offline_mode
    from transformers.integrations import get_available_reporting_integrations

    get, trackers = values.get, values.get("report_to", [])
    words = {"all", "none"} if len(trackers) == 1 else set()
    unknown = {*trackers} - words - {*get_available_reporting_integrations()}
    strategy = get("train_sampling_strategy", "random")
    alone = str(get("fsdp") or "false").lower() != "false" and int(os.environ.get("WORLD_SIZE", "1")) < 2
    no_token = get("push_to_hub") and not (get("hub_token") or get("token") or get_token())
    fp16 = next((name for name in ("fp16", "fp16_full_eval") if get(name)), None)
    return [
        (strategy not in SAMPLING_STRATEGIES, f"--train_sampling_strategy {strategy}: choose of {SAMPLING_STRATEGIES}"),
        (fp16 and get("use_cpu"), f"--{fp16} needs a GPU; on a processor leave it out, or use --bf16"),
        (get("batch_eval_metrics"), "--batch_eval_metrics: scores are of all examples together; leave it out"),
        (get("bf16_full_eval") or get("fp16_full_eval"), "--bf16_full_eval halves the saved model, too; use --bf16"),
        (get("use_liger_kernel"), "--use_liger_kernel: is for language models alone; leave it out"),
        (alone, "--fsdp divides a model among processes, and there is one; use torchrun, or leave it out"),
        (unknown, f"--report_to {','.join(unknown)}: there is no such tracker, or its package is not installed"),
        (get("push_to_hub") and is_offline_mode(), "--push_to_hub: the hub is switched off; unset HF_HUB_OFFLINE"),
        (no_token, "--push_to_hub: log in with `hf auth login`, or give --hub_token"),
    ]


def _derive_strategies(values: Values) -> None:
    """When to evaluate and save. Keeping the best model needs both at the same steps: those that were given lead."""
    stops_early = "early_stopping_patience" in values.explicit
    given = {when for when in ("eval", "save") if values.explicit & {f"{when}_strategy", f"{when}_steps"}}
    values.derive(**{f"{when}_strategy": "steps" for when in given if f"{when}_steps" in values.explicit})
    if stops_early:
        values.derive(load_best_model_at_end=True)
    if values.get("do_train") and "eval" in given and values["eval_strategy"] != "no":
        values.put("derived", {"do_eval": True})  # as TrainingArguments does
    if not values.get("do_train"):
        values.put("derived", {"load_best_model_at_end": False})  # given, too: nothing is saved
        values.derive(eval_strategy="no", save_strategy="no")
    elif not values.get("do_eval"):
        values.derive(load_best_model_at_end=False, eval_strategy="no")
    strategies = {"eval": values.get("eval_strategy", "no"), "save": values.get("save_strategy", "steps")}
    if values.get("load_best_model_at_end") and "no" in strategies.values():
        values.derive(load_best_model_at_end=False)  # given all the same, it is refused by TrainingArguments
    elif values.get("load_best_model_at_end") and strategies["save"] != "best":
        lead, follow = ("save", "eval") if given == {"save"} else ("eval", "save")
        values.derive(**{f"{follow}_strategy": strategies[lead]})
        if given and strategies[lead] == "steps":
            steps = values.get(f"{lead}_steps") or 500
            values.derive(eval_steps=steps, save_steps=steps)
    if stops_early and values.get("eval_strategy", "no") == "no":
        raise UserError("--early_stopping_patience needs evaluations in training: give --eval_strategy")


def settle_best_metric(args, given: bool, known: tuple[str, ...], kwargs: dict) -> None:
    """Checks --metric_for_best_model before anything is trained; `known`: scores, `kwargs`: those of `Trainer`."""
    if not args.do_train or not args.load_best_model_at_end or args.eval_strategy == "no":
        return
    if kwargs.get("eval_dataset") is None:
        args.load_best_model_at_end = False
        return
    wanted = (args.metric_for_best_model or "loss").removeprefix("eval_")
    sets = kwargs["eval_dataset"] if isinstance(kwargs["eval_dataset"], dict) else ()
    names = [f"{name}_{metric}" for name in sets for metric in ("loss", *known)] or ["loss", *known]
    if given and wanted not in names:
        raise UserError(f"--metric_for_best_model {args.metric_for_best_model}: not one of {', '.join(names)}")
    args.metric_for_best_model = wanted
