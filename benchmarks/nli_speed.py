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
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    TrainerCallback,
    logging,
    set_seed,
)

import run_mnli_lora
import run_nli_parsbert
from benchmarks.side_by_side import alternate, publish, row
from common.legacy.adapting import Strategy, apply
from common.legacy.arguments import DataArguments, ModelArguments, parse_arguments
from common.legacy.first_token import FirstToken
from common.legacy.frozen import FrozenPrefix, collate_states, states_of
from common.legacy.pair_inputs import PairInputs, collate_pairs
from common.legacy.pairs import read_pairs
from common.legacy.pruning import choose_heads, prune, random_scores
from common.legacy.run import StopRequest
from common.legacy.task import classification_head
from common.legacy.text import tokenize
from common.legacy.trainer import FinetuneTrainer

PARTS = ("cache", "first_token", "padding", "inference")
STRATEGIES = {"head_only": 20.0, "last_layer": 3.5, "freeze_9": 1.7}  # and the goals for their cache
MNLI_LENGTH = 128


class EpochSeconds(TrainerCallback):
    """When epochs begin and end; the first one is not counted."""

    def __init__(self, clock):
        self.clock, self.seconds = clock, []

    def on_epoch_begin(self, *_, **__):
        self.start = self.clock()

    def on_epoch_end(self, *_, **__):
        self.seconds.append(self.clock() - self.start)


def random_encoder(tokenizer, width: int, layers: int = 12) -> BertForSequenceClassification:
    """BERT of `width` with three classes, always the same."""
    set_seed(0)
    shape = {"hidden_size": width, "intermediate_size": 4 * width, "num_attention_heads": width // 64}
    config = BertConfig(vocab_size=len(tokenizer), num_hidden_layers=layers, num_labels=3, **shape)
    return BertForSequenceClassification(config)


def make_trainer(options, model, dataset, folder: str, forward=None, **settings) -> FinetuneTrainer:
    """The trainer as run_nli_parsbert.py makes it, without evaluation and saving."""
    flags = {"output_dir": folder, "do_train": True, "eval_strategy": "no", "save_strategy": "no", "disable_tqdm": True}
    flags |= {"lr_scheduler_type": "constant", "report_to": "none", "load_best_model_at_end": False, **settings}
    groups = (run_nli_parsbert.PersianNliArguments, DataArguments, ModelArguments)
    argv = [f"--{name}={value}" for name, value in flags.items()]
    training = parse_arguments(groups, argv, recipe=run_nli_parsbert.RECIPE, description="").groups[-1]
    parts = {"head": classification_head(0.0), "stop": StopRequest(), "data_collator": collate_states}
    trainer = FinetuneTrainer(model=model, args=training, train_dataset=dataset, forward=forward, **parts)
    trainer.log = lambda *args, **kwargs: None  # the table is what is printed
    return trainer


def cache(options: argparse.Namespace, tokenizer, inputs: PairInputs) -> tuple[list[dict], dict]:
    """Epochs after the first with and without the cached prefix, in turns; the weights afterwards must agree."""
    clock, rows, facts = time.process_time if options.cpu_time else time.perf_counter, [], {}
    for strategy, goal in STRATEGIES.items():
        seconds, weights = {"cached": [], "computed": []}, {}
        for _ in range(options.repeats):
            for side in seconds:
                model = random_encoder(tokenizer, options.width)
                layers = apply(model, Strategy.parse(strategy)).frozen_layers
                with tempfile.TemporaryDirectory() as folder:
                    data, prefix = inputs, None
                    if side == "cached":
                        prefix = FrozenPrefix(model, layers)
                        start = clock()
                        data = states_of(inputs, prefix, Path(folder), batch_size=64)
                        facts[f"{strategy}: seconds to fill the cache"] = round(clock() - start, 2)
                        facts[f"{strategy}: bytes of the cache"] = data.states.nbytes
                    forward = FirstToken(model, prefix).forward
                    trainer = make_trainer(options, model, data, folder, forward, num_train_epochs=options.epochs)
                    epochs = EpochSeconds(clock)
                    trainer.add_callback(epochs)
                    set_seed(0)
                    trainer.train()
                seconds[side] += epochs.seconds[1:]
                weights[side] = torch.cat([p.detach().flatten() for p in model.parameters() if p.requires_grad])
        apart = float((weights["cached"] - weights["computed"]).abs().max())
        if apart > 1e-3:
            raise SystemExit(f"{strategy}: the weights with and without the cache differ by up to {apart}")
        facts[f"{strategy}: largest difference of a trained weight"] = apart
        sides = seconds["cached"], seconds["computed"]
        rows.append(row(f"{strategy}, an epoch after the first", *sides, len(inputs), goal, unit="pairs/s"))
    return rows, facts


def first_token(options: argparse.Namespace, tokenizer, inputs: PairInputs) -> tuple[list[dict], dict]:
    """An epoch of full fine-tuning with the last layer for the first token only, and with all of it."""
    model = random_encoder(tokenizer, options.width)
    forwards = {"first token": FirstToken(model).forward, "all tokens": None}
    with tempfile.TemporaryDirectory() as folder:

        def prepare(name: str) -> list:
            return [make_trainer(options, model, inputs, folder, forwards[name], num_train_epochs=1)]

        seconds = alternate(dict.fromkeys(forwards, FinetuneTrainer.train), options.repeats, options.cpu_time, prepare)
    part = "last layer for the first token, full fine-tuning"
    return [row(part, seconds["first token"], seconds["all tokens"], len(inputs), None, unit="pairs/s")], {}


def padding(options: argparse.Namespace, tokenizer, inputs: PairInputs) -> tuple[list[dict], dict]:
    """An epoch of full fine-tuning at the batch size of run_mnli_lora.py: grouped by length, and all padded to 128."""
    model = AutoModelForSequenceClassification.from_pretrained(options.model, num_labels=3)
    initial = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    padded = PairInputs(tokenizer, *inputs.tokens, max_length=MNLI_LENGTH, targets=inputs.targets, pad_to=MNLI_LENGTH)
    grouped = PairInputs(tokenizer, *inputs.tokens, max_length=MNLI_LENGTH, targets=inputs.targets)
    data = {"grouped": (grouped, "group_by_length"), "padded": (padded, "random")}
    batch = run_mnli_lora.RECIPE["per_device_train_batch_size"]
    with tempfile.TemporaryDirectory() as folder:

        def prepare(name: str) -> list:
            model.load_state_dict(initial)
            settings = {"train_sampling_strategy": data[name][1], "per_device_train_batch_size": batch}
            return [make_trainer(options, model, data[name][0], folder, num_train_epochs=1, **settings)]

        seconds = alternate(dict.fromkeys(data, FinetuneTrainer.train), options.repeats, options.cpu_time, prepare)
    part = f"length grouping, to padding to {MNLI_LENGTH}"
    facts = {"tokens a pair": round(float(grouped.lengths.mean()), 1)}
    return [row(part, seconds["grouped"], seconds["padded"], len(inputs), 2.0, unit="pairs/s")], facts


def inference(options: argparse.Namespace, tokenizer, inputs: PairInputs) -> tuple[list[dict], dict]:
    """Half of the heads removed, and 9 of 12 layers kept, against the whole encoder, on the same sorted batches."""
    models = {name: random_encoder(tokenizer, options.width).eval() for name in ("whole", "pruned", "truncated")}
    prune(models["pruned"], choose_heads(random_scores(models["pruned"], 0), 0.5, per_layer=True))
    apply(models["truncated"], Strategy.parse("first_9"))
    order = np.argsort(-inputs.lengths, kind="stable")
    batches = [collate_pairs([inputs[row] for row in order[at : at + 64]]) for at in range(0, len(order), 64)]

    def classify(model) -> None:
        with torch.inference_mode():
            for batch in batches:
                model(**{name: tensor for name, tensor in batch.items() if name not in ("row", "targets")})

    sides = {name: partial(classify, model) for name, model in models.items()}
    seconds = alternate(sides, options.repeats, options.cpu_time)
    words = {"pruned": "inference with half of the heads", "truncated": "inference with 9 of 12 layers"}
    rows = [row(w, seconds[n], seconds["whole"], len(inputs), None, unit="pairs/s") for n, w in words.items()]
    return rows, {f"parameters, {name}": sum(p.numel() for p in model.parameters()) for name, model in models.items()}


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

    tokenizer = AutoTokenizer.from_pretrained(options.model)
    classes = run_nli_parsbert.CLASSES
    pairs = read_pairs(options.train_file, classes=classes, truth=True, skip_bad=False)
    pairs = pairs.take(np.sort(np.random.default_rng(0).permutation(len(pairs))[: options.pairs]))
    texts = (tokenize(tokenizer, part) for part in (pairs.premises, pairs.hypotheses))
    inputs = PairInputs(tokenizer, *texts, max_length=256, targets=pairs.labels)
    measure = {"cache": cache, "first_token": first_token, "padding": padding, "inference": inference}
    setting = {"pairs": len(inputs), "tokens a pair": float(inputs.lengths.mean()), "width": options.width}
    setting |= {"repeats": options.repeats, "cores": os.cpu_count(), "cpu_time": options.cpu_time}
    results = {"rows": [], "checks": {}, "setting": setting}
    for part in PARTS if options.only is None else (options.only,):
        rows, results["checks"][part] = measure[part](options, tokenizer, inputs)
        results["rows"] += rows
    return publish(results, options.output)


if __name__ == "__main__":
    main()
