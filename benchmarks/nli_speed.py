"""How fast the two scripts on pairs of sentences adapt an encoder, and what smaller encoders save, in one run.

    python -m benchmarks.nli_speed --train_file train.csv --model DIR
    python -m benchmarks.nli_speed ... --only cache --width 384 --pairs 256 --output nli_speed.json

`--model` gives the tokenizer and, for the row on padding, the weights; the other rows take random weights of the shape
of BERT base (12 layers, `--width` 768), since time does not depend on the weights. `benchmarks/README.md` says what the
rows mean.
"""

import argparse
import os
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    BertForSequenceClassification,
    TrainerCallback,
    logging,
    set_seed,
)

import run_nli_parsbert
from benchmarks.side_by_side import alternate, publish, row
from common.arguments import parse_arguments
from common.models import load_tokenizer
from common.run import start_run
from common.text import pairs
from common.text.frozen import frozen_states
from common.text.layers import Strategy, apply_strategy
from common.text.pruning import prune, random_heads

STRATEGIES = {"head_only": 50.0, "last_layer": 8.0, "freeze_9": 1.8}  # and the goals for their cache
MNLI_LENGTH, MNLI_BATCH = 128, 32


class EpochSeconds(TrainerCallback):
    """When epochs begin and end."""

    def __init__(self, clock):
        self.clock, self.seconds = clock, []

    def on_epoch_begin(self, *_, **__):
        self.start = self.clock()

    def on_epoch_end(self, *_, **__):
        self.seconds.append(self.clock() - self.start)


def random_encoder(vocabulary: int, width: int, layers: int = 12) -> BertForSequenceClassification:
    """BERT of `width` with three classes, always the same."""
    set_seed(0)
    shape = {"hidden_size": width, "intermediate_size": 4 * width, "num_attention_heads": width // 64}
    return BertForSequenceClassification(
        BertConfig(vocab_size=vocabulary, num_hidden_layers=layers, num_labels=3, **shape)
    )


def train(options, folder: str, model=None, strategy: str | None = None, **flags) -> tuple[list[float], dict, object]:
    """Seconds of each epoch of a training as run_nli_parsbert.py makes it, facts on the cache, and the model."""
    clock = time.process_time if options.cpu_time else time.perf_counter
    flags = {"output_dir": f"{folder}/out", "cache_dir": folder, "train_file": options.train_file, **flags}
    flags |= {
        "model": options.model,
        "max_train_samples": options.pairs,
        "do_train": True,
        "overwrite_output_dir": True,
    }
    flags |= {"eval_strategy": "no", "save_strategy": "no", "lr_scheduler_type": "constant", "disable_tqdm": True}
    argv = [f"--{name}={value}" for name, value in flags.items()]
    args = parse_arguments(run_nli_parsbert.PersianNliArguments, argv, recipe=run_nli_parsbert.RECIPE)
    with start_run(args, task="speed") as run:
        splits = pairs.load_pairs(args, run_nli_parsbert.CLASSES, {})
        run.describe(splits)
        tokenizer = load_tokenizer(args)
        inputs, collator, _ = pairs.tokenize(
            splits, tokenizer, lambda b, **cut: tokenizer(b["premise"], b["hypothesis"], **cut), {}, args, run
        )
        model = random_encoder(len(tokenizer), options.width) if model is None else model
        layers, start = apply_strategy(model, Strategy.parse(strategy)) if strategy else None, clock()
        data, batches, prefix = frozen_states(model, layers, inputs, collator, args, run)
        facts = {"seconds to fill the cache": round(clock() - start, 2), "warnings": run.warnings}
        weights = torch.ones(len(splits["train"].features["labels"].names))
        trainer = run_nli_parsbert.make_trainer(run, model, prefix, data, batches, tokenizer, weights)
        trainer.log = lambda *args, **kwargs: None  # the table is what is printed
        epochs = EpochSeconds(clock)
        trainer.add_callback(epochs)
        set_seed(0)
        trainer.train()
    return epochs.seconds, facts | {"tokens a pair": float(np.mean(inputs["train"]["length"]))}, model


def cache(options: argparse.Namespace) -> tuple[list[dict], dict]:
    """Epochs after the first with and without the cached prefix, in turns; the weights afterwards must agree."""
    rows, facts = [], {}
    for strategy, goal in STRATEGIES.items():
        seconds, weights = {"float32": [], "none": []}, {}
        for _ in range(options.repeats):
            for kind in seconds:
                with tempfile.TemporaryDirectory() as folder:
                    flags = {"frozen_cache": kind, "num_train_epochs": options.epochs}
                    found, about, model = train(options, folder, strategy=strategy, **flags)
                seconds[kind] += found[1:]
                weights[kind] = torch.cat([p.detach().flatten() for p in model.parameters() if p.requires_grad])
                facts |= {f"{strategy}: {name}": value for name, value in about.items() if kind == "float32"}
        apart = float((weights["float32"] - weights["none"]).abs().max())
        facts[f"{strategy}: largest difference of a trained weight"] = apart
        if apart > 1e-3:
            raise SystemExit(f"{strategy}: the weights with and without the cache differ by up to {apart}")
        part = f"{strategy}, an epoch after the first"
        rows.append(row(part, seconds["float32"], seconds["none"], options.pairs, goal, unit="pairs/s"))
    return rows, facts


def padding(options: argparse.Namespace) -> tuple[list[dict], dict]:
    """An epoch of full fine-tuning at the batch size of run_mnli_lora.py: grouped by length, and all padded to 128."""
    sides = {"grouped": {"train_sampling_strategy": "group_by_length"}, "padded": {"train_sampling_strategy": "random"}}
    sides["padded"]["pad_to_max_length"] = True
    seconds, facts = {name: [] for name in sides}, {}
    for _ in range(options.repeats):
        for name, flags in sides.items():
            model = AutoModelForSequenceClassification.from_pretrained(options.model, num_labels=3)
            flags |= {"max_length": MNLI_LENGTH, "per_device_train_batch_size": MNLI_BATCH, "num_train_epochs": 1}
            with tempfile.TemporaryDirectory() as folder:
                found, facts, _ = train(options, folder, model=model, **flags)
            seconds[name] += found
    part = f"length grouping, to padding to {MNLI_LENGTH}"
    return [row(part, seconds["grouped"], seconds["padded"], options.pairs, 2.0, unit="pairs/s")], facts


def inference(options: argparse.Namespace) -> tuple[list[dict], dict]:
    """Half of the heads removed, and 9 of 12 layers kept, against the whole encoder, on the same batches."""
    models = {name: random_encoder(30_000, options.width).eval() for name in ("whole", "pruned", "truncated")}
    prune(models["pruned"], random_heads(models["pruned"].config, 0.5, seed=0))
    apply_strategy(models["truncated"], Strategy.parse("first_9"))
    batches = [torch.randint(5, 30_000, (64, 40)) for _ in range(-(-options.pairs // 64))]

    def classify(model) -> None:
        with torch.inference_mode():
            for batch in batches:
                model(input_ids=batch)

    sides = {name: partial(classify, model) for name, model in models.items()}
    seconds = alternate(sides, options.repeats, options.cpu_time)
    words = {"pruned": "inference with half of the heads", "truncated": "inference with 9 of 12 layers"}
    rows = [row(w, seconds[n], seconds["whole"], options.pairs, None, unit="pairs/s") for n, w in words.items()]
    return rows, {f"parameters, {name}": sum(p.numel() for p in model.parameters()) for name, model in models.items()}


PARTS = {"cache": cache, "padding": padding, "inference": inference}


def main(argv: list[str] | None = None) -> dict:
    """Measures, prints the table and returns {"rows", "checks", "setting"}."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train_file", required=True, help="labelled pairs, in any form the scripts read")
    parser.add_argument("--model", required=True, help="folder of a BERT with a fast tokenizer")
    parser.add_argument("--only", choices=PARTS, help="measure this part alone")
    parser.add_argument("--pairs", type=int, default=256, help="how many of the pairs (default 256)")
    parser.add_argument("--width", type=int, default=768, help="of the random encoder (default 768)")
    parser.add_argument("--epochs", type=int, default=3, help="of a training with or without the cache (default 3)")
    parser.add_argument("--repeats", type=int, default=2, help="turns of each side (default 2)")
    parser.add_argument("--cpu_time", action="store_true", help="processor time, not the clock's: for a busy machine")
    parser.add_argument("--output", type=Path, help="write everything to this json file")
    options = parser.parse_args(argv)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    setting = {name: getattr(options, name) for name in ("pairs", "width", "repeats", "cpu_time")}
    results = {"rows": [], "checks": {}, "setting": setting | {"cores": os.cpu_count()}}
    for part in PARTS if options.only is None else (options.only,):
        rows, results["checks"][part] = PARTS[part](options)
        results["rows"] += rows
    return publish(results, options.output)


if __name__ == "__main__":
    main()
