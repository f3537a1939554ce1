"""What the two scripts on pairs of sentences do alike: flags, splits, inputs, and what is written.

Not the tasks themselves: which data, which classes, and what is done to the model, stand in the scripts.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from common.legacy import plotting
from common.legacy.arguments import flag
from common.legacy.cache import cache_root
from common.legacy.classification import PAIR_USAGE, Predictions, judge
from common.legacy.data import choose
from common.legacy.errors import UserError
from common.legacy.hub import load_rows
from common.legacy.pair_inputs import PairInputs, collate_pairs
from common.legacy.pairs import Pairs, pairs_from_rows, read_pairs, word_overlap
from common.legacy.run import decided_by_main_process
from common.legacy.task import publish_predictions
from common.legacy.text import tokenize_once


@dataclass
class PairArguments:
    """What every task on pairs of sentences has."""

    _argument_group_name = "sentence pairs"

    max_length: int = flag(256, "tokens of a pair; of a longer one the longer sentence is cut", "--max_seq_length")
    pad_to_max_length: bool = flag(False, "pad every batch to max_length: slower, for compilers that want one shape")
    premise_column: str | None = flag(None, "column of the first sentence; unset = premise, sentence1, ...")
    hypothesis_column: str | None = flag(None, "column of the second sentence; unset = hypothesis, sentence2, ...")
    label_column: str | None = flag(None, "column of the class; unset = label, gold_label, ...")
    label_order: str | None = flag(
        None, "what 0, 1, 2 stand for where data or a checkpoint number the classes: NAME,NAME,NAME"
    )
    eval_train_samples: int = flag(
        1000, "training examples that are evaluated, too, whenever validation is, for the curves; 0 = none, -1 = all"
    )
    frozen_cache: Literal["float32", "float16", "none"] = flag(
        "float32", "what is frozen is computed once and kept on disk so (float16: half the space); none: in every epoch"
    )

    def __post_init__(self):
        if self.label_order is not None and not all(name.strip() for name in self.label_order.split(",")):
            raise UserError(f"--label_order {self.label_order}: must be names with commas between, one for each class")

    @property
    def columns(self) -> dict[str, str | None]:
        """The columns as given."""
        return {part: getattr(self, f"{part}_column") for part in ("premise", "hypothesis", "label")}

    @property
    def order(self) -> tuple[str, ...] | None:
        """`label_order` as names."""
        return self.label_order and tuple(name.strip() for name in self.label_order.split(","))


def use_demo(data, model_args, make: Callable[[Path, str], dict[str, str]], folder: Path, architecture: str) -> None:
    """Points data and model at the built-in ones that `make` writes to `folder`; what was given stays.

    Args:
        architecture: what the built-in model is like, where `--model` is a folder.
    """
    given = Path(model_args.model).is_dir()
    # Written once: another process could rewrite what the first one already reads.
    made = decided_by_main_process(lambda: make(folder, architecture if given else model_args.model))
    model_args.model = model_args.model if given else made["model"]
    for name in ("train_file", "validation_file", "test_file"):
        setattr(data, name, getattr(data, name) or made[name])


def load_splits(
    task: PairArguments,
    data,
    training,
    model_args,
    *,
    classes: Mapping[str, tuple[str, ...]],
    hub: Mapping[str, Mapping[str, str]],
    explicit: set[str],
) -> tuple[dict[str, Pairs], dict[str, tuple[int, str]]]:
    """The splits that the run needs, and of each how many pairs there were and how its own were chosen.

    Args:
        classes: see `pairs_from_rows`.
        hub: split -> what `load_rows` needs to know to find it in `--dataset`.
        explicit: names of the arguments that were given; files without a test file are enough if nobody asked for one.
    """
    files = {"train": data.train_file, "validation": data.validation_file, "test": data.test_file}
    needed = {"train": training.do_train, "validation": training.do_eval, "test": training.do_predict}
    limits = {"train": data.max_train_samples, "validation": data.max_eval_samples, "test": data.max_predict_samples}
    reading = {"classes": classes, "label_order": task.order, "columns": task.columns}
    reading["skip_bad"] = data.on_bad_example == "skip"
    splits, selection = {}, {}
    for name in (n for n in needed if needed[n]):
        truth = None if name == "test" else True  # test pairs may come without classes
        if not any(files.values()):
            rows, source = load_rows(data, model_args, **hub[name])
            pairs = pairs_from_rows(rows, source, truth=truth, **reading)
        elif files[name] is None and name == "test" and "do_predict" not in explicit:
            continue
        elif files[name] is None:
            raise UserError(
                f"there is no {name} data: give --{name}_file, or choose among --do_train --do_eval --do_predict"
            )
        else:
            pairs = read_pairs(files[name], truth=truth, **reading)
        if name == "train":
            if len(pairs.names) < 2:
                raise UserError(
                    f"{pairs.source}: all pairs are of the class {pairs.names[0]!r}; there must be two or more"
                )
            reading["names"] = pairs.names  # the other splits may have no others
        chosen, words = choose(len(pairs), limits[name], data.sample_seed)
        selection[name] = len(pairs), words
        splits[name] = pairs.take(chosen)
    return splits, selection


def encode(pairs: Pairs, tokenizer, task: PairArguments, data, model_args, training) -> PairInputs:
    """Tokenises (once; then from the cache) and truncates."""
    if data.preprocessing_num_workers:
        os.environ["RAYON_NUM_THREADS"] = str(data.preprocessing_num_workers)  # the tokenizer's own threads
    root, max_length = cache_root(model_args.cache_dir), min(task.max_length, tokenizer.model_max_length)
    return PairInputs(
        tokenizer,
        *(
            tokenize_once(tokenizer, t, root, overwrite=data.overwrite_cache)
            for t in (pairs.premises, pairs.hypotheses)
        ),
        max_length=max_length,
        examples=pairs,
        targets=pairs.labels,
        pad_to=max_length if task.pad_to_max_length else None,
        pad_to_multiple_of=8 if training.fp16 or training.bf16 else None,
    )


def states_or_inputs(
    model, layers: int | None, inputs: dict[str, PairInputs], task: PairArguments, data, model_args, training
) -> tuple[dict, Callable | None, str]:
    """What the trainer gets for each split: the inputs, or the cached states that the first frozen layers make of them.

    And how it calls the model, with or without cached states: with the last layer for the first token only.

    Args:
        layers: how many layers are frozen together with the embeddings; None: these are trained.

    Returns:
        (data sets, the trainer's `forward`, why nothing is cached or "").
    """
    import torch

    from common.legacy.first_token import quickest_forward
    from common.legacy.frozen import FrozenPrefix, states_of

    if layers is None or task.frozen_cache == "none":
        return inputs, quickest_forward(model, training), ""
    prefix, states = FrozenPrefix(model, layers), {}
    lower = [kind for kind, asked in ((torch.bfloat16, training.bf16), (torch.float16, training.fp16)) if asked]
    for name, split in inputs.items():
        states[name] = states_of(
            split,
            prefix,
            cache_root(model_args.cache_dir),
            batch_size=training.per_device_eval_batch_size,
            autocast=lower[0] if lower else None,
            progress=None if training.disable_tqdm or training.process_index else f"frozen part, {name}",
            storage=task.frozen_cache,
            overwrite=data.overwrite_cache and training.process_index == 0,  # the others take what the first has made
        )
        if isinstance(states[name], str):
            return inputs, quickest_forward(model, training), states[name]
    return states, quickest_forward(model, training, prefix), ""


def logits_of(model, dataset, trainer) -> np.ndarray:
    """The logits [N, C] of a model that is not the trainer's, in the order of the data set; on this process alone."""
    import torch

    model, found = model.to(trainer.args.device).eval(), []
    order, step = np.argsort(-dataset.lengths, kind="stable"), trainer.args.per_device_eval_batch_size
    with torch.no_grad(), trainer.compute_loss_context_manager():
        for at in range(0, len(order), step):
            batch = collate_pairs([dataset[row] for row in order[at : at + step]])
            inputs = {k: v.to(model.device) for k, v in batch.items() if k not in ("row", "targets")}
            found.append(model(**inputs).logits.float().cpu().numpy())
    return np.concatenate(found)[np.argsort(order)]


def judged(
    splits: dict[str, Pairs], logits: dict[str, np.ndarray], measured: dict, *, headline_metric: str
) -> tuple[dict, dict[str, Predictions]]:
    """The parts of results.json about scores, and the predictions of each evaluated split."""
    predictions = {
        name: Predictions(
            labels=list(splits[name].names),
            logits=found,
            targets=splits[name].labels,
            ids=splits[name].ids,
            columns={"premise": splits[name].premises, "hypothesis": splits[name].hypotheses},
            groups=splits[name].groups,
        )
        for name, found in logits.items()
    }
    train = splits["train"].labels if "train" in splits else None
    return judge(predictions, measured, headline_metric=headline_metric, train_targets=train), predictions


def draw_pair_plots(splits: dict[str, Pairs], inputs: Mapping[str, PairInputs], output_dir: Path) -> dict[str, str]:
    """Token lengths with the cut-off, and word overlap of the two sentences by class; file names for results.json."""
    folder, name = output_dir / "plots", "train" if "train" in inputs else next(iter(inputs))
    pairs, tokens = splits[name], inputs[name]
    drawn = [
        plotting.histogram(
            tokens.pair_lengths,
            folder / "token_lengths.png",
            title=f"Both sentences together ({name})",
            xlabel="tokens",
            cutoff=tokens.max_length,
            cutoff_label="cut here",
        )
    ]
    if pairs.labels is not None:
        overlap = word_overlap(pairs)
        drawn.append(
            plotting.histogram(
                None,
                folder / "word_overlap.png",
                groups={label: overlap[pairs.labels == i] for i, label in enumerate(pairs.names)},
                title=f"Words of the hypothesis that the premise has, too ({name})",
                xlabel="share of words",
            )
        )
    return {path.stem: str(path.relative_to(output_dir)) for path in drawn}


def publish(
    results: dict,
    predictions: dict[str, Predictions],
    splits: dict[str, Pairs],
    inputs: Mapping[str, PairInputs],
    output_dir: Path,
    *,
    model: str | Path,
    usage: str = PAIR_USAGE,
) -> dict:
    """Writes predictions, plots, results.json, report and model card; returns what results.json holds.

    Args:
        model: which model made the predictions: where it was saved, or, in a run without training, where it came from.
        usage: how to load it, a format string with {model} and the two sentences {first} and {second}.
    """
    results["files"] |= draw_pair_plots(splits, inputs, output_dir)
    original, pairs = next(iter(splits.values())), next(iter(inputs.values())).examples
    example = {"first": pairs.premises[0], "second": pairs.hypotheses[0]}
    if (pairs.premises, pairs.hypotheses) != (original.premises, original.hypotheses):
        usage += "# texts must be prepared as in training, by the arguments above; these are\n"
    return publish_predictions(results, predictions, output_dir, usage=usage.format(model=model, **example))
