"""The Trainer of all torch scripts: stock `Trainer`, with what it gets wrong for these heads made right.

- The loss of a step is the weighted mean over all examples of the step, however they are spread over accumulation
  steps and processes. (Stock `Trainer` takes every head with `**kwargs` for one that normalises by itself, and
  multiplies loss and gradient by accumulation steps x processes.)
- The evaluation loss is the same mean over all evaluated examples.
- Predictions come back in the order of the data set, each example once, whatever the sampler or number of processes.
- Batches of similar length are drawn from (seed, epoch) alone, so that every process agrees on them and a resumed
  epoch goes on with the same ones.
- SIGINT and SIGTERM save a checkpoint and leave; resuming from it gives the weights of a run that was never stopped.

A script gives functions of logits instead of a head that computes its own loss: that is where its story is.
"""

import math
import os
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from transformers import Trainer, TrainerCallback, TrainerControl
from transformers.trainer_callback import DefaultFlowCallback, ProgressCallback

from common.legacy.allocator import keep_freed_memory
from common.legacy.dropout import quick_dropout
from common.legacy.errors import Interrupted, UserError
from common.legacy.run import StopRequest
from common.legacy.samplers import InOrder, LengthGroupedSampler

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


class FinetuneTrainer(Trainer):
    """`Trainer` for a model whose output is scored by a `Head`; data sets have `lengths` and batches have `row`.

    Args (beside those of `Trainer`):
        headline: the metric that the progress bar shows for each evaluated set.
        forward: (model, inputs) -> output, for batches that enter the model above its bottom; None: model(**inputs).
        groups: model -> the parameter groups of the optimizer; None: those of `Trainer`.
    """

    loss_is_scaled_for_ga = True  # compute_loss divides by the weight of the whole step

    def __init__(
        self,
        *,
        head: Head,
        stop: StopRequest,
        headline: str = "loss",
        forward: Callable[[torch.nn.Module, Batch], dict] | None = None,
        groups: Callable[[torch.nn.Module], list[dict]] | None = None,
        **kwargs,
    ):
        kwargs["args"].remove_unused_columns = False  # what the model does not take is the head's
        if kwargs["args"].dataloader_num_workers:
            # All text is tokenised by now; loaders that fork after that would warn at every epoch.
            os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        args, evaluated = kwargs["args"], kwargs.get("eval_dataset")
        sets = [f"{name}_" for name in evaluated] if isinstance(evaluated, dict) else [""]
        wanted, chooses = args.metric_for_best_model, args.do_train and args.eval_strategy != "no"
        if chooses and wanted and not any(wanted.removeprefix("eval_").startswith(name) for name in sets):
            known = ", ".join(f"{name}{metric}" for name in sets for metric in dict.fromkeys(("loss", headline)))
            raise UserError(f"--metric_for_best_model {wanted}: must name the evaluated set too, as in {known}")
        if args.device.type == "cpu":
            keep_freed_memory()
        super().__init__(compute_metrics=self._score, **kwargs)  # which makes the output directory
        self.head, self.forward, self.groups = head, forward, groups
        self.model_accepts_loss_kwargs = False
        self._evaluated = self._whole = None
        if self.pop_callback(ProgressCallback) is not None:
            self.add_callback(_Progress(["loss", *(f"eval_{name}{headline}" for name in sets)]))
        self._stop = _StopCallback(self, stop)
        self.add_callback(self._stop)

    # Loss

    def _outputs(self, model, batch: Batch) -> dict:
        not_for_the_model = (*self.head.targets, "row")
        inputs = {name: value for name, value in batch.items() if name not in not_for_the_model}
        return model(**inputs) if self.forward is None else self.forward(model, inputs)

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
        outputs = self._outputs(model, inputs)
        loss = (self.head.losses(outputs, inputs) * self._weights(inputs)).sum() / num_items_in_batch
        loss = loss * self.args.world_size
        return (loss, outputs) if return_outputs else loss

    def training_step(self, *args, **kwargs):
        """`Trainer.training_step`, forward and backward, with quick random numbers on processors."""
        with quick_dropout(self.args):
            return super().training_step(*args, **kwargs)

    def create_optimizer(self, model=None):
        """`Trainer.create_optimizer`, over `groups`."""
        if self.groups is not None and self.optimizer is None:
            kind, settings = self.get_optimizer_cls_and_kwargs(self.args, self.model)
            self.optimizer = kind(self.groups(self.model), **settings)
        return super().create_optimizer(model)

    # Evaluation

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        """Keeps of a batch what the head keeps, with each example's row, weighted loss and weight beside it."""
        batch = self._prepare_inputs(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            outputs = self._outputs(model, batch)
            if self.head.has_truth(batch):
                weights = self._weights(batch)
                losses = self.head.losses(outputs, batch) * weights
            else:
                losses = weights = torch.zeros(len(batch["row"]), device=batch["row"].device)
            kept = self.head.keep(outputs, batch)
        return None, (*kept, losses.float(), weights.float()), batch["row"]

    def _in_order(self, predictions: tuple, rows: np.ndarray) -> tuple[np.ndarray, ...]:
        order = np.argsort(rows, kind="stable")
        return tuple(array[order] for array in predictions)

    def _score(self, evaluated) -> dict[str, float]:
        *kept, losses, weights = self._in_order(evaluated.predictions, evaluated.label_ids)
        if not np.isfinite(losses).all():
            raise UserError(
                f"the loss is not a number any more at step {self.state.global_step}: training has diverged; "
                "lower --learning_rate, or use --bf16 instead of --fp16"
            )
        metrics = dict(self.head.score(tuple(kept), self._evaluated))
        if weights.any():  # there is truth
            metrics["loss"] = float(losses.sum(dtype=np.float64) / weights.sum(dtype=np.float64))
        return metrics

    def evaluation_loop(self, dataloader, *args, **kwargs):
        """Notes which data set is being scored (there may be several), and takes no random numbers from training.

        Otherwise a run that is stopped before an evaluation and resumed would train on with other dropout.
        """
        self._evaluated = dataloader.dataset
        with torch.random.fork_rng(devices=[]):
            return super().evaluation_loop(dataloader, *args, **kwargs)

    def evaluate(self, eval_dataset=None, **kwargs):
        """`Trainer.evaluate`; raises `UserError` when it does not give the metric that is to choose the best model."""
        before = len(self.state.log_history)
        try:
            metrics = super().evaluate(eval_dataset, **kwargs)
        except _Stopped:
            del self.state.log_history[before:]  # the sets already evaluated will be again
            raise
        wanted, chooses = self.args.metric_for_best_model, self.is_in_train and eval_dataset is None
        if chooses and wanted and f"eval_{wanted.removeprefix('eval_')}" not in metrics:
            known = ", ".join(name.removeprefix("eval_") for name in metrics if name.startswith("eval_"))
            raise UserError(f"--metric_for_best_model {wanted}: not one of {known}")
        return metrics

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

    def save_model(self, output_dir=None, _internal_call=False):
        """`Trainer.save_model`, also where the weights are divided over processes and only one of them saves."""
        if self._whole is None or _internal_call:
            super().save_model(output_dir, _internal_call)
        else:
            self._save(output_dir, state_dict=self._whole)

    # Samplers

    def _get_train_sampler(self, train_dataset=None):
        dataset = self.train_dataset if train_dataset is None else train_dataset
        if self.args.train_sampling_strategy == "group_by_length":
            # Neighbouring batches go to different processes of one step: group over all of them.
            step = self._train_batch_size * self.args.world_size
            seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
            return LengthGroupedSampler(dataset.lengths, step, seed)
        return super()._get_train_sampler(train_dataset)

    def _get_eval_sampler(self, eval_dataset):
        return InOrder(eval_dataset.lengths)

    # Stopping and going on

    def train(self, resume_from_checkpoint=None, **kwargs):
        """`Trainer.train`; raises `Interrupted`, with a checkpoint saved, when the run was asked to stop."""
        self._stop.resumed_from = resume_from_checkpoint
        with self._stop.request.defer():
            try:
                trained = super().train(resume_from_checkpoint=resume_from_checkpoint, **kwargs)
                if self.is_fsdp_enabled:  # all have to take part in putting the weights together; saving is for one
                    self._whole = self.accelerator.get_state_dict(self.model)
                return trained
            except _Stopped:
                if self._stop.saved_step != self.state.global_step:  # not by looking: another process may be saving
                    self._save_checkpoint(self.model, trial=None)
                self.callback_handler.on_train_end(self.args, self.state, self.control)
                self.is_in_train = False
        number = self._stop.request.signal_number
        raise Interrupted(
            f"stopped at step {self.state.global_step} of {self.state.max_steps}; "
            f"checkpoint-{self.state.global_step} is saved in {self.args.output_dir}: "
            "run the same command with --resume_from_checkpoint auto to go on",
            number if number is not None else signal.SIGTERM,  # another process got it
        )

    def _init_training_state(self, max_steps, steps_per_epoch, epochs, *args):
        """Resuming what was already finished trains nothing: stock `Trainer` makes a step if it ended in an epoch."""
        position = super()._init_training_state(max_steps, steps_per_epoch, epochs, *args)
        return (epochs, 0) if self.state.global_step >= max_steps else position

    def _finalize_training(self, *args):
        """Not when stopped: it would load the best model and, with --save_total_limit 1, remove the checkpoint."""
        if self._stop.stopping:
            raise _Stopped
        return super()._finalize_training(*args)


class _Stopped(Exception):
    """Leaves a training, or an evaluation in it; what that would have measured is measured after resuming."""


class _StopCallback(TrainerCallback):
    """Turns a request to stop into: save now, stop now, no evaluation on the way out."""

    def __init__(self, trainer: FinetuneTrainer, request: StopRequest):
        self.trainer, self.request = trainer, request
        self.stopping, self.saved_step = False, None
        self.resumed_from: str | None = None

    def _asked(self) -> bool:
        """Whether any process was asked to stop; all of them get the same answer, at the same step."""
        asked = self.request.signal_number is not None
        if self.trainer.args.world_size > 1:
            flag = torch.tensor(float(asked), device=self.trainer.args.device)
            asked = bool(self.trainer.accelerator.reduce(flag, reduction="sum") > 0)
        self.stopping = self.stopping or asked
        return self.stopping

    def on_train_begin(self, args, state, control, **kwargs):
        if not self.resumed_from or state.global_step == 0:
            return
        self.saved_step = state.global_step
        args.eval_on_start = False
        # A run that was stopped where it would have been evaluated was not: its curve and its best model need it.
        flow, due = DefaultFlowCallback(), TrainerControl()
        flow.on_step_end(args, state, due)
        steps = math.ceil(len(kwargs["train_dataloader"]) / args.gradient_accumulation_steps)
        if state.global_step % steps == 0 or state.global_step >= state.max_steps:
            flow.on_epoch_end(args, state, due)
        done = any(e["step"] == state.global_step and any(k.startswith("eval_") for k in e) for e in state.log_history)
        if due.should_evaluate and not done:
            metrics = self.trainer._evaluate(trial=None, ignore_keys_for_eval=None)
            if self.trainer._determine_best_metric(metrics=metrics, trial=None):
                state.best_model_checkpoint = str(self.resumed_from)

    def on_epoch_begin(self, args, state, control, train_dataloader=None, **kwargs):
        # Resuming inside an epoch on several processes, accelerate wraps the sampler once more than it looks through.
        sampler = train_dataloader.batch_sampler
        while hasattr(sampler, "batch_sampler"):
            sampler = sampler.batch_sampler
        if hasattr(sampler.sampler, "set_epoch"):
            sampler.sampler.set_epoch(int(state.epoch))

    def on_step_end(self, args, state, control, **kwargs):
        if self._asked():
            control.should_log = control.should_save = control.should_training_stop = True
            control.should_evaluate = False

    def on_save(self, args, state, control, **kwargs):
        self.saved_step = state.global_step

    def on_epoch_end(self, args, state, control, **kwargs):
        if self.stopping:
            control.should_log = control.should_save = control.should_evaluate = False

    def on_prediction_step(self, args, state, control, **kwargs):
        if self.trainer.is_in_train and self._asked():
            raise _Stopped


class _Progress(ProgressCallback):
    """The usual bars; the training bar shows the latest value of each of `keys` and nothing is printed between."""

    def __init__(self, keys: Sequence[str]):
        super().__init__()
        self.keys, self.shown = keys, {}

    def on_log(self, args, state, control, logs=None, **kwargs):
        if self.training_bar is not None:
            self.shown |= {key.removeprefix("eval_"): f"{logs[key]:.4g}" for key in self.keys if key in logs}
            self.training_bar.set_postfix(self.shown)
