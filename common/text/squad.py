"""Questions over texts with answers as spans: SQuAD's json (v1.1, v2.0 and sets of the same form) and flat rows.

Every answer is checked against its context once, here; what follows may trust the spans.
"""

import ast
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pandas as pd
from datasets import Dataset, Features, List, Value

from common.data import require_columns, where
from common.errors import UserError

COLUMNS = ("id", "question", "context", "answers")
ANSWERS = {"text": List(Value("string")), "answer_start": List(Value("int64"))}
Span = tuple[str, int]  # text, first character in the context


def to_questions(frame: pd.DataFrame, split: str, skip_bad: bool) -> tuple[Dataset, dict[str, int]]:
    """Questions of rows (nested SQuAD articles, or flat with the hub's columns), and reason -> how many were skipped.

    Training and validation questions must have answers (an empty list: unanswerable). Of test questions the answers
    are read if every question has them, and left aside otherwise.

    Args:
        split: "train", "validation" or "test"; becomes the data set's `split`.
        skip_bad: leave bad examples out and count them instead of stopping at the first one.

    Returns:
        A row a question: id, question, context and, if known, answers {text: [...], answer_start: [...]}.

    Raises:
        UserError: naming file, row and question for whatever is wrong.
    """
    truth = split != "test"
    if "paragraphs" in frame.columns:
        examples = list(_nested(frame))
    else:
        require_columns(frame.columns, COLUMNS if truth else COLUMNS[:3], frame.attrs["source"])
        examples = list(_flat(frame))
    truth = truth or all(answers is not None for *_, answers, _ in examples)
    columns, skipped, seen = {name: [] for name in COLUMNS[: 3 + truth]}, Counter(), set()
    for place, identity, question, context, answers, impossible in examples:
        problem = _problem(identity, question, context, answers, impossible, seen, truth)
        if problem and not skip_bad:
            named = "" if identity is None else f" question {str(identity)!r}:"
            raise UserError(f"{place}:{named} {problem[1]}; mend it or pass --on_bad_example skip")
        if problem:
            skipped[problem[0]] += 1
            continue
        seen.add(str(identity))
        real = [(text, int(start)) for text, start in answers if text] if truth else []
        found = {"text": [text for text, _ in real], "answer_start": [start for _, start in real]}
        for name, value in zip(columns, (str(identity), question, context, found)):
            columns[name].append(value)
    if not seen:
        reasons = "".join(f", {count:,} skipped: {reason}" for reason, count in skipped.items())
        raise UserError(f"{frame.attrs['source']}: no usable question{reasons}")
    features = Features({name: ANSWERS if name == "answers" else Value("string") for name in columns})
    return Dataset.from_dict(columns, features=features, split=split), dict(skipped)


def _flat(frame: pd.DataFrame) -> Iterator[tuple]:
    for i, row in enumerate(frame.to_dict("records")):
        cells = {name: None if _is_missing(row.get(name)) else row[name] for name in COLUMNS}
        yield where(frame, i), *(cells[name] for name in COLUMNS[:3]), _spans(_written_out(cells["answers"])), False


def _nested(frame: pd.DataFrame) -> Iterator[tuple]:
    for (file, number), article in zip(frame.index, frame.to_dict("records")):
        place = f"{file}, article {number}"
        for paragraph in _listed(article, "paragraphs", place):
            _need(paragraph, ("context", "qas"), f"{place}: a paragraph")
            for question in _listed(paragraph, "qas", f"{place}: a paragraph"):
                _need(question, ("id", "question"), f"{place}: a question")
                answers, impossible = _spans(question.get("answers")), bool(question.get("is_impossible", False))
                yield place, question["id"], question["question"], paragraph["context"], answers, impossible


def _need(node: object, names: tuple[str, ...], place: str) -> None:
    if not isinstance(node, Mapping) or any(name not in node for name in names):
        it = f"it has {', '.join(map(repr, node)) or 'nothing'}" if isinstance(node, Mapping) else f"it is {node!r:.60}"
        raise UserError(f"{place} needs {', '.join(map(repr, names))}; {it}")


def _listed(node: Mapping, name: str, place: str) -> Sequence:
    if not isinstance(node[name], list | np.ndarray):
        raise UserError(f"{place} needs a list of {name!r}; it is {node[name]!r:.60}")
    return node[name]


def _is_missing(cell: object) -> bool:
    return cell is None or (isinstance(cell, float) and np.isnan(cell))


class _WithoutCalls(ast.NodeTransformer):
    """numpy prints `array([84], dtype=int32)`; the list is its first argument. Nothing is called."""

    def visit_Call(self, node: ast.Call) -> ast.AST:
        return self.visit(node.args[0]) if node.args else node


def _written_out(cell: object) -> object:
    """The value of a csv cell that is written as json or as Python prints it; one that cannot be read stays text."""
    if not isinstance(cell, str):
        return cell
    if not cell.strip():
        return None
    try:
        return json.loads(cell)
    except (ValueError, RecursionError):
        try:
            return ast.literal_eval(_WithoutCalls().visit(ast.parse(cell.strip(), mode="eval")).body)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            return cell


def _spans(answers: object) -> list[Span] | str | None:
    """The answers from [{text, answer_start}, ...] or {text: [...], answer_start: [...]}.

    None where there are none; what is wrong, in words, where they have another form.
    """
    if answers is None:
        return None
    try:
        if not isinstance(answers, Mapping):
            return [(answer["text"], answer["answer_start"]) for answer in answers]
        texts, starts = answers["text"], answers["answer_start"]
        if not isinstance(texts, str) and len(texts) == len(starts):
            return list(zip(texts, starts))
    except (KeyError, TypeError, IndexError):
        pass
    return (
        f'\'answers\' must be like {{"text": ["..."], "answer_start": [0]}}, it is {answers!r:.100}; '
        "save the rows as json or parquet"
    )


def _problem(identity, question, context, answers, impossible, seen, truth) -> tuple[str, str] | None:
    """The reason (to count) and the sentence (to say) of what is wrong with an example, or None."""
    if identity is None:
        return "no id", "it has no id"
    if str(identity) in seen:
        return "duplicate id", "the id is there twice"
    for name, text in (("question", question), ("context", context)):
        if text is None or (isinstance(text, str) and not text.strip()):
            return f"empty {name}", f"the {name} is empty"
        if not isinstance(text, str):
            return f"{name} of a wrong type", f"the {name} must be text, not {text!r:.60}"
        try:
            text.encode()
        except UnicodeEncodeError:
            return f"{name} is not Unicode", f"the {name} has half a surrogate pair, which is no character"
    if not truth:
        return None
    if answers is None:
        return "no answers", "it has no 'answers' (an empty list means unanswerable)"
    if isinstance(answers, str):
        return "answers of a wrong form", answers
    for text, start in answers:
        is_number = isinstance(start, int | float | np.number) and not isinstance(start, bool) and start == start // 1
        if not isinstance(text, str) or not is_number:
            sentence = f"answer text and answer_start must be text and a whole number, not {text!r}, {start!r}"
            return "answer of a wrong type", sentence
        start = int(start)  # pandas writes 84 as 84.0 where other rows have none
        if text and impossible:
            return "contradiction", f"is_impossible is true but there is the answer {text!r}"
        if text and (start < 0 or context[start : start + len(text)] != text):
            sentence = f"the answer {text!r} does not stand at answer_start {start} of its context"
            return "answer_start does not match", sentence
    return None


def hold_out(questions: Dataset, wanted: int, seed: int) -> tuple[Dataset | None, Dataset]:
    """(tuning questions, the rest): `wanted` questions or some more, by whole texts at random, of both kinds.

    (None, all of them) where no texts with twice as many questions (or with 20) have that: all questions are about one
    text, or all are answerable.
    """
    texts, answerable = pd.factorize(pd.Series(questions["context"][:]))[0], is_answerable(questions)
    sizes, most = np.bincount(texts), max(2 * wanted, min(20, len(questions) // 2))
    order = [text for text in np.random.default_rng(seed).permutation(len(sizes)) if sizes[text] <= most]
    of_kind = [set(texts[answerable == kind]) for kind in (True, False)]
    first = [text for kind in of_kind for text in [text for text in order if text in kind][:1]]
    held = np.zeros(len(questions), bool)
    for text in dict.fromkeys([*first, *order]):
        if held.sum() >= wanted and len(set(answerable[held])) == 2:
            break
        if held.sum() + sizes[text] <= most:
            held |= texts == text
    if len(set(answerable[held])) < 2 or held.all():
        return None, questions
    tuning, rest = (questions.select(np.flatnonzero(chosen)) for chosen in (held, ~held))
    return Dataset.from_dict(tuning.to_dict(), features=tuning.features, split="tuning"), rest


def is_answerable(questions: Dataset) -> np.ndarray:
    """bool [N]."""
    return np.array([bool(answers["text"]) for answers in questions["answers"][:]], dtype=bool)


def gold_texts(questions: Dataset) -> list[list[str]]:
    """N lists of gold answers."""
    return [answers["text"] for answers in questions["answers"][:]]


def training_span(answers: Mapping[str, Sequence]) -> tuple[int, int]:
    """First and one-past-last character of the answer to train on; (-1, -1) where there is none.

    Where annotators disagree it is the span most of them marked, the first of these on a tie.
    """
    if not answers["text"]:
        return -1, -1
    (text, start), _ = Counter(zip(answers["text"], answers["answer_start"])).most_common(1)[0]
    return start, start + len(text)
