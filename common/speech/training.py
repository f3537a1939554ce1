"""What training on clips adds to the trainer of all scripts, and what is settled of the encoder before."""

import logging

import numpy as np
from transformers import TrainerCallback

from common.classification import class_weights, weight_warning
from common.errors import UserError
from common.speech.encoders import encoder_of, freeze, keep_layers, prepare_encoder, set_encoder_rate
from common.speech.features import ClipRows
from common.speech.results import labels_of

logger = logging.getLogger(__name__)
PREFIX = {"validation": "eval", "test": "predict"}


def settle_encoder(model, args, run) -> None:
    """Keeps the layers that --layer names, makes a clip's states its own, and freezes what --freeze says; in place."""
    if "layer" in args.explicit and not args.training_args.do_train:
        raise UserError(f"--layer {args.layer}: a model that is only used has its layers; leave the flag out")
    family = encoder_of(model).config.model_type
    if args.weighted and (getattr(model, "layer_weights", None) is None or family.startswith("sew")):
        raise UserError(f"--layer weighted: the layers of {family} cannot be mixed; choose another encoder")
    if args.layer is not None and not args.weighted:
        keep_layers(model, int(args.layer))
    prepare_encoder(model)
    freeze(model, args.freeze)
    if args.training_args.do_train and args.freeze == "encoder" and "freeze" not in args.explicit:
        run.note("the encoder is frozen, as published; official examples train it: --freeze none or convolution")


def weights_by_class(run, inputs: dict[str, ClipRows], labels: list[str]) -> tuple[np.ndarray, dict]:
    """float64 [C]: what --class_weights gives each class in the loss; the same for results.json, {} for "none"."""
    how = run.args.class_weights
    if "train" not in inputs or how == "none":
        return np.ones(len(labels)), {}
    weights = class_weights(labels_of(inputs["train"].clips), len(labels), how)
    if warning := weight_warning(weights, labels):
        run.warn(warning)
    shown = dict(zip(labels, weights.round(4).tolist()))
    logger.info("class weights (%s): %s", how, ", ".join(f"{label} {weight:.3g}" for label, weight in shown.items()))
    return weights, {f"class weights ({how})": shown}


class OnClips:
    """In front of `FinetuneTrainer`: the splits of `features.model_inputs`, a learning rate of the encoder's own."""

    def __init__(self, run, inputs: dict[str, ClipRows], callbacks=(), **kwargs):
        train, count = inputs.get("train"), run.args.eval_train_samples
        callbacks = [*callbacks, EpochOfAugmentation(kwargs["data_collator"])]
        if train is not None and "validation" in inputs and count:
            chosen = np.random.default_rng(run.args.sample_seed).permutation(len(train))[: count if count > 0 else None]
            callbacks.append(EvaluateTrainingSet(self, train.select(np.sort(chosen))))
        data = {"train_dataset": train, "eval_dataset": inputs.get("validation")}
        super().__init__(run, callbacks=callbacks, **data, **kwargs)

    def create_optimizer(self, model=None):
        """`Trainer.create_optimizer`, with --encoder_learning_rate."""
        optimizer = super().create_optimizer(model)
        if self.run.args.encoder_learning_rate is not None:
            set_encoder_rate(optimizer, self.model, self.run.args.encoder_learning_rate)
        return optimizer

    def predict_all(self, inputs: dict[str, ClipRows]) -> tuple[dict, dict]:
        """(Split -> predictions, split -> mean loss or None) of all splits that are evaluated at the end."""
        prefixes = {name: PREFIX[name] for name in self.run.evaluated(inputs)}
        outputs = {name: self.predict(inputs[name], metric_key_prefix=prefix) for name, prefix in prefixes.items()}
        losses = {name: output.metrics.get(f"{prefixes[name]}_loss") for name, output in outputs.items()}
        return {name: output.predictions for name, output in outputs.items()}, losses

    def count_recordings(self, splits) -> None:
        """In the metrics that are saved, examples are recordings; how many segments were trained on stands beside."""
        for name, prefix in PREFIX.items():
            if prefix in self.metrics:
                self.metrics[prefix][f"{prefix}_samples"] = len(splits[name])
        if "train" in self.metrics:
            segments = {"train_segments": len(self.train_dataset), "train_samples": len(splits["train"])}
            self.metrics["train"] |= segments


class EvaluateTrainingSet(TrainerCallback):
    """Whenever validation is evaluated, some of the training set is, too, for the curves."""

    def __init__(self, trainer, sample: ClipRows):
        self.trainer, self.sample = trainer, sample

    def on_evaluate(self, args, state, control, metrics, **kwargs):
        if "eval_loss" in metrics and self.trainer.is_in_train:
            self.trainer.evaluate(self.sample, metric_key_prefix="train")


class EpochOfAugmentation(TrainerCallback):
    """Clips are changed at random in another way in every epoch."""

    def __init__(self, collator):
        self.augmentation = getattr(collator, "augmentation", None)

    def on_epoch_begin(self, args, state, control, **kwargs):
        if self.augmentation:
            self.augmentation.epoch = int(state.epoch)
