"""What training on clips adds to the trainer of all scripts, and what is settled of the encoder before."""

from transformers import TrainerCallback

from common.data import select
from common.errors import UserError
from common.labels import Known, class_names_of, in_order
from common.models import classes_of
from common.speech.encoders import encoder_of, freeze, prepare_encoder
from common.speech.features import ClipCollator, ClipRows
from common.trainer import FinetuneTrainer


def settle_encoder(model, args, run) -> None:
    """Makes a clip's states its own, and freezes what --freeze says; in place."""
    if "layer" in args.explicit and not args.training_args.do_train:
        raise UserError("--layer: a model that is only used has its layers; leave the flag out")
    family = encoder_of(model).config.model_type
    if args.layer == "weighted" and (getattr(model, "layer_weights", None) is None or family.startswith("sew")):
        raise UserError(f"--layer weighted: the layers of {family} cannot be mixed; choose another encoder")
    prepare_encoder(model)
    freeze(model, args.freeze)
    if args.training_args.do_train and args.freeze == "encoder" and "freeze" not in args.explicit:
        run.note("the encoder is frozen, as published; official examples train it: --freeze none or convolution")


def trained_classes(args, known: Known) -> tuple[dict[int, str] | None, list[str]]:
    """The classes that the model was trained for, if it was; and the names, as in data, of one that is only used."""
    trained = classes_of(args)
    if args.training_args.do_train:
        return trained, []
    if trained is None:
        raise UserError(f"{args.model}: has no trained classification head; train it first with --do_train")
    order = in_order(args.order or (), known)
    return trained, class_names_of(trained, args.model, order, known=known, label_order=args.order)


def refuse_own(args, trained: bool, *flags: str) -> None:
    """Raises `UserError` for flags of a head, or of a vocabulary, where a `trained` model brings its own."""
    if trained and (asked := sorted({*flags} & args.explicit)):
        raise UserError(f"--{asked[0]}: {args.model} has its own, which stays; leave it out, or give an encoder alone")


class SpeechTrainer(FinetuneTrainer):
    """`FinetuneTrainer` on the splits of `features.model_inputs`, with a learning rate of the encoder's own."""

    def __init__(self, run, inputs: dict[str, ClipRows], callbacks=(), **kwargs):
        data = {"train_dataset": inputs.get("train"), "eval_dataset": inputs.get("validation")}
        super().__init__(run, callbacks=[*callbacks, EveryEpoch(self, run.args, inputs)], **data, **kwargs)

    def parameter_groups(self) -> list[dict] | None:
        """The encoder's with --encoder_learning_rate, the others with --learning_rate; None: all with the latter."""
        if (rate := self.run.args.encoder_learning_rate) is None:
            return None
        own, decayed, groups = {*encoder_of(self.model).parameters()}, self.get_decay_parameter_names(self.model), {}
        for name, parameter in self.model.named_parameters():
            if parameter.requires_grad:
                decay = self.args.weight_decay if name in decayed else 0.0
                groups.setdefault((rate if parameter in own else self.args.learning_rate, decay), []).append(parameter)
        return [{"params": found, "lr": lr, "weight_decay": decay} for (lr, decay), found in groups.items()]


class EveryEpoch(TrainerCallback):
    """Augmentation is another one in every epoch; with validation some of the training set is evaluated, too."""

    def __init__(self, trainer: SpeechTrainer, args, inputs: dict[str, ClipRows]):
        self.trainer, self.sample = trainer, None
        if "train" in inputs and args.eval_train_samples:
            self.sample, _ = select(inputs["train"], args.eval_train_samples, args.sample_seed)

    def on_epoch_begin(self, args, state, control, **kwargs):
        if isinstance(self.trainer.data_collator, ClipCollator):
            self.trainer.data_collator.epoch = int(state.epoch)

    def on_evaluate(self, args, state, control, metrics, **kwargs):
        if "eval_loss" in metrics and self.trainer.is_in_train and self.sample is not None:
            self.trainer.evaluate(self.sample, metric_key_prefix="train")
