"""Tiny text models with random weights and tokenizers of their own, for `--demo` and for tests.

The real architectures, so that the Auto classes load them like real checkpoints, with a few hundred thousand parameters
and a tokenizer trained on the spot. A function of texts and seed alone: the same files, byte for byte, on every run.
"""

import math
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from common.errors import UserError

VOCABULARY_SIZE = 2000
# model_type, a word of the model's name -> how its classes begin.
FAMILIES = {"xlm-roberta": "XLMRoberta", "distilbert": "DistilBert", "roberta": "Roberta", "bert": "Bert"}
BERT_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
XLMR_TOKENS = ("<s>", "<pad>", "</s>", "<unk>")


def twin_of(architecture: str) -> tuple[str, str]:
    """(model_type, tokenizer class) for a model id such as `HooshvareLab/bert-base-parsbert-uncased`."""
    name = architecture.rstrip("/").split("/")[-1].lower()
    for family, classes in FAMILIES.items():
        if re.search(rf"(?<![a-z])(pars|distil)?{family}(?![a-z])", name):  # HuBERT is no BERT
            return family, f"{classes}Tokenizer"
    known = ", ".join(FAMILIES)
    raise UserError(f"--demo has no tiny twin of the model {architecture!r}; choose one with {known} in its name")


def tiny_model(
    architecture: str, texts: list[str], folder: Path, head: str, seed: int = 0, labels: Sequence = (), layers: int = 2
) -> Path:
    """Writes a tiny random model and a fast tokenizer trained on `texts` into `folder`, as `save_pretrained` does.

    `architecture` is a model id (see `twin_of`), `head` "none", "question-answering" or "sequence-classification",
    `labels` the names of the classes where the head has some. The caller's random state is left alone.
    """
    import torch
    import transformers

    model_type, tokenizer_class = twin_of(architecture)
    tokenizer = _tokenizer(getattr(transformers, tokenizer_class), texts)
    # Some names are DistilBERT's own. No dropout, for training is short.
    shape = {"hidden_size": 128, "num_attention_heads": 4, "intermediate_size": 256, "hidden_dim": 256}
    shape |= dict.fromkeys(("hidden_dropout_prob", "attention_probs_dropout_prob", "dropout", "attention_dropout"), 0.0)
    shape |= dict.fromkeys(("qa_dropout", "seq_classif_dropout"), 0.0) | {"num_hidden_layers": layers}
    if roberta := model_type.endswith("roberta"):
        shape |= {"layer_norm_eps": 1e-5, "type_vocab_size": 1}
    if labels:
        shape |= {"id2label": dict(enumerate(labels)), "label2id": {name: i for i, name in enumerate(labels)}}
    shape |= {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}
    shape |= {"initializer_range": 0.1}  # wider than for 768 dimensions, or attention stays flat for hundreds of steps
    shape |= {"max_position_embeddings": 514 if roberta else 512}  # RoBERTa counts from padding_idx + 1
    config = transformers.AutoConfig.for_model(model_type, **shape)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        kind = "AutoModel" if head == "none" else f"AutoModelFor{head.title().replace('-', '')}"
        model = getattr(transformers, kind).from_config(config)
        _write_sinusoids(model)
        if head == "sequence-classification":
            _look_for_equal_words(model)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return Path(folder)


def _tokenizer(kind, texts: list[str]):
    """A tokenizer of the class `kind` with a vocabulary learnt from `texts`.

    The trainers of WordPiece and Unigram give another vocabulary in every process; theirs is every character and the
    most frequent words.
    """
    blank = kind(model_max_length=512)
    if kind.__name__ == "RobertaTokenizer":
        return blank.train_new_from_iterator(texts, VOCABULARY_SIZE, model_max_length=512, show_progress=False)
    backend, counts = blank.backend_tokenizer, Counter()
    for text in texts:
        normalized = backend.normalizer.normalize_str(text) if backend.normalizer else text
        for word, _ in backend.pre_tokenizer.pre_tokenize_str(normalized):
            counts.update(re.findall(r"▁?\w+|▁?[^\w▁]", word))  # XLM-R leaves punctuation at its word
    characters = sorted(set("".join(counts)) | set(map(chr, range(33, 127))))
    words = sorted((word for word in counts if len(word) > 1), key=lambda word: (-counts[word], word))
    if "Bert" in kind.__name__:
        pieces = [*BERT_TOKENS, *characters, *("##" + character for character in characters), *words]
        return kind(vocab={piece: i for i, piece in enumerate(pieces[:VOCABULARY_SIZE])}, model_max_length=512)
    # A Unigram cuts where the sum of scores is highest: a word must beat the characters it is made of.
    scores = [*((token, 0.0) for token in XLMR_TOKENS), *((word, -math.log(2 + i)) for i, word in enumerate(words))]
    scores = scores[: VOCABULARY_SIZE - len(characters)] + [(character, -20.0) for character in characters]
    return kind(vocab=[*scores, ("<mask>", 0.0)], model_max_length=512)


def _write_sinusoids(model) -> None:
    """Starts the position table from sinusoids: without, the demo of run_qa.py gets 63-80 F1 instead of 94-99."""
    import torch

    table = next(m for name, m in model.named_modules() if name.endswith("position_embeddings"))
    places, size = table.weight.shape
    angles = torch.arange(places)[:, None] * torch.exp(torch.arange(0, size, 2) * (-math.log(10000.0) / size))
    waves = torch.stack([angles.sin(), angles.cos()], dim=-1).reshape(places, size)
    table.weight.copy_(waves * model.config.initializer_range)
    if table.padding_idx is not None:
        table.weight[table.padding_idx] = 0


def _look_for_equal_words(model) -> None:
    """Starts the first layer's keys as copies of its queries: a word looks at the same word elsewhere.

    Pairs of texts are judged by what they share; the demos on sentence pairs hardly learn from other random weights.
    """
    attention = next(module for module in model.modules() if hasattr(module, "query") or hasattr(module, "q_lin"))
    query, key = (attention.q_lin, attention.k_lin) if hasattr(attention, "q_lin") else (attention.query, attention.key)
    types = getattr(model.base_model.embeddings, "token_type_embeddings", None)
    if types is not None:
        types.weight *= 0.3  # or every word of the same text is as much alike as the same word of the other text
    query.weight *= 2
    key.weight.copy_(query.weight)
