"""The Trainer of the torch scripts: stock `Trainer`, with what it gets wrong for these tasks made right.

- The loss of a step is the weighted mean over all examples of the step, however they are spread over accumulation
  steps and processes. (Stock `Trainer` takes every head with `**kwargs` for one that normalises by itself, and
  multiplies loss and gradient by accumulation steps x processes.)
- The order of the examples depends on (seed, epoch) alone, with or without groups of similar length.
- Predictions come back in the order of the data set, each example once; the evaluation loss is the exact mean.
- Parts without a trainable weight stay in eval mode: a frozen encoder has no dropout.
- SIGINT and SIGTERM save a checkpoint and leave; resuming from it gives the weights of a run that never stopped.
- Nothing is evaluated twice with the same weights.

A script's subclass says what the loss of an example is.
"""

import importlib
import itertools
import sys
import time
from pathlib import Path

import numpy as np
import torch
from transformers import EarlyStoppingCallback, EvalPrediction, Trainer
from transformers.trainer_callback import PrinterCallback, ProgressCallback
from transformers.trainer_utils import PredictionOutput

from common.callbacks import Bars, LogLines, StopAndResume
from common.checkpoints import finish_files
from common.errors import UserError
from common.models import count_parameters, frozen_modules, load_whole, model_commit, weights_fingerprint
from common.results import final_metrics
from common.run import Run
from common.samplers import EpochSampler, evaluation_order, lengths_of
from common.training_flags import settle_best_metric

Batch = dict[str, torch.Tensor]
PREFIX = {"tuning": "tuning", "validation": "eval", "test": "predict"}  # of metrics, as in official examples


class FinetuneTrainer(Trainer):
    """`Trainer` for a model whose loss the subclass gives by example.

    Attributes:
        target_names: entries of a batch that are the truth; the model does not get them. Without them there is no loss.
        extra_names: entries of a batch that only `example_predictions` needs.
        metric_names: what `compute_metrics` gives beside the loss; to check --metric_for_best_model before training.
        metrics: prefix ("train", "eval", "predict") -> metrics as official examples save them.
    """

    loss_is_scaled_for_ga = True  # compute_loss divides by the weight of the whole step
    target_names: tuple[str, ...] = ("labels",)
    extra_names: tuple[str, ...] = ()
    metric_names: tuple[str, ...] = ()

    def __init__(self, run: Run, **kwargs):
        self.run, args = run, run.training_args
        args.logging_nan_inf_filter = False  # a diverged run is stopped in `training_step`
        args.remove_unused_columns = False  # what the model does not take is the loss's
        args.eval_do_concat_batches = True  # predictions are put in order as a whole
        args.dataloader_persistent_workers &= args.dataloader_num_workers > 0  # or torch refuses them
        args.restore_callback_states_from_checkpoint = True  # how long early stopping has waited
        settle_best_metric(args, "metric_for_best_model" in run.args.explicit, self.metric_names, kwargs)
        super().__init__(args=args, **kwargs)
        self.metrics: dict[str, dict[str, float]] = {}
        self._kept: dict[int, dict[int, object]] = {}  # id of a data set -> step -> output of its evaluation
        self._frozen = frozen_modules(self.model)
        self._train_begin = time.perf_counter()
        for kind in (ProgressCallback, PrinterCallback):
            self.pop_callback(kind)
        self.add_callback(Bars if sys.stderr.isatty() and not args.disable_tqdm else LogLines)
        if (patience := run.args.early_stopping_patience) is not None and args.do_train:
            if not args.load_best_model_at_end or args.eval_strategy == "no":
                raise UserError(
                    "--early_stopping_patience needs evaluations and --load_best_model_at_end while training"
                )
            self.add_callback(EarlyStoppingCallback(patience, run.args.early_stopping_threshold))
        self.add_callback(StopAndResume(self))

    # What a task's subclass gives

    def example_losses(self, outputs, batch: Batch) -> torch.Tensor:
        """float [B]: the loss of each example, not weighted."""
        raise NotImplementedError

    def example_weights(self, batch: Batch) -> torch.Tensor:
        """float [B]: how much each example counts in the loss; needs no more than `target_names`."""
        return torch.ones(len(batch[self.target_names[0]]), device=batch[self.target_names[0]].device)

    def example_predictions(self, outputs, batch: Batch) -> torch.Tensor | tuple[torch.Tensor, ...]:
        """[B, ...]: all that scoring needs of a batch; small."""
        return outputs["logits"].float()

    def model_outputs(self, model, batch: Batch):
        """What the model gives for a batch without the truth."""
        hidden = (*self.target_names, *self.extra_names, "example_weights")
        return model(**{name: value for name, value in batch.items() if name not in hidden})

    def parameter_groups(self) -> list[dict] | None:
        """Groups of the optimizer's parameters, where they have learning rates of their own."""
        return None

    # Loss

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        """The batches of a step with the weight of each example, and the weight of the whole step by process."""
        if self.control.should_training_stop or self.state.global_step >= self.state.max_steps:  # at the end already
            return [], None
        batches = list(itertools.islice(epoch_iterator, num_batches))
        weights = [self.example_weights(batch).to(device) for batch in batches]
        world, size = self.args.world_size, self.args.train_batch_size
        left_over, last = len(self.train_dataset) % (size * world), self.accelerator.gradient_state.end_of_dataloader
        if batches and world > 1 and last and left_over and not self.args.dataloader_drop_last:
            # accelerate fills the last batches up with rows that this epoch has seen; they count nothing.
            first = self.args.process_index * size
            weights[-1] = weights[-1] * (torch.arange(first, first + len(weights[-1]), device=device) < left_over)
        for batch, of_batch in zip(batches, weights):
            batch["example_weights"] = of_batch
        total = torch.stack([of_batch.sum() for of_batch in weights]).sum() if weights else None
        if total is not None and world > 1:
            total = self.accelerator.reduce(total, "mean")
        return batches, total

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """This process's share of the step's mean loss, times the processes, whose gradients are averaged."""
        for module in self._frozen:
            module.eval()
        outputs = self.model_outputs(model, inputs)
        loss = (self.example_losses(outputs, inputs) * inputs["example_weights"]).sum() / num_items_in_batch
        return (loss, outputs) if return_outputs else loss

    def training_step(self, *args, **kwargs):
        """`Trainer.training_step`; raises `UserError` as soon as the loss is not a number."""
        loss = super().training_step(*args, **kwargs)
        if not torch.isfinite(loss):
            raise UserError(
                f"the loss is not a number any more at step {self.state.global_step + 1}: training has diverged; "
                "lower --learning_rate, or use --bf16 instead of --fp16"
            )
        return loss

    def create_optimizer(self, model=None):
        """`Trainer.create_optimizer`, over `parameter_groups`."""
        if self.optimizer is None and (groups := self.parameter_groups()) is not None:
            kind, settings = self.get_optimizer_cls_and_kwargs(self.args, self.model)
            self.optimizer = kind(groups, **settings)
        return super().create_optimizer(model)

    # Order

    def get_train_dataloader(self):
        """Stock, in the order of `epoch_order`."""
        strategy, self.args.train_sampling_strategy = self.args.train_sampling_strategy, "sequential"
        try:
            loader = super().get_train_dataloader()
        finally:
            self.args.train_sampling_strategy = strategy
        lengths = lengths_of(self.train_dataset) if strategy == "group_by_length" else None
        loader.set_sampler(EpochSampler(self, len(self.train_dataset), lengths))
        if not len(loader):
            raise UserError("--dataloader_drop_last leaves no batch: there are fewer examples than one has")
        return loader

    def get_eval_dataloader(self, eval_dataset=None):
        """Stock, the longest examples first, each once."""
        return self._longest_first(super().get_eval_dataloader, eval_dataset)

    def get_test_dataloader(self, test_dataset):
        """As `get_eval_dataloader`."""
        return self._longest_first(super().get_test_dataloader, test_dataset)

    def _longest_first(self, make, dataset):
        settings = {"train_sampling_strategy": "sequential", "dataloader_drop_last": False}
        before = {name: getattr(self.args, name) for name in settings}
        vars(self.args).update(settings)
        try:
            loader = make(dataset)
        finally:
            vars(self.args).update(before)
        loader.set_sampler(evaluation_order(loader.dataset).tolist())
        return loader

    # Evaluation

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        """Of a batch: (None, (predictions..., losses, weights), truth)."""
        batch = self._prepare_inputs(inputs)
        truth = tuple(batch[name] for name in self.target_names if name in batch)
        with torch.no_grad(), self.compute_loss_context_manager():
            outputs = self.model_outputs(model, batch)
            predictions = self.example_predictions(outputs, batch)
            predictions = predictions if isinstance(predictions, tuple) else (predictions,)
            if len(truth) == len(self.target_names):
                weights = self.example_weights(batch).float()
                losses = self.example_losses(outputs, batch).float() * weights
            else:
                truth, losses = None, torch.zeros(len(predictions[0]), device=predictions[0].device)
                weights = losses
        truth = truth[0] if truth and len(truth) == 1 else truth
        return None, (*predictions, losses, weights), truth

    def evaluation_loop(
        self, dataloader, description, prediction_loss_only=None, ignore_keys=None, metric_key_prefix="eval"
    ):
        """Stock, with predictions and truth in the order of the data set, and the exact mean of the loss.

        Takes no random numbers from training: a run that is resumed after an evaluation has the same dropout.
        """
        for buffer in self.model.buffers() if self.args.world_size > 1 else ():
            torch.distributed.broadcast(buffer, 0)  # statistics of a batch norm differ; those of the first are saved
        compute_metrics, self.compute_metrics = self.compute_metrics, None
        try:
            with torch.random.fork_rng(devices=[]):
                output = super().evaluation_loop(dataloader, description, False, ignore_keys, metric_key_prefix)
        finally:
            self.compute_metrics = compute_metrics
        dataset = dataloader.dataset
        back = np.argsort(evaluation_order(dataset))
        *predictions, losses, weights = (array[back] for array in output.predictions)
        predictions = predictions[0] if len(predictions) == 1 else tuple(predictions)
        truth = output.label_ids
        if truth is not None:
            truth = tuple(array[back] for array in truth) if isinstance(truth, tuple) else truth[back]
        metrics = dict(output.metrics)
        if truth is not None:
            if not np.isfinite(losses).all():
                raise UserError(
                    f"the loss of {(~np.isfinite(losses)).sum():,} evaluated examples is not a number: the weights are "
                    "damaged, or training has diverged; lower --learning_rate"
                )
            found = compute_metrics(EvalPrediction(predictions, truth, inputs=dataset)) if compute_metrics else {}
            numbers = {name: value for name, value in found.items() if isinstance(value, int | float)}
            metrics |= {f"{metric_key_prefix}_{name}": value for name, value in numbers.items()}
            mean = losses.sum(dtype=np.float64) / max(weights.sum(dtype=np.float64), 1e-12)
            metrics[f"{metric_key_prefix}_loss"] = float(mean)
        output = output._replace(predictions=predictions, label_ids=truth, metrics=metrics)
        if self.is_in_train:
            steps = self._kept.setdefault(id(dataset), {})
            for step in set(steps) - {self.state.best_global_step}:
                del steps[step]
            steps[self.state.global_step] = output
        return output

    def predict(self, test_dataset, ignore_keys=None, metric_key_prefix="test"):
        """`Trainer.predict`, or what training kept of its evaluation of `test_dataset` with these weights."""
        best = self.state.best_global_step if self.args.load_best_model_at_end else None
        kept = self._kept.get(id(test_dataset), {}).get(best or self.state.global_step)
        if kept is not None:
            old = next(name for name in kept.metrics if name.endswith("_loss")).removesuffix("_loss")
            metrics = {name.replace(old, metric_key_prefix, 1): value for name, value in kept.metrics.items()}
            output = PredictionOutput(kept.predictions, kept.label_ids, metrics)
        else:
            output = super().predict(test_dataset, ignore_keys, metric_key_prefix)
        self.metrics[metric_key_prefix] = dict(output.metrics)
        return output

    def predict_splits(self, datasets) -> dict[str, PredictionOutput]:
        """`predict` of each split that is there, what tunes first; by all processes together."""
        names = [name for name in PREFIX if name in datasets]
        return {name: self.predict(datasets[name], metric_key_prefix=PREFIX[name]) for name in names}

    @property
    def losses(self) -> dict[str, float]:
        """Split -> the mean loss of what was predicted; without those whose truth is not known."""
        found = {name: self.metrics.get(prefix, {}).get(f"{prefix}_loss") for name, prefix in PREFIX.items()}
        return {name: loss for name, loss in found.items() if loss is not None}

    # Training

    def train(self, **kwargs):
        """`Trainer.train`, resumed where the run was; raises `Interrupted`, with a checkpoint saved, on a signal."""
        run, checkpoint = self.run, self.run.checkpoint
        run.identity["model"] = weights_fingerprint(run.args.model) or f"{run.args.model}@{model_commit(run.args)}"
        run.identity["precision"] = self.accelerator.mixed_precision  # accelerate's own settings may say so, too
        run.begin_training()
        # Trackers note the model's configuration when they begin; `StopAndResume` takes the flags out again.
        flags = {name: row["value"] for name, row in run.args.record.items() if not hasattr(self.args, name)}
        self.model.config.task_flags = flags
        with run.phase("training", together=True), run.stop.defer():
            self._train_begin = time.perf_counter()
            trained = super().train(resume_from_checkpoint=str(checkpoint) if checkpoint else None, **kwargs)
            if self.args.load_best_model_at_end and self.state.best_model_checkpoint:
                load_whole(self.model, Path(self.state.best_model_checkpoint))
        run.seconds["training"] += run.earlier_seconds
        self.metrics["train"] = trained.metrics | {"epoch": self.state.epoch, "train_samples": len(self.train_dataset)}
        return trained

    def log(self, logs, start_time=None):
        """`Trainer.log`, with the seconds of training so far; they, speed and mean loss are of all parts of the run."""
        if self.is_in_train:
            seconds, state = self.run.earlier_seconds + time.perf_counter() - self._train_begin, self.state
            if "train_runtime" in logs:  # the last ones, which `train` returns
                losses, steps = zip((0, 0), *((e["loss"], e["step"]) for e in state.log_history if "loss" in e))
                logs["train_loss"] = float(np.dot(losses[1:], np.diff(steps)) / max(steps[-1], 1))
                logs["train_runtime"], logs["train_steps_per_second"] = seconds, state.global_step / seconds
                logs["train_samples_per_second"] = (state.epoch or 0) * len(self.train_dataset) / seconds
            logs = logs | {"seconds": round(seconds, 3)}
        super().log(logs, start_time)

    # What is left behind

    def save(self) -> None:
        """Saves the model, if one was trained, and the trainer's state; by all processes."""
        if self.args.do_train:
            self.save_model()
            self.save_state()
            if self.args.should_save:
                finish_files(self.run.output_dir)

    def run_facts(self) -> dict:
        """For results.json: the model, what was logged, the device."""
        model = self.accelerator.unwrap_model(self.model)
        of_model = {"revision": model_commit(self.run.args), "architecture": type(model).__name__}
        return {
            "model": {**of_model, "parameters": count_parameters(model)},
            "history": self.state.log_history,
            "device": str(self.args.device),
        }

    def track(self, results: dict) -> None:
        """Gives the final metrics with their intervals to the trackers of --report_to, and the report to those that
        keep files."""
        final = final_metrics(results)
        if not final or not self.args.report_to:
            return
        self.log(final)
        keeps = {"wandb": "save", "mlflow": "log_artifact"}
        for name in keeps.keys() & {*self.args.report_to} if self.args.should_save else ():
            getattr(importlib.import_module(name), keeps[name])(str(self.run.output_dir / "report.html"))
