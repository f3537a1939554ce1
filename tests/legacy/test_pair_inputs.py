"""Pairs as inputs against the tokenizer's own `truncation=True`, token for token, types and mask too."""

import random

import numpy as np
import pytest
import torch

from common.legacy.data import read_rows
from common.legacy.pair_inputs import PairInputs, collate_pairs
from common.legacy.text import PairTemplate, tokenize
from tests.legacy.helpers import message
from tests.legacy.test_text import FAMILIES, random_text, with_template


@pytest.fixture
def load(tiny_tokenizer, minilm):
    """family -> a freshly loaded tokenizer."""

    def load(family, **settings):
        from transformers import AutoTokenizer

        if family == "minilm":
            return AutoTokenizer.from_pretrained(minilm, **settings)
        return tiny_tokenizer(family, **settings)

    return load


def random_pairs(seed: int, count: int, longest: int = 30) -> tuple[list[str], list[str]]:
    """Texts of one word up to `longest` words in every combination; none is the empty string."""
    draw = random.Random(seed)
    words = [n for n in (1, 2, 4, 10, 20, 30) if n <= longest]
    texts = [[random_text(draw, draw.choice(words)) or "a" for _ in range(count)] for _ in range(2)]
    return texts[0], texts[1]


def make_pairs(tokenizer, first, second, **settings) -> PairInputs:
    return PairInputs(tokenizer, tokenize(tokenizer, first), tokenize(tokenizer, second), **settings)


def batches(pairs, size=7):
    for start in range(0, len(pairs), size):
        rows = range(start, min(start + size, len(pairs)))
        yield rows, collate_pairs([pairs[row] for row in rows])


def assert_same_inputs(tokenizer, first, second, max_length: int) -> tuple[int, int]:
    """Everything as the tokenizer has it, batch by batch; returns how many pairs had one, and both, texts cut."""
    expected = tokenizer(first, second, truncation=True, max_length=max_length)
    whole = [len(ids) for ids in tokenizer(first, second)["input_ids"]]
    pairs = make_pairs(tokenizer, first, second, max_length=max_length)
    assert len(pairs) == len(first)
    assert pairs.lengths.tolist() == [len(ids) for ids in expected["input_ids"]]
    assert pairs.pair_lengths.tolist() == whole and pairs.lengths.max() <= max_length
    for rows, batch in batches(pairs):
        reference = tokenizer.pad({name: [expected[name][row] for row in rows] for name in expected})
        assert set(batch) == {"row", *reference} and batch["row"].tolist() == list(rows)
        for name, values in reference.items():
            assert batch[name].dtype == torch.int64 and batch[name].tolist() == values, (name, max_length)
    cut = [
        [
            np.diff(spans).ravel()[row] < tokens.counts[row]
            for spans, tokens in zip((pairs.first, pairs.second), pairs.tokens)
        ]
        for row in range(len(pairs))
    ]
    return sum(any(c) for c in cut), sum(all(c) for c in cut)


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("family", FAMILIES)
def test_inputs_are_the_tokenizers_own(load, family, side):
    tokenizer = load(family, truncation_side=side)
    shortest = tokenizer.num_special_tokens_to_add(pair=True) + 2
    cut = both = 0
    for seed, max_length in enumerate([shortest, shortest + 1, 16, 17, 33, 64, 128]):
        # What a fast tokenizer cuts off it keeps in pieces, the more of them the shorter they are: short texts then.
        texts = random_pairs(seed, 16, longest=4 if max_length < 16 else 30)
        counted = assert_same_inputs(tokenizer, *texts, max_length)
        cut, both = cut + counted[0], both + counted[1]
    assert cut > both > 20  # the cases that matter are there


@pytest.mark.parametrize("family", FAMILIES)
def test_inputs_of_real_pairs_are_the_tokenizers_own(load, shared_data, family):
    tokenizer = load(family)
    for name, columns in (
        ("farstail/Val-word.csv", ("premise", "hypothesis")),
        ("mnli/mnli_train_genre_480.tsv", ("sentence1", "sentence2")),
    ):
        rows = read_rows(shared_data / name)[::16]
        first, second = ([row[column] for row in rows] for column in columns)
        for max_length in (48, 128):
            assert_same_inputs(tokenizer, first, second, max_length)


def test_every_combination_of_lengths_around_the_limit(load):
    """Equal lengths, either text longer, odd and even room: where the two texts' shares are decided."""
    tokenizer = load("bert-base-uncased")
    lengths = [(a, b) for a in range(1, 12) for b in range(1, 12)]
    first, second = [". " * a for a, _ in lengths], ["? " * b for _, b in lengths]
    assert tokenize(tokenizer, first).counts.tolist() == [a for a, _ in lengths]
    for max_length in range(5, 27):
        assert_same_inputs(tokenizer, first, second, max_length)


def test_a_text_without_any_token(load):
    tokenizer = load("bert-base-uncased")
    first, second = ["\u200b", "who was it", "\u200b"], ["it was", "\u200b", "\u200b"]
    assert_same_inputs(tokenizer, first, second, 5)
    assert_same_inputs(tokenizer, first, second, 30)


def test_special_tokens_and_types_wherever_a_tokenizer_puts_them(load):
    for single, pair in (
        ("$A:0 [SEP]:0 [CLS]:2", "$A:0 [SEP]:0 $B:1 [SEP]:1 [CLS]:2"),
        ("[MASK]:5 $A:1", "[MASK]:5 [CLS]:5 $A:1 [SEP]:3 [SEP]:4 $B:2"),
    ):
        tokenizer = with_template(load("bert-base-uncased"), single, pair, ("[SEP]", "[CLS]", "[MASK]"))
        for max_length in (7, 40):
            assert_same_inputs(tokenizer, *random_pairs(3, 12), max_length)


@pytest.mark.parametrize("pad_to, multiple", [(None, None), (None, 8), (None, 1), (64, None), (64, 8)])
def test_batches_are_padded_to_what_was_asked(load, pad_to, multiple):
    tokenizer = load("roberta-base")
    first, second = random_pairs(4, 20)
    expected = tokenizer(first, second, truncation=True, max_length=61)
    pairs = make_pairs(tokenizer, first, second, max_length=61, pad_to=pad_to, pad_to_multiple_of=multiple)
    for rows, batch in batches(pairs, size=3):
        reference = tokenizer.pad(
            {"input_ids": [expected["input_ids"][row] for row in rows]},
            padding="max_length" if pad_to else True,
            max_length=pad_to,
            pad_to_multiple_of=multiple,
            return_tensors="pt",
        )
        assert torch.equal(batch["input_ids"], reference["input_ids"])
        assert torch.equal(batch["attention_mask"], reference["attention_mask"])
        assert pairs.width(np.array(rows)) == reference["input_ids"].shape[1]


def test_batches_may_mix_any_pairs_in_any_order(load):
    tokenizer = load("bert-base-uncased")
    pairs = make_pairs(tokenizer, *random_pairs(6, 15), max_length=40, targets=np.arange(15) % 3)
    order = random.Random(0).sample(range(15), 9)
    together = collate_pairs([pairs[row] for row in order])
    assert together["row"].tolist() == order and together["targets"].tolist() == [row % 3 for row in order]
    for i, row in enumerate(order):
        alone, length = collate_pairs([pairs[row]]), int(pairs.lengths[row])
        for name in ("input_ids", "attention_mask", "token_type_ids"):
            assert torch.equal(together[name][i, :length], alone[name][0])
            assert (together[name][i, length:] == (tokenizer.pad_token_id if name == "input_ids" else 0)).all()


def test_what_the_pairs_were_made_of_and_their_classes_stay_with_them(load):
    tokenizer = load("bert-base-uncased")
    plain = make_pairs(tokenizer, ["who"], ["it was"], max_length=30)
    assert plain.targets is None and plain.examples is None and "targets" not in collate_pairs([plain[0]])
    examples = object()
    known = make_pairs(tokenizer, ["who"], ["it was"], max_length=30, examples=examples, targets=np.array([2]))
    batch = collate_pairs([known[0]])
    assert known.examples is examples and batch["targets"].tolist() == [2] and batch["targets"].dtype == torch.int64


@pytest.mark.parametrize("family", FAMILIES)
def test_no_room_for_two_texts_is_refused(load, family):
    tokenizer = load(family)
    specials = PairTemplate.of(tokenizer).specials
    assert specials == tokenizer.num_special_tokens_to_add(pair=True)
    for max_length in (0, specials, specials + 1):
        sentence = message(make_pairs, tokenizer, ["who"], ["it was"], max_length=max_length)
        assert f"--max_length {max_length} " in sentence and f"{specials} special tokens" in sentence
    assert len(make_pairs(tokenizer, ["who"], ["it was"], max_length=specials + 2)) == 1
