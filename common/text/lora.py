"""Low-rank adapters (LoRA, arXiv:2106.09685) of sequence classifiers, by peft: new ones, saved ones, added up.

The head, which is new, is always saved with the adapter and never a target of LoRA. So is BERT's pooler: checkpoints of
masked language models lack it. `adapter_facts.json` holds what peft does not save: the classes in the order of the
logits, how texts were prepared, and a fingerprint of the base. (In a config.json transformers would see a whole model.)
"""

import hashlib
import json
import math
import warnings
from dataclasses import dataclass, replace
from pathlib import Path

import peft
import torch
from huggingface_hub import snapshot_download
from safetensors.torch import load_file
from transformers.pytorch_utils import Conv1D

from common.errors import UserError, said_by, write_json
from common.hub import fetching, resolved
from common.models import count_parameters
from common.text.arguments import LoraArguments
from common.text.pruning import measure

FACTS = "adapter_facts.json"
QUERY_AND_VALUE = (("query", "value"), ("q_lin", "v_lin"), ("query_proj", "value_proj"), ("q_proj", "v_proj"))
QUERY_AND_VALUE += (("q", "v"),)  # T5, MPNet
# What an adapter is made of: flag -> its name in peft's configuration.
SETTINGS = {"lora_rank": "r", "lora_bias": "bias"}
SETTINGS |= {name: name for name in ("lora_alpha", "lora_dropout", "target_modules", "use_rslora", "use_dora")}


def is_adapter(name: str | None) -> bool:
    """Whether a model's name is the folder of an adapter, and not of a whole model."""
    return bool(name) and (Path(name) / "adapter_config.json").is_file() and not (Path(name) / "config.json").is_file()


def add_lora(model, args: LoraArguments):
    """`model` with a new adapter: a `PeftModel` of which the update, the pooler and the classifier are trainable.

    For roberta-large, rank 32 and 3 labels these are 4,198,403 of 359,561,222 parameters, among them the classifier's
    frozen original, which peft keeps beside the trained copy. A target module that is not there raises `UserError`.
    """
    kinds = (torch.nn.Linear, torch.nn.Conv1d, Conv1D)  # the last: GPT-2
    there = [f"{model.base_model_prefix}.{n}" for n, m in model.base_model.named_modules() if isinstance(m, kinds)]
    short = {name.rpartition(".")[2] for name in there}
    for name in args.target_modules:
        if name != "all-linear" and not any(f".{path}".endswith(f".{name}") for path in there):
            choice = f"a {model.config.model_type} model has {', '.join(sorted(short))}, or all-linear"
            raise UserError(f"--target_modules {name}: there is no such module; {choice}")
    found = (list(pair) for pair in QUERY_AND_VALUE if short >= {*pair})
    targets = args.target_modules or next(found, None)  # None: peft's own for this family
    pooler = ["pooler"] if getattr(model.base_model, "pooler", None) is not None else []
    config = peft.LoraConfig(
        task_type="SEQ_CLS",
        r=args.lora_rank,
        lora_alpha=args.lora_alpha or (8 if args.use_rslora else args.lora_rank),
        lora_dropout=args.lora_dropout,
        target_modules="all-linear" if "all-linear" in args.target_modules else targets,
        modules_to_save=_head(model) + pooler,
        bias=args.lora_bias,
        init_lora_weights=True if args.init_lora_weights == "default" else args.init_lora_weights,
        use_rslora=args.use_rslora,
        use_dora=args.use_dora,
    )
    return _wrapped(model, config, trainable=True)


def _head(model) -> list[str]:
    return [n for n, m in model.named_children() if m is not model.base_model and any(True for _ in m.parameters())]


def _wrapped(model, config, *, trainable: bool):
    config.inference_mode = not trainable
    config.base_model_name_or_path = model.name_or_path or None
    try:
        with warnings.catch_warnings():  # peft asks by a name that transformers has given up
            warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing", category=FutureWarning)
            adapted = AdaptedClassifier(model, config)
    except ValueError as error:
        raise UserError(f"{model.name_or_path}: takes no such adapter: {said_by(error)[:200]}") from None
    return adapted if trainable else adapted.requires_grad_(False).eval()


class AdaptedClassifier(peft.PeftModelForSequenceClassification):
    """Every save of it, the Trainer's checkpoints too, has the facts."""

    def save_pretrained(self, save_directory, is_main_process=True, **kwargs):
        # No embedding is ever a target; to find that out by itself, peft asks the hub at every save.
        kwargs = {"save_embedding_layers": False, **kwargs}
        super().save_pretrained(save_directory, is_main_process=is_main_process, **kwargs)
        if is_main_process:
            model = self.get_base_model()
            classes = [model.config.id2label[index] for index in range(model.config.num_labels)]
            facts = {"classes": classes, "preparation": getattr(model.config, "preparation", {})}
            write_json(Path(save_directory) / FACTS, facts | {"base": fingerprint(model)})


def fingerprint(model) -> str:
    """Tells the frozen weights from those of another model of the same shape: a hash of some values of each."""
    apart = ("lora_", "modules_to_save", "pooler", "bias")
    frozen = [p for name, p in model.base_model.named_parameters() if not any(part in name for part in apart)]
    sample = torch.cat([p.detach().reshape(-1)[:: max(1, p.numel() // 256)].float() for p in frozen])
    return hashlib.sha256(sample.cpu().numpy().tobytes()).hexdigest()[:16]


@dataclass
class SavedAdapter:
    """An adapter's folder: peft's `config`, the `weights` by name, our `facts`, if it has any."""

    name: str
    config: object
    weights: dict
    facts: dict

    @classmethod
    def read(cls, name: str, args) -> "SavedAdapter":
        """From a folder or the hub; raises `UserError` where it is no LoRA adapter in safetensors."""
        folder = Path(name)
        if not folder.is_dir():
            hub = {"revision": resolved("model", name, None, args.token)[1], "token": args.token}
            with fetching("model", name):
                folder = Path(snapshot_download(name, allow_patterns="adapter_*", cache_dir=args.cache_dir, **hub))
        for file in ("adapter_config.json", "adapter_model.safetensors"):
            if not (folder / file).is_file():
                raise UserError(f"{name}: has no {file}; a whole model is given as --model, an adapter in safetensors")
        try:
            config = peft.PeftConfig.from_pretrained(str(folder))
            weights = load_file(folder / "adapter_model.safetensors")
            file = folder / FACTS
            facts = json.loads(file.read_text("utf-8")) if file.is_file() else {"classes": []}
            facts["classes"] = [*map(str, facts["classes"])]
        except Exception as error:  # whatever damaged files make the libraries raise
            raise UserError(f"{name}: this adapter cannot be read: {said_by(error)}") from error
        if config.peft_type != "LORA":
            raise UserError(f"{name}: is an adapter of another kind ({config.peft_type.value}); only LoRA is supported")
        return cls(name, config, weights, facts)

    @property
    def id2label(self) -> dict[int, str]:
        """The classes in the order of the logits; LABEL_0, ... where other programs trained the adapter."""
        if self.facts["classes"]:
            return dict(enumerate(self.facts["classes"]))
        whole = [w for name, w in self.weights.items() if ".lora_" not in name and name.endswith("weight")]
        if not whole:  # stock peft does not know what the classifiers of BART and T5 are called
            raise UserError(f"{self.name}: has no trained classifier; merge it where it was trained")
        return {i: f"LABEL_{i}" for i in range(min(map(len, whole)))}

    @property
    def settings(self) -> dict:
        """Its base, where it names one, rank, modules and scaling, as flags."""
        own, targets = {flag: getattr(self.config, name) for flag, name in SETTINGS.items()}, self.config.target_modules
        own["target_modules"] = [targets] if isinstance(targets, str) else sorted(targets)
        base = self.config.base_model_name_or_path
        return {**own, "model": base} if base else own

    def apply(self, model, *, trainable: bool):
        """`model`, a plain one, with this adapter: a `PeftModel`, to train on or frozen and in eval mode.

        Raises `UserError` where it is another base model's, or has no classifier for so many classes.
        """
        base, head = fingerprint(model), tuple(f"base_model.model.{name}." for name in _head(model))
        trained_on = self.config.base_model_name_or_path or "a model without name"
        adapted = _wrapped(model, self.config, trainable=trainable)
        own = peft.get_peft_model_state_dict(adapted, save_embedding_layers=False)
        shapes = [{(name, weight.shape) for name, weight in weights.items()} for weights in (self.weights, own)]
        wrong = {name for name, _ in shapes[0] ^ shapes[1]}
        if self.facts.get("base", base) != base or any(not name.startswith(head) for name in wrong):
            given = model.name_or_path
            raise UserError(f"{self.name}: was trained on another base model ({trained_on}) than --model {given}")
        if wrong:
            what = "a classifier for other classes" if wrong & {*self.weights} else "no trained classifier"
            raise UserError(f"{self.name}: has {what}; merge it (--merge) where it was trained, and train that model")
        peft.set_peft_model_state_dict(adapted, self.weights)
        return adapted


def combine(model, adapters: list[SavedAdapter], weights: list[float], *, trainable: bool):
    """`model` with the weighted sum of saved adapters' updates: one adapter, whose rank is the sum of theirs.

    The update of a module is sum(weight_i * scaling_i * B_i A_i). Of what is saved whole, classifier and pooler, it is
    the mean, sum(weight_i * W_i) / sum(weight_i). (peft's `add_weighted_adapter` refuses saved classifiers.)

    Raises `UserError` for what `SavedAdapter.apply` refuses, and for adapters that do not add up.
    """
    first, parts, configs = adapters[0], {}, [saved.config for saved in adapters]
    scalings = [one.lora_alpha / (math.sqrt(one.r) if one.use_rslora else one.r) for one in configs]
    for saved in adapters:
        config, kind = saved.config, (saved.id2label, saved.weights.keys(), saved.facts.get("base"))
        changes_base = str(config.init_lora_weights).startswith(("pissa", "olora", "corda", "loftq"))
        if config.use_dora or config.rank_pattern or config.alpha_pattern or config.bias != "none" or changes_base:
            raise UserError(f"{saved.name}: is no plain product of two matrices and cannot be added; merge it instead")
        if kind != (first.id2label, first.weights.keys(), first.facts.get("base")):
            raise UserError(f"{saved.name}: has other classes or modules or another base model than {first.name}")
    for name in first.weights:
        tensors = [saved.weights[name] for saved in adapters]
        if ".lora_A." in name:
            scaled = [weight * times * tensor for weight, times, tensor in zip(weights, scalings, tensors)]
            parts[name] = torch.cat(scaled, dim=0)
        elif ".lora_B." in name:
            parts[name] = torch.cat(tensors, dim=1)
        else:
            parts[name] = sum(weight * tensor for weight, tensor in zip(weights, tensors)) / sum(weights)
    rank = sum(one.r for one in configs)
    config = replace(first.config, r=rank, lora_alpha=rank, lora_dropout=0.0, use_rslora=False)
    together = SavedAdapter(" + ".join(saved.name for saved in adapters), config, parts, first.facts)
    return together.apply(model, trainable=trainable)


def trained_and_stored(whole: int, model) -> dict:
    """Facts for the results: what a method trains and stores; `whole`: parameters before, all of them trainable."""
    counts = count_parameters(model)
    own, shared = (sum(p.nbytes for p in model.parameters() if p.requires_grad == kind) for kind in (True, False))
    return {
        "parameters": counts["total"],
        "trainable parameters": counts["trainable"],
        "trainable share": counts["trainable"] / counts["total"],
        "bytes for 1 task": shared + own,
        "bytes for 100 tasks": shared + 100 * own,
        "bytes for 100 tasks, all of it trained": 400 * whole,
    }


def write_adapters(model, tokenizer, inputs, collator, run) -> dict:
    """Writes a sum of adapters (--combine) as an adapter, and the merged model (--merge); returns facts about that."""
    if run.args.combine and not run.training_args.do_train:
        model.save_pretrained(run.output_dir)
        tokenizer.save_pretrained(run.output_dir)
    if not run.args.merge:
        return {}
    rows = next(iter(inputs.values())).select_columns(collator.tokenizer.model_input_names)
    batch = collator([rows[i] for i in range(len(rows))[:32]]).to(run.training_args.device)
    model.eval()
    with torch.no_grad():
        with model.disable_adapter():
            base = measure(model, batch)
        adapter, logits = measure(model, batch), model(**batch).logits
        merged = model.merge_and_unload(safe_merge=True)
        difference = (merged(**batch).logits - logits).abs().max().item()
    merged.save_pretrained(run.output_dir / "merged")
    tokenizer.save_pretrained(run.output_dir / "merged")
    facts = {"folder": "merged", "largest difference of a logit": difference}
    return {"merged": {**facts, "base": base, "adapter": adapter, "merged": measure(merged, batch)}}
