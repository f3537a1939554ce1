import gzip
import itertools
import json
from collections import Counter

import datasets
import numpy as np
import pytest

from common.speech.splits import cut_segments, shorten, split_rows
from tests.helpers import message

SHARES = {"train": 0.8, "validation": 0.1, "test": 0.1}


def rows(speakers, labels=None, seconds=None) -> datasets.Dataset:
    """Rows as `recordings` has them, of what matters here."""
    count = len(speakers)
    columns = {"id": [str(i) for i in range(count)], "recording": [str(i) for i in range(count)], "speaker": speakers}
    columns |= {"start": [0.5] * count, "end": [None] * count, "seconds": [float(s) for s in seconds or [1.0] * count]}
    kinds = {n: datasets.Value("string") for n in ("id", "recording", "speaker")}
    kinds |= {n: datasets.Value("float64") for n in ("start", "end", "seconds")}
    if labels is not None:
        names = sorted({*labels})
        columns["labels"] = [names.index(label) for label in labels]
        kinds["labels"] = datasets.ClassLabel(names=names)
    return datasets.Dataset.from_dict(columns, features=datasets.Features(kinds))


def check(found: dict, count: int) -> None:
    """Every row is in one split, in ascending order."""
    assert sorted(itertools.chain(*(part.tolist() for part in found.values()))) == list(range(count))
    assert all((np.diff(part) > 0).all() for part in found.values())


def shares_of(found: dict, labels) -> dict[str, dict]:
    total = Counter(labels)
    counts = {name: Counter(labels[i] for i in part) for name, part in found.items()}
    return {label: {name: counts[name][label] / total[label] for name in found} for label in total}


@pytest.fixture(scope="module")
def shemo(shared_data):
    content = json.loads(gzip.decompress((shared_data / "emotion/shemo.json.gz").read_bytes()))
    return [name[:3] for name in content], [name[3] for name in content]


@pytest.mark.parametrize("seed", [0, 42])
def test_the_87_speakers_of_shemo(shemo, seed):
    speakers, labels = shemo
    found = split_rows(rows(speakers, labels), "speaker", SHARES, seed)
    check(found, 3_000)
    people = [{speakers[i] for i in part} for part in found.values()]
    assert sum(map(len, people)) == 87 and not people[0] & people[1] and not people[1] & people[2]
    assert all(abs(len(found[name]) / 3_000 - share) < 0.03 for name, share in SHARES.items())
    for label, shares in shares_of(found, labels).items():
        assert all(shares.values()) and all(
            abs(shares[n] - SHARES[n]) < (0.15 if label == "F" else 0.08) for n in SHARES
        )


def test_speaker_splits_depend_on_the_seed_alone(shemo):
    data = rows(*shemo)
    first, again, other = (split_rows(data, "speaker", SHARES, seed) for seed in (1, 1, 2))
    assert all((first[n] == again[n]).all() for n in SHARES) and {*first["test"]} != {*other["test"]}


def test_few_speakers():
    found = split_rows(rows([*"aabbccddeeff"], [*"xyxyxyxyxyxy"]), "speaker", SHARES, 0)
    check(found, 12)
    assert [len(part) for part in found.values()] == [8, 2, 2]
    three = split_rows(rows([*"abc"]), "speaker", SHARES, 0)
    assert [len(part) for part in three.values()] == [1, 1, 1]
    sentence = message(split_rows, rows([*"aabb"]), "speaker", SHARES, 0, "clips/")
    assert sentence.startswith("clips/: has 2 speakers, too few for 3 splits; give --split random")


def test_a_rare_class_comes_into_every_split_where_it_can():
    speakers = [f"{i:02d}" for i in range(30) for _ in range(10)]
    labels = ["rare" if i % 10 == 0 and i // 10 in (3, 14, 25) else "common" for i in range(300)]
    for seed in range(3):
        found = split_rows(rows(speakers, labels), "speaker", SHARES, seed)
        assert all(shares_of(found, labels)["rare"].values())


def test_unknown_speakers_are_somebody_else_each():
    found = split_rows(rows(["a"] * 10 + [None] * 90), "speaker", SHARES, 0)
    check(found, 100)
    assert sum(0 in part for part in found.values()) == 1
    assert [abs(len(part) - wanted) <= 5 for part, wanted in zip(found.values(), (80, 10, 10))] == [True] * 3
    with_a = next(part for part in found.values() if 0 in part)
    assert {*range(10)} <= {*with_a.tolist()}


@pytest.mark.parametrize("seed", [0, 7])
def test_at_random_every_class_has_the_same_shares(shemo, seed):
    speakers, labels = shemo
    found = split_rows(rows(speakers, labels), "random", SHARES, seed)
    check(found, 3_000)
    assert [len(part) for part in found.values()] == [2_400, 300, 300]
    for shares in shares_of(found, labels).values():
        assert all(abs(shares[name] - SHARES[name]) < 0.02 for name in SHARES)
    check(split_rows(rows([None] * 20), "random", SHARES, seed), 20)


def test_what_cannot_be_divided():
    sentence = message(split_rows, rows([None] * 9, [*"xxxxxxxyy"]), "random", SHARES, 0, "clips/")
    assert sentence.startswith("clips/: 9 clips are too few for 3 splits; the class 'y' has 2: --drop_labels y leaves")
    assert "2 clips are too few for 3 splits" in message(split_rows, rows([None] * 2), "random", SHARES, 0)
    assert "does not say who speaks" in message(split_rows, rows([None] * 9), "speaker", SHARES, 0)


def test_segments_by_hand():
    data = cut_segments(rows([None] * 4, seconds=[4.9, 10.0, 12.5, 11.5]), 5.0)
    assert data["id"][:] == ["0", "1#1", "1#2", "2#1", "2#2", "2#3", "3#1", "3#2", "3#3"]
    assert data["recording"][:] == [*"011222333"]
    assert data["seconds"][:] == [4.9, 5.0, 5.0, 5.0, 5.0, 2.5, 5.0, 5.0, 1.5]
    assert data["start"][:] == [0.5, 0.5, 5.5, 0.5, 5.5, 10.5, 0.5, 5.5, 10.5]
    assert data["end"][:] == [None, 5.5, None, 5.5, 10.5, None, 5.5, 10.5, None]
    short = cut_segments(rows([None], seconds=[10.9]), 5.0)  # a rest below a second stays with the segment before it
    assert short["seconds"][:] == [5.0, pytest.approx(5.9)]


def test_segments_cover_every_second_once():
    lengths = np.random.default_rng(0).uniform(0.1, 40, 300)
    for seconds in (1.0, 3.3, 5.0):
        data = cut_segments(rows([None] * 300, ["a", "b"] * 150, lengths.tolist()), seconds)
        totals = dict.fromkeys(map(str, range(300)), 0.0)
        for name, start, length in zip(data["recording"][:], data["start"][:], data["seconds"][:]):
            assert start == pytest.approx(0.5 + totals[name])
            totals[name] += length
        assert list(totals.values()) == pytest.approx(lengths.tolist())
        assert len({*data["id"][:]}) == len(data) and data.features["labels"].names == ["a", "b"]


def test_shortened():
    data = shorten(rows([None] * 3, seconds=[1.0, 5.0, 9.0]), 5.0)
    assert data["seconds"][:] == [1.0, 5.0, 5.0] and data["end"][:] == [None, None, 5.5]
