"""Questions over texts with answers as spans: SQuAD's json (v1.1, v2.0 and sets of the same form) and flat rows.

Every answer is checked against its context once, here; what follows may trust the spans.
"""

import ast
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from common.legacy.data import is_unicode, overlap, read_json, read_rows, require_columns
from common.legacy.errors import UserError
from common.legacy.examples import Examples

FLAT_COLUMNS = ("id", "question", "context", "answers")


@dataclass
class Questions(Examples):
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
        first, rest = self.take(np.flatnonzero(held)), self.take(np.flatnonzero(~held))
        first.skipped = {}  # counted once, with the rest
        return first, rest

    def context(self, i: int) -> str:
        """The context of question `i`."""
        return self.contexts[self.context_of[i]]

    @cached_property
    def answerable(self) -> np.ndarray:
        """bool [N]."""
        return np.array([bool(answers) for answers in self.answers], dtype=bool)

    @cached_property
    def golds(self) -> list[list[str]]:
        """N lists of gold answer texts."""
        return [[text for text, _ in answers] for answers in self.answers]

    def rows(self) -> Iterator[tuple]:
        """(id, question, context, answers) for fingerprints."""
        for i, (identity, question) in enumerate(zip(self.ids, self.questions)):
            yield identity, question, self.context(i), self.answers[i] if self.answers is not None else None

    def label_counts(self) -> dict[str, int] | None:
        """How many are answerable and unanswerable; None where that is unknown."""
        if self.answers is None:
            return None
        answerable = int(self.answerable.sum())
        return {"answerable": answerable, "unanswerable": len(self) - answerable}

    def statistics(self) -> dict[str, float]:
        """How many texts the questions are asked about."""
        return {"contexts": len(self.contexts)}

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


def read_questions(path: str | Path, *, truth: bool | None, skip_bad: bool) -> Questions:
    """Questions of a file: nested SQuAD json, or flat json, jsonl, csv, tsv or parquet with the hub's columns.

    Args:
        truth: True: every question must have answers. False: questions to be answered; answers, if there are any, are
            left aside. None: the answers are read if every question has them, and left aside otherwise.
        skip_bad: leave bad examples out and count them in `Questions.skipped` instead of stopping at the first one.

    Raises:
        UserError: naming file and question for whatever is wrong.
    """
    path = Path(path)
    if path.suffix.lower() == ".json":
        content = read_json(path)
        articles = content.get("data") if isinstance(content, dict) else content
        if isinstance(articles, list) and articles and isinstance(articles[0], dict) and "paragraphs" in articles[0]:
            return _collect(_nested(articles, path), str(path), truth=truth, skip_bad=skip_bad)
    return flat_questions(read_rows(path), str(path), truth=truth, skip_bad=skip_bad)


def flat_questions(rows: list[dict], source: str, *, truth: bool | None, skip_bad: bool) -> Questions:
    """Questions of rows with the hub's columns: id, question, context, answers {text: [...], answer_start: [...]}.

    `truth` and `skip_bad` as for `read_questions`.
    """
    columns = dict.fromkeys(name for row in rows for name in row)  # rows of json need not all have the same ones
    require_columns(columns, FLAT_COLUMNS if truth else FLAT_COLUMNS[:3], source)
    return _collect(_flat(rows), source, truth=truth, skip_bad=skip_bad)


def _nested(articles: list[dict], path: Path) -> Iterator[tuple]:
    for number, article in enumerate(articles, start=1):
        _need(article, ("paragraphs",), f"{path}: article {number}")
        place = f"{path}: article {article.get('title') or number!r}"
        for paragraph in _listed(article, "paragraphs", place):
            _need(paragraph, ("context", "qas"), f"{place}: a paragraph")
            for question in _listed(paragraph, "qas", f"{place}: a paragraph"):
                _need(question, ("id", "question"), f"{place}: a question")
                answers = _spans(question.get("answers"))
                impossible = bool(question.get("is_impossible", False))
                yield question["id"], question["question"], paragraph["context"], answers, impossible


def _need(node: object, names: tuple[str, ...], place: str) -> None:
    if not isinstance(node, dict) or any(name not in node for name in names):
        found = f"it has {', '.join(map(repr, node)) or 'nothing'}" if isinstance(node, dict) else f"it is {node!r:.60}"
        raise UserError(f"{place} needs {', '.join(map(repr, names))}; {found}")


def _listed(node: dict, name: str, place: str) -> list:
    if not isinstance(node[name], list):
        raise UserError(f"{place} needs a list of {name!r}; it is {node[name]!r:.60}")
    return node[name]


def _flat(rows: list[dict]) -> Iterator[tuple]:
    for row in rows:
        cell = row.get("answers")
        yield row.get("id"), row.get("question"), row.get("context"), _spans(_written_out(cell)), False


def _written_out(cell: object) -> object:
    """The value of a csv cell that is written as json or as Python prints it; one that cannot be read stays text."""
    if not isinstance(cell, str):
        return cell
    if not cell.strip():
        return None
    try:
        return json.loads(cell)
    except json.JSONDecodeError:
        try:
            return ast.literal_eval(cell)
        except (ValueError, SyntaxError):
            return cell


def _spans(answers: object) -> list[tuple[str, int]] | str | None:
    """(text, start) of each answer, from [{text, answer_start}, ...] or {text: [...], answer_start: [...]}.

    None where there are no answers; what is wrong, in words, where they have another form.
    """
    if answers is None:
        return None
    try:
        if not isinstance(answers, dict):
            return [(answer["text"], answer["answer_start"]) for answer in answers]
        texts, starts = answers["text"], answers["answer_start"]
        if not isinstance(texts, str) and len(texts) == len(starts):
            return list(zip(texts, starts))
    except (KeyError, TypeError):
        pass
    return f'\'answers\' must be like {{"text": ["..."], "answer_start": [0]}}, it is {answers!r:.200}'


def _collect(examples: Iterable[tuple], source: str, *, truth: bool | None, skip_bad: bool) -> Questions:
    """Checks every example; the first bad one stops the run, or with `skip_bad` each is counted under its reason."""
    if truth is None:
        examples = list(examples)
        truth = all(answers is not None for *_, answers, _ in examples)
    found = Questions([], [], [], np.zeros(0, np.int64), [] if truth else None, source)
    context_of, index_of, seen = [], {}, set()
    for number, (identity, question, context, answers, impossible) in enumerate(examples, start=1):
        named = f"question {number} of the file" if identity is None else f"question {str(identity)!r}"
        problem = _problem(identity, question, context, answers, impossible, seen, truth)
        if problem:
            reason, sentence = problem
            if not skip_bad:
                raise UserError(f"{source}: {named}: {sentence}; mend it or pass --on_bad_example skip")
            found.skipped[reason] = found.skipped.get(reason, 0) + 1
            continue
        identity = str(identity)
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
    if identity is None:
        return "no id", "it has no id"
    if str(identity) in seen:
        return "duplicate id", "the id is there twice"
    for name, text in (("question", question), ("context", context)):
        if text is None or (isinstance(text, str) and not text.strip()):
            return f"empty {name}", f"the {name} is empty"
        if not isinstance(text, str):
            return f"{name} of a wrong type", f"the {name} must be text, not {text!r:.60}"
        if not is_unicode(text):
            return f"{name} is not Unicode", f"the {name} has half a surrogate pair, which is no character"
    if not truth:
        return None
    if answers is None:
        return "no answers", "it has no 'answers' (an empty list means unanswerable)"
    if isinstance(answers, str):
        return "answers of a wrong form", answers
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


def describe_splits(splits: dict[str, Questions], selection: dict[str, tuple[int, str]], statistics: dict) -> dict:
    """results.json's `data`: every split, and the contexts and examples that splits share.

    `selection` and `statistics` have, by split, what `Questions.describe` takes.
    """
    contexts = {name: [q.context(i) for i in range(len(q))] for name, q in splits.items()}
    examples = {name: list(zip(q.questions, contexts[name])) for name, q in splits.items()}
    return {
        "splits": {name: q.describe(*selection[name], **statistics[name]) for name, q in splits.items()},
        "overlaps": overlap(contexts, "context") + overlap(examples, "example"),
    }
