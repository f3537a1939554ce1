"""Where the parts of a text encoder are: embeddings, layers, pooler, head. For freezing, truncating, pruning, caching.

For the encoders whose layers stand in one list, each with weights of its own (BERT, ParsBERT, RoBERTa, XLM-R, ELECTRA,
DistilBERT, ...). Not for models that share their layers (ALBERT) or have no such list.
"""

from dataclasses import dataclass

from common.legacy.errors import UserError


@dataclass(frozen=True)
class Encoder:
    """The parts of a model with a head, which may be wrapped by peft.

    Attributes:
        model: the model itself, unwrapped.
        base: its encoder without the head, such as `model.bert`.
        embeddings: what comes before the first layer.
        stack: the module whose attribute `layer` holds the layers, in order.
        pooler: what comes between the last layer and the head inside `base`, or None (RoBERTa, DistilBERT).
        head: the modules outside of `base` by name: what is new when a pre-trained encoder gets a head.
    """

    model: object
    base: object
    embeddings: object
    stack: object
    pooler: object | None
    head: dict[str, object]

    @property
    def layers(self):
        """The layers, a `torch.nn.ModuleList`; the first one is next to the embeddings."""
        return self.stack.layer

    @property
    def front(self) -> list:
        """All modules of `base` that work before the layers or for all of them: what is frozen with the embeddings.

        ELECTRA projects its embeddings by a module of its own; DeBERTa keeps relative positions beside the layers.
        """
        beside = [module for name, module in self.stack.named_children() if name != "layer"]
        return [m for m in self.base.children() if m is not self.stack and m is not self.pooler] + beside

    @classmethod
    def of(cls, model) -> "Encoder":
        """The parts of `model`; raises `UserError` where they are not as described above."""
        model = model.get_base_model() if hasattr(model, "get_base_model") else model
        base = model.base_model
        stack = getattr(base, "encoder", None) or getattr(base, "transformer", None)
        if base is model or not hasattr(base, "embeddings") or not hasattr(stack, "layer"):
            raise UserError(
                f"a {model.config.model_type} model keeps its layers in another way than BERT, RoBERTa, XLM-R, ELECTRA "
                "and DistilBERT do; choose one of these, or train it whole"
            )
        head = {name: module for name, module in model.named_children() if module is not base}
        return cls(model, base, base.embeddings, stack, getattr(base, "pooler", None), head)
