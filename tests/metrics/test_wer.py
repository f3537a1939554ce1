"""Error rates: worked by hand, jiwer's own figures of a corpus, a plain Levenshtein."""

import tracemalloc

import jiwer
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.metrics import load
from common.metrics.wer.wer import KINDS, alignments, counted, edit_counts, summary


def test_words_by_hand():
    references = ["the cat sat on the mat", "a b", "", "", "one  two", "same here"]
    hypotheses = ["the cap sat the the mat now", "", "noise here", "", " two", "same\there"]
    assert edit_counts(references, hypotheses).tolist() == [
        [4, 2, 0, 1],  # cap for cat, the for on; now is too much
        [0, 0, 2, 0],
        [0, 0, 0, 2],
        [0, 0, 0, 0],
        [1, 0, 1, 0],
        [2, 0, 0, 0],
    ]


def test_characters_by_hand():
    references = ["cat", "a b", "", "آب", "a   b"]
    hypotheses = ["cart", "ab", "x y", "اب", " a b "]
    assert edit_counts(references, hypotheses, "character").tolist() == [
        [3, 0, 0, 1],
        [2, 0, 1, 0],  # the space
        [0, 0, 0, 3],
        [1, 1, 0, 0],
        [3, 0, 0, 0],  # one space, however many are written
    ]


def test_alignment_by_hand():
    (alignment,) = alignments(["the cat sat on it"], ["cat sad on it too"])
    assert alignment == [
        ("delete", 0, 1, 0, 0),
        ("equal", 1, 2, 0, 1),
        ("substitute", 2, 3, 1, 2),
        ("equal", 3, 5, 2, 4),
        ("insert", 5, 5, 4, 5),
    ]
    assert counted(alignment) == (3, 1, 1, 1)


def test_summary_by_hand():
    words = np.array([[4, 2, 0, 1], [0, 0, 2, 0], [0, 0, 0, 2], [2, 0, 0, 0]])
    characters = np.array([[20, 3, 0, 4], [0, 0, 3, 0], [0, 0, 0, 9], [4, 0, 0, 0]])
    assert summary(words, characters) == pytest.approx(
        {"wer": 70, "cer": 100 * 19 / 30, "substitutions": 20, "deletions": 20, "insertions": 30, "exact": 25}
    )


def test_a_set_in_which_nothing_is_said_has_no_rate():
    words, characters = (edit_counts(["", " "], ["noise", ""], unit) for unit in ("word", "character"))
    assert summary(words, characters) == dict.fromkeys(("wer", "cer", *KINDS[1:])) | {"exact": 50}


TEXT = st.lists(st.sampled_from(["a", "b", "ab", "ba", "آب"]), max_size=8).map(" ".join)
TEXTS = st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=12)


@settings(deadline=None, max_examples=60)
@given(TEXTS)
def test_agrees_with_jiwers_corpus(pairs):
    references, hypotheses = map(list, zip(*pairs))
    words, characters = (edit_counts(references, hypotheses, unit) for unit in ("word", "character"))
    by_word = jiwer.process_words(references, hypotheses)
    by_character = jiwer.process_characters(references, hypotheses)
    for counts, output in ((words, by_word), (characters, by_character)):
        assert dict(zip(KINDS, counts.sum(axis=0).tolist())) == {kind: getattr(output, kind) for kind in KINDS}
    if any(references):
        found = summary(words, characters)
        assert found["wer"] == pytest.approx(100 * by_word.wer) and found["cer"] == pytest.approx(
            100 * by_character.cer
        )


def distance(first, second):
    """Levenshtein's, by his recurrence."""
    row = list(range(len(second) + 1))
    for i, one in enumerate(first, start=1):
        before, row[0] = row[0], i
        for j, other in enumerate(second, start=1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (one != other))
    return row[-1]


@settings(deadline=None, max_examples=100)
@given(TEXT, TEXT)
def test_the_errors_are_the_distance(reference, hypothesis):
    for unit, split in (("word", str.split), ("character", list)):
        said, heard = split(reference), split(hypothesis)
        ((hits, substitutions, deletions, insertions),) = edit_counts([reference], [hypothesis], unit).tolist()
        assert substitutions + deletions + insertions == distance(said, heard)
        assert (hits + substitutions + deletions, hits + substitutions + insertions) == (len(said), len(heard))
        # The alignment is one: from end to end, and equal where it says so.
        ((*steps,),) = alignments([reference], [hypothesis], unit)
        at = (0, 0)
        for kind, begin, end, first, last in steps:
            assert (begin, first) == at and (said[begin:end] == heard[first:last]) == (kind == "equal")
            at = (end, last)
        assert at == (len(said), len(heard))


def test_many_are_counted_like_each_alone():
    random = np.random.default_rng(0)
    draw = lambda: [" ".join(random.choice(list("abc"), size=random.integers(9))) for _ in range(700)]  # noqa: E731
    references, hypotheses = draw(), draw()
    alone = [edit_counts([r], [h])[0].tolist() for r, h in zip(references, hypotheses)]
    assert edit_counts(references, hypotheses).tolist() == alone
    assert edit_counts([], []).shape == (0, 4)
    with pytest.raises(ValueError):
        edit_counts(references, ["a"])


def test_memory_does_not_grow_with_the_text():
    peaks = []
    for count in (300, 900):
        texts, others = ["abcd efgh ijkl " * 8] * count, ["abce fghi jkm " * 8] * count
        tracemalloc.start()
        edit_counts(texts, others, "character")
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    # 600 more rows are tuples of 4 small numbers and their array, where their alignments would be 5 MB and more.
    assert peaks[1] - peaks[0] < 600 * 300


def test_the_metric_itself():
    references, hypotheses, metric = ["the cat sat", ""], ["the cap", "a"], load("wer")
    found = metric.compute(predictions=hypotheses, references=references)
    words, characters = (edit_counts(references, hypotheses, unit) for unit in ("word", "character"))
    assert {name: found[name] for name in summary(words, characters)} == summary(words, characters)
    assert found["wer"] == 100 and found["words"] == dict(zip(KINDS, (1, 1, 1, 1)))
    assert found["characters"] == dict(zip(KINDS, characters.sum(axis=0).tolist()))
    with pytest.raises(ValueError, match="no utterances"):
        metric._compute([], [])
