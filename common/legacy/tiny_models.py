"""Tiny models with random weights and tokenizers of their own, for the scripts' `--demo` and for tests.

The real architectures, so that the Auto classes load them like real checkpoints, with a few hundred thousand parameters
and a tokenizer trained on the spot. A function of texts and seed alone: the same files, byte for byte, on every run.
"""

import json
import math
import re
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from common.legacy.errors import UserError

VOCABULARY_SIZE = 2000
HEADS = {
    "none": "AutoModel",
    "question-answering": "AutoModelForQuestionAnswering",
    "sequence-classification": "AutoModelForSequenceClassification",
}


class Twin(NamedTuple):
    """The architecture that stands in for a family of pre-trained models."""

    model_type: str
    tokenizer_class: str
    algorithm: str  # how the tokenizer cuts words: wordpiece, bpe or unigram
    special_tokens: tuple[str, ...]  # the first ids, in the order of the real vocabularies; the last one is the mask


BERT_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
ROBERTA_TOKENS = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")

TWINS = {
    "bert": Twin("bert", "BertTokenizer", "wordpiece", BERT_TOKENS),
    "distilbert": Twin("distilbert", "DistilBertTokenizer", "wordpiece", BERT_TOKENS),
    "parsbert": Twin("bert", "BertTokenizer", "wordpiece", BERT_TOKENS),
    "roberta": Twin("roberta", "RobertaTokenizer", "bpe", ROBERTA_TOKENS),
    "distilroberta": Twin("roberta", "RobertaTokenizer", "bpe", ROBERTA_TOKENS),
    "xlm-roberta": Twin("xlm-roberta", "XLMRobertaTokenizer", "unigram", ROBERTA_TOKENS),
}


def twin_of(architecture: str) -> Twin:
    """The tiny stand-in for a model id such as `HooshvareLab/bert-base-parsbert-uncased`, or a `UserError`.

    The family is looked for as a whole word of the id's last part, so that HuBERT or DeBERTa are not taken for BERT,
    and the longest name first, so that xlm-roberta is not taken for roberta.
    """
    name = architecture.rstrip("/").split("/")[-1].lower()
    for family in sorted(TWINS, key=len, reverse=True):
        if re.search(rf"(?<![a-z]){family}(?![a-z])", name):
            return TWINS[family]
    raise UserError(
        f"--demo has no tiny twin of the model {architecture!r}; choose one with "
        f"{', '.join(sorted(TWINS))} in its name, such as distilbert-base-uncased"
    )


def tiny_model(
    architecture: str,
    texts: list[str],
    folder: Path,
    head: str,
    seed: int = 0,
    labels: tuple[str, ...] = (),
    layers: int = 2,
) -> Path:
    """Writes a tiny random model of the architecture and a fast tokenizer trained on `texts` into `folder`.

    `architecture` is a model id (see `twin_of`), `head` a key of `HEADS`, `labels` the names of the classes where the
    head has some. The folder has the layout of `save_pretrained`, so the Auto classes load it like a real checkpoint.
    The caller's random state is left alone.
    """
    import torch
    import transformers

    twin = twin_of(architecture)
    tokenizer = _tiny_tokenizer(twin, texts)
    config = _tiny_config(twin, tokenizer, labels, layers)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = getattr(transformers, HEADS[head]).from_config(config)
    _write_sinusoids(model)
    if head == "sequence-classification":
        _look_for_equal_words(model)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return Path(folder)


def _tiny_tokenizer(twin: Twin, texts: list[str]):
    import transformers

    tokenizer_class = getattr(transformers, twin.tokenizer_class)
    blank = tokenizer_class().backend_tokenizer  # the class's own normaliser and pre-tokeniser, with no vocabulary yet
    if twin.algorithm == "bpe":
        vocabulary = _byte_pairs(blank.pre_tokenizer, texts, twin.special_tokens)
    else:
        vocabulary = _whole_words(blank, texts, twin)
    return tokenizer_class(**vocabulary, model_max_length=512)


def _byte_pairs(pre_tokenizer, texts: list[str], special_tokens: tuple[str, ...]) -> dict:
    """Vocabulary and merges of a byte-level BPE: the one trainer of `tokenizers` that gives the same twice."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizer
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_SIZE,
        special_tokens=list(special_tokens),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    trained = json.loads(tokenizer.to_str())["model"]
    return {"vocab": trained["vocab"], "merges": [tuple(pair) for pair in trained["merges"]]}


def _whole_words(blank, texts: list[str], twin: Twin) -> dict:
    """Vocabulary of the most frequent words and every character, for WordPiece and Unigram.

    The trainers of these two break ties by hash and give another vocabulary in every process, hence this.
    """
    counts = Counter()
    for text in texts:
        normalized = blank.normalizer.normalize_str(text) if blank.normalizer else text
        for word, _ in blank.pre_tokenizer.pre_tokenize_str(normalized):
            counts.update(re.findall(r"▁?\w+|▁?[^\w▁]", word))  # XLM-R leaves punctuation at its word
    characters = sorted(set("".join(counts)) | set(map(chr, range(33, 127))))
    ranked = sorted(counts, key=lambda word: (-counts[word], word))
    if twin.algorithm == "wordpiece":
        pieces = [*characters, *("##" + character for character in characters)]
        tokens = list(dict.fromkeys([*twin.special_tokens, *pieces, *ranked]))[:VOCABULARY_SIZE]
        return {"vocab": {token: number for number, token in enumerate(tokens)}}
    # A Unigram cuts where the sum of log probabilities is highest: a word must beat the characters it is made of.
    total = sum(counts.values())
    words = [word for word in ranked if len(word) > 1][: VOCABULARY_SIZE - len(characters) - len(twin.special_tokens)]
    scored = [(word, math.log(counts[word] / total)) for word in words]
    rare = [(character, -2 * math.log(total)) for character in characters]
    first, mask = twin.special_tokens[:-1], twin.special_tokens[-1]
    return {"vocab": [(token, 0.0) for token in first] + scored + rare + [(mask, 0.0)]}


def _tiny_config(twin: Twin, tokenizer, labels: tuple[str, ...], layers: int):
    from transformers import AutoConfig

    # No dropout: it slows a model that sees a few hundred steps, and equal runs can be told equal to the last digit.
    if twin.model_type == "distilbert":
        shape = {"dim": 128, "hidden_dim": 256, "n_layers": layers, "n_heads": 4}
        shape |= {"dropout": 0.0, "attention_dropout": 0.0, "qa_dropout": 0.0, "seq_classif_dropout": 0.0}
    else:
        shape = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": layers, "num_attention_heads": 4}
        shape |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    roberta = twin.special_tokens is ROBERTA_TOKENS
    if roberta:
        shape |= {"layer_norm_eps": 1e-5, "type_vocab_size": 1}
    if labels:
        shape |= {"id2label": dict(enumerate(labels)), "label2id": {name: at for at, name in enumerate(labels)}}
    return AutoConfig.for_model(
        twin.model_type,
        vocab_size=len(tokenizer),
        max_position_embeddings=514 if roberta else 512,  # RoBERTa counts from padding_idx + 1
        pad_token_id=tokenizer.pad_token_id,
        initializer_range=0.1,  # wider than for 768 dimensions, or attention stays flat for hundreds of steps
        **shape,
    )


def _write_sinusoids(model) -> None:
    """Starts the position table from sinusoids: "the token before" is then one rotation, learnt once for all places.

    From a random table the demo of run_qa.py gets 63-80 F1 in the steps in which it gets 94-99 from this one.
    """
    import torch

    for name, table in model.named_modules():
        if name.endswith("position_embeddings") and isinstance(table, torch.nn.Embedding):
            places, size = table.weight.shape
            rates = torch.exp(torch.arange(0, size, 2) * (-math.log(10000.0) / size))
            angles = torch.arange(places)[:, None] * rates
            waves = torch.stack([angles.sin(), angles.cos()], dim=-1).reshape(places, size)
            with torch.no_grad():
                table.weight.copy_(waves * model.config.initializer_range)
                if table.padding_idx is not None:
                    table.weight[table.padding_idx] = 0


def _look_for_equal_words(model) -> None:
    """Starts the first layer's keys as copies of its queries: a word looks at itself and at the same word elsewhere.

    Pairs of texts are judged by what they share. From other random weights the demos of the two scripts on sentence
    pairs stay for hundreds of steps at what the second text alone gives away, about half of the labels.
    """
    import torch

    attention = next(module for module in model.modules() if hasattr(module, "query") or hasattr(module, "q_lin"))
    distilbert = hasattr(attention, "q_lin")
    query, key = (attention.q_lin, attention.k_lin) if distilbert else (attention.query, attention.key)
    types = getattr(model.base_model.embeddings, "token_type_embeddings", None)
    with torch.no_grad():
        if types is not None:
            types.weight *= 0.3  # or every word of the same text is as much alike as the same word of the other text
        query.weight *= 2
        key.weight.copy_(query.weight)
