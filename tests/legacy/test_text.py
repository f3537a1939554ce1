"""Windows of pairs against the tokenizer's own pair encoding, token for token, and labels against their definition."""

import functools
import json
import random

import numpy as np
import pytest
import torch

from common.legacy import text
from common.legacy.errors import UserError
from common.legacy.text import PairTemplate, Windows, collate_windows, tokenize, tokenize_once, too_long
from tests.legacy.conftest import ARCHITECTURES, TEXTS

FAMILIES = (*ARCHITECTURES, "minilm")
# Pieces that tokenizers stumble over: special tokens written out, joined emoji, marks that normalisation moves, breaks.
ODDITIES = [
    "[SEP]",
    "</s>",
    "<mask>",
    "👩‍👩‍👧",
    "🙂🙃",
    "e\u0301\u0323",
    "ﬁne ½ ①",
    "İstanbul",
    "ＡＢＣ",  # noqa: RUF001
    "کتاب‌ها",  # noqa: RUF001
    "مي‌روم كتاب",
    "ŏ̀",
    "x" * 130,
    "北京東京",
    "\u200f۱۲۳٫۴",  # noqa: RUF001
    "—",
    "...",
    "U.S.A.'s",
    "\u00a0",
    "\u2028",
    "\x00\x07",
    "�",
    "한국어",
    "हिन्दी",
]
BREAKS = [" "] * 12 + ["  ", "\n", "\r\n", "\t", "", "-", "\u200c", "\u00ad"]


def random_text(draw: random.Random, words: int) -> str:
    """Known words, odd ones and plain nonsense."""
    known = " ".join(TEXTS).split()
    made = ""
    for _ in range(words):
        kind = draw.random()
        if kind < 0.6:
            made += draw.choice(known)
        elif kind < 0.8:
            made += draw.choice(ODDITIES)
        elif kind < 0.9:
            made += "".join(draw.choice("abcdefghijéöкش") for _ in range(draw.randrange(1, 12)))
        else:
            made += "".join(chr(draw.choice([draw.randrange(32, 0x250), draw.randrange(0x600, 0x700)])) for _ in "ab")
        made += draw.choice(BREAKS)
    return made


def random_pairs(seed: int, contexts: int, questions: int) -> tuple[list[str], list[str], np.ndarray]:
    """Questions, contexts (the first two of them with hardly a token), and which context each question is about."""
    draw = random.Random(seed)
    texts = ["a", "  b \n", *(random_text(draw, draw.choice([1, 3, 20, 60, 200])) for _ in range(contexts - 2))]
    asked = [random_text(draw, draw.randrange(1, 12)) for _ in range(questions)]
    return asked, texts, np.array([draw.randrange(contexts) for _ in range(questions)])


@pytest.fixture
def load(tiny_tokenizer, minilm):
    """family -> a freshly loaded tokenizer."""

    def load(family, **settings):
        from transformers import AutoTokenizer

        return (
            AutoTokenizer.from_pretrained(minilm, **settings)
            if family == "minilm"
            else tiny_tokenizer(family, **settings)
        )

    return load


def make_windows(tokenizer, questions, contexts, context_of, **settings) -> Windows:
    """Windows over all the pairs; a question that is too long is cut down by words until it fits."""
    return Windows(tokenizer, tokenize(tokenizer, questions), tokenize(tokenizer, contexts), context_of, **settings)


def short_enough(tokenizer, questions, *, max_length, stride, specials) -> list[str]:
    """`questions` cut until they leave more than `stride` tokens, as the tokenizer itself counts them."""
    fitting = []
    for question in questions:
        while len(tokenizer(question, add_special_tokens=False)["input_ids"]) >= max_length - specials - stride:
            question = question[: len(question) // 2]
        fitting.append(question)
    return fitting


def encoded(tokenizer, questions, contexts, context_of, *, max_length, stride):
    """The tokenizer's own windows, as the official example asks for them; and the sequence number of a context."""
    right = tokenizer.padding_side == "right"
    paired = [contexts[c] for c in context_of]
    encoding = tokenizer(
        questions if right else paired,
        paired if right else questions,
        truncation="only_second" if right else "only_first",
        max_length=max_length,
        stride=stride,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
    )
    return encoding, 1 if right else 0


def batches(windows, size=7):
    """All windows in batches, each with its rows."""
    for start in range(0, len(windows), size):
        rows = range(start, min(start + size, len(windows)))
        yield rows, collate_windows([windows[row] for row in rows])


def class_position(tokenizer, ids) -> int:
    """Where the token stands that a model points at for "no answer": the class token, else the first token."""
    return ids.index(tokenizer.cls_token_id) if tokenizer.cls_token_id in ids else 0


def assert_same_windows(tokenizer, windows, encoding, context_number, types_of=None):
    """Ids, types, mask, pair, context and the characters of every context token, as in `encoding`.

    `types_of` gives the expected types of a row where those of `encoding` are not to be trusted.
    """
    assert len(windows) == len(encoding["input_ids"])
    assert windows.pair.tolist() == encoding["overflow_to_sample_mapping"]
    assert windows.lengths.tolist() == [len(ids) for ids in encoding["input_ids"]]
    for rows, batch in batches(windows):
        width = max(len(encoding["input_ids"][row]) for row in rows)
        assert set(batch) - {"targets"} == {"row", "context_mask", "null_at"} | set(encoding) - {
            "offset_mapping",
            "overflow_to_sample_mapping",
        }
        assert batch["row"].tolist() == list(rows)
        assert batch["input_ids"].shape == batch["attention_mask"].shape == (len(rows), width)
        for i, row in enumerate(rows):
            ids = encoding["input_ids"][row]
            padding = [0] * (width - len(ids))
            assert batch["input_ids"][i].tolist() == ids + [tokenizer.pad_token_id] * len(padding)
            assert batch["attention_mask"][i].tolist() == encoding["attention_mask"][row] + padding
            if "token_type_ids" in encoding:
                types = types_of(row) if types_of else encoding["token_type_ids"][row]
                assert batch["token_type_ids"][i].tolist() == types + padding
            sequence = encoding.sequence_ids(row)
            inside = [number == context_number for number in sequence]
            assert batch["context_mask"][i].tolist() == inside + [False] * len(padding)
            at = np.flatnonzero(inside)
            first, last = windows.characters(np.full(len(at), row), at)
            assert list(zip(first, last)) == [tuple(encoding["offset_mapping"][row][p]) for p in at]
            assert batch["null_at"][i] == class_position(tokenizer, ids)


def assert_same_labels(tokenizer, windows, encoding, context_number, answers, contexts, context_of):
    """The tokens of an answer are those that share a character with it; all of them must be in the window."""
    context_offsets = tokenizer(contexts, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]

    def touching(offsets, answer):
        return [i for i, (first, last) in enumerate(offsets) if first < answer[1] and last > answer[0]]

    expected, whole = [], 0
    for row, ids in enumerate(encoding["input_ids"]):
        pair = encoding["overflow_to_sample_mapping"][row]
        at = [i for i, number in enumerate(encoding.sequence_ids(row)) if number == context_number]
        offsets = [encoding["offset_mapping"][row][i] for i in at]
        here, everywhere = (touching(o, answers[pair]) for o in (offsets, context_offsets[context_of[pair]]))
        if answers[pair][0] >= 0 and everywhere and len(here) == len(everywhere):
            expected.append([at[here[0]], at[here[-1]]])
            whole += 1
        else:
            expected.append([class_position(tokenizer, ids)] * 2)
    assert windows.targets.tolist() == expected
    for rows, batch in batches(windows):
        assert batch["targets"].tolist() == [expected[row] for row in rows]
    return whole


def random_answers(draw, contexts, context_of) -> np.ndarray:
    """Spans of characters of the contexts: none, single characters, words, long ones, and at either end."""
    answers = []
    for c in context_of:
        length = len(contexts[c])
        start = draw.choice([0, draw.randrange(length), draw.randrange(length)])
        end = draw.choice([start + 1, start + draw.randrange(1, 15), start + draw.randrange(1, 200), length])
        answers.append((-1, -1) if draw.random() < 0.15 else (start, min(end, length)))
    return np.array(answers)


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("family", FAMILIES)
def test_windows_and_labels_are_the_tokenizers_own(load, family, side):
    tokenizer = load(family, padding_side=side)
    specials = tokenizer.num_special_tokens_to_add(pair=True)
    whole = 0
    for seed, (max_length, stride) in enumerate([(48, 16), (64, 0), (33, 20), (384, 128), (512, 511 - 60)]):
        questions, contexts, context_of = random_pairs(seed, contexts=12, questions=16)
        questions = short_enough(tokenizer, questions, max_length=max_length, stride=stride, specials=specials)
        answers = random_answers(random.Random(seed), contexts, context_of)
        settings = {"max_length": max_length, "stride": stride}
        encoding, number = encoded(tokenizer, questions, contexts, context_of, **settings)
        windows = make_windows(tokenizer, questions, contexts, context_of, answers=answers, **settings)
        assert_same_windows(tokenizer, windows, encoding, number)
        whole += assert_same_labels(tokenizer, windows, encoding, number, answers, contexts, context_of)
        for i, c in enumerate(context_of):
            sides = (questions[i], contexts[c]) if side == "right" else (contexts[c], questions[i])
            assert windows.pair_lengths[i] == len(tokenizer(*sides)["input_ids"])
    assert whole > 50  # the case that matters is there


@functools.cache
def real_examples(path, count):
    """`count` questions of a real file and what is asked about: (question, context, first and last character)."""
    asked = [
        (q["question"], p["context"], [(a["answer_start"], a["answer_start"] + len(a["text"])) for a in q["answers"]])
        for article in json.loads(path.read_bytes())["data"]
        for p in article["paragraphs"]
        for q in p["qas"]
    ]
    return random.Random(5).sample(asked, count)


@pytest.mark.parametrize("name", ["squad_v2_dev.json", "pquad_validation.json"])
@pytest.mark.parametrize("family", FAMILIES)
def test_windows_and_labels_on_real_texts(load, shared_data, family, name):
    tokenizer = load(family)
    examples = real_examples(shared_data / "squad_v2" / name, 40)
    contexts = list(dict.fromkeys(context for _, context, _ in examples))
    questions = [question for question, _, _ in examples]
    context_of = np.array([contexts.index(context) for _, context, _ in examples])
    answers = np.array([spans[0] if spans else (-1, -1) for _, _, spans in examples])
    settings = {"max_length": 384, "stride": 64}
    encoding, number = encoded(tokenizer, questions, contexts, context_of, **settings)
    windows = make_windows(tokenizer, questions, contexts, context_of, answers=answers, **settings)
    assert_same_windows(tokenizer, windows, encoding, number)
    whole = assert_same_labels(tokenizer, windows, encoding, number, answers, contexts, context_of)
    answerable = (answers[:, 0] >= 0).sum()
    assert whole >= answerable > 10  # none is longer than what windows share, so each is whole somewhere
    # And from the labels back to the text: at most the rest of the answer's first and last word is more.
    for row in np.flatnonzero(windows.targets[:, 0] != windows.null_at):
        first, _ = windows.characters(row, windows.targets[row, 0])
        _, last = windows.characters(row, windows.targets[row, 1])
        start, end = answers[windows.pair[row]]
        found, answer = (
            contexts[context_of[windows.pair[row]]][first:last],
            contexts[context_of[windows.pair[row]]][start:end],
        )
        assert answer.strip() in found and len(found.split()) <= len(answer.split()) + 2


def test_an_answer_that_ends_with_the_window_is_whole(load):
    """The official example labels it as absent: it walks one token too far."""
    tokenizer = load("bert-base-uncased")
    context = "Anna Berg was in Kassel when it was closed in 1921"
    tokens = tokenize(tokenizer, [context])
    question = tokenize(tokenizer, ["who"])
    room = 5
    settings = {"max_length": room + 3 + int(question.counts[0]), "stride": 0}
    for last in range(len(tokens.ids)):
        answer = np.array([[tokens.first[last], tokens.last[last]]])
        windows = Windows(tokenizer, question, tokens, np.array([0]), answers=answer, **settings)
        labelled = np.flatnonzero(windows.targets[:, 0])
        assert labelled.tolist() == [last // room]
        at = 2 + int(question.counts[0]) + last % room
        assert windows.targets[last // room].tolist() == [at, at]


# Special tokens in other places


def with_template(tokenizer, single, pair, names):
    from tokenizers.processors import TemplateProcessing

    tokens = [(name, tokenizer.convert_tokens_to_ids(name)) for name in names]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single=single, pair=pair, special_tokens=tokens)
    return tokenizer


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize(
    "single, pair",
    [
        ("$A [SEP] [CLS]", "$A [SEP] $B [SEP] [CLS]"),
        ("$A:0 [SEP]:0 [CLS]:2", "$A:0 [SEP]:0 $B:1 [SEP]:1 [CLS]:2"),
        ("$A [CLS] [SEP] [SEP]", "$A:0 [MASK]:3 $B:1 [CLS]:4 [SEP]:4 [SEP]:4"),
        ("[MASK] [CLS] $A", "[MASK]:5 [CLS]:5 $A:1 $B:2"),
        ("[SEP] $A", "[SEP]:1 $A:0 [SEP]:0 $B:2 [SEP]:3"),  # no class token: the first one stands for it
    ],
)
def test_special_tokens_wherever_a_tokenizer_puts_them(load, single, pair, side):
    tokenizer = with_template(load("bert-base-uncased", padding_side=side), single, pair, ("[SEP]", "[CLS]", "[MASK]"))
    template, special = PairTemplate.of(tokenizer), {"[SEP]", "[CLS]", "[MASK]"}
    assert template.specials == sum(word.split(":")[0] in special for word in pair.split())
    questions, contexts, context_of = random_pairs(9, contexts=10, questions=12)
    strip = str.maketrans("", "", "[]")  # no special token written out, so that the first [CLS] is the template's
    questions, contexts = ([t.translate(strip) or "a" for t in texts] for texts in (questions, contexts))
    questions = short_enough(tokenizer, questions, max_length=40, stride=10, specials=template.specials)
    answers = random_answers(random.Random(2), contexts, context_of)
    settings = {"max_length": 40, "stride": 10}
    encoding, number = encoded(tokenizer, questions, contexts, context_of, **settings)
    windows = make_windows(tokenizer, questions, contexts, context_of, answers=answers, **settings)
    parts = [(name, int(kind or 0)) for name, _, kind in (word.partition(":") for word in pair.split())]
    texts = {name: kind for name, kind in parts if name in ("$A", "$B")}

    def types_of(row):
        """From the template: the library gives windows after the first one the types 0 and 1, whatever it says."""
        between = iter([kind for name, kind in parts if name in special])
        numbers = encoding.sequence_ids(row)
        return [next(between) if n is None else texts["$A" if n == 0 else "$B"] for n in numbers]

    assert_same_windows(tokenizer, windows, encoding, number, types_of)
    assert assert_same_labels(tokenizer, windows, encoding, number, answers, contexts, context_of)


def test_a_class_token_written_in_the_text_does_not_stand_for_no_answer(load):
    tokenizer = with_template(
        load("bert-base-uncased"), "$A [SEP] [CLS]", "$A [SEP] $B [SEP] [CLS]", ("[SEP]", "[CLS]")
    )
    windows = make_windows(tokenizer, ["[CLS] who?"], ["the [CLS] museum"], np.array([0]), max_length=30, stride=5)
    assert windows.null_at.tolist() == [windows.lengths[0] - 1]


# Lengths


@pytest.mark.parametrize("family", ["distilbert-base-uncased", "roberta-base"])
@pytest.mark.parametrize("side", ["right", "left"])
def test_questions_too_long_are_those_for_which_the_tokenizer_gives_up(load, family, side):
    tokenizer = load(family, padding_side=side)
    context = TEXTS[0] * 3
    template = PairTemplate.of(tokenizer)
    max_length, stride = 24, 6
    questions = ["who " * n for n in range(1, 24)]
    flagged = too_long(tokenize(tokenizer, questions), template, max_length, stride)
    for question, bad in zip(questions, flagged):
        refused = False
        try:
            encoding, _ = encoded(tokenizer, [question], [context], [0], max_length=max_length, stride=stride)
            refused = any(len(ids) > max_length for ids in encoding["input_ids"])
        except BaseException as error:  # the tokenizer's own panic is no Exception
            assert "stride" in str(error).lower() or "length" in str(error).lower(), error
            refused = True
        assert bad == refused, question
    assert 0 < flagged.sum() < len(questions)
    with pytest.raises(UserError, match=r"--max_length 24 .*--stride 6"):
        make_windows(tokenizer, questions, [context], np.zeros(len(questions), int), max_length=24, stride=6)
    fitting = [q for q, bad in zip(questions, flagged) if not bad]
    assert len(make_windows(tokenizer, fitting, [context], np.zeros(len(fitting), int), max_length=24, stride=6))


@pytest.mark.parametrize("pad_to, multiple", [(None, None), (None, 8), (None, 1), (64, None), (64, 8)])
def test_batches_are_padded_to_what_was_asked(load, pad_to, multiple):
    tokenizer = load("roberta-base")
    questions, contexts, context_of = random_pairs(4, contexts=6, questions=9)
    questions = short_enough(tokenizer, questions, max_length=61, stride=8, specials=4)
    settings = {"max_length": 61, "stride": 8}
    encoding, _ = encoded(tokenizer, questions, contexts, context_of, **settings)
    windows = make_windows(
        tokenizer, questions, contexts, context_of, **settings, pad_to=pad_to, pad_to_multiple_of=multiple
    )
    for rows, batch in batches(windows, size=3):
        picked = {"input_ids": [encoding["input_ids"][row] for row in rows]}
        padded = tokenizer.pad(
            picked,
            padding="max_length" if pad_to else True,
            max_length=pad_to,
            pad_to_multiple_of=multiple,
            return_tensors="pt",
        )
        assert torch.equal(batch["input_ids"], padded["input_ids"])
        assert torch.equal(batch["attention_mask"], padded["attention_mask"])
        assert windows.width(np.array(rows)) == padded["input_ids"].shape[1]
        assert all(batch[name].shape == padded["input_ids"].shape for name in ("context_mask",))
        assert not batch["context_mask"][padded["attention_mask"] == 0].any()


def test_batches_may_mix_any_windows_in_any_order(load):
    tokenizer = load("bert-base-uncased")
    questions, contexts, context_of = random_pairs(6, contexts=8, questions=10)
    questions = short_enough(tokenizer, questions, max_length=40, stride=10, specials=3)
    answers = random_answers(random.Random(1), contexts, context_of)
    windows = make_windows(tokenizer, questions, contexts, context_of, max_length=40, stride=10, answers=answers)
    alone = [collate_windows([windows[row]]) for row in range(len(windows))]
    order = random.Random(0).sample(range(len(windows)), 12)
    together = collate_windows([windows[row] for row in order])
    for i, row in enumerate(order):
        length = int(windows.lengths[row])
        for name, values in alone[row].items():
            expected = values[0]
            mixed = together[name][i]
            assert torch.equal(mixed[:length] if mixed.shape == together["input_ids"][i].shape else mixed, expected), (
                name
            )


def test_without_answers_there_are_no_targets(load):
    windows = make_windows(load("bert-base-uncased"), ["who"], ["it was"], np.array([0]), max_length=30, stride=5)
    assert windows.targets is None and "targets" not in collate_windows([windows[0]])
    assert windows.examples is None


def test_a_context_without_any_token(load):
    tokenizer = load("bert-base-uncased")
    windows = make_windows(
        tokenizer,
        ["who", "what"],
        ["\u200b", "it was"],
        np.array([0, 1]),
        max_length=30,
        stride=5,
        answers=np.array([[0, 1], [0, 2]]),
    )
    assert windows.contexts.counts[0] == 0
    batch = collate_windows([windows[0], windows[1]])
    assert batch["input_ids"][0][: windows.lengths[0]].tolist() == tokenizer("who", "\u200b")["input_ids"]
    assert not batch["context_mask"][0].any() and batch["context_mask"][1].any()
    assert windows.targets[0].tolist() == [0, 0]


# Tokens


@pytest.mark.parametrize("family", FAMILIES)
def test_tokens_are_the_tokenizers_own_in_chunks_of_any_size(load, family):
    tokenizer = load(family, padding_side="left")
    _, texts, _ = random_pairs(8, contexts=9, questions=1)
    texts.insert(4, "")
    encoding = tokenizer(texts, add_special_tokens=False, return_offsets_mapping=True)
    # Whatever truncation and padding the tokenizer was left with does not matter.
    tokenizer.backend_tokenizer.enable_truncation(3)
    tokenizer.backend_tokenizer.enable_padding(length=500)
    for chunk in (1, 4, 2048):
        tokens = tokenize(tokenizer, texts, chunk=chunk)
        assert tokens.counts.tolist() == [len(ids) for ids in encoding["input_ids"]]
        for i in range(len(texts)):
            part = slice(tokens.begin[i], tokens.begin[i + 1])
            assert tokens.ids[part].tolist() == encoding["input_ids"][i]
            assert list(zip(tokens.first[part], tokens.last[part])) == encoding["offset_mapping"][i]
    assert [a.dtype for a in tokens.arrays().values()] == [np.int32, np.int64, np.int32, np.int32]
    nothing = tokenize(tokenizer, [])
    assert len(nothing.ids) == 0 and nothing.begin.tolist() == [0]


def test_tokenising_happens_once(load, tmp_path, monkeypatch):
    tokenizer, counted = load("bert-base-uncased"), []
    monkeypatch.setattr(text, "tokenize", lambda *arguments: counted.append(1) or tokenize(*arguments))

    def tokens(texts, tokenizer=tokenizer, overwrite=False):
        return tokenize_once(tokenizer, texts, tmp_path / "cache", overwrite=overwrite)

    first = tokens(TEXTS)
    again = tokens(list(TEXTS))
    assert len(counted) == 1
    reference = tokenize(tokenizer, TEXTS)
    for found in (first, again):
        assert isinstance(found.ids, np.memmap) and not found.ids.flags.writeable
        for name, array in reference.arrays().items():
            assert np.array_equal(found.arrays()[name], array) and found.arrays()[name].dtype == array.dtype
    # Whatever the tokens depend on makes another entry.
    assert len(tokens(TEXTS[::-1]).ids) == len(first.ids) and len(counted) == 2
    tokens(TEXTS[:-1])
    tokens(["".join(TEXTS)])
    assert len(counted) == 4
    other = load("bert-base-uncased")
    tokens(TEXTS, other)
    assert len(counted) == 4  # the same tokenizer, loaded again
    other.add_tokens(["museum in Kassel"])
    assert len(tokens(TEXTS, other).ids) < len(first.ids) and len(counted) == 5
    # An entry is only trusted until it is told otherwise.
    tokens(TEXTS, overwrite=True)
    assert len(counted) == 6
    tokens(TEXTS)
    assert len(counted) == 6


def test_an_entry_does_not_depend_on_what_the_tokenizer_did_before(load, tmp_path, monkeypatch):
    """Truncation and padding are part of a saved tokenizer, but not of these tokens."""
    tokenizer, counted = load("bert-base-uncased"), []
    monkeypatch.setattr(text, "tokenize", lambda *arguments: counted.append(1) or tokenize(*arguments))
    tokenize_once(tokenizer, TEXTS, tmp_path, overwrite=False)
    tokenizer(TEXTS, truncation=True, max_length=8, padding="max_length")
    tokens = tokenize_once(tokenizer, TEXTS, tmp_path, overwrite=False)
    assert len(counted) == 1 and np.array_equal(tokens.ids, tokenize(tokenizer, TEXTS).ids)


def test_windows_work_on_tokens_from_the_cache(load, tmp_path):
    tokenizer = load("bert-base-uncased")
    questions, contexts, context_of = random_pairs(3, contexts=5, questions=6)
    questions = short_enough(tokenizer, questions, max_length=40, stride=8, specials=3)
    answers = random_answers(random.Random(3), contexts, context_of)
    for _ in range(2):
        tokens = [tokenize_once(tokenizer, texts, tmp_path, overwrite=False) for texts in (questions, contexts)]
        windows = Windows(tokenizer, *tokens, context_of, max_length=40, stride=8, answers=answers)
        encoding, number = encoded(tokenizer, questions, contexts, context_of, max_length=40, stride=8)
        assert_same_windows(tokenizer, windows, encoding, number)
        assert_same_labels(tokenizer, windows, encoding, number, answers, contexts, context_of)


def test_no_tokens_at_all_can_be_cached(load, tmp_path):
    for _ in range(2):
        # The second time from an empty file, which cannot be mapped into memory everywhere.
        tokens = tokenize_once(load("bert-base-uncased"), ["\u200b", ""], tmp_path, overwrite=False)
        assert tokens.counts.tolist() == [0, 0] and len(tokens.ids) == 0
