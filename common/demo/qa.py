"""Built-in data of run_qa.py: questions about invented buildings, so that `--demo` runs without a network and learns.

Composed from templates; a function of the seed alone: the same files, byte for byte, on every run. Not for measuring
anything but that the script works.
"""

import json
import random
import re
from pathlib import Path
from typing import NamedTuple

from common.demo.tiny_text import tiny_model, twin_of

PLACES = [
    first + last for last in ("la", "mora", "tin", "ford", "by") for first in ("Or", "Vel", "Kas", "Dun", "Mar", "Tol")
]
PEOPLE = [f"{first} {last}" for first in ("Anna", "Clara", "Elena", "Greta") for last in ("Berg", "Dahl", "Funke")]
PEOPLE += [f"{first} {last}" for first in ("Boris", "David", "Felix", "Hugo") for last in ("Costa", "Egede", "Grau")]
# kind -> the pool of answers, then (statement, questions) of two relations. {s} is the subject, {a} the answer; the
# wider of the two gold answers stands between < and >.
KINDS = {
    "year": (
        [str(year) for year in range(1705, 1995, 15)],
        ("{s} was founded <in {a}>", "When was {s} founded?", "In what year was {s} founded?"),
        ("{s} was closed <in {a}>", "When was {s} closed?", "In what year was {s} closed?"),
    ),
    "person": (
        PEOPLE,
        ("{s} was designed <by {a}>", "Who designed {s}?", "By whom was {s} designed?"),
        ("{s} was bought <by {a}>", "Who bought {s}?", "By whom was {s} bought?"),
    ),
    "number": (
        [str(number) for number in range(20, 620, 30)],
        ("{s} has <{a} rooms>", "How many rooms does {s} have?", "What number of rooms does {s} have?"),
        ("{s} has <{a} books>", "How many books does {s} have?", "What number of books does {s} have?"),
    ),
    "place": (
        PLACES,
        (
            "{s} stands beside <the river {a}>",
            *("Which river does {s} stand beside?", "Beside which river does {s} stand?"),
        ),
        ("{s} is named after <the town {a}>", "Which town is {s} named after?", "After which town is {s} named?"),
    ),
}  # fmt: skip
TOWNS = ("Alder", "Brink", "Corve", "Draam", "Elst", "Faro", "Gelm", "Hask", "Isen", "Jorv", "Kelt", "Lumen")
SUBJECTS = ("museum", "library", "theatre", "castle", "school", "bridge", "mill", "tower")
OPENINGS = ("", "", "today ", "of course ", "the guide says that ", "as everybody knows, ")
ASIDES = (
    *("The garden is quiet.", "In summer many families come.", "The roof is red.", "A small cafe sells tea."),
    *("The road there is steep.", "Dogs must wait outside.", "The windows face north."),
    "On Mondays the doors stay shut.",
)
OWN_ANSWERS = 0.95  # the others are the hard ones: only the sentence tells them
PER_PARAGRAPH, PER_ARTICLE = 3, 12  # questions
SPLITS = {"train": (2400, 1 / 3), "validation": (300, 1 / 2), "test": (21, 1 / 2)}  # questions, share unanswerable


class Relation(NamedTuple):
    """Something a paragraph may state; another relation of the same kind makes its question's plausible answer.

    Every relation draws its answers from a share of the kind's pool of its own, so that a tiny model finds them by
    their words as well as by the sentence, which it learns in seconds.
    """

    kind: str
    statement: str
    questions: tuple[str, ...]
    answers: tuple[str, ...]


RELATIONS = [
    Relation(kind, form[0], form[1:], tuple(pool[i * len(pool) // 2 : (i + 1) * len(pool) // 2]))
    for kind, (pool, *forms) in KINDS.items()
    for i, form in enumerate(forms)
]


def question_answering_demo(folder: Path, architecture: str, seed: int = 0) -> dict[str, str]:
    """Writes SQuAD v2 files about invented buildings and a tiny model of `architecture` into `folder`.

    Returns the paths as the script's arguments: model, train_file, validation_file and test_file, the last one
    without answers. The shares of unanswerable questions are those of SQuAD v2, no paragraph is in two splits, and
    validation has several gold answers a question.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    generator, seen, made, texts = random.Random(seed), set(), {}, []
    for split, (count, share) in SPLITS.items():
        articles = _articles(split, count, share, seen, generator)
        made[f"{split}_file"] = str(folder / f"{split}.json")
        content = json.dumps({"version": "v2.0", "data": articles}, indent=1)
        Path(made[f"{split}_file"]).write_text(content + "\n", encoding="utf-8")
        if split == "train":
            paragraphs = [paragraph for article in articles for paragraph in article["paragraphs"]]
            texts = [paragraph["context"] for paragraph in paragraphs]
            texts += [question["question"] for paragraph in paragraphs for question in paragraph["qas"]]
    made["model"] = str(
        tiny_model(architecture, texts, folder / f"tiny-{twin_of(architecture)[0]}", "question-answering", seed)
    )
    return made


def _articles(split: str, questions: int, share: float, seen: set[str], generator: random.Random) -> list[dict]:
    """Articles of four paragraphs with exactly the share of unanswerable questions; `seen` collects the contexts."""
    impossible = [number < round(questions * share) for number in range(questions)]
    generator.shuffle(impossible)
    articles: list[dict] = []
    for first in range(0, questions, PER_PARAGRAPH):
        if first % PER_ARTICLE == 0:
            town, thing = generator.choice(TOWNS), generator.choice(SUBJECTS)
            articles.append({"title": f"{town} {thing} ({split} {len(articles) + 1})", "paragraphs": []})
        flags = impossible[first : first + PER_PARAGRAPH]
        paragraph = _paragraph(town, thing, flags, generator)
        while paragraph["context"] in seen:
            paragraph = _paragraph(town, thing, flags, generator)
        seen.add(paragraph["context"])
        for number, question in enumerate(paragraph["qas"], start=first):
            question["id"] = f"{split}-{number:05d}"
            if split == "train":
                question["answers"] = question["answers"][:1]
            elif split == "test":
                for key in ("answers", "plausible_answers", "is_impossible"):
                    question.pop(key, None)
        articles[-1]["paragraphs"].append(paragraph)
    return articles


def _paragraph(town: str, thing: str, impossible: list[bool], generator: random.Random) -> dict:
    """A context and one question for each flag; an unanswerable one has a plausible answer of the right kind."""
    kinds = generator.sample(sorted(KINDS), generator.choice((3, 4)))
    stated = [generator.choice([relation for relation in RELATIONS if relation.kind == kind]) for kind in kinds]
    missing = [relation for relation in RELATIONS if relation.kind in kinds and relation not in stated]
    for _ in range(min(generator.choice((0, 0, 1, 2)), len(missing) - sum(impossible))):
        stated.append(missing.pop(generator.randrange(len(missing))))
    asides = 6 if generator.random() < 0.1 else generator.choice((0, 0, 1, 2))  # a tenth are long
    parts = [*stated, *generator.sample(ASIDES, asides)]
    generator.shuffle(parts)

    sentences: list[str] = []
    gold: dict[Relation, list[dict]] = {}
    for part in parts:
        if isinstance(part, str):
            sentences.append(part)
            continue
        subject = generator.choice((f"the {thing}", "it")) if gold else f"the {town} {thing}"
        pool = part.answers if generator.random() < OWN_ANSWERS else KINDS[part.kind][0]
        answer = generator.choice(pool)
        sentence = generator.choice(OPENINGS) + part.statement.format(s=subject, a=answer) + "."
        before, wide, after = re.split("[<>]", sentence[0].upper() + sentence[1:])
        start = len(" ".join([*sentences, before]))
        short = {"text": answer, "answer_start": start + wide.index(answer)}
        gold[part] = [short, {"text": wide, "answer_start": start}, short]
        sentences.append(before + wide + after)

    asked = iter(generator.sample(stated, impossible.count(False)))
    not_stated = iter(generator.sample(missing, impossible.count(True)))
    questions = []
    for flag in impossible:
        relation = next(not_stated if flag else asked)
        text = generator.choice(relation.questions).format(s=f"the {thing}")
        question = {"id": "", "question": text, "answers": [] if flag else gold[relation], "is_impossible": flag}
        if flag:
            plausible = next(other for other in stated if other.kind == relation.kind)
            question["plausible_answers"] = gold[plausible][:1]
        questions.append(question)
    return {"context": " ".join(sentences), "qas": questions}
