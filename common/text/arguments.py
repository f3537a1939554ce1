"""Flags of the scripts on pairs of sentences, and of those with adapters; light to import, for --help."""

import re
from dataclasses import dataclass
from typing import Literal

from common.arguments import Arguments, LabelArguments, TaskArguments, flag
from common.errors import UserError


@dataclass
class PairArguments(LabelArguments, TaskArguments):
    """What every task on pairs of sentences has."""

    _argument_group_name = "sentence pairs"

    max_length: int = flag(256, "tokens of a pair; of a longer one the longer sentence is cut", "--max_seq_length")
    pad_to_max_length: bool = flag(False, "pad every batch to max_length: slower, for compilers that want one shape")
    lower_case: bool = flag(False, "lower-case all texts", "--do_lower_case")
    premise_column: str | None = flag(None, "column of the first sentence; unset: premise, sentence1, ...")
    hypothesis_column: str | None = flag(None, "column of the second sentence; unset: hypothesis, sentence2, ...")
    frozen_cache: Literal["float32", "float16", "none"] = flag(
        "float32", "what is frozen is computed once and kept on disk so (float16: half the space); none: in every epoch"
    )


@dataclass
class LoraArguments(Arguments):
    """Adapters: a new one, or those to go on from."""

    _argument_group_name = "LoRA"

    lora_rank: int = flag(32, "rank of the update of each target module", "--lora_r")
    lora_alpha: int | None = flag(None, "an update counts lora_alpha / lora_rank times; unset: 1 (--use_rslora: 8)")
    lora_dropout: float = flag(0.0, "share of a target module's inputs that its update does not see in training")
    target_modules: list[str] = flag(
        [], "modules that get an update, or all-linear; unset: query and value", "--lora_target_modules"
    )
    lora_bias: Literal["none", "all", "lora_only"] = flag("none", "biases that are trained, too")
    init_lora_weights: Literal["default", "gaussian", "orthogonal"] = flag("default", "how an update starts from zero")
    use_rslora: bool = flag(False, "rank-stabilised scaling: divide lora_alpha by the root of the rank")
    use_dora: bool = flag(False, "learn the norms of the weights apart from their directions (DoRA); slower")
    adapter: str | None = flag(None, "folder or hub id of an adapter to go on from, or to evaluate")
    combine: list[str] = flag([], "DIR:WEIGHT ...: start from the weighted sum of the updates of these adapters")
    merge: bool = flag(False, "also write the model with the update added to its weights, which needs no peft")

    def __post_init__(self):
        super().__post_init__()
        if self.adapter and self.combine:
            raise UserError("--adapter and --combine both say what to start from; give one of them")
        if self.combine and not sum(weight for _, weight in self.weighted_adapters()) > 0:
            raise UserError("--combine: the weights must add up to more than 0, as the classifiers are averaged")
        self.target_modules = re.findall(r"[^,\s]+", " ".join(self.target_modules))

    def weighted_adapters(self) -> list[tuple[str, float]]:
        """(folder, weight) of each adapter to start from; [] for a new one."""
        found = [(self.adapter, 1.0)] if self.adapter else []
        for item in self.combine:
            parts = re.fullmatch(r"(.+):(-?[0-9]*\.?[0-9]+)", item)
            if not parts:
                raise UserError(f"--combine {item}: is not a folder, a colon and a number, as in outputs/first:0.5")
            found.append((parts[1], float(parts[2])))
        return found
