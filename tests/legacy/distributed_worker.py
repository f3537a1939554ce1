"""The small world of test_trainer.py (data, models, heads, a bare loop), and what two processes do in it.

    torchrun --standalone --nproc_per_node 2 tests/legacy/distributed_worker.py FOLDER

Each process writes FOLDER/rank<n>.pt: what it saw, for the tests to compare with one process and with bare torch.
"""

import os
import signal
import sys
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import cross_entropy
from transformers import TrainerCallback, TrainingArguments, set_seed
from transformers.utils import logging

from common.legacy.errors import Interrupted
from common.legacy.run import StopRequest
from common.legacy.trainer import FinetuneTrainer, Head

CLASS_WEIGHTS = torch.tensor([0.2, 1.0, 3.5])
LEARNING_RATE = 1e-2
TIMES = ("runtime", "per_second", "preparation_time")  # in the names of what a clock measured


class Sentences(torch.utils.data.Dataset):
    """Random sentences of 4 to 20 tokens, each with one of three labels and a span."""

    def __init__(self, count: int, seed: int = 0, truth: bool = True):
        random = np.random.default_rng(seed)
        self.lengths = random.integers(4, 21, count)
        self.tokens = [torch.tensor(random.integers(1, 50, length)) for length in self.lengths]
        self.labels = torch.tensor(random.integers(0, 3, count))
        self.spans = torch.tensor(np.sort(random.integers(0, self.lengths[:, None], (count, 2))).reshape(count, 2))
        self.truth = truth

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, row: int) -> tuple["Sentences", int]:
        return self, row


def collate(items: list) -> dict[str, torch.Tensor]:
    data, rows = items[0][0], torch.tensor([row for _, row in items])
    ids = torch.nn.utils.rnn.pad_sequence([data.tokens[row] for row in rows], batch_first=True)
    batch = {"input_ids": ids, "attention_mask": (ids > 0).long(), "row": rows}
    return {**batch, "label": data.labels[rows], "span": data.spans[rows]} if data.truth else batch


def make_model(task: str, dropout: float = 0.0):
    from transformers import BertConfig, BertForSequenceClassification, DistilBertConfig, DistilBertForQuestionAnswering

    set_seed(7)
    if task == "labels":
        size = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
        dropped = {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
        config = BertConfig(vocab_size=50, max_position_embeddings=32, num_labels=3, **size, **dropped)
        model = BertForSequenceClassification(config)
    else:
        size = {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 32}
        dropped = {"dropout": dropout, "attention_dropout": dropout, "qa_dropout": dropout}
        model = DistilBertForQuestionAnswering(
            DistilBertConfig(vocab_size=50, max_position_embeddings=32, **size, **dropped)
        )
    with torch.no_grad():  # the usual 0.02 leaves all logits and gradients next to nothing
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(5)
    return model


def losses_of(task: str, output, batch) -> torch.Tensor:
    if task == "labels":
        return cross_entropy(output["logits"], batch["label"], reduction="none")
    outside = batch["attention_mask"] == 0
    start, end = (output[name].masked_fill(outside, -1e9) for name in ("start_logits", "end_logits"))
    start = cross_entropy(start, batch["span"][:, 0], reduction="none")
    return (start + cross_entropy(end, batch["span"][:, 1], reduction="none")) / 2


def kept_of(task: str, output, batch) -> tuple[torch.Tensor, ...]:
    if task == "labels":
        return (output["logits"],)
    return output["start_logits"][:, :4].contiguous(), output["end_logits"][:, 0].contiguous()  # [B, 4] and [B]


def weights_of(batch) -> torch.Tensor:
    return CLASS_WEIGHTS.to(batch["label"].device)[batch["label"]]


def make_head(task: str, weighted: bool = False, score=None, seen: list | None = None) -> Head:
    def losses(output, batch):
        if seen is not None and torch.is_grad_enabled():
            seen.append(batch["row"].tolist())
        return losses_of(task, output, batch)

    def accuracy(kept, data):
        assert len(kept[0]) == len(data)
        if not data.truth:
            return {}
        return {"accuracy": float((kept[0].argmax(axis=1) == data.labels.numpy()).mean())}

    return Head(
        targets=("label", "span"),
        losses=losses,
        keep=lambda output, batch: kept_of(task, output, batch),
        score=score or (accuracy if task == "labels" else lambda kept, data: {}),
        has_truth=lambda batch: "label" in batch,
        weights=weights_of if weighted else None,
    )


def make_arguments(folder, **settings) -> TrainingArguments:
    defaults = {
        "use_cpu": True,
        "do_train": True,
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
        "ddp_find_unused_parameters": False,
        "logging_steps": 1,
        "save_strategy": "no",
        "num_train_epochs": 1,
        "learning_rate": LEARNING_RATE,
        "lr_scheduler_type": "constant",
        "train_sampling_strategy": "sequential",
        "optim": "sgd",
        "max_grad_norm": 0.0,
        "seed": 5,
    }
    logging.set_verbosity_error()
    return TrainingArguments(output_dir=str(folder), **{**defaults, **settings})


def make_trainer(folder, task: str, *, head=None, stop=None, model=None, train=None, dropout=0.0, **settings):
    known = {name: settings.pop(name) for name in ("eval_dataset", "callbacks", "headline") if name in settings}
    return FinetuneTrainer(
        head=head or make_head(task),
        stop=stop or StopRequest(),
        model=model or make_model(task, dropout),
        args=make_arguments(folder, **settings),
        train_dataset=train,
        data_collator=collate,
        **known,
    )


def state_of(model) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


# References: bare torch


def bare_forward(model, batch) -> dict:
    return model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])


def bare_training(task: str, data: Sentences, steps: list[list[int]], *, weighted=False, max_grad_norm=0.0):
    """Loss and gradient norm of each step, and the weights after the last: sum(w l) / sum(w) over a step's rows."""
    model = make_model(task).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE)
    losses, norms = [], []
    for rows in steps:
        batch = collate([data[row] for row in rows])
        weights = CLASS_WEIGHTS[batch["label"]] if weighted else torch.ones(len(rows))
        loss = (weights * losses_of(task, bare_forward(model, batch), batch)).sum() / weights.sum()
        optimizer.zero_grad()
        loss.backward()
        limit = max_grad_norm or float("inf")
        norms.append(float(torch.nn.utils.clip_grad_norm_(model.parameters(), limit)))
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses, norms, state_of(model)


def bare_evaluation(task: str, model, data: Sentences, weighted: bool) -> tuple[float, tuple[np.ndarray, ...]]:
    """The mean loss and what the head keeps, one example at a time."""
    model.eval()
    losses, weights, kept = [], [], []
    with torch.no_grad():
        for row in range(len(data)):
            batch = collate([data[row]])
            output = bare_forward(model, batch)
            losses.append(float(losses_of(task, output, batch)[0]))
            weights.append(float(CLASS_WEIGHTS[data.labels[row]]) if weighted else 1.0)
            kept.append([tensor[0].numpy() for tensor in kept_of(task, output, batch)])
    mean = float(np.dot(losses, weights) / np.sum(weights))
    return mean, tuple(np.stack(arrays) for arrays in zip(*kept))


# Stopping


class Stop(TrainerCallback):
    """Sends this process a signal at the end of a step, or at the n-th prediction step after one."""

    def __init__(self, step: int, number=signal.SIGTERM, prediction_step: int | None = None):
        self.step, self.number, self.prediction_step, self.count = step, number, prediction_step, 0

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step and self.prediction_step is None:
            os.kill(os.getpid(), self.number)

    def on_prediction_step(self, args, state, control, **kwargs):
        self.count += state.global_step == self.step
        if state.global_step == self.step and self.count == self.prediction_step:
            os.kill(os.getpid(), self.number)


RESUMABLE = {  # 4 steps an epoch, the last of 2 + 4 (6) examples: 8 batches of 4 (2), two a step
    "num_train_epochs": 3,
    "per_device_train_batch_size": 4,
    "per_device_eval_batch_size": 4,
    "gradient_accumulation_steps": 2,
    "train_sampling_strategy": "group_by_length",
    "optim": "adamw_torch",
    "lr_scheduler_type": "linear",
    "max_grad_norm": 1.0,
    "eval_strategy": "epoch",
    "save_strategy": "epoch",
    "load_best_model_at_end": True,
    "metric_for_best_model": "tuning_peak",
    "greater_is_better": True,
    "dropout": 0.1,
}


def train_resumable(folder, *, stop_at: Stop | None = None, resume=None, peak: int = 8, train=30, **settings):
    """One run with dropout, two evaluated sets and a metric that is best at step `peak`; returns its trainer.

    The trainer has `interrupted` (what `train` raised, or None) and `seen` (rows of every batch trained on).
    """
    seen: list = []
    made: list = []

    def score(kept, data):
        return {"peak": -abs(made[0].state.global_step - peak), "mean": float(kept[0].mean())}

    with StopRequest() as request:
        trainer = make_trainer(
            folder,
            "labels",
            head=make_head("labels", weighted=True, score=score, seen=seen),
            stop=request,
            train=Sentences(train, seed=1),
            eval_dataset={"tuning": Sentences(9, seed=2), "validation": Sentences(10, seed=3)},
            callbacks=[stop_at] if stop_at else None,
            **{**RESUMABLE, **settings},
        )
        made.append(trainer)
        trainer.seen, trainer.interrupted = seen, None
        try:
            trainer.train(resume_from_checkpoint=None if resume is None else str(resume))
        except Interrupted as interrupted:
            trainer.interrupted = interrupted
    return trainer


def history_of(trainer) -> list[dict]:
    """The log of training and evaluation, without what a clock measured."""
    rows = [entry for entry in trainer.state.log_history if "train_runtime" not in entry]
    return [{k: v for k, v in entry.items() if not any(word in k for word in TIMES)} for entry in rows]


# Two processes


def losses_logged(trainer) -> list[float]:
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def run(folder: Path) -> dict:
    found: dict = {"world_size": int(os.environ["WORLD_SIZE"]), "training": {}, "evaluation": {}, "epochs": {}}
    rank = int(os.environ["RANK"])
    for task in ("labels", "spans"):
        for weighted in (False, True):
            for batch_size, accumulation, limit in ((8, 1, 0.0), (4, 2, 0.3)):
                trainer = make_trainer(
                    folder / "unused",
                    task,
                    head=make_head(task, weighted),
                    train=Sentences(32),
                    per_device_train_batch_size=batch_size,
                    gradient_accumulation_steps=accumulation,
                    max_grad_norm=limit,
                )
                assert trainer.args.world_size == 2
                trainer.train()
                logged = [e["grad_norm"] for e in trainer.state.log_history if "grad_norm" in e]
                key = task, weighted, batch_size, accumulation, limit
                found["training"][key] = losses_logged(trainer), logged, state_of(trainer.model)
        for count in (1, 3, 9, 16, 23):
            data = Sentences(count, seed=3)
            trainer = make_trainer(
                folder / "unused",
                task,
                head=make_head(task, weighted=True),
                eval_dataset=data,
                per_device_eval_batch_size=4,
                train_sampling_strategy="group_by_length",
            )
            loss = trainer.evaluate()["eval_loss"]
            found["evaluation"][task, count] = loss, trainer.assess(data, "test", samples=count)
    for strategy in ("group_by_length", "random"):
        seen: list = []
        trainer = make_trainer(
            folder / "unused",
            "labels",
            head=make_head("labels", seen=seen),
            train=Sentences(40),
            dropout=0.0 if rank == 0 else 0.1,  # so that they draw different numbers of random numbers
            num_train_epochs=3,
            per_device_train_batch_size=4,
            train_sampling_strategy=strategy,
        )
        trainer.train()
        found["epochs"][strategy] = seen
    for strategy in ("group_by_length", "random"):
        here = folder / strategy
        settings = {"train_sampling_strategy": strategy, "train": 56}  # 4 steps an epoch
        straight = train_resumable(here / "straight", **settings)
        assert straight.state.max_steps == 12 and straight.interrupted is None
        found["straight", strategy] = history_of(straight), straight.seen, state_of(straight.model)
        # One process gets the signal: inside the second epoch; in its evaluation.
        for name, stop in (("step", Stop(6)), ("evaluation", Stop(8, prediction_step=3))):
            stopped = train_resumable(here / name, stop_at=stop if rank == 1 else None, **settings)
            raised = str(stopped.interrupted), getattr(stopped.interrupted, "signal_number", None)
            torch.distributed.barrier()
            saved = sorted(p.name for p in (here / name).glob("checkpoint-*"))
            torch.distributed.barrier()
            checkpoint = here / name / f"checkpoint-{stopped.state.global_step}"
            files = sorted(p.name for p in checkpoint.iterdir())
            resumed = train_resumable(here / name, resume=checkpoint, **settings)
            found[name, strategy] = {
                "raised": raised,
                "saved": saved,
                "files": files,
                "history": history_of(resumed),
                "seen": stopped.seen + resumed.seen,
                "weights": state_of(resumed.model),
                "best": resumed.state.best_global_step,
            }
    return found


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    torch.save(run(folder), folder / f"rank{os.environ['RANK']}.pt")
    torch.distributed.destroy_process_group()
