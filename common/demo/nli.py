"""Built-in sentence pairs of run_mnli_lora.py (English) and run_nli_parsbert.py (Persian), so that `--demo` learns.

A function of the seed alone: the same files, byte for byte, on every run. A premise states two or three facts. Entailed
is a fact that it states, contradicted one with another value (or the fact denied), neutral a fact of a kind that it
does not mention. As in real data, some of this shows in the hypothesis alone, by its first words and by "not".
"""

import json
import random
from pathlib import Path

from common.demo.tiny_text import tiny_model
from common.errors import write_bytes, write_csv

LABELS = ("entailment", "neutral", "contradiction")  # the order of MNLI
SPLITS = {"train": 1000, "validation": 200, "test": 200}  # premises, each with one hypothesis of every label
DENIED = {"entailment": 0.05, "neutral": 0.05, "contradiction": 0.2}  # share of hypotheses that deny something
OWN_OPENING, OTHER_OPENING = 0.3, 0.1  # share of hypotheses with the opening of their own label, of each other label

# Templates: statement, claim (of hypotheses alone) and denial that {s} has the value {v} of a kind {x}.
ENGLISH = {
    "templates": ("the {x} of {s} is {v}", "{v} is the {x} of {s}", "the {x} of {s} is not {v}"),
    "kinds": {
        "colour": ("red", "blue", "green", "yellow", "white", "black"),
        "owner": ("Anna", "Boris", "Clara", "David", "Elena", "Felix"),
        "city": ("Paris", "London", "Rome", "Berlin", "Madrid", "Vienna"),
        "month": ("March", "April", "May", "June", "July", "August"),
        "price": ("ten", "twenty", "thirty", "forty", "fifty", "sixty"),
        "material": ("wood", "iron", "stone", "glass", "brass", "clay"),
    },
    "and": (", ", " and "),
    "openings": ("so ", "besides, ", "in fact "),
}
GENRES = {  # of train and validation: subjects and how premises begin
    "fiction": (("the lantern", "the mirror", "the wagon"), ("", "he whispered that ", "long ago ")),
    "government": (("the gate", "the office", "the bridge"), ("", "the report states that ", "according to law, ")),
    "slate": (("the statue", "the desk", "the clock"), ("", "critics write that ", "as usual, ")),
    "telephone": (("the truck", "the couch", "the fence"), ("", "uh-huh well ", "yeah i mean ")),
    "travel": (("the tower", "the ferry", "the fountain"), ("", "visitors learn that ", "near the market ")),
}
OTHER_GENRES = {  # of test: the mismatched ones
    "letters": (("the shelter", "the bench", "the cabin"), ("", "dear friend, ", "we are glad that ")),
    "nineeleven": (("the hangar", "the radio", "the loom"), ("", "officials noted that ", "that morning ")),
    "verbatim": (("the piano", "the sign", "the swing"), ("", "as we say, ", "strictly speaking, ")),
}
PERSIAN = {
    "templates": ("{x} {s} {v} است", "{v} {x} {s} است", "{x} {s} {v} نیست"),
    "kinds": {
        "شهر": ("تهران", "شیراز", "تبریز", "اصفهان", "مشهد", "کرمان"),
        "شغل": ("معلم", "پزشک", "نجار", "خیاط", "نقاش", "راننده"),
        "رنگ خودروی": ("سفید", "سیاه", "آبی", "سبز", "زرد", "قرمز"),
        "نوشیدنی صبح": ("چای", "قهوه", "شیر", "آب", "دوغ", "شربت"),
        "تعداد کتاب‌های": ("دو", "سه", "چهار", "پنج", "شش", "هفت"),
        "روز خرید": ("شنبه", "یکشنبه", "دوشنبه", "سه‌شنبه", "چهارشنبه", "پنجشنبه"),
    },
    "and": ("، ", " و "),
    "openings": ("پس ", "همچنین ", "در واقع "),
}
PEOPLE = ("مریم", "علی", "زهرا", "رضا", "سارا", "امید", "نرگس", "حسین", "لیلا", "بهرام", "مینا", "کاوه")
PERSIAN_TOPIC = {"": (PEOPLE, ("", "", "مردم می‌گویند که ", "در نامه نوشته شده است که "))}


def mnli_demo(folder: Path, architecture: str, seed: int = 0) -> dict[str, str]:
    """Writes MultiNLI-like files (test of other genres) and a tiny model of `architecture`; returns the arguments."""
    splits = _splits(ENGLISH, {"train": GENRES, "validation": GENRES, "test": OTHER_GENRES}, seed)
    made = _model(folder, architecture, splits, seed, layers=2)
    for split, pairs in splits.items():
        lines = [json.dumps({"pairID": f"{split}-{i:04d}", **pair}) + "\n" for i, pair in enumerate(pairs)]
        made[f"{split}_file"] = str(write_bytes(folder / f"{split}.jsonl", "".join(lines).encode()))
    return made


def farstail_demo(folder: Path, architecture: str, seed: int = 0) -> dict[str, str]:
    """Writes csv files in Persian with FarsTail's columns and labels (e, n, c), and a tiny model, likewise."""
    splits = _splits(PERSIAN, dict.fromkeys(SPLITS, PERSIAN_TOPIC), seed)
    made = _model(folder, architecture, splits, seed, layers=4)
    for split, pairs in splits.items():
        rows = [[pair["premise"], pair["hypothesis"], pair["label"][0]] for pair in pairs]
        made[f"{split}_file"] = str(write_csv(folder / f"{split}.csv", ["premise", "hypothesis", "label"], rows))
    return made


def _model(folder: Path, architecture: str, splits: dict[str, list[dict]], seed: int, layers: int) -> dict[str, str]:
    texts = [pair[side] for pairs in splits.values() for pair in pairs for side in ("premise", "hypothesis")]
    texts += [text.lower() for text in texts]  # as some scripts do
    architecture = "bert-base" if Path(architecture).is_dir() else architecture  # the given model is used instead
    kind = "sequence-classification"
    return {"model": str(tiny_model(architecture, texts, folder / "model", kind, seed, LABELS, layers))}


def _splits(language: dict, topics: dict[str, dict], seed: int) -> dict[str, list[dict]]:
    """The pairs of each split (genre, premise, hypothesis, label); no premise is in two of them."""
    generator, seen, splits = random.Random(seed), set(), {}
    for split, premises in SPLITS.items():
        splits[split] = []
        while len(splits[split]) < premises * len(LABELS):
            genre, topic = generator.choice(sorted(topics[split].items()))
            premise, pairs = _pairs(language, *topic, generator)
            if premise not in seen:
                seen.add(premise)
                splits[split] += [{"genre": genre, "premise": premise, **pair} for pair in pairs]
    return splits


def _pairs(language: dict, subjects: tuple, openings: tuple, generator: random.Random) -> tuple[str, list]:
    """A premise, and one hypothesis of every label, in random order."""
    subject, (comma, last) = generator.choice(subjects), language["and"]
    statement, claim, denial = language["templates"]
    kinds = generator.sample(sorted(language["kinds"]), len(language["kinds"]))
    facts = {kind: generator.choice(language["kinds"][kind]) for kind in kinds[: generator.choice((2, 2, 2, 3))]}
    *clauses, final = (statement.format(x=kind, s=subject, v=value) for kind, value in facts.items())
    premise, pairs = generator.choice(openings) + comma.join(clauses) + last + final, []
    for label in generator.sample(LABELS, len(LABELS)):
        kind = generator.choice(kinds[len(facts) :] if label == "neutral" else [*facts])
        denied = generator.random() < DENIED[label]
        others = [value for value in language["kinds"][kind] if value != facts.get(kind)]
        keeps_value = label != "neutral" and (label == "entailment") != denied
        weights = [OWN_OPENING if name == label else OTHER_OPENING for name in LABELS]
        begin = generator.choices([*language["openings"], ""], [*weights, 1 - sum(weights)])[0]
        template = denial if denied else generator.choice((statement, statement, claim))
        value = facts[kind] if keeps_value else generator.choice(others)
        text = begin + template.format(x=kind, s=subject, v=value)
        pairs.append({"hypothesis": _sentence(text), "label": label})
    return _sentence(premise), pairs


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:] + "."
