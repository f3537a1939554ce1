"""The built-in sentence pairs: files in MultiNLI's and FarsTail's form whose labels are true and can be learnt."""

import csv
import json
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from common.legacy.demo_nli import farstail_demo, mnli_demo

SPLITS = ("train", "validation", "test")
PARSBERT = "HooshvareLab/bert-base-parsbert-uncased"
NAMES = {"e": "entailment", "n": "neutral", "c": "contradiction"}
# What may be said of a thing, one value of a kind: an independent list, on which the rule below rests.
ENGLISH = [
    "red blue green yellow white black",
    "anna boris clara david elena felix",
    "paris london rome berlin madrid vienna",
    "march april may june july august",
    "ten twenty thirty forty fifty sixty",
    "wood iron stone glass brass clay",
]
PERSIAN = [
    "تهران شیراز تبریز اصفهان مشهد کرمان",
    "معلم پزشک نجار خیاط نقاش راننده",
    "سفید سیاه آبی سبز زرد قرمز",
    "چای قهوه شیر آب دوغ شربت",
    "دو سه چهار پنج شش هفت",
    "شنبه یکشنبه دوشنبه سه‌شنبه چهارشنبه پنجشنبه",
]
DENIAL = re.compile(r"\bnot\b|\b(?:نمی|ندارد\b|نیست\b)")


@pytest.fixture(scope="module")
def mnli(tmp_path_factory) -> dict[str, str]:
    return mnli_demo(tmp_path_factory.mktemp("mnli"), "roberta-base")


@pytest.fixture(scope="module")
def farstail(tmp_path_factory) -> dict[str, str]:
    return farstail_demo(tmp_path_factory.mktemp("farstail"), PARSBERT)


def rows_of(demo: dict[str, str], split: str) -> list[dict]:
    path = Path(demo[f"{split}_file"])
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t", strict=True))


@pytest.fixture(params=["mnli", "farstail"])
def splits(request) -> dict[str, list[dict]]:
    """The rows of each split of one of the two, with the labels' whole names."""
    demo = request.getfixturevalue(request.param)
    found = {split: rows_of(demo, split) for split in SPLITS}
    return {
        split: [{**row, "label": NAMES.get(row["label"], row["label"])} for row in rows]
        for split, rows in found.items()
    }


def facts(text: str) -> dict[int, str]:
    """kind -> value of the facts that a text mentions, which must be one value a kind."""
    words = re.findall(r"[\w\u200c]+", text.lower())
    kinds = ENGLISH if text.isascii() else PERSIAN
    found = [(kind, word) for word in words for kind, values in enumerate(kinds) if word in values.split()]
    assert len(dict(found)) == len(found), text
    return dict(found)


def test_labels_are_true(splits):
    for row in (row for rows in splits.values() for row in rows):
        premise, ((kind, value),) = facts(row["premise"]), facts(row["hypothesis"]).items()
        assert 2 <= len(premise) <= 3 and not DENIAL.search(row["premise"])
        agrees = (premise.get(kind) == value) != bool(DENIAL.search(row["hypothesis"]))
        expected = "neutral" if kind not in premise else "entailment" if agrees else "contradiction"
        assert row["label"] == expected, row


def test_a_hypothesis_speaks_of_what_its_premise_speaks_of(splits):
    pronouns = {"it", "او"}
    subjects = re.compile(
        r"\b(?:the (?!colour|owner|city|price)\w+)|\b(?:مریم|علی|زهرا|رضا|سارا|امید|نرگس|حسین|لیلا|بهرام|مینا|کاوه)\b"
    )
    for row in splits["validation"]:
        (subject,) = set(subjects.findall(row["hypothesis"].lower()))
        assert subject in row["premise"].lower()
        assert pronouns & set(re.findall(r"\w+", row["premise"]))


def test_every_premise_has_one_hypothesis_of_each_label_and_is_in_one_split_only(splits):
    sizes = {split: len(rows) for split, rows in splits.items()}
    assert sizes == {"train": 3000, "validation": 600, "test": 600}
    seen: set[str] = set()
    for rows in splits.values():
        labels = Counter((row["premise"], row["label"]) for row in rows)
        premises = {premise for premise, _ in labels}
        assert set(labels.values()) == {1} and len(labels) == 3 * len(premises) == len(rows)
        assert not premises & seen
        seen |= premises
    assert len({tuple(row["label"] for row in splits["train"][at : at + 3]) for at in range(0, 3000, 3)}) == 6


def test_the_hypothesis_alone_tells_part_of_the_labels_but_not_more(splits):
    guessed, gold = by_hypothesis(splits["train"], splits["test"])
    assert 0.4 < np.mean(guessed == gold) < 0.6


def by_hypothesis(train: list[dict], test: list[dict]) -> tuple[np.ndarray, np.ndarray]:
    """What scikit-learn's naive Bayes says without the premises, and the labels."""
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.naive_bayes import MultinomialNB
    from sklearn.pipeline import make_pipeline

    model = make_pipeline(CountVectorizer(binary=True, token_pattern=r"[\w\u200c]+", lowercase=False), MultinomialNB())
    model.fit([row["hypothesis"] for row in train], [row["label"] for row in train])
    return model.predict([row["hypothesis"] for row in test]), np.array([row["label"] for row in test])


def by_overlap(train: list[dict], test: list[dict]) -> tuple[np.ndarray, np.ndarray]:
    """What a tree says that sees nothing but the share of the hypothesis' words in the premise, and the labels."""
    from sklearn.tree import DecisionTreeClassifier

    def shares(rows: list[dict]) -> list[list[float]]:
        words = [[re.findall(r"[\w\u200c]+", row[side]) for side in ("premise", "hypothesis")] for row in rows]
        return [[np.mean([word in premise for word in hypothesis])] for premise, hypothesis in words]

    model = DecisionTreeClassifier(min_samples_leaf=20, random_state=0)
    model.fit(shares(train), [row["label"] for row in train])
    return model.predict(shares(test)), np.array([row["label"] for row in test])


@pytest.mark.parametrize("column, guess", [("hard(hypothesis)", by_hypothesis), ("hard(overlap)", by_overlap)])
def test_hard_pairs_are_those_where_the_cue_misleads(farstail, column, guess):
    train, test = rows_of(farstail, "train"), rows_of(farstail, "test")
    hard = np.array([row[column] == "1" for row in test])
    assert {row[column] for row in test} == {"0", "1"} and 0.25 < hard.mean() < 0.65
    guessed, gold = guess(train, test)
    right = guessed == gold
    assert right[~hard].mean() > 0.9 and right[hard].mean() < 0.25


def test_mnli_has_its_columns_and_other_genres_and_things_in_the_test(mnli):
    genres, things = {}, {}
    for split in SPLITS:
        rows = rows_of(mnli, split)
        assert all(list(row) == ["pairID", "genre", "premise", "hypothesis", "label"] for row in rows)
        assert len({row["pairID"] for row in rows}) == len(rows)
        assert all(row["pairID"].endswith(row["label"][0]) for row in rows)
        genres[split] = Counter(row["genre"] for row in rows)
        things[split] = {thing for row in rows for thing in re.findall(r"[Tt]he (\w+)", row["hypothesis"])}
    assert set(genres["train"]) == set(genres["validation"])
    assert set(genres["train"]) == {"fiction", "government", "slate", "telephone", "travel"}
    assert set(genres["test"]) == {"facetoface", "letters", "nineeleven", "oup", "verbatim"}
    assert min(genres["test"].values()) > 60
    assert things["train"] == things["validation"]
    assert things["train"] & things["test"] == {"colour", "owner", "city", "price"}


def test_farstail_has_the_real_names_and_columns(farstail, shared_data):
    names = {split: Path(farstail[f"{split}_file"]).name for split in SPLITS}
    for split, name in names.items():
        with (shared_data / "farstail" / name).open(encoding="utf-8") as file:
            header = file.readline()
        assert Path(farstail[f"{split}_file"]).read_text(encoding="utf-8").startswith(header)


def test_farstail_has_what_makes_it_hard_to_read(farstail):
    for split in SPLITS:
        rows = rows_of(farstail, split)
        texts = [row["premise"] for row in rows]
        assert {row["label"] for row in rows} == set("enc")
        assert 3 <= sum('"' in text for text in texts) < len(texts) / 10
        assert 3 <= sum("\n" in text for text in texts) < len(texts) / 10
        assert sum("\u200c" in text for text in texts) > len(texts) / 10
        lines = Path(farstail[f"{split}_file"]).read_bytes().removesuffix(b"\n").split(b"\n")
        assert not any(line.endswith(b"\r") for line in lines)
        assert len(lines) == 1 + len(rows) + sum("\n" in text for text in texts)


@pytest.mark.parametrize("name, layers", [("mnli", 2), ("farstail", 4)])
def test_the_model_knows_the_words_and_the_labels(name, layers, request):
    from transformers import AutoConfig, AutoTokenizer

    demo = request.getfixturevalue(name)
    config = AutoConfig.from_pretrained(demo["model"])
    assert [config.id2label[at] for at in range(3)] == ["entailment", "neutral", "contradiction"]
    assert config.label2id == {"entailment": 0, "neutral": 1, "contradiction": 2}
    assert config.num_hidden_layers == layers
    tokenizer = AutoTokenizer.from_pretrained(demo["model"])
    for split in SPLITS:
        rows = rows_of(demo, split)
        texts = [row["hypothesis"] for row in rows] + [row["hypothesis"].lower() for row in rows]
        words = [re.findall(r"[\w\u200c]+", text) for text in texts]
        tokens = tokenizer([" ".join(line) for line in words], add_special_tokens=False)["input_ids"]
        assert not any(tokenizer.unk_token_id in line for line in tokens)
        assert sum(map(len, tokens)) / sum(map(len, words)) < 1.1
