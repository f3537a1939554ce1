"""Built-in data of run_qa.py: questions about invented buildings, so that `--demo` runs without a network and learns.

Composed from templates; a function of the seed alone: the same files, byte for byte, on every run.
"""

import random
import re
from pathlib import Path

from common.demo.tiny_text import tiny_model
from common.errors import write_json

PLACES = [a + b for b in ("la", "mora", "tin", "ford", "by") for a in ("Or", "Vel", "Kas", "Dun", "Mar", "Tol")]
PEOPLE = [f"{first} {last}" for first in ("Anna", "Clara", "Elena", "Greta") for last in ("Berg", "Dahl", "Funke")]
PEOPLE += [f"{first} {last}" for first in ("Boris", "David", "Felix", "Hugo") for last in ("Costa", "Egede", "Grau")]
POOLS = {"year": [*map(str, range(1705, 1995, 15))], "person": PEOPLE}
POOLS |= {"number": [*map(str, range(20, 620, 30))], "place": PLACES}
# What a paragraph may state, and how it is asked for. The wider of the two gold answers stands between < and >.
RELATIONS = {
    "{s} was founded <in {a}>": ("year", "When was {s} founded?", "In what year was {s} founded?"),
    "{s} was closed <in {a}>": ("year", "When was {s} closed?", "In what year was {s} closed?"),
    "{s} was designed <by {a}>": ("person", "Who designed {s}?", "By whom was {s} designed?"),
    "{s} was bought <by {a}>": ("person", "Who bought {s}?", "By whom was {s} bought?"),
    "{s} has <{a} rooms>": ("number", "How many rooms does {s} have?", "What number of rooms does {s} have?"),
    "{s} has <{a} books>": ("number", "How many books does {s} have?", "What number of books does {s} have?"),
    "{s} stands beside <the river {a}>": ("place", "Which river does {s} stand beside?", "Beside which river is {s}?"),
    "{s} is named after <the town {a}>": ("place", "Which town is {s} named after?", "After which town is {s} named?"),
}
TOWNS = ("Alder", "Brink", "Corve", "Draam", "Elst", "Faro", "Gelm", "Hask", "Isen", "Jorv", "Kelt", "Lumen")
SUBJECTS = ("museum", "library", "theatre", "castle", "school", "bridge", "mill", "tower")
OPENINGS = ("", "", "today ", "of course ", "the guide says that ", "as everybody knows, ")
ASIDES = ("The garden is quiet.", "In summer many families come.", "The roof is red.", "A small cafe sells tea.")
ASIDES += ("The road there is steep.", "Dogs must wait outside.", "The windows face north.")
ASIDES += ("On Mondays the doors stay shut.",)
OWN_ANSWERS = 0.95  # the others are the hard ones: only the sentence tells them
PER_PARAGRAPH, PER_ARTICLE = 3, 12  # questions
SPLITS = {"train": (2400, 1 / 3), "validation": (300, 1 / 2), "test": (21, 1 / 2)}  # questions, share unanswerable


def question_answering_demo(folder: Path, architecture: str, seed: int = 0) -> dict[str, str]:
    """Writes SQuAD v2 files (test without answers) and a tiny model of `architecture`; returns the arguments."""
    folder.mkdir(parents=True, exist_ok=True)
    generator, seen, made, texts = random.Random(seed), set(), {}, []
    for split, (count, share) in SPLITS.items():
        articles = _articles(split, count, share, seen, generator)
        made[f"{split}_file"] = str(write_json(folder / f"{split}.json", {"version": "v2.0", "data": articles}))
        for paragraph in (paragraph for article in articles for paragraph in article["paragraphs"]):
            texts += [paragraph["context"], *(question["question"] for question in paragraph["qas"])]
    return made | {"model": str(tiny_model(architecture, texts, folder / "model", "question-answering", seed))}


def _articles(split: str, questions: int, share: float, seen: set[str], generator: random.Random) -> list[dict]:
    """Articles of four paragraphs with exactly the share of unanswerable questions; `seen` collects the contexts."""
    impossible = [number < round(questions * share) for number in range(questions)]
    generator.shuffle(impossible)
    articles: list[dict] = []
    for first in range(0, questions, PER_PARAGRAPH):
        if first % PER_ARTICLE == 0:
            town, thing = generator.choice(TOWNS), generator.choice(SUBJECTS)
            articles.append({"title": f"{town} {thing} ({split} {len(articles) + 1})", "paragraphs": []})
        context, qas = "", []
        while not context or context in seen:
            context, asked = _paragraph(town, thing, impossible[first : first + PER_PARAGRAPH], generator)
        seen.add(context)
        for number, (question, answers) in enumerate(asked, start=first):
            answers = answers[:1] if split == "train" else answers
            truth = {} if split == "test" else {"answers": answers, "is_impossible": not answers}
            qas.append({"id": f"{split}-{number:05d}", "question": question, **truth})
        articles[-1]["paragraphs"].append({"context": context, "qas": qas})
    return articles


def _paragraph(town: str, thing: str, impossible: list[bool], generator: random.Random) -> tuple[str, list]:
    """A context, and (question, gold answers) for each flag; the text has an answer of the right kind in any case."""
    kinds, stated, missing = generator.sample(sorted(POOLS), generator.choice((3, 4))), [], []
    for kind in kinds:
        pair = [statement for statement, (of, *_) in RELATIONS.items() if of == kind]
        generator.shuffle(pair)
        stated.append(pair[0])
        missing.append(pair[1])
    for _ in range(min(generator.choice((0, 0, 1, 2)), len(missing) - sum(impossible))):
        stated.append(missing.pop(generator.randrange(len(missing))))
    asides = 6 if generator.random() < 0.1 else generator.choice((0, 0, 1, 2))  # a tenth are long
    parts = [*stated, *generator.sample(ASIDES, asides)]
    generator.shuffle(parts)

    context, gold = "", {}
    for part in parts:
        if part not in RELATIONS:
            context += f"{part} "
            continue
        subject = generator.choice((f"the {thing}", "it")) if gold else f"the {town} {thing}"
        # Each relation has a half of its kind's pool, so that a tiny model finds answers by their words, too.
        pool, second = POOLS[RELATIONS[part][0]], list(RELATIONS).index(part) % 2
        own = pool[len(pool) // 2 :] if second else pool[: len(pool) // 2]
        answer = generator.choice(own if generator.random() < OWN_ANSWERS else pool)
        sentence = generator.choice(OPENINGS) + part.format(s=subject, a=answer) + ". "
        before, wide, after = re.split("[<>]", sentence[0].upper() + sentence[1:])
        start = len(context) + len(before)
        short = {"text": answer, "answer_start": start + wide.index(answer)}
        gold[part] = [short, {"text": wide, "answer_start": start}, short]
        context += before + wide + after
    chosen = {False: generator.sample(stated, len(stated)), True: generator.sample(missing, len(missing))}
    asked = [chosen[flag].pop() for flag in impossible]
    questions = [generator.choice(RELATIONS[statement][1:]).format(s=f"the {thing}") for statement in asked]
    return context.rstrip(), [(question, gold.get(statement, [])) for question, statement in zip(questions, asked)]
