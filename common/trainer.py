"""The Trainer of all torch scripts: stock `Trainer`, with what it gets wrong for these heads made right.

- The loss of a step is the weighted mean over all examples of the step, however they are spread over accumulation
  steps and processes. (Stock `Trainer` takes every head with `**kwargs` for one that normalises by itself, and
  multiplies loss and gradient by accumulation steps x processes.)
- The evaluation loss is the same mean over all evaluated examples.
- Predictions come back in the order of the data set, each example once, whatever the sampler or number of processes.
- Batches of similar length are drawn from (seed, epoch) alone, so that every process agrees on them and a resumed
  epoch goes on with the same ones.
- SIGINT and SIGTERM save a checkpoint and leave.

A script gives functions of logits instead of a head that computes its own loss: that is where its story is.
"""

import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import ProgressCallback
from transformers.trainer_utils import IntervalStrategy

from common.errors import Interrupted, UserError
from common.run import StopRequest

Batch = dict[str, torch.Tensor]


@dataclass
class Head:
    """How a task's logits become losses and predictions.

    Attributes:
        targets: names of the batch's entries that the model does not take. `row` (the example's index in its data set)
            is always one of them.
        losses: (model output, batch) -> loss of each example, float [B], not weighted.
        keep: (model output, batch) -> tensors [B, ...]: all that scoring needs of the batch; small.
        score: arrays of `keep` over the whole data set, in its order, and the data set -> metrics.
        has_truth: whether a batch has what `losses` needs.
        weights: batch -> weight of each example in the loss, float [B]; None: all 1.
    """

    targets: Sequence[str]
    losses: Callable[[dict, Batch], torch.Tensor]
    keep: Callable[[dict, Batch], tuple[torch.Tensor, ...]]
    score: Callable[[tuple[np.ndarray, ...], object], dict[str, float]]
    has_truth: Callable[[Batch], bool]
    weights: Callable[[Batch], torch.Tensor] | None = None


class LengthGroupedSampler(torch.utils.data.Sampler[int]):
    """Shuffled examples in batches of similar length; the order depends on seed and epoch only.

    Every `pool` batches of a shuffled epoch are sorted by length, cut into batches, and these are shuffled. The batch
    with the longest example comes first, so that too little memory shows at once.
    """

    def __init__(self, lengths: np.ndarray, batch_size: int, seed: int, pool: int = 64):
        self.lengths, self.batch_size, self.seed, self.pool = np.asarray(lengths), batch_size, seed, pool
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by the training loop before each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        random = np.random.default_rng((self.seed, self.epoch))
        shuffled = random.permutation(len(self.lengths))
        # A full last batch would need examples twice, so the remainder is set aside first and comes last.
        whole = len(shuffled) - len(shuffled) % self.batch_size
        pools = np.split(shuffled[:whole], range(self.pool * self.batch_size, whole, self.pool * self.batch_size))
        sorted_pools = [pool[np.argsort(self.lengths[pool], kind="stable")] for pool in pools if len(pool)]
        batches = np.concatenate(sorted_pools or [shuffled[:0]]).reshape(-1, self.batch_size)
        batches = batches[random.permutation(len(batches))]
        if len(batches):
            longest = int(self.lengths[batches].max(axis=1).argmax())
            batches[[0, longest]] = batches[[longest, 0]]
        return iter(np.concatenate([batches.ravel(), shuffled[whole:]]).tolist())


class InOrder(torch.utils.data.Sampler[int]):
    """Evaluation order: the longest first, so that batches need little padding; the same for every process."""

    def __init__(self, lengths: np.ndarray):
        self.order = np.argsort(-np.asarray(lengths), kind="stable").tolist()

    def __len__(self) -> int:
        return len(self.order)

    def __iter__(self) -> Iterator[int]:
        return iter(self.order)


class FinetuneTrainer(Trainer):
    """`Trainer` for a model whose output is scored by a `Head`; data sets have `lengths` and batches have `row`."""

    loss_is_scaled_for_ga = True  # compute_loss divides by the weight of the whole step

    def __init__(self, *, head: Head, stop: StopRequest, **kwargs):
        kwargs["args"].remove_unused_columns = False  # what the model does not take is the head's
        super().__init__(compute_metrics=self._score, **kwargs)
        self.head = head
        self.model_accepts_loss_kwargs = False
        self._evaluated = None
        self.add_callback(_StopCallback(self, stop))
        if self.pop_callback(ProgressCallback) is not None:
            self.add_callback(_Progress)

    # Loss

    def _split(self, inputs: Batch) -> tuple[Batch, Batch]:
        targets = {name: inputs[name] for name in (*self.head.targets, "row") if name in inputs}
        return targets, {name: value for name, value in inputs.items() if name not in targets}

    def _weights(self, batch: Batch) -> torch.Tensor:
        if self.head.weights is None:
            return torch.ones(len(batch["row"]), device=batch["row"].device)
        return self.head.weights(batch)

    def _get_num_items_in_batch(self, batch_samples: list, device: torch.device) -> torch.Tensor | None:
        if not batch_samples:
            return None
        total = sum(self._weights(batch).sum() for batch in batch_samples).to(device)
        return self.accelerator.gather(total).sum() if self.args.world_size > 1 else total

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """This process's share of the step's mean loss, times the processes, whose gradients are averaged."""
        targets, model_inputs = self._split(inputs)
        outputs = model(**model_inputs)
        loss = (self.head.losses(outputs, targets) * self._weights(targets)).sum() / num_items_in_batch
        loss = loss * self.args.world_size
        return (loss, outputs) if return_outputs else loss

    # Evaluation

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        """Keeps of a batch what the head keeps, with each example's row, weighted loss and weight beside it."""
        targets, model_inputs = self._split(self._prepare_inputs(inputs))
        with torch.no_grad(), self.compute_loss_context_manager():
            outputs = model(**model_inputs)
            weights = self._weights(targets)
            known = self.head.has_truth(targets)
            losses = self.head.losses(outputs, targets) * weights if known else torch.full_like(weights, math.nan)
            kept = self.head.keep(outputs, targets)
        return None, (*kept, losses.float(), weights.float()), targets["row"]

    def _in_order(self, predictions: tuple, rows: np.ndarray) -> tuple[np.ndarray, ...]:
        order = np.argsort(rows, kind="stable")
        return tuple(array[order] for array in predictions)

    def _score(self, evaluated) -> dict[str, float]:
        *kept, losses, weights = self._in_order(evaluated.predictions, evaluated.label_ids)
        metrics = dict(self.head.score(tuple(kept), self._evaluated))
        if np.isfinite(losses).all():
            metrics["loss"] = float(losses.sum(dtype=np.float64) / weights.sum(dtype=np.float64))
        return metrics

    def evaluation_loop(self, dataloader, *args, **kwargs):
        """Notes which data set is being scored: several are evaluated in one training."""
        self._evaluated = dataloader.dataset
        return super().evaluation_loop(dataloader, *args, **kwargs)

    def assess(self, dataset, prefix: str, *, samples: int) -> tuple[tuple[np.ndarray, ...], dict[str, float]]:
        """What the head keeps of every example of `dataset`, in its order, and its metrics, named `prefix`_...

        `samples` is how many examples (not windows or segments) that is, for the metrics.
        """
        output = self.predict(dataset, metric_key_prefix=prefix)
        metrics = output.metrics | {f"{prefix}_samples": samples}
        return self._in_order(output.predictions[:-2], output.label_ids), metrics

    def save_run(self, measured: dict[str, dict[str, float]]) -> None:
        """Saves what official examples save: the model (if one was trained), state, and metrics by split."""
        os.makedirs(self.args.output_dir, exist_ok=True)
        if self.args.do_train:
            self.save_model()
            self.save_state()
        for name, metrics in measured.items():
            self.save_metrics(name, metrics)

    # Samplers

    def _get_train_sampler(self, train_dataset=None):
        dataset = self.train_dataset if train_dataset is None else train_dataset
        if self.args.train_sampling_strategy == "group_by_length":
            # Neighbouring batches go to different processes of one step: group over all of them.
            step = self.args.train_batch_size * self.args.world_size
            seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
            return LengthGroupedSampler(dataset.lengths, step, seed)
        return super()._get_train_sampler(train_dataset)

    def _get_eval_sampler(self, eval_dataset):
        return InOrder(eval_dataset.lengths)

    # Stopping and going on

    def train(self, resume_from_checkpoint=None, **kwargs):
        """`Trainer.train`; raises `Interrupted`, with a checkpoint saved, when the run was asked to stop."""
        self._stop.resumed = resume_from_checkpoint is not None
        with self._stop.request.defer():
            try:
                output = super().train(resume_from_checkpoint=resume_from_checkpoint, **kwargs)
            except _StopInEvaluation:
                if not os.path.isdir(os.path.join(self.args.output_dir, f"checkpoint-{self.state.global_step}")):
                    self._save_checkpoint(self.model, trial=None)
        if self._stop.stopping:
            number = self._stop.request.signal_number
            raise Interrupted(
                f"stopped at step {self.state.global_step} of {self.state.max_steps}; "
                f"checkpoint-{self.state.global_step} is saved in {self.args.output_dir}: "
                "run the same command with --resume_from_checkpoint auto to go on",
                number if number is not None else 15,
            )
        return output


class _StopInEvaluation(Exception):
    """Leaves an evaluation during training; what it would have measured is measured after resuming."""


class _StopCallback(TrainerCallback):
    """Turns a request to stop into: save now, stop now, no evaluation on the way out."""

    def __init__(self, trainer: FinetuneTrainer, request: StopRequest):
        self.trainer, self.request = trainer, request
        self.stopping = self.resumed = False
        trainer._stop = self

    def _asked(self) -> bool:
        """Whether any process was asked to stop; all of them get the same answer, at the same step."""
        asked = self.request.signal_number is not None
        if self.trainer.args.world_size > 1:
            flag = torch.tensor(float(asked), device=self.trainer.args.device)
            asked = bool(self.trainer.accelerator.reduce(flag, reduction="sum") > 0)
        self.stopping = self.stopping or asked
        return self.stopping

    def on_train_begin(self, args: TrainingArguments, state, control, **kwargs):
        # A run stopped at the end of an epoch was not evaluated there any more: its curve and its best model need it.
        steps = math.ceil(len(kwargs["train_dataloader"]) / args.gradient_accumulation_steps)
        at_end = state.global_step > 0 and state.global_step % steps == 0
        done = any(
            e.get("step") == state.global_step and any(k.startswith("eval_") for k in e) for e in state.log_history
        )
        if self.resumed and at_end and not done and args.eval_strategy == IntervalStrategy.EPOCH:
            metrics = self.trainer._evaluate(trial=None, ignore_keys_for_eval=None)
            if self.trainer._determine_best_metric(metrics=metrics, trial=None):
                state.best_model_checkpoint = os.path.join(args.output_dir, f"checkpoint-{state.global_step}")

    def on_step_end(self, args, state, control, **kwargs):
        if self._asked():
            control.should_log = control.should_save = control.should_training_stop = True
            control.should_evaluate = False

    def on_epoch_end(self, args, state, control, **kwargs):
        if self.stopping:
            control.should_log = control.should_save = control.should_evaluate = False

    def on_prediction_step(self, args, state, control, **kwargs):
        if self.trainer.is_in_train and self._asked():
            raise _StopInEvaluation


class _Progress(ProgressCallback):
    """The usual bars, with the latest loss and metrics in the training bar."""

    def on_log(self, args, state, control, logs=None, **kwargs):
        if self.training_bar is not None:
            shown = {k.removeprefix("eval_"): f"{v:.4g}" for k, v in logs.items() if k in _shown(logs)}
            self.training_bar.set_postfix({**getattr(self, "_latest", {}), **shown})
            self._latest = {**getattr(self, "_latest", {}), **shown}


def _shown(logs: dict) -> list[str]:
    hidden = ("runtime", "per_second", "time", "epoch", "learning_rate", "grad_norm", "flos", "train_")
    return [k for k, v in logs.items() if isinstance(v, float) and not any(word in k for word in hidden)][:6]


def check_metric(training: TrainingArguments, names: Sequence[str]) -> None:
    """Refuses a `metric_for_best_model` that no evaluation gives, before anything is trained."""
    wanted = training.metric_for_best_model
    if training.load_best_model_at_end and wanted is not None and wanted.removeprefix("eval_") not in names:
        raise UserError(f"--metric_for_best_model {wanted}: not one of {', '.join(names)}")
