"""The small world of test_trainer.py: data, a model, a trainer, a bare loop; and what two processes do in it.

torchrun --standalone --nproc_per_node 2 tests/trainer_worker.py FOLDER
"""

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from torch.nn.functional import cross_entropy
from transformers import BertConfig, BertForSequenceClassification, TrainerCallback, TrainingArguments, set_seed
from transformers.utils import logging

from common.errors import Interrupted
from common.run import start_run
from common.trainer import FinetuneTrainer

CLASS_WEIGHTS = torch.tensor([0.2, 1.0, 3.5])


class Sentences(torch.utils.data.Dataset):
    """Random sentences of 4 to 20 tokens, each with one of three labels."""

    def __init__(self, count: int, seed: int = 0, truth: bool = True):
        random = np.random.default_rng(seed)
        self.lengths = random.integers(4, 21, count)
        self.rows = [
            {"input_ids": torch.tensor(random.integers(1, 50, n)), "row": i} for i, n in enumerate(self.lengths)
        ]
        self.labels = random.integers(0, 3, count)
        for row, label in zip(self.rows, self.labels if truth else ()):
            row["labels"] = int(label)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, row: int) -> dict:
        return self.rows[row]


def collate(rows: list[dict]) -> dict[str, torch.Tensor]:
    ids = torch.nn.utils.rnn.pad_sequence([row["input_ids"] for row in rows], batch_first=True)
    batch = {"input_ids": ids, "attention_mask": (ids > 0).long()}
    return batch | {name: torch.tensor([row[name] for row in rows]) for name in ("row", "labels") if name in rows[0]}


def make_model(dropout: float = 0.0) -> BertForSequenceClassification:
    set_seed(7)
    size = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    dropped = {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
    model = BertForSequenceClassification(
        BertConfig(vocab_size=50, max_position_embeddings=32, num_labels=3, **size, **dropped)
    )
    with torch.no_grad():  # the usual 0.02 leaves all logits and gradients next to nothing
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(5)
    return model


class LabelTrainer(FinetuneTrainer):
    extra_names = ("row",)
    metric_names = ("accuracy",)
    weighted = True
    seen: list[list[int]] | None = None
    forwards = 0

    def example_losses(self, outputs, batch):
        if self.seen is not None and torch.is_grad_enabled():
            self.seen.append(batch["row"].tolist())
        return cross_entropy(outputs["logits"].float(), batch["labels"], reduction="none")

    def example_weights(self, batch):
        labels = batch["labels"]
        return CLASS_WEIGHTS.to(labels.device)[labels] if self.weighted else torch.ones(len(labels))

    def model_outputs(self, model, batch):
        self.forwards += 1
        return super().model_outputs(model, batch)


def accuracy(prediction) -> dict[str, float]:
    assert len(prediction.predictions) == len(prediction.inputs)
    return {"accuracy": float((prediction.predictions.argmax(axis=1) == prediction.label_ids).mean())}


def make_args(folder, *, early_stopping_patience=None, overwrite=False, **settings):
    defaults = {
        "use_cpu": True,
        "do_train": True,
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
        "ddp_find_unused_parameters": False,
        "logging_steps": 1,
        "save_strategy": "no",
        "num_train_epochs": 1,
        "learning_rate": 1e-2,
        "lr_scheduler_type": "constant",
        "seed": 5,
    }
    logging.set_verbosity_error()
    training_args = TrainingArguments(output_dir=str(folder), **{**defaults, **settings})
    model_folder = Path(folder).parent  # a local one: nothing is asked of a hub
    neutral = {"output_dir", "resume_from_checkpoint"}
    record = {name: {"value": value, "source": "test"} for name, value in settings.items() if name not in neutral}
    return SimpleNamespace(
        preprocessing_num_workers=None,
        training_args=training_args,
        record=record | {"model": {"value": "tiny", "source": "test"}},
        explicit=set(settings),
        command=["worker.py"],
        demo=False,
        model=str(model_folder),
        model_revision=None,
        token=None,
        train_file=[],
        validation_file=[],
        test_file=[],
        push_predictions=True,
        overwrite_output_dir=overwrite,
        early_stopping_patience=early_stopping_patience,
        early_stopping_threshold=0.0,
    )


class StopAt(TrainerCallback):
    """Asks the run to stop at a step, as a signal does."""

    def __init__(self, run, step: int, rank: int = 0):
        self.run, self.step, self.rank = run, step, rank

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step and args.process_index == self.rank:
            self.run.stop.signal_number = 15


def train(
    folder,
    *,
    count=34,
    dropout=0.0,
    eval_count=0,
    stop_at=None,
    stop_rank=0,
    kind=LabelTrainer,
    callbacks=(),
    **settings,
):
    """A trained trainer; one that was stopped has `interrupted`."""
    weighted = settings.pop("weighted", True)
    args = make_args(folder, **settings)
    with start_run(args, task="labels") as run:
        trainer = kind(
            run,
            model=make_model(dropout),
            train_dataset=Sentences(count),
            eval_dataset=Sentences(eval_count, seed=1) if eval_count else None,
            data_collator=collate,
            compute_metrics=accuracy,
            callbacks=[*callbacks, *([StopAt(run, stop_at, stop_rank)] if stop_at else [])],
        )
        trainer.weighted, trainer.seen, trainer.interrupted = weighted, [], None
        try:
            trainer.train()
        except Interrupted as stop:
            trainer.interrupted = str(stop)
    return trainer


def weights_of(trainer) -> torch.Tensor:
    """All weights in one vector."""
    return torch.cat([p.detach().double().flatten() for p in trainer.model.parameters()])


def losses_of(trainer) -> list[float]:
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


STRATEGIES = ("random", "sequential", "group_by_length")
WAYS = {"16x1": (16, 1), "4x4": (4, 4), "8x1": (8, 1), "4x2": (4, 2)}


def main(folder: Path) -> None:
    """Of each process: the trainings that test_trainer.py compares with one process."""
    found = {}
    for strategy in STRATEGIES:
        for way in ("8x1", "4x2"):
            size, steps = WAYS[way]
            sizes = {"per_device_train_batch_size": size, "gradient_accumulation_steps": steps, "optim": "sgd"}
            out = train(folder / f"{strategy}-{way}", num_train_epochs=2, train_sampling_strategy=strategy, **sizes)
            found[strategy, way] = weights_of(out), losses_of(out)
    data = Sentences(37, seed=3)
    prediction = out.predict(data, metric_key_prefix="eval")
    found["prediction"] = prediction.predictions, prediction.label_ids, prediction.metrics
    out.model.register_buffer("statistics", torch.full((2,), float(out.args.process_index)))
    out.predict(data, metric_key_prefix="eval")
    found["statistics"] = out.model.statistics.tolist()
    schedule = {"eval_strategy": "steps", "eval_steps": 2, "save_strategy": "steps", "save_steps": 2, "dropout": 0.1}
    schedule |= {"eval_count": 11, "per_device_train_batch_size": 4, "num_train_epochs": 2, "count": 30}
    whole = train(folder / "whole", **schedule)
    stopped = train(folder / "stopped", stop_at=3, stop_rank=1, **schedule)
    resumed = train(folder / "stopped", resume_from_checkpoint="auto", **schedule)
    found["resumed"] = weights_of(whole), stopped.interrupted, weights_of(resumed)
    torch.save(found, folder / f"rank{out.args.process_index}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
