"""Questions over texts with answers as spans: SQuAD's json (v1.1, v2.0 and sets of the same form) and flat rows.

Every answer is checked against its context once, here; what follows may trust the spans.
"""

import ast
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from common.data import read_json, read_rows, require_columns
from common.errors import UserError

FLAT_COLUMNS = ("id", "question", "context", "answers")


@dataclass
class Questions:
    """N questions over M distinct contexts.

    Attributes:
        ids, questions: N strings.
        contexts: M distinct strings.
        context_of: int [N], index into `contexts`.
        answers: N lists of (text, first character in the context); an empty list: unanswerable. None: truth unknown.
        source: where they come from, for messages and results.
        skipped: reason -> how many bad examples were left out.
    """

    ids: list[str]
    questions: list[str]
    contexts: list[str]
    context_of: np.ndarray
    answers: list[list[tuple[str, int]]] | None
    source: str
    skipped: dict[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, indices: np.ndarray) -> "Questions":
        """The questions at `indices`, with only the contexts they need."""
        used, context_of = np.unique(self.context_of[indices], return_inverse=True)
        return Questions(
            ids=[self.ids[i] for i in indices],
            questions=[self.questions[i] for i in indices],
            contexts=[self.contexts[i] for i in used],
            context_of=context_of.astype(np.int64),
            answers=None if self.answers is None else [self.answers[i] for i in indices],
            source=self.source,
            skipped=self.skipped,
        )

    def hold_out(self, count: int, seed: int) -> tuple["Questions", "Questions"]:
        """(held out, rest): whole contexts, at random, until they have at least `count` questions."""
        order = np.random.default_rng(seed).permutation(len(self.contexts))
        per_context = np.bincount(self.context_of, minlength=len(self.contexts))
        needed = int(np.searchsorted(np.cumsum(per_context[order]), count)) + 1
        held = np.isin(self.context_of, order[:needed])
        return self.take(np.flatnonzero(held)), self.take(np.flatnonzero(~held))

    def context(self, i: int) -> str:
        """The context of question `i`."""
        return self.contexts[self.context_of[i]]

    @cached_property
    def answerable(self) -> np.ndarray:
        """bool [N]."""
        return np.array([bool(answers) for answers in self.answers], dtype=bool)

    @property
    def golds(self) -> list[list[str]]:
        """N lists of gold answer texts."""
        return [[text for text, _ in answers] for answers in self.answers]

    def rows(self) -> Iterator[tuple]:
        """(id, question, context, answers) for fingerprints."""
        for i, (identity, question) in enumerate(zip(self.ids, self.questions)):
            yield identity, question, self.context(i), self.answers[i] if self.answers is not None else None

    def label_counts(self) -> dict[str, int]:
        """How many are answerable and unanswerable."""
        answerable = int(self.answerable.sum())
        return {"answerable": answerable, "unanswerable": len(self) - answerable}

    def training_spans(self) -> np.ndarray:
        """int [N, 2]: first and one-past-last character of the answer to train on; (-1, -1) where there is none.

        Where annotators disagree it is the span most of them marked, the first of these on a tie.
        """
        spans = np.full((len(self), 2), -1, dtype=np.int64)
        for i, answers in enumerate(self.answers):
            if answers:
                (text, start), _ = Counter(answers).most_common(1)[0]
                spans[i] = start, start + len(text)
        return spans


def read_questions(path: str | Path, *, truth: bool, skip_bad: bool) -> Questions:
    """Questions of a file: nested SQuAD json, or flat json, jsonl, csv, tsv or parquet with the hub's columns.

    `truth=False` reads questions to be answered: answers, if there are any, are left aside.
    Raises `UserError` naming file and question for whatever is wrong.
    """
    path = Path(path)
    if path.suffix.lower() == ".json":
        content = read_json(path)
        articles = content.get("data") if isinstance(content, dict) else content
        if isinstance(articles, list) and articles and isinstance(articles[0], dict) and "paragraphs" in articles[0]:
            return _collect(_nested(articles, path), str(path), truth=truth, skip_bad=skip_bad)
    return flat_questions(read_rows(path), str(path), truth=truth, skip_bad=skip_bad)


def flat_questions(rows: list[dict], source: str, *, truth: bool, skip_bad: bool) -> Questions:
    """Questions of rows with the hub's columns: id, question, context, answers {text: [...], answer_start: [...]}."""
    require_columns(rows[0], FLAT_COLUMNS if truth else FLAT_COLUMNS[:3], source)
    return _collect(_flat(rows, truth, source), source, truth=truth, skip_bad=skip_bad)


def _nested(articles: list[dict], path: Path) -> Iterator[tuple]:
    for number, article in enumerate(articles, start=1):
        _need(article, ("paragraphs",), f"{path}: article {number}")
        place = f"{path}: article {article.get('title') or number!r}"
        for paragraph in article["paragraphs"]:
            _need(paragraph, ("context", "qas"), f"{place}: a paragraph")
            for question in paragraph["qas"]:
                _need(question, ("id", "question"), f"{place}: a question")
                answers = question.get("answers")
                if answers is not None:
                    try:
                        answers = [(answer["text"], answer["answer_start"]) for answer in answers]
                    except (KeyError, TypeError):
                        raise UserError(
                            f"{path}: question {question['id']!r}: each answer needs 'text' and 'answer_start'"
                        ) from None
                impossible = bool(question.get("is_impossible", False))
                yield question["id"], question["question"], paragraph["context"], answers, impossible


def _need(node: object, names: tuple[str, ...], place: str) -> None:
    if not isinstance(node, dict) or any(name not in node for name in names):
        found = f"it has {', '.join(map(repr, node)) or 'nothing'}" if isinstance(node, dict) else f"it is {node!r:.60}"
        raise UserError(f"{place} needs {', '.join(map(repr, names))}; {found}")


def _flat(rows: list[dict], truth: bool, source: str) -> Iterator[tuple]:
    for row in rows:
        answers = _flat_answers(row["answers"], f"{source}: question {row['id']!r}") if truth else None
        yield row["id"], row["question"], row["context"], answers, False


def _flat_answers(cell: object, place: str) -> list[tuple[str, int]]:
    if isinstance(cell, str):  # csv: the cell is written out, as json or as Python prints it
        try:
            cell = json.loads(cell)
        except json.JSONDecodeError:
            try:
                cell = ast.literal_eval(cell)
            except (ValueError, SyntaxError):
                raise UserError(
                    f'{place}: cannot read the cell \'answers\'; write it as {{"text": ["..."], "answer_start": [0]}}'
                ) from None
    try:
        if isinstance(cell, list):  # a list of {text, answer_start}
            return [(answer["text"], answer["answer_start"]) for answer in cell]
        return list(zip(cell["text"], cell["answer_start"]))
    except (KeyError, TypeError):
        raise UserError(f"{place}: 'answers' needs 'text' and 'answer_start', it is {cell!r}") from None


def _collect(examples: Iterator[tuple], source: str, *, truth: bool, skip_bad: bool) -> Questions:
    """Checks every example; the first bad one stops the run, or with `skip_bad` each is counted under its reason."""
    found = Questions([], [], [], np.zeros(0, np.int64), [] if truth else None, source)
    context_of, index_of, seen = [], {}, set()
    for identity, question, context, answers, impossible in examples:
        identity = str(identity)
        problem = _problem(identity, question, context, answers, impossible, seen, truth)
        if problem:
            reason, sentence = problem
            if not skip_bad:
                raise UserError(f"{source}: question {identity!r}: {sentence}; mend it or pass --on_bad_example skip")
            found.skipped[reason] = found.skipped.get(reason, 0) + 1
            continue
        seen.add(identity)
        found.ids.append(identity)
        found.questions.append(question)
        context_of.append(index_of.setdefault(context, len(index_of)))
        if truth:
            found.answers.append([(text, start) for text, start in answers if text])
    if not found.ids:
        raise UserError(f"{source}: no usable question" + (f" ({found.skipped})" if found.skipped else ""))
    found.contexts = list(index_of)
    found.context_of = np.array(context_of, dtype=np.int64)
    return found


def _problem(identity, question, context, answers, impossible, seen, truth) -> tuple[str, str] | None:
    """The reason (to count) and the sentence (to say) of what is wrong with an example, or None."""
    if identity in seen:
        return "duplicate id", "the id is there twice"
    if not isinstance(question, str) or not question.strip():
        return "empty question", "the question is empty"
    if not isinstance(context, str) or not context.strip():
        return "empty context", "the context is empty"
    if not truth:
        return None
    if answers is None:
        return "no answers", "it has no 'answers' (an empty list means unanswerable)"
    for text, start in answers:
        if not isinstance(text, str) or isinstance(start, bool) or not isinstance(start, int | np.integer):
            return (
                "answer of a wrong type",
                f"answer text and answer_start must be text and a number, not {text!r}, {start!r}",
            )
        if text and impossible:
            return "contradiction", f"is_impossible is true but there is the answer {text!r}"
        if text and (start < 0 or context[start : start + len(text)] != text):
            return (
                "answer_start does not match",
                f"the answer {text!r} does not stand at answer_start {start} of its context",
            )
    return None
