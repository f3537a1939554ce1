"""Low-rank adapters (LoRA, arXiv:2106.09685) of sequence classifiers, by peft: new ones, saved ones, added up.

What peft leaves to its user is done here. The head, which is new, is always saved with the adapter and never a target
of LoRA. So is BERT's pooler: checkpoints of masked language models lack it, and an adapter without it would score
differently on every base loaded anew. A saved adapter is checked before it is used: it must have a trained head, and
belong to this base. `adapter_facts.json` holds what peft does not save: the classes in the order of the logits, how
texts were prepared, and a fingerprint of the base. (In a config.json transformers would see a whole model.)
"""

import functools
import hashlib
import json
import math
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from common.arguments import Arguments, flag
from common.errors import UserError, write_json

FACTS = "adapter_facts.json"
QUERY_AND_VALUE = (("query", "value"), ("q_lin", "v_lin"), ("query_proj", "value_proj"), ("q_proj", "v_proj"))
# What an adapter is made of: flag -> its name in peft's configuration.
SETTINGS = {"lora_rank": "r", "lora_bias": "bias"}
SETTINGS |= {name: name for name in ("lora_alpha", "lora_dropout", "target_modules", "use_rslora", "use_dora")}


@dataclass
class LoraArguments(Arguments):
    """Adapters: a new one, or those to go on from."""

    _argument_group_name = "LoRA"

    lora_rank: int = flag(32, "rank of the update of each target module", "--lora_r")
    lora_alpha: int | None = flag(
        None,
        "an update counts lora_alpha / lora_rank times (--use_rslora: / its root); unset: 1 times (--use_rslora: 8)",
    )
    lora_dropout: float = flag(0.0, "share of a target module's inputs that its update does not see in training")
    target_modules: list[str] = flag(
        [], "modules that get an update, or all-linear; unset: query and value", "--lora_target_modules"
    )
    lora_bias: Literal["none", "all", "lora_only"] = flag("none", "biases that are trained, too")
    init_lora_weights: Literal["default", "gaussian", "orthogonal"] = flag("default", "how an update starts from zero")
    use_rslora: bool = flag(False, "rank-stabilised scaling: divide by the root of the rank")
    use_dora: bool = flag(False, "learn the norms of the weights apart from their directions (DoRA); slower")
    adapter: str | None = flag(None, "folder or hub id of an adapter to go on from, or to evaluate")
    reset_classifier: bool = flag(False, "of --adapter take the updates only, with a new classifier for other classes")
    combine: list[str] = flag([], "DIR:WEIGHT ...: start from the weighted sum of the updates of these adapters")
    merge: bool = flag(False, "also write the model with the update added to its weights, which needs no peft")

    def __post_init__(self):
        super().__post_init__()
        if self.lora_rank < 1 or (self.lora_alpha or 1) < 1 or not 0 <= self.lora_dropout < 1:
            raise UserError("--lora_rank and --lora_alpha must be 1 or more, --lora_dropout from 0 up to 1")
        if self.adapter and self.combine:
            raise UserError("--adapter and --combine both say what to start from; give one of them")
        if self.reset_classifier and not self.adapter:
            raise UserError("--reset_classifier needs --adapter: a new adapter always gets a new classifier")
        if self.combine and not sum(weight for _, weight in self.weighted_adapters()) > 0:
            raise UserError("--combine: the weights must add up to more than 0, as the classifiers are averaged")
        self.target_modules = [name for given in self.target_modules for name in given.split(",")]

    def weighted_adapters(self) -> list[tuple[str, float]]:
        """(folder, weight) of each adapter to start from; [] for a new one."""
        found = [(self.adapter, 1.0)] if self.adapter else []
        for item in self.combine:
            folder, _, weight = item.rpartition(":")
            try:
                found.append((folder, float(weight)))
            except ValueError:
                folder = ""
            if not folder or not math.isfinite(found[-1][1]):
                raise UserError(f"--combine {item}: is not a folder, a colon and a number, as in outputs/first:0.5")
        return found


def is_adapter(name: str | None) -> bool:
    """Whether a model's name is the folder of an adapter, and not of a whole model."""
    return bool(name) and (Path(name) / "adapter_config.json").is_file() and not (Path(name) / "config.json").is_file()


# New adapters


def add_lora(model, args: LoraArguments):
    """`model` with a new adapter: a `PeftModel` of which the update, the pooler and the classifier are trainable.

    For roberta-large, rank 32 and 3 labels peft counts 4,198,403 trainable parameters of 359,561,222. Trainable are
    the update, 24 layers x 2 modules x 32 x (1024 + 1024) = 3,145,728, and the classifier, 1,052,675. All are these,
    the 354,310,144 of the encoder, and the classifier's frozen original, which peft keeps beside the trained copy.

    Raises:
        UserError: a target module that the model does not have.
    """
    from peft import LoraConfig

    short = {name.rpartition(".")[2] for name, _ in model.base_model.named_modules()}
    found = (list(pair) for pair in QUERY_AND_VALUE if short >= {*pair})
    targets = args.target_modules or next(found, None)  # None: peft's own for this family
    head = [name for name, module in _head(model).items() if any(True for _ in module.parameters())]
    config = LoraConfig(
        task_type="SEQ_CLS",
        r=args.lora_rank,
        lora_alpha=args.lora_alpha or (8 if args.use_rslora else args.lora_rank),
        lora_dropout=args.lora_dropout,
        target_modules="all-linear" if targets == ["all-linear"] else targets,
        modules_to_save=head + (["pooler"] if getattr(model.base_model, "pooler", None) is not None else []),
        bias=args.lora_bias,
        init_lora_weights=True if args.init_lora_weights == "default" else args.init_lora_weights,
        use_rslora=args.use_rslora,
        use_dora=args.use_dora,
    )
    return _wrapped(model, config, trainable=True)


def _head(model) -> dict:
    return {name: module for name, module in model.named_children() if module is not model.base_model}


def _wrapped(model, config, *, trainable: bool):
    import torch

    linear = {n.rpartition(".")[2] for n, m in model.base_model.named_modules() if isinstance(m, torch.nn.Linear)}
    config.inference_mode = not trainable
    config.base_model_name_or_path = model.name_or_path or None
    try:
        with warnings.catch_warnings():  # peft asks by a name that transformers has given up
            warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing", category=FutureWarning)
            adapted = adapted_class()(model, config)
    except ValueError as error:
        raise UserError(
            f"--target_modules: choose among the modules of a {model.config.model_type} model, "
            f"{', '.join(sorted(linear))}, or all-linear ({str(error).splitlines()[0][:120]})"
        ) from None
    return adapted if trainable else adapted.requires_grad_(False).eval()


@functools.cache
def adapted_class() -> type:
    """The `PeftModel` of all adapters here: every save of it, the Trainer's checkpoints too, has the facts."""
    from peft import PeftModelForSequenceClassification

    class AdaptedClassifier(PeftModelForSequenceClassification):
        def save_pretrained(self, save_directory, is_main_process=True, **kwargs):
            # No embedding is ever a target; to find that out by itself, peft asks the hub at every save.
            kwargs = {"save_embedding_layers": False, **kwargs}
            super().save_pretrained(save_directory, is_main_process=is_main_process, **kwargs)
            if is_main_process:
                model = self.get_base_model()
                classes = [model.config.id2label[index] for index in range(model.config.num_labels)]
                facts = {"classes": classes, "preparation": getattr(model.config, "preparation", {})}
                write_json(Path(save_directory) / FACTS, facts | {"base": fingerprint(model)})

    return AdaptedClassifier


def fingerprint(model) -> str:
    """Tells the frozen weights from those of another model of the same shape.

    A hash of some 256 values of every weight: training or merging changes many of them.
    """
    import torch

    apart = ("lora_", "modules_to_save", "pooler", "bias")
    frozen = [p for name, p in model.base_model.named_parameters() if not any(part in name for part in apart)]
    sample = torch.cat([p.detach().reshape(-1)[:: max(1, p.numel() // 256)].float() for p in frozen])
    return hashlib.sha256(sample.cpu().numpy().tobytes()).hexdigest()[:16]


# Saved adapters


@dataclass
class SavedAdapter:
    """An adapter's folder: peft's `config`, the `weights` by name (on the processor), our `facts`, if it has any."""

    name: str
    config: object
    weights: dict
    facts: dict

    @classmethod
    def read(cls, name: str, args) -> "SavedAdapter":
        """From a folder or the hub; raises `UserError` where it is no LoRA adapter in safetensors."""
        from huggingface_hub import snapshot_download
        from peft import LoraConfig, PeftConfig
        from safetensors.torch import load_file

        from common.hub import commit_of, fetching

        folder = Path(name)
        if not folder.is_dir():
            hub = {"revision": commit_of("model", name, None, args.token), "token": args.token}
            with fetching("model", name):
                folder = Path(snapshot_download(name, allow_patterns="adapter_*", cache_dir=args.cache_dir, **hub))
        for file in ("adapter_config.json", "adapter_model.safetensors"):
            if not (folder / file).is_file():
                raise UserError(f"{name}: has no {file}; a whole model is given as --model, an adapter in safetensors")
        try:
            config, weights = PeftConfig.from_pretrained(str(folder)), load_file(folder / "adapter_model.safetensors")
            facts = json.loads((folder / FACTS).read_text("utf-8")) if (folder / FACTS).is_file() else {}
        except Exception as error:  # whatever damaged files make the libraries raise
            raise UserError(f"{name}: this adapter cannot be read: {str(error).splitlines()[0]}") from error
        if not isinstance(config, LoraConfig):
            raise UserError(f"{name}: is an adapter of another kind ({config.peft_type.value}); only LoRA is supported")
        return cls(name, config, weights, facts)

    @property
    def id2label(self) -> dict[int, str]:
        """The classes in the order of the logits; LABEL_0, ... where other programs trained the adapter."""
        if "classes" in self.facts:
            return dict(enumerate(self.facts["classes"]))
        whole = [w for name, w in self.weights.items() if ".lora_" not in name and name.endswith("weight")]
        return {i: f"LABEL_{i}" for i in range(min((len(weight) for weight in whole), default=0))}

    @property
    def settings(self) -> dict:
        """Its base, where it names one, rank, modules and scaling, as flags."""
        own, targets = {flag: getattr(self.config, name) for flag, name in SETTINGS.items()}, self.config.target_modules
        own["target_modules"] = [targets] if isinstance(targets, str) else sorted(targets)
        return own | ({"model": base} if (base := self.config.base_model_name_or_path) else {})

    def apply(self, model, *, trainable: bool, reset_classifier: bool = False):
        """`model`, a plain one, with this adapter; a `PeftModel`.

        Args:
            trainable: to train on; else everything is frozen and in eval mode.
            reset_classifier: keep the model's own classifier and its classes; for a second task.

        Raises:
            UserError: it is another base model's, or has no classifier, or one for another number of classes.
        """
        from peft import get_peft_model_state_dict, set_peft_model_state_dict

        base, head = fingerprint(model), tuple(f"base_model.model.{name}." for name in _head(model))
        adapted = _wrapped(model, self.config, trainable=trainable)
        own = get_peft_model_state_dict(adapted, save_embedding_layers=False)
        there = self.weights | {name: w for name, w in own.items() if reset_classifier and name.startswith(head)}
        shapes = [{name: w.shape for name, w in weights.items()} for weights in (there, own)]
        wrong = sorted({name for name, _ in shapes[0].items() ^ shapes[1].items()})
        other = [name for name in wrong if not name.startswith(head)]
        if other or (base and self.facts.get("base") not in (base, None)):
            trained_on = self.config.base_model_name_or_path or "a model without name"
            raise UserError(
                f"{self.name}: is an adapter for another base model ({trained_on}) than --model {model.name_or_path}: "
                + (f"{len(other)} weights do not fit, the first is {other[0]}" if other else "the weights differ")
            )
        if wrong:
            what = "a classifier for other classes" if wrong[0] in there else "no classifier, and would score at random"
            raise UserError(
                f"{self.name}: has {what}; take its updates only, with a new classifier (--reset_classifier)"
            )
        set_peft_model_state_dict(adapted, there)
        return adapted


def combine(model, adapters: list[SavedAdapter], weights: list[float], *, trainable: bool):
    """`model` with the weighted sum of saved adapters' updates: one adapter, whose rank is the sum of theirs.

    The update of a module is exactly sum(weight_i * scaling_i * B_i A_i); ranks and scalings may differ. What is saved
    whole, classifier and pooler, is no update: of that it is the mean, sum(weight_i * W_i) / sum(weight_i). Which is
    why the classes must be the same, in the same order. (peft's `add_weighted_adapter` refuses saved classifiers.)

    Raises:
        UserError: what `SavedAdapter.apply` refuses, other classes or modules than the first adapter's, or an adapter
            that is more than two matrices for each module, such as DoRA's.
    """
    import torch
    from peft import LoraConfig

    first, parts = adapters[0], {}
    for saved in adapters:
        plain = all(".lora_" not in name or ".lora_A." in name or ".lora_B." in name for name in saved.weights)
        if not plain or saved.config.rank_pattern or saved.config.alpha_pattern or saved.config.bias != "none":
            raise UserError(f"{saved.name}: is no plain product of two matrices and cannot be added; merge it instead")
        same = [(one.id2label, one.weights.keys(), one.facts.get("base")) for one in (saved, first)]
        if same[0] != same[1]:
            raise UserError(
                f"{saved.name}: has other classes or modules or another base model than {first.name}; only adapters "
                "of the same ones can be added"
            )
    for name in first.weights:
        tensors = [saved.weights[name] for saved in adapters]
        if ".lora_A." in name:
            roots = [math.sqrt(s.config.r) if s.config.use_rslora else s.config.r for s in adapters]
            scales = [w * s.config.lora_alpha / root for w, s, root in zip(weights, adapters, roots)]
            parts[name] = torch.cat([scale * tensor for scale, tensor in zip(scales, tensors)], dim=0)
        elif ".lora_B." in name:
            parts[name] = torch.cat(tensors, dim=1)
        else:
            parts[name] = sum(weight * tensor for weight, tensor in zip(weights, tensors)) / sum(weights)
    rank = sum(saved.config.r for saved in adapters)
    same = {name: getattr(first.config, name) for name in ("task_type", "target_modules", "modules_to_save")}
    config = LoraConfig(r=rank, lora_alpha=rank, **same)
    together = SavedAdapter(" + ".join(saved.name for saved in adapters), config, parts, first.facts)
    return together.apply(model, trainable=trainable)


# What is left behind


def trained_and_stored(whole: int, model, method: str) -> tuple[dict, dict]:
    """What a method trains and has to store, for one task and for a hundred: facts, and a table, for the results.

    Args:
        whole: parameters before adaptation, all of them trainable.
    """
    own, shared = (sum(p.nbytes for p in model.parameters() if p.requires_grad == own) for own in (True, False))
    trainable, every = (sum(p.numel() for p in model.parameters() if p.requires_grad or n) for n in (False, True))
    after = {"parameters": every, "trainable parameters": trainable}
    after |= {"bytes for 1 task": shared + own, "bytes for 100 tasks": shared + 100 * own}
    before = (whole, whole, 4 * whole, 400 * whole)
    rows = [[name, f"{was:,}", f"{value:,}"] for was, (name, value) in zip(before, after.items())]
    table = {"title": "Trained and stored", "head": ["", "all of it trained", f"--method {method}"], "rows": rows}
    return {"method": {"method": method, "trainable share": trainable / every, **after}}, table


def write_adapters(model, tokenizer, inputs, collator, run) -> dict:
    """Writes a sum of adapters (--combine) as an adapter, and the merged model (--merge) to `merged`.

    Returns how the merged model's logits differ from the adapter's, and the speed of base, adapter and merged model.
    """
    import torch

    from common.models import evaluating
    from common.text.pruning import measure

    if run.args.combine and not run.training_args.do_train:
        model.save_pretrained(run.output_dir)
        tokenizer.save_pretrained(run.output_dir)
    if not run.args.merge:
        return {}
    rows = next(iter(inputs.values()))
    rows = rows.remove_columns([column for column in ("length", "labels") if column in rows.features])
    batch = collator([rows[i] for i in range(len(rows))[:32]]).to(run.training_args.device)
    with evaluating(model), torch.no_grad():
        with model.disable_adapter():
            facts = {"base": measure(model, batch)}
        facts["adapter"], logits = measure(model, batch), model(**batch).logits
        merged = model.merge_and_unload(safe_merge=True)
        facts["merged"], difference = measure(merged, batch), (merged(**batch).logits - logits).abs().max().item()
    merged.save_pretrained(run.output_dir / "merged")
    tokenizer.save_pretrained(run.output_dir / "merged")
    return {"merged": {"folder": "merged", "largest difference of a logit": difference, **facts}}
