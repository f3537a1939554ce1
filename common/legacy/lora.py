"""Low-rank adapters (LoRA, arXiv:2106.09685) of sequence classifiers, by peft: new ones, saved ones, added up, merged.

What peft leaves to its user is done here. The classifier, which is new, is always saved with the adapter and never a
target of LoRA (peft#2027). So is BERT's pooler, the hidden layer of its head: checkpoints of masked language models
lack it, and an adapter without it would score differently on every base loaded anew. An adapter is checked before its
weights are loaded (`common.legacy.adapter_folder`). Not for other tasks, nor for the other methods of peft.
"""

import importlib.util
import math
from dataclasses import dataclass, field
from pathlib import Path

from common.legacy.adapter_folder import FACTS, SavedAdapter, adapted_class, head_prefixes
from common.legacy.arguments import flag
from common.legacy.encoders import Encoder
from common.legacy.errors import UserError
from common.legacy.pruning import pruned_heads

QUERY_AND_VALUE = (("query", "value"), ("q_lin", "v_lin"), ("query_proj", "value_proj"))  # as encoders call them
OF_A_NEW_ADAPTER = ("lora_rank", "lora_alpha", "lora_dropout", "target_modules", "use_rslora", "use_dora")


@dataclass
class LoraArguments:
    """Adapters: a new one, or those to go on from."""

    _argument_group_name = "LoRA"

    lora_rank: int = flag(32, "rank of the update of each target module", "--lora_r")
    lora_alpha: int | None = flag(
        None,
        "an update is multiplied by lora_alpha / lora_rank; unset = lora_rank, that is by 1; with --use_rslora the "
        "divisor is the root of the rank, and unset = 8",
    )
    lora_dropout: float = flag(0.0, "share of a target module's inputs that its update does not see in training")
    target_modules: str | None = flag(
        None,
        "modules that get an update: names with commas between, or all-linear; unset = query and value; never the "
        "classifier, which is trained whole",
        "--lora_target_modules",
    )
    use_rslora: bool = flag(False, "rank-stabilised scaling: divide by the root of the rank")
    use_dora: bool = flag(False, "learn the norms of the weights apart from their directions (DoRA); slower")
    load_in_4bit: bool = flag(False, "keep the frozen weights in 4 bits (QLoRA); needs a CUDA GPU and bitsandbytes")
    adapter: str | None = flag(None, "folder of an adapter to go on from, or to evaluate")
    reset_classifier: bool = flag(False, "of --adapter take the updates only, with a new classifier for other classes")
    combine: list[str] = field(
        default_factory=list,
        metadata={"help": "DIR:WEIGHT ...: start from the weighted sum of the updates of these adapters"},
    )
    merge: bool = flag(False, "also write the model with the update added to its weights, which needs no peft")

    def __post_init__(self):
        if self.lora_rank < 1:
            raise UserError("--lora_rank must be 1 or more")
        if self.lora_alpha is not None and self.lora_alpha < 1:
            raise UserError("--lora_alpha must be 1 or more")
        if not 0 <= self.lora_dropout < 1:
            raise UserError("--lora_dropout must be 0 or more, and less than 1")
        if self.adapter and self.combine:
            raise UserError("--adapter and --combine both say what to start from; give one of them")
        if self.reset_classifier and not self.adapter:
            raise UserError("--reset_classifier needs --adapter: a new adapter always gets a new classifier")
        if self.merge and self.load_in_4bit:
            raise UserError("--merge cannot add an update to weights of 4 bits; merge in a run without --load_in_4bit")
        if self.combine and not sum(weight for _, weight in self.weighted_adapters()) > 0:
            raise UserError("--combine: the weights must add up to more than 0, as the classifiers are averaged")

    def weighted_adapters(self) -> list[tuple[str, float]]:
        """(folder, weight) of each adapter of `--combine`."""
        found = []
        for item in self.combine:
            folder, _, weight = item.rpartition(":")
            try:
                found.append((folder, float(weight)))
            except ValueError:
                folder = ""
            if not folder or not math.isfinite(found[-1][1]):
                raise UserError(f"--combine {item}: is not a folder, a colon and a number, as in outputs/first:0.5")
        return found

    @property
    def sources(self) -> list[str]:
        """The folders of the adapters to start from; [] for a new one."""
        return [self.adapter] if self.adapter else [folder for folder, _ in self.weighted_adapters()]

    def check_given(self, explicit: set[str]) -> None:
        """Refuses flags of a new adapter, if the user has given them, where the settings come with an adapter."""
        source = "--adapter" if self.adapter else "--combine"
        useless = [name for name in OF_A_NEW_ADAPTER if name in explicit]
        if useless and (self.adapter or self.combine):
            raise UserError(f"{source} brings its own rank, modules and scaling; leave out --{useless[0]}")


# New adapters


def add_lora(model, arguments: LoraArguments):
    """`model` with a new adapter: a `PeftModel` of which the update, the pooler and the classifier are trainable.

    For roberta-large, rank 32 and 3 labels peft counts 4,198,403 trainable parameters of 359,561,222. Trainable are
    the update, 24 layers x 2 modules x 32 x (1024 + 1024) = 3,145,728, and the classifier, 1,052,675. All are these,
    the 354,310,144 of the encoder, and the classifier's frozen original, which peft keeps beside the trained copy.

    Raises:
        UserError: a target module that the encoder does not have, an encoder of another structure, or a pruned one.
    """
    from peft import LoraConfig

    if pruned_heads(model.config):
        raise UserError(
            f"{model.name_or_path}: has lost attention heads, and peft cannot load an adapter for such a model again; "
            "choose a whole one, or train it without an adapter"
        )
    encoder = Encoder.of(model)
    whole = [name for name, module in encoder.head.items() if any(True for _ in module.parameters())]
    config = LoraConfig(
        task_type="SEQ_CLS",
        r=arguments.lora_rank,
        lora_alpha=arguments.lora_alpha or (8 if arguments.use_rslora else arguments.lora_rank),
        lora_dropout=arguments.lora_dropout,
        target_modules=_targets(encoder, arguments.target_modules),
        modules_to_save=whole + (["pooler"] if encoder.pooler is not None else []),
        use_rslora=arguments.use_rslora,
        use_dora=arguments.use_dora,
    )
    return _wrapped(model, config, trainable=True)


def _targets(encoder: Encoder, wanted: str | None) -> list[str]:
    """Names of modules, as peft wants them: the ends of full names."""
    import torch

    linear = [name for name, module in encoder.stack.named_modules() if isinstance(module, torch.nn.Linear)]
    short = sorted({name.rpartition(".")[2] for name in linear})
    if wanted == "all-linear":
        return short
    if wanted is None:
        found = [pair for pair in QUERY_AND_VALUE if set(pair) <= set(short)]
        if not found:
            raise UserError(f"--target_modules: say which modules get an update, of {', '.join(short)}")
        return list(found[0])
    names = [name.strip() for name in wanted.split(",")]
    for name in names:
        if not any(f".{full}".endswith(f".{name}") for full in linear):
            raise UserError(
                f"--target_modules {name}: the layers of {encoder.model.config.model_type} have no such module, only "
                f"{', '.join(short)} (the classifier is trained whole)"
            )
    return names


def _wrapped(model, config, *, trainable: bool):
    import peft

    if trainable and getattr(model, "is_loaded_in_4bit", False):
        # Checkpointing is for the training flags to say, not for peft.
        model = peft.prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    config.inference_mode = not trainable
    config.base_model_name_or_path = model.name_or_path or None
    adapted = adapted_class()(model, config)
    config.modules_to_save = list(dict.fromkeys(config.modules_to_save))  # peft adds its names to them at each loading
    return adapted if trainable else adapted.eval()


# Saved adapters


def class_names(folder: str | Path) -> list[str] | None:
    """The classes of a saved adapter, in the order of its logits; None if it was saved by other programs."""
    return SavedAdapter.read(folder).classes


def load_adapter(model, folder: str | Path, *, trainable: bool, reset_classifier: bool = False):
    """`model`, a plain one, with the adapter of `folder`; a `PeftModel`.

    Where the adapter says what its classes are, `model.config` names them in the adapter's order from then on.

    Args:
        trainable: to train on; else everything is frozen and in eval mode.
        reset_classifier: keep the model's own classifier and its classes; for a second task.

    Raises:
        UserError: the folder has no LoRA adapter in safetensors, or the adapter is another base model's, has no
            classifier, or has other classes. Nothing is loaded then, and `model` is as it was.
    """
    from peft import get_peft_model_state_dict, set_peft_model_state_dict

    saved = SavedAdapter.read(folder)
    saved.check(model, classifier=not reset_classifier)
    if not reset_classifier:
        saved.name_classes(model)
    weights, head = saved.weights(), head_prefixes(model)
    adapted = _wrapped(model, saved.config, trainable=trainable)
    if reset_classifier:
        own = get_peft_model_state_dict(adapted, save_embedding_layers=False)
        weights = {n: w for n, w in weights.items() if not n.startswith(head)}
        weights |= {n: w for n, w in own.items() if n.startswith(head)}
    set_peft_model_state_dict(adapted, weights)
    return adapted


def reloaded(auto_class, source: str, folder: str | Path, **settings):
    """The adapter of `folder`, not trainable, on a base that is loaded anew from `source`, with the adapter's classes.

    `settings` are `from_pretrained`'s, such as `revision` or what `quantization` gives.
    """
    classes = class_names(folder)
    if classes is None:
        raise UserError(f"{folder}: does not say what its classes are ({FACTS} is missing)")
    names = {"id2label": dict(enumerate(classes)), "label2id": {name: index for index, name in enumerate(classes)}}
    base = auto_class.from_pretrained(source, use_safetensors=True, **names, **settings)
    return load_adapter(base, folder, trainable=False)


# Adding up and merging


def combine(model, weighted: list[tuple[str, float]], *, trainable: bool):
    """`model` with the weighted sum of saved adapters' updates: one adapter, whose rank is the sum of theirs.

    The update of a module is exactly sum(weight_i * scaling_i * B_i A_i); ranks and scalings may differ. What is saved
    whole, classifier and pooler, is no update: of that it is the mean, sum(weight_i * W_i) / sum(weight_i). Which is
    why the classes must be the same, in the same order. (peft's `add_weighted_adapter` refuses saved classifiers.)

    Args:
        weighted: (folder, weight) of each; the weights add up to more than 0, a single one may be negative.

    Raises:
        UserError: what `load_adapter` refuses, other classes or modules than the first adapter's, or an adapter that
            is more than two matrices for each module, such as DoRA's.
    """
    import torch
    from peft import LoraConfig, set_peft_model_state_dict

    adapters = [SavedAdapter.read(folder) for folder, _ in weighted]
    first = adapters[0]
    for saved in adapters:
        _check_plain(saved)
        saved.check(model, classifier=True)
        if saved.classes != first.classes:
            raise UserError(
                f"{saved.folder}: its classes are {_listed(saved.classes)}, those of {first.folder} are "
                f"{_listed(first.classes)}; only adapters with the same classes in the same order can be added"
            )
        if saved.shapes.keys() != first.shapes.keys():
            own, others = (", ".join(sorted(each.config.target_modules)) for each in (saved, first))
            raise UserError(
                f"{saved.folder}: its updates are of {own}, those of {first.folder} of {others}; only adapters of the "
                "same modules can be added"
            )
    first.name_classes(model)

    total, scales = sum(weight for _, weight in weighted), []
    for saved, (_, weight) in zip(adapters, weighted):
        divisor = math.sqrt(saved.config.r) if saved.config.use_rslora else saved.config.r
        scales.append(weight * saved.config.lora_alpha / divisor)
    parts, weights = [saved.weights() for saved in adapters], {}
    for name in first.shapes:
        tensors = [part[name] for part in parts]
        if ".lora_A." in name:
            weights[name] = torch.cat([scale * tensor for scale, tensor in zip(scales, tensors)], dim=0)
        elif ".lora_B." in name:
            weights[name] = torch.cat(tensors, dim=1)
        else:
            weights[name] = sum(weight * tensor for (_, weight), tensor in zip(weighted, tensors)) / total
    rank = sum(saved.config.r for saved in adapters)
    config = LoraConfig(
        task_type="SEQ_CLS",
        r=rank,
        lora_alpha=rank,
        lora_dropout=first.config.lora_dropout,
        target_modules=first.config.target_modules,
        modules_to_save=first.config.modules_to_save,
    )
    adapted = _wrapped(model, config, trainable=trainable)
    set_peft_model_state_dict(adapted, weights)
    return adapted


def _listed(classes: list[str] | None) -> str:
    return ", ".join(classes) if classes else "not known"


def _check_plain(saved: SavedAdapter) -> None:
    from peft import LoraConfig

    may_differ = {"r", "lora_alpha", "lora_dropout", "use_rslora", "target_modules", "modules_to_save", "task_type"}
    may_differ |= {"base_model_name_or_path", "revision", "inference_mode", "peft_version", "auto_mapping"}
    usual, settings = LoraConfig().to_dict(), saved.config.to_dict()
    unusual = [name for name in usual if name not in may_differ and settings[name] != usual[name]]
    if unusual:
        raise UserError(
            f"{saved.folder}: was made with {unusual[0]}, so its update is no plain product of two matrices and cannot "
            "be added to others; merge it instead"
        )


def merge(adapted):
    """The plain model with the update added to its weights and the trained classifier in place; ends `adapted`.

    Raises:
        UserError: the weights are held in 4 bits.
    """
    if getattr(adapted.get_base_model(), "is_loaded_in_4bit", False):
        raise UserError("an update cannot be added to weights of 4 bits; load the adapter without --load_in_4bit")
    return adapted.merge_and_unload(safe_merge=True)


# 4 bits


def quantization(arguments: LoraArguments) -> dict:
    """What `from_pretrained` needs for `--load_in_4bit` (QLoRA, arXiv:2305.14314: nf4, double quantisation), else {}.

    Raises:
        UserError: bitsandbytes or a CUDA GPU is missing.
    """
    if not arguments.load_in_4bit:
        return {}
    if importlib.util.find_spec("bitsandbytes") is None:
        raise UserError("--load_in_4bit needs bitsandbytes: pip install bitsandbytes, or leave the flag out")
    import torch
    from transformers import BitsAndBytesConfig

    if not torch.cuda.is_available():
        raise UserError("--load_in_4bit needs a CUDA GPU; leave the flag out")
    settings = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
        llm_int8_skip_modules=["classifier", "score", "pooler", r".*\.pooler"],  # trained whole; holds for 4 bits too
    )
    return {"quantization_config": settings}
