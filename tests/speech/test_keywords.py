"""Which words are unknown: worked by hand."""

import datasets

from run_keyword import task_classes, with_unknown
from tests.helpers import message


def labelled(*words: str) -> datasets.Dataset:
    names = sorted({*words})
    columns = {"id": [f"{i}" for i in range(len(words))], "labels": [names.index(word) for word in words]}
    columns["seconds"] = [1.0] * len(words)
    dataset = datasets.Dataset.from_dict(columns)
    return dataset.cast_column("labels", datasets.ClassLabel(names=names))


def words_of(clips: datasets.Dataset) -> list[str]:
    return clips.features["labels"].int2str(clips["labels"][:])


def test_other_words_are_unknown():
    clips = with_unknown(labelled("no", "cat", "yes", "_silence_", "dog"), ["yes", "no"])
    assert clips.features["labels"].names == ["yes", "no", "_silence_", "_unknown_"]
    assert words_of(clips) == ["no", "_unknown_", "yes", "_silence_", "_unknown_"]
    every = with_unknown(labelled("no", "yes"), ["no", "yes"])
    assert every.features["labels"].names == ["no", "yes"]
    assert message(with_unknown, labelled("a"), ["b"]) == (
        "the keywords 'b' are not among the classes of the data, 'a'"
    )


def test_words_beside_unknown_ones():
    """As of Speech Commands' training data and its archive for testing, where other words are `_unknown_` already."""
    clips = labelled("yes", "no", "cat", "_unknown_", "_silence_")
    found = task_classes(clips, keywords=[], usual=["yes", "no"])
    assert words_of(found) == ["yes", "no", "_unknown_", "_unknown_", "_silence_"]
    words = ["yes", "no", "_unknown_"]
    assert words_of(task_classes(labelled(*words), keywords=[], usual=["yes", "no"])) == words


def test_words_in_another_case():
    clips = labelled("YES", "No", "cat")
    for keywords in ([], ["yes", "no"]):
        found = task_classes(clips, keywords=keywords, usual=["yes", "no"])
        assert words_of(found) == ["yes", "no", "_unknown_"]
