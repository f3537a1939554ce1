"""What a saved adapter is: peft's two files, our facts beside them, and whether they fit a model, before any is loaded.

`adapter_facts.json` holds what peft does not save: the classes in the order of the logits, and a fingerprint of the
frozen weights. (A config.json would tell the classes too, but transformers takes a folder that has one for a whole
model.) Adapters that other programs saved have no facts; what can be checked of them is. Making, training and merging
adapters is `common.legacy.lora`'s.
"""

import copy
import functools
import hashlib
import json
import re
import warnings
from dataclasses import dataclass
from pathlib import Path

from common.legacy.encoders import Encoder
from common.legacy.errors import UserError
from common.legacy.files import write_json

FACTS = "adapter_facts.json"
PREFIX = "base_model.model."  # of the names of an adapter's weights
UPDATES_ONLY = "take its updates only, with a new classifier (--reset_classifier)"


@functools.cache
def adapted_class() -> type:
    """The `PeftModel` of all adapters here: every save of it, the Trainer's checkpoints too, has the facts."""
    from peft import PeftModelForSequenceClassification

    class AdaptedClassifier(PeftModelForSequenceClassification):
        def __init__(self, *args, **kwargs):
            with warnings.catch_warnings():  # peft asks by a name that transformers has given up
                warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing", category=FutureWarning)
                super().__init__(*args, **kwargs)

        def save_pretrained(self, save_directory, is_main_process=True, **kwargs):
            # No embedding is ever a target; to find that out by itself, peft asks the hub at every save.
            kwargs = {"save_embedding_layers": False, **kwargs}
            super().save_pretrained(save_directory, is_main_process=is_main_process, **kwargs)
            if is_main_process:
                model = self.get_base_model()
                base = {"name": model.name_or_path, "precision": precision(model), "weights": fingerprint(model)}
                write_json(Path(save_directory) / FACTS, {"classes": classes_of(model), "base": base})

    return AdaptedClassifier


def classes_of(model) -> list[str]:
    """The names of the classes, in the order of the logits."""
    return [model.config.id2label[index] for index in range(model.config.num_labels)]


def head_prefixes(model) -> tuple[str, ...]:
    """How the names of the head's weights begin in an adapter's file."""
    return tuple(f"{PREFIX}{name}." for name in Encoder.of(model).head)


def precision(model) -> str:
    """What the frozen weights are held in; fingerprints compare in the same one only."""
    return "4 bit" if getattr(model, "is_loaded_in_4bit", False) else str(model.dtype).removeprefix("torch.")


def fingerprint(model) -> str:
    """Tells the frozen weights of the layers from those of another model of the same shape.

    A hash of some 256 values of every matrix and vector: training or merging changes many of them.
    """
    import torch

    encoder = Encoder.of(model)
    frozen = [p for part in (encoder.embeddings, encoder.stack) for n, p in part.named_parameters() if "lora_" not in n]
    sample = [p.detach().reshape(-1)[:: max(1, p.numel() // 256)].float() for p in frozen if p.is_floating_point()]
    return hashlib.sha256(torch.cat(sample).cpu().numpy().tobytes()).hexdigest()[:16]


def is_adapter(name: str) -> bool:
    """Whether a model's name is the folder of an adapter, and not of a whole model."""
    return (Path(name) / "adapter_config.json").is_file() and not (Path(name) / "config.json").is_file()


@dataclass
class SavedAdapter:
    """An adapter's folder.

    Attributes:
        config: peft's `LoraConfig`.
        shapes: of all weights in the file, by name.
        facts: of `adapter_facts.json`; {} if there is none.
    """

    folder: Path
    config: object
    shapes: dict[str, tuple[int, ...]]
    facts: dict

    @classmethod
    def read(cls, folder: str | Path) -> "SavedAdapter":
        """Reads everything but the weights; raises `UserError` where it is no LoRA adapter in safetensors."""
        from peft import LoraConfig
        from safetensors import SafetensorError, safe_open

        folder = Path(folder)
        settings, weights, facts = (folder / n for n in ("adapter_config.json", "adapter_model.safetensors", FACTS))
        if not folder.is_dir():
            raise UserError(f"{folder}: no such folder; an adapter is a folder with adapter_config.json")
        if not settings.is_file():
            hint = "a whole model, to be given as --model" if (folder / "config.json").is_file() else "no adapter"
            raise UserError(f"{folder}: has no adapter_config.json, so it is {hint}")
        if not weights.is_file():
            pickled = (folder / "adapter_model.bin").is_file()
            hint = (
                "adapter_model.bin is not loaded; save it anew with save_pretrained" if pickled else "it is not whole"
            )
            raise UserError(f"{folder}: has no adapter_model.safetensors: {hint}")
        try:
            kind = json.loads(settings.read_text("utf-8")).get("peft_type")
            if kind != "LORA":
                raise UserError(f"{folder}: is an adapter of another kind ({kind}); only LoRA is supported here")
            config = LoraConfig.from_pretrained(str(folder))
            with safe_open(weights, "pt") as file:
                shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
            return cls(folder, config, shapes, json.loads(facts.read_text("utf-8")) if facts.is_file() else {})
        except (ValueError, TypeError, AttributeError, SafetensorError) as error:
            raise UserError(f"{folder}: this adapter cannot be read: {str(error).splitlines()[0]}") from error

    @property
    def classes(self) -> list[str] | None:
        """Their names in the order of the logits; None where the facts are missing."""
        return self.facts.get("classes")

    def weights(self) -> dict:
        """Name -> tensor, on the CPU."""
        from safetensors.torch import load_file

        return load_file(self.folder / "adapter_model.safetensors")

    def check(self, model, *, classifier: bool) -> None:
        """Raises `UserError` unless the adapter was trained on `model`, and (with `classifier`) for as many classes."""
        expected = self._expected_shapes(model)
        head = head_prefixes(model)
        wrong = sorted(n for n in expected.keys() | self.shapes.keys() if expected.get(n) != self.shapes.get(n))
        if misfits := [name for name in wrong if not name.startswith(head)]:
            there, here = (shapes.get(misfits[0], "nothing") for shapes in (self.shapes, expected))
            raise UserError(
                f"{self._of_another_base(model)}: {len(misfits)} weights do not fit, the first is "
                f"{misfits[0].removeprefix(PREFIX)}: {there} in the adapter, {here} in the model"
            )
        self._check_base(model)
        if not classifier or not wrong:
            return
        if wrong[0] not in self.shapes:
            raise UserError(
                f"{self.folder}: is an adapter without classifier ({wrong[0].removeprefix(PREFIX)} is missing), which "
                f"would score at random; train it again with modules_to_save, or {UPDATES_ONLY}"
            )
        named = f" ({', '.join(self.classes)})" if self.classes else ""
        raise UserError(
            f"{self.folder}: its classifier is for {self.shapes[wrong[0]][0]} classes{named}, not for "
            f"{model.config.num_labels} ({', '.join(classes_of(model))}); give data with its classes, or {UPDATES_ONLY}"
        )

    def name_classes(self, model) -> None:
        """Gives `model.config` the adapter's order of the classes; raises `UserError` if it has others.

        Generic names (LABEL_0), on either side, say nothing: of the adapter they change nothing.
        """
        here, generic = classes_of(model), re.compile(r"LABEL_\d+").fullmatch
        if self.classes is None or all(map(generic, self.classes)):
            return
        if not all(map(generic, here)) and sorted(self.classes) != sorted(here):
            raise UserError(
                f"{self.folder}: its classes are {', '.join(self.classes)}, not {', '.join(here)}; give data with its "
                f"classes, or {UPDATES_ONLY}"
            )
        model.config.id2label = dict(enumerate(self.classes))
        model.config.label2id = {name: index for index, name in enumerate(self.classes)}

    def _expected_shapes(self, model) -> dict[str, tuple[int, ...]]:
        """Of the weights that an adapter with these settings has for this model; {} if it has no such modules."""
        import torch
        from peft import get_peft_model_state_dict

        with torch.device("meta"):
            twin = type(model)(copy.deepcopy(model.config))
            try:
                twin = adapted_class()(twin, copy.deepcopy(self.config))
            except ValueError:
                return {}
        return {n: tuple(w.shape) for n, w in get_peft_model_state_dict(twin, save_embedding_layers=False).items()}

    def _trained_on(self) -> str:
        return self.facts.get("base", {}).get("name") or self.config.base_model_name_or_path or ""

    def _of_another_base(self, model) -> str:
        names = self._trained_on() or "a model without name", model.name_or_path or "this model"
        return f"{self.folder}: is an adapter for another base model ({names[0]}) than --model {names[1]}"

    def _check_base(self, model) -> None:
        """By fingerprints, or else by names: a folder may have been moved, and a hub id may have got an owner."""
        base, there, here = self.facts.get("base", {}), self._trained_on(), model.name_or_path
        if base.get("precision") == precision(model):
            another = base["weights"] != fingerprint(model)
        else:
            is_folder = any(Path(name).is_dir() or Path(name).is_absolute() for name in (there, here))
            another = bool(there and here) and not is_folder and Path(there).name != Path(here).name
        if another:
            raise UserError(f"{self._of_another_base(model)}: its updates belong to other weights")
