"""Tiny random classifiers for the tests of `common.text`."""

import torch
from transformers import AutoConfig, AutoModelForSequenceClassification, set_seed

FAMILIES = ("bert", "roberta", "xlm-roberta", "distilbert", "electra")


def tiny_model(family: str, layers: int = 4, seed: int = 0, **settings):
    """A random model whose every weight matters: biases and norms are random too. Of odd sizes; 4 heads of size 8."""
    if family == "distilbert":
        sizes = {"dim": 32, "hidden_dim": 52, "n_layers": layers, "n_heads": 4}
    else:
        sizes = {"hidden_size": 32, "intermediate_size": 52, "num_hidden_layers": layers, "num_attention_heads": 4}
        sizes |= {"type_vocab_size": 3} | ({"embedding_size": 20} if family in ("electra", "albert") else {})
    sizes |= {"vocab_size": 71, "max_position_embeddings": 43, "num_labels": 3, "pad_token_id": 1}
    set_seed(seed)
    model = AutoModelForSequenceClassification.from_config(AutoConfig.for_model(family, **{**sizes, **settings}))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model.eval()


def tiny_batch(model, seed: int = 0) -> dict[str, torch.Tensor]:
    """Five sentences of 3 to 11 tokens, padded, with token types where the model takes them."""
    random = torch.Generator().manual_seed(seed)
    lengths = torch.tensor([11, 7, 3, 9, 4])
    mask = (torch.arange(11) < lengths[:, None]).long()
    ids = torch.where(mask == 1, torch.randint(5, model.config.vocab_size, (5, 11), generator=random), 1)
    batch = {"input_ids": ids, "attention_mask": mask}
    if model.config.model_type in ("bert", "electra"):
        batch["token_type_ids"] = torch.randint(0, 2, (5, 11), generator=random) * mask
    return batch


def logits_of(model, batch=None) -> torch.Tensor:
    with torch.no_grad():
        return model(**(batch or tiny_batch(model))).logits


def trained_names(model) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}
