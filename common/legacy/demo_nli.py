"""Built-in sentence pairs of run_mnli_lora.py (English) and run_nli_parsbert.py (Persian), so that `--demo` learns.

Composed from templates; a function of the seed alone: the same files, byte for byte, on every run. Not for measuring
anything but that the scripts work.

A premise states two or three facts about a thing or a person. Entailed is a fact that it states, contradicted one with
another value (or the fact denied), neutral a fact of a kind that it does not mention. As in real data, some of this
shows in the hypothesis alone, by its first words and by "not", and some in the words that both texts share.
"""

import csv
import json
import math
import random
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from common.legacy.tiny_models import tiny_model, twin_of

LABELS = ("entailment", "neutral", "contradiction")  # the order of MNLI
SPLITS = {"train": 1000, "validation": 200, "test": 200}  # premises, each with one hypothesis of every label
DENIED = {"entailment": 0.05, "neutral": 0.05, "contradiction": 0.2}  # share of hypotheses that deny something
OWN_OPENING, OTHER_OPENING = 0.3, 0.1  # share of hypotheses with the opening of their own label, of each other label


class Kind(NamedTuple):
    """Facts of one kind, of which one thing has one: {s} is the subject, {v} the value."""

    values: tuple[str, ...]  # a word each, in no other kind
    statements: tuple[str, ...]  # in premises and hypotheses
    claims: tuple[str, ...]  # in hypotheses only
    denials: tuple[str, ...]


class Language(NamedTuple):
    """What the sentences of a language are made of."""

    kinds: tuple[Kind, ...]
    pronoun: str
    comma: str
    last_comma: str
    openings: dict[str, str]  # label -> how hypotheses like to begin


class Topic(NamedTuple):
    """What premises are about, and how they begin; the rare openings are for one in twenty-five."""

    subjects: tuple[str, ...]
    openings: tuple[str, ...]
    rare_openings: tuple[str, ...] = ()


ENGLISH = Language(
    kinds=(
        Kind(
            ("red", "blue", "green", "yellow", "white", "black"),
            ("the colour of {s} is {v}", "{s} is {v} in colour"),
            ("{v} is the colour of {s}",),
            ("the colour of {s} is not {v}", "{s} is not {v} in colour"),
        ),
        Kind(
            ("Anna", "Boris", "Clara", "David", "Elena", "Felix"),
            ("the owner of {s} is {v}", "{s} has {v} as owner"),
            ("{v} is the owner of {s}",),
            ("the owner of {s} is not {v}", "{v} is not the owner of {s}"),
        ),
        Kind(
            ("Paris", "London", "Rome", "Berlin", "Madrid", "Vienna"),
            ("{s} stands in the city of {v}", "{s} is in the city of {v}"),
            ("{v} is the city of {s}",),
            ("{s} is not in the city of {v}", "{v} is not the city of {s}"),
        ),
        Kind(
            ("March", "April", "May", "June", "July", "August"),
            ("{s} was finished in {v}", "{s} was finished last {v}"),
            ("{v} is when {s} was finished",),
            ("{s} was not finished in {v}", "{s} was not finished last {v}"),
        ),
        Kind(
            ("ten", "twenty", "thirty", "forty", "fifty", "sixty"),
            ("the price of {s} is {v} dollars", "{s} has a price of {v} dollars"),
            ("{v} dollars is the price of {s}",),
            ("the price of {s} is not {v} dollars", "{v} dollars is not the price of {s}"),
        ),
        Kind(
            ("wood", "iron", "stone", "glass", "brass", "clay"),
            ("{s} is made of {v}", "{s} was made of {v}"),
            ("{v} is what {s} is made of",),
            ("{s} is not made of {v}", "{v} is not what {s} is made of"),
        ),
    ),
    pronoun="it",
    comma=", ",
    last_comma=" and ",
    openings={"entailment": "so ", "neutral": "besides, ", "contradiction": "in fact "},
)
GENRES = {  # of train and validation
    "fiction": Topic(("the lantern", "the mirror", "the wagon"), ("", "he whispered that ", "long ago ")),
    "government": Topic(
        ("the gate", "the office", "the bridge"), ("", "the report states that ", "according to law, ")
    ),
    "slate": Topic(("the statue", "the desk", "the clock"), ("", "critics write that ", "as usual, ")),
    "telephone": Topic(("the truck", "the couch", "the fence"), ("", "uh-huh well ", "yeah i mean ")),
    "travel": Topic(("the tower", "the ferry", "the fountain"), ("", "visitors learn that ", "near the market ")),
}
OTHER_GENRES = {  # of test: the mismatched ones
    "facetoface": Topic(("the cabin", "the swing"), ("", "i remember that ", "oh ")),
    "letters": Topic(("the shelter", "the bench"), ("", "dear friend, ", "we are glad that ")),
    "nineeleven": Topic(("the hangar", "the radio"), ("", "officials noted that ", "that morning ")),
    "oup": Topic(("the loom", "the kiln"), ("", "historians think that ", "in this chapter ")),
    "verbatim": Topic(("the piano", "the sign"), ("", "as we say, ", "strictly speaking, ")),
}

PERSIAN = Language(
    kinds=(
        Kind(
            ("تهران", "شیراز", "تبریز", "اصفهان", "مشهد", "کرمان"),
            ("{s} در شهر {v} زندگی می‌کند", "{s} ساکن شهر {v} است"),
            ("خانهٔ {s} در شهر {v} است",),
            ("{s} در شهر {v} زندگی نمی‌کند", "{s} ساکن شهر {v} نیست"),
        ),
        Kind(
            ("معلم", "پزشک", "نجار", "خیاط", "نقاش", "راننده"),
            ("{s} {v} است", "{s} به عنوان {v} کار می‌کند"),
            ("{s} یک {v} است",),
            ("{s} {v} نیست", "{s} به عنوان {v} کار نمی‌کند"),
        ),
        Kind(
            ("سفید", "سیاه", "آبی", "سبز", "زرد", "قرمز"),
            ("خودروی {s} {v} است", "{s} یک خودروی {v} دارد"),
            ("رنگ خودروی {s} {v} است",),
            ("خودروی {s} {v} نیست", "رنگ خودروی {s} {v} نیست"),
        ),
        Kind(
            ("چای", "قهوه", "شیر", "آب", "دوغ", "شربت"),
            ("{s} هر روز صبح {v} می‌نوشد", "{s} هر صبح {v} می‌خورد"),
            ("نوشیدنی صبح {s} {v} است",),
            ("{s} صبح {v} نمی‌نوشد", "نوشیدنی صبح {s} {v} نیست"),
        ),
        Kind(
            ("دو", "سه", "چهار", "پنج", "شش", "هفت"),
            ("{s} {v} فرزند دارد", "{s} صاحب {v} فرزند است"),
            ("تعداد فرزندان {s} {v} است",),
            ("{s} {v} فرزند ندارد", "تعداد فرزندان {s} {v} نیست"),
        ),
        Kind(
            ("شنبه", "یکشنبه", "دوشنبه", "سه‌شنبه", "چهارشنبه", "پنجشنبه"),
            ("{s} روز {v} به خرید می‌رود", "{s} هر {v} خرید می‌کند"),
            ("روز خرید {s} {v} است",),
            ("{s} روز {v} به خرید نمی‌رود", "روز خرید {s} {v} نیست"),
        ),
    ),
    pronoun="او",
    comma="، ",
    last_comma=" و ",
    openings={"entailment": "پس ", "neutral": "همچنین ", "contradiction": "در واقع "},
)
FARSTAIL_FILES = {"train": "Train-word.csv", "validation": "Val-word.csv", "test": "Test-word.csv"}
FARSTAIL_LABELS = {"entailment": "e", "contradiction": "c", "neutral": "n"}
PERSIAN_TOPIC = Topic(
    ("مریم", "علی", "زهرا", "رضا", "سارا", "امید", "نرگس", "حسین", "لیلا", "بهرام", "مینا", "کاوه"),
    ("", "", "مردم می‌گویند که ", "در نامه نوشته شده است که "),
    ('در خبر "امروز" آمده است که ', "خبر روز:\n"),
)


def mnli_demo(folder: Path, architecture: str, seed: int = 0) -> dict[str, str]:
    """Writes MultiNLI-like jsonl files in English and a tiny model of `architecture` into `folder`.

    Returns the paths as the script's arguments: model, train_file, validation_file (the genres of training) and
    test_file (others, with other subjects). Columns: pairID, genre, premise, hypothesis, label.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    splits = _splits(ENGLISH, {"train": GENRES, "validation": GENRES, "test": OTHER_GENRES}, seed)
    paths = {}
    for split, pairs in splits.items():
        path = folder / f"{split}.jsonl"
        ids = [f"{split}-{number // len(LABELS):04d}{pair['label'][0]}" for number, pair in enumerate(pairs)]
        lines = [json.dumps({"pairID": pair_id, **pair}) + "\n" for pair_id, pair in zip(ids, pairs)]
        path.write_text("".join(lines), encoding="utf-8")
        paths[f"{split}_file"] = str(path)
    return {"model": _model(folder, architecture, splits, seed, layers=2), **paths}


def farstail_demo(folder: Path, architecture: str, seed: int = 0) -> dict[str, str]:
    """Writes files in FarsTail's form, in Persian, and a tiny model of `architecture` into `folder`.

    Returns the paths as the script's arguments: model, train_file, validation_file and test_file. The files are
    separated by tabs and quoted; the test file has the columns `hard(hypothesis)` and `hard(overlap)`, 1 where the
    label is not the one that the hypothesis alone, or the share of its words in the premise alone, suggests.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    splits = _splits(PERSIAN, {split: {"": PERSIAN_TOPIC} for split in SPLITS}, seed)
    by_hypothesis, by_overlap = _guess_by_words(splits["train"]), _guess_by_overlap(splits["train"])
    paths = {}
    for split, pairs in splits.items():
        path = folder / FARSTAIL_FILES[split]
        rows = [[pair["premise"], pair["hypothesis"], FARSTAIL_LABELS[pair["label"]]] for pair in pairs]
        header = ["premise", "hypothesis", "label"]
        if split == "test":
            header += ["hard(hypothesis)", "hard(overlap)"]
            for row, pair in zip(rows, pairs):
                row += [int(guess(pair) != pair["label"]) for guess in (by_hypothesis, by_overlap)]
        with path.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file, delimiter="\t", lineterminator="\n").writerows([header, *rows])
        paths[f"{split}_file"] = str(path)
    return {"model": _model(folder, architecture, splits, seed, layers=4), **paths}


def _model(folder: Path, architecture: str, splits: dict[str, list[dict]], seed: int, layers: int) -> str:
    # All splits, as a real vocabulary knows the words of the test, too; lower-cased, as some scripts do.
    texts = [pair[side] for pairs in splits.values() for pair in pairs for side in ("premise", "hypothesis")]
    texts += [text.lower() for text in texts]
    name = f"tiny-{twin_of(architecture).model_type}"
    return str(tiny_model(architecture, texts, folder / name, "sequence-classification", seed, LABELS, layers))


def _splits(language: Language, topics: dict[str, dict[str, Topic]], seed: int) -> dict[str, list[dict]]:
    """The pairs of each split (genre where there is one, premise, hypothesis, label); no premise is in two of them."""
    generator = random.Random(seed)
    seen: set[str] = set()
    splits: dict[str, list[dict]] = {}
    for split, premises in SPLITS.items():
        splits[split] = []
        while len(splits[split]) < premises * len(LABELS):
            genre, topic = generator.choice(sorted(topics[split].items()))
            pairs = _pairs(language, topic, generator)
            if pairs[0]["premise"] not in seen:
                seen.add(pairs[0]["premise"])
                splits[split] += [{**({"genre": genre} if genre else {}), **pair} for pair in pairs]
    return splits


def _pairs(language: Language, topic: Topic, generator: random.Random) -> list[dict]:
    """A premise with one hypothesis of every label, in random order."""
    subject = generator.choice(topic.subjects)
    kinds = generator.sample(language.kinds, len(language.kinds))
    stated = kinds[: generator.choice((2, 2, 2, 3))]
    facts = {kind: generator.choice(kind.values) for kind in stated}
    clauses = [
        generator.choice(kind.statements).format(s=language.pronoun if number else subject, v=value)
        for number, (kind, value) in enumerate(facts.items())
    ]
    rare = topic.rare_openings and generator.random() < 0.04
    opening = generator.choice(topic.rare_openings if rare else topic.openings)
    premise = _sentence(opening + language.comma.join(clauses[:-1]) + language.last_comma + clauses[-1])
    pairs = []
    for label in generator.sample(LABELS, len(LABELS)):
        kind = generator.choice(kinds[len(stated) :] if label == "neutral" else stated)
        denied = generator.random() < DENIED[label]
        others = [value for value in kind.values if value != facts.get(kind)]
        keeps_value = label != "neutral" and (label == "entailment") != denied
        form = generator.choice(kind.denials if denied else kind.statements + kind.claims)
        weights = [OWN_OPENING if name == label else OTHER_OPENING for name in LABELS]
        openings = [*(language.openings[name] for name in LABELS), ""]
        opening = generator.choices(openings, [*weights, 1 - sum(weights)])[0]
        value = facts[kind] if keeps_value else generator.choice(others)
        hypothesis = _sentence(opening + form.format(s=subject, v=value))
        pairs.append({"premise": premise, "hypothesis": hypothesis, "label": label})
    return pairs


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:] + "."


def _words(text: str) -> list[str]:
    return re.findall(r"[\w\u200c]+", text)


def _guess_by_words(pairs: list[dict]) -> Callable[[dict], str]:
    """Naive Bayes over the words of the hypothesis, counted in `pairs`: what one can say without the premise."""
    counts = {label: Counter() for label in LABELS}
    for pair in pairs:
        counts[pair["label"]].update(set(_words(pair["hypothesis"])))

    def guess(pair: dict) -> str:
        words = sorted(set(_words(pair["hypothesis"])))
        return max(LABELS, key=lambda label: sum(math.log(counts[label][word] + 1) for word in words))

    return guess


def _guess_by_overlap(pairs: list[dict]) -> Callable[[dict], str]:
    """The most frequent label in `pairs` of hypotheses with the same tenths of their words in the premise."""

    def tenths(pair: dict) -> int:
        words, premise = _words(pair["hypothesis"]), set(_words(pair["premise"]))
        return 10 * sum(word in premise for word in words) // len(words)

    counts = {number: Counter() for number in range(11)}
    for pair in pairs:
        counts[tenths(pair)][pair["label"]] += 1
    return lambda pair: max(LABELS, key=lambda label: counts[tenths(pair)][label])
