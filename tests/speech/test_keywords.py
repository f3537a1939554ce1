"""Which words are unknown: worked by hand."""

import datasets

from common.speech.keywords import task_classes, with_unknown
from tests.helpers import message


def labelled(*words: str, split: tuple[str, ...] = ()) -> datasets.Dataset:
    names = sorted({*words})
    columns = {"id": [f"{i}" for i in range(len(words))], "labels": [names.index(word) for word in words]}
    columns["seconds"] = [1.0] * len(words)
    columns |= {"split": list(split)} if split else {}
    dataset = datasets.Dataset.from_dict(columns)
    return dataset.cast_column("labels", datasets.ClassLabel(names=names))


def words_of(clips: datasets.Dataset) -> list[str]:
    return clips.features["labels"].int2str(clips["labels"][:])


def test_other_words_are_unknown():
    clips, left_out = with_unknown(labelled("no", "cat", "yes", "_silence_", "dog"), ["yes", "no"], None, 0)
    assert clips.features["labels"].names == ["yes", "no", "_silence_", "_unknown_"] and left_out == {}
    assert words_of(clips) == ["no", "_unknown_", "yes", "_silence_", "_unknown_"]
    every, _ = with_unknown(labelled("no", "yes"), ["no", "yes"], None, 0)
    assert every.features["labels"].names == ["no", "yes"]
    assert message(with_unknown, labelled("a"), ["b"], None, 0) == (
        "the keywords 'b' are not among the classes of the data, 'a'"
    )


def test_words_in_another_case():
    options = {"usual": ["yes", "no"], "share": None, "seed": 0}
    clips = labelled("YES", "No", "cat")
    for keywords, known in ([], ()), (["yes", "no"], ()), ([], ("yes", "no", "_unknown_")):
        assert words_of(task_classes(clips, keywords=keywords, known=known, **options)[0]) == ["yes", "no", "_unknown_"]


def test_a_share_of_unknown_words_by_split():
    words = ["yes"] * 4 + ["no"] * 2 + ["cat"] * 9 + ["yes"] * 2 + ["cat"] * 5
    split = ["train"] * 15 + ["test"] * 7
    clips, left_out = with_unknown(labelled(*words, split=tuple(split)), ["yes", "no"], 2.0, 7)
    kept = [(where, word) for where, word in zip(clips["split"], words_of(clips)) if word == "_unknown_"]
    assert kept == [("train", "_unknown_")] * 6 + [("test", "_unknown_")] * 2  # twice the mean of 3, and of 1
    assert left_out == {"unknown word above the share": 6}
