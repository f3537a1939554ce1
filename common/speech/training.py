"""What training on clips adds to the trainer of all scripts, and what is settled of the encoder before."""

import numpy as np
from transformers import TrainerCallback

from common.errors import UserError
from common.speech.encoders import encoder_of, freeze, keep_layers, prepare_encoder
from common.speech.features import ClipCollator, ClipRows
from common.trainer import FinetuneTrainer


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


def refuse_head(args, trained: bool, *flags: str) -> None:
    """Raises `UserError` for flags of a head where a `trained` model brings its own."""
    if trained and (asked := sorted({*flags} & args.explicit)):
        raise UserError(f"--{asked[0]}: {args.model} has a head, which stays; leave it out, or give an encoder alone")


class SpeechTrainer(FinetuneTrainer):
    """`FinetuneTrainer` on the splits of `features.model_inputs`, with a learning rate of the encoder's own."""

    def __init__(self, run, inputs: dict[str, ClipRows], callbacks=(), **kwargs):
        data = {"train_dataset": inputs.get("train"), "eval_dataset": inputs.get("validation")}
        super().__init__(run, callbacks=[*callbacks, EveryEpoch(self, run.args, inputs)], **data, **kwargs)

    def parameter_groups(self) -> list[dict] | None:
        """The encoder's with --encoder_learning_rate, the others with --learning_rate; None: all with the latter."""
        if (rate := self.run.args.encoder_learning_rate) is None:
            return None
        own = {id(parameter) for parameter in encoder_of(self.model).parameters()}
        decayed, groups = self.get_decay_parameter_names(self.model), {}
        for name, parameter in self.model.named_parameters():
            if parameter.requires_grad:
                decay = self.args.weight_decay if name in decayed else 0.0
                key = rate if id(parameter) in own else self.args.learning_rate, decay
                groups.setdefault(key, []).append(parameter)
        return [{"params": found, "lr": lr, "weight_decay": decay} for (lr, decay), found in groups.items()]


class EveryEpoch(TrainerCallback):
    """Augmentation is another one in every epoch; with validation some of the training set is evaluated, too."""

    def __init__(self, trainer: SpeechTrainer, args, inputs: dict[str, ClipRows]):
        self.trainer, self.sample = trainer, None
        if "train" in inputs and args.eval_train_samples:
            order = np.random.default_rng(args.sample_seed).permutation(len(inputs["train"]))
            count = args.eval_train_samples if args.eval_train_samples > 0 else len(order)
            self.sample = inputs["train"].select(np.sort(order[:count]))

    def on_epoch_begin(self, args, state, control, **kwargs):
        if isinstance(self.trainer.data_collator, ClipCollator):
            self.trainer.data_collator.epoch = int(state.epoch)

    def on_evaluate(self, args, state, control, metrics, **kwargs):
        if "eval_loss" in metrics and self.trainer.is_in_train and self.sample is not None:
            self.trainer.evaluate(self.sample, metric_key_prefix="train")
