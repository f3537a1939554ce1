"""Tiny text models with random weights and tokenizers of their own, for `--demo` and for tests.

The real architectures, so that the Auto classes load them like real checkpoints, with a few hundred thousand parameters
and a tokenizer trained on the spot. A function of texts and seed alone: the same files, byte for byte, on every run.
"""

import json
import math
import re
from collections import Counter
from pathlib import Path

from common.errors import UserError

VOCABULARY_SIZE = 2000
HEADS = {
    "none": "AutoModel",
    "question-answering": "AutoModelForQuestionAnswering",
    "sequence-classification": "AutoModelForSequenceClassification",
}
# Word in a model's name -> (model_type, tokenizer class).
TWINS = {
    "bert": ("bert", "BertTokenizer"),
    "parsbert": ("bert", "BertTokenizer"),
    "distilbert": ("distilbert", "DistilBertTokenizer"),
    "roberta": ("roberta", "RobertaTokenizer"),
    "distilroberta": ("roberta", "RobertaTokenizer"),
    "xlm-roberta": ("xlm-roberta", "XLMRobertaTokenizer"),
}
# The first ids, in the order of the real vocabularies; the last one is the mask.
BERT_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
ROBERTA_TOKENS = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")


def twin_of(architecture: str) -> tuple[str, str]:
    """(model_type, tokenizer class) for a model id such as `HooshvareLab/bert-base-parsbert-uncased`.

    The family is a whole word of the id's last part, so that HuBERT is not taken for BERT, and the longest name comes
    first, so that xlm-roberta is not taken for roberta.

    Raises:
        UserError: for a model of another family.
    """
    name = architecture.rstrip("/").split("/")[-1].lower()
    for family in sorted(TWINS, key=len, reverse=True):
        if re.search(rf"(?<![a-z]){family}(?![a-z])", name):
            return TWINS[family]
    raise UserError(
        f"--demo has no tiny twin of the model {architecture!r}; choose one with {', '.join(sorted(TWINS))} in its "
        "name, such as distilbert-base-uncased"
    )


def tiny_model(
    architecture: str,
    texts: list[str],
    folder: str | Path,
    head: str,
    seed: int = 0,
    labels: tuple[str, ...] = (),
    layers: int = 2,
) -> Path:
    """Writes a tiny random model and a fast tokenizer trained on `texts` into `folder`, as `save_pretrained` does.

    `architecture` is a model id (see `twin_of`), `head` a key of `HEADS`, `labels` the names of the classes where the
    head has some. The caller's random state is left alone.
    """
    import torch
    import transformers

    model_type, tokenizer_class = twin_of(architecture)
    tokenizer = _tokenizer(getattr(transformers, tokenizer_class), texts)
    # No dropout: it slows a model that sees a few hundred steps.
    if model_type == "distilbert":
        shape = {"dim": 128, "hidden_dim": 256, "n_layers": layers, "n_heads": 4}
        shape |= dict.fromkeys(("dropout", "attention_dropout", "qa_dropout", "seq_classif_dropout"), 0.0)
    else:
        shape = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": layers, "num_attention_heads": 4}
        shape |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    if roberta := model_type.endswith("roberta"):
        shape |= {"layer_norm_eps": 1e-5, "type_vocab_size": 1}
    if labels:
        shape |= {"id2label": dict(enumerate(labels)), "label2id": {name: i for i, name in enumerate(labels)}}
    config = transformers.AutoConfig.for_model(
        model_type,
        vocab_size=len(tokenizer),
        max_position_embeddings=514 if roberta else 512,  # RoBERTa counts from padding_idx + 1
        pad_token_id=tokenizer.pad_token_id,
        initializer_range=0.1,  # wider than for 768 dimensions, or attention stays flat for hundreds of steps
        **shape,
    )
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        model = getattr(transformers, HEADS[head]).from_config(config)
        _write_sinusoids(model)
        if head == "sequence-classification":
            _look_for_equal_words(model)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return Path(folder)


def _tokenizer(tokenizer_class, texts: list[str]):
    """A tokenizer of the class with its own normaliser and pre-tokeniser, and a vocabulary learnt from `texts`."""
    blank = tokenizer_class().backend_tokenizer
    if tokenizer_class.__name__ == "RobertaTokenizer":
        vocabulary = _byte_pairs(blank.pre_tokenizer, texts)
    else:
        vocabulary = _whole_words(blank, texts, wordpiece="Bert" in tokenizer_class.__name__)
    return tokenizer_class(**vocabulary, model_max_length=512)


def _byte_pairs(pre_tokenizer, texts: list[str]) -> dict:
    """Vocabulary and merges of a byte-level BPE: the one trainer of `tokenizers` that gives the same twice."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizer
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_SIZE, special_tokens=list(ROBERTA_TOKENS), initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    trained = json.loads(tokenizer.to_str())["model"]
    return {"vocab": trained["vocab"], "merges": [tuple(pair) for pair in trained["merges"]]}


def _whole_words(blank, texts: list[str], wordpiece: bool) -> dict:
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
    if wordpiece:
        pieces = [*BERT_TOKENS, *characters, *("##" + character for character in characters), *ranked]
        return {"vocab": {token: i for i, token in enumerate(list(dict.fromkeys(pieces))[:VOCABULARY_SIZE])}}
    # A Unigram cuts where the sum of log probabilities is highest: a word must beat the characters it is made of.
    total = sum(counts.values())
    words = [word for word in ranked if len(word) > 1][: VOCABULARY_SIZE - len(characters) - len(ROBERTA_TOKENS)]
    scores = [(word, math.log(counts[word] / total)) for word in words]
    scores += [(character, -2 * math.log(total)) for character in characters]
    *first, mask = ROBERTA_TOKENS
    return {"vocab": [(token, 0.0) for token in first] + scores + [(mask, 0.0)]}


def _write_sinusoids(model) -> None:
    """Starts the position table from sinusoids: "the token before" is then one rotation, learnt once for all places.

    From a random table the demo of run_qa.py gets 63-80 F1 in the steps in which it gets 94-99 from this one.
    """
    import torch

    table = next(m for name, m in model.named_modules() if name.endswith("position_embeddings"))
    places, size = table.weight.shape
    angles = torch.arange(places)[:, None] * torch.exp(torch.arange(0, size, 2) * (-math.log(10000.0) / size))
    waves = torch.stack([angles.sin(), angles.cos()], dim=-1).reshape(places, size)
    table.weight.copy_(waves * model.config.initializer_range)
    if table.padding_idx is not None:
        table.weight[table.padding_idx] = 0


def _look_for_equal_words(model) -> None:
    """Starts the first layer's keys as copies of its queries: a word looks at itself and at the same word elsewhere.

    Pairs of texts are judged by what they share. From other random weights the demos of the two scripts on sentence
    pairs stay for hundreds of steps at what the second text alone gives away, about half of the labels.
    """
    attention = next(module for module in model.modules() if hasattr(module, "query") or hasattr(module, "q_lin"))
    query, key = (attention.q_lin, attention.k_lin) if hasattr(attention, "q_lin") else (attention.query, attention.key)
    types = getattr(model.base_model.embeddings, "token_type_embeddings", None)
    if types is not None:
        types.weight *= 0.3  # or every word of the same text is as much alike as the same word of the other text
    query.weight *= 2
    key.weight.copy_(query.weight)
