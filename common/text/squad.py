"""Questions over texts with answers as spans: SQuAD's json (v1.1, v2.0 and sets of the same form) and flat rows."""

import ast
import contextlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from datasets import Dataset, Features, List, Value

from common.errors import UserError
from common.files import require_columns, without_bad
from common.text.pairs import VISIBLE, text_problem

COLUMNS = ("id", "question", "context", "answers")
ANSWERS = {"text": List(Value("string")), "answer_start": List(Value("int64"))}


def to_questions(frame: pd.DataFrame, split: str, skip_bad: bool) -> tuple[Dataset, dict[str, int]]:
    """Questions of rows (nested SQuAD articles, or flat with the hub's columns), and reason -> how many were skipped.

    A row has id, question, context and answers {text: [...], answer_start: [...]}, empty lists where it has none; test
    questions may all come without them. `skip_bad`: leave bad examples out and count them.

    Raises:
        UserError: naming file, row (the article of a nested file) and question for whatever is wrong.
    """
    rows = _flattened(frame) if "paragraphs" in frame else frame
    require_columns(rows.columns, COLUMNS if split != "test" else COLUMNS[:3], frame.attrs["source"])
    rows = rows.reindex(columns=[*COLUMNS, "is_impossible"]).astype(object)
    answers = [_spans(_written_out(cell)) for cell in rows["answers"]]
    rows["answers"] = pd.Series(answers, index=rows.index, dtype=object)
    truth = split != "test" or any(answers is not None for answers in rows["answers"])
    problems, seen = {}, set()
    for i, row in enumerate(rows.itertuples(index=False)):
        if reason := _problem(row, seen, truth):
            problems[i] = reason[0], f"question {str(row.id)!r}: {reason[1]}"
        else:
            seen.add(str(row.id))
    rows, skipped = without_bad(rows, problems, "skip" if skip_bad else "stop")
    columns = {name: [*map(str, rows[name])] for name in COLUMNS[:3]}
    features = Features(dict.fromkeys(columns, Value("string")))
    if truth:
        real = [[(text, int(start)) for text, start in spans if VISIBLE.search(text)] for spans in rows["answers"]]
        columns["answers"] = [{"text": [t for t, _ in one], "answer_start": [s for _, s in one]} for one in real]
        features["answers"] = ANSWERS
    return Dataset.from_dict(columns, features=features, split=split), skipped


def _flattened(frame: pd.DataFrame) -> pd.DataFrame:
    """A row a question, under the number of its article."""
    places, rows = [], []
    for (file, number), paragraphs in zip(frame.index, frame["paragraphs"]):
        try:
            asked = [{**qa, "context": one["context"]} for one in paragraphs for qa in one["qas"]]
        except (KeyError, TypeError, IndexError) as error:
            raise UserError(
                f"{file}, article {number}: must have 'paragraphs', a list of them, each with a 'context' and a list "
                f"of questions called 'qas' ({type(error).__name__}: {error})"
            ) from None
        rows += asked
        places += [(file, number)] * len(asked)
    found = pd.DataFrame(rows, index=pd.MultiIndex.from_tuples(places, names=["file", "row"]), dtype=object)
    found.attrs = frame.attrs
    return found


def _written_out(cell: object) -> object:
    """The value of a csv cell that is written as json or as Python prints it; one that cannot be read stays text."""
    if not isinstance(cell, str):
        return cell
    if not cell.strip():
        return None
    for parse in (json.loads, ast.literal_eval):
        with contextlib.suppress(ValueError, SyntaxError, RecursionError, MemoryError):
            return parse(cell.strip())
    return cell


def _spans(answers: object) -> list[tuple[str, int]] | str | None:
    """(text, first character) of each answer, or what is wrong, in words; None where there are none."""
    if answers is None or answers != answers:
        return None
    with contextlib.suppress(KeyError, TypeError, IndexError):
        if isinstance(answers, list):
            return [(answer["text"], answer["answer_start"]) for answer in answers]
        texts, starts = answers["text"], answers["answer_start"]
        if isinstance(texts, list) and len(texts) == len(starts):
            return list(zip(texts, starts))
    form = '{"text": ["..."], "answer_start": [0]}'
    return f"'answers' must be like {form}, it is {answers!r:.100}; save the rows as json or parquet"


def _problem(row, seen: set[str], truth: bool) -> tuple[str, str] | None:
    """The reason (to count) and the sentence (to say) of what is wrong with a question, or None."""
    if row.id is None or row.id != row.id or not str(row.id).strip():
        return "no id", "it has no id"
    if str(row.id) in seen:
        return "duplicate id", "the id is there twice"
    if found := text_problem("question", row.question) or text_problem("context", row.context):
        return found
    if not truth:
        return None
    if row.answers is None:
        return "no answers", "it has no 'answers' (an empty list means unanswerable)"
    if isinstance(row.answers, str):
        return "answers of a wrong form", row.answers
    for text, start in row.answers:
        is_number = isinstance(start, int | float | np.number) and not isinstance(start, bool) and start == start // 1
        if not isinstance(text, str) or not is_number:
            wrong = f"answer text and answer_start must be text and a whole number, not {text!r:.60}, {start!r:.60}"
            return "answer of a wrong type", wrong
        start = int(start)  # pandas writes 84 as 84.0 where other rows have none
        if VISIBLE.search(text) and (start < 0 or not row.context.startswith(text, start)):
            wrong = f"the answer {text!r:.60} does not stand at answer_start {start} of its context"
            return "answer_start does not match", wrong
    there = next((f"the answer {text!r:.60}" for text, _ in row.answers if VISIBLE.search(text)), "no answer")
    says = str(row.is_impossible).casefold()  # a cell of a csv is text
    if says in (("false", "0", "0.0") if there == "no answer" else ("true", "1", "1.0")):
        return "contradiction", f"is_impossible is {says} but there is {there}"
    return None


def hold_out(questions: Dataset, wanted: int, seed: int) -> tuple[Dataset | None, Dataset]:
    """(`wanted` or some more, the rest): by whole texts at random, with both kinds of questions; (None, all) if not."""
    texts, answerable = pd.factorize(pd.Series(questions["context"][:]))[0], is_answerable(questions)
    sizes, most = np.bincount(texts), max(2 * wanted, min(20, len(questions) // 2))
    order = [text for text in np.random.default_rng(seed).permutation(len(sizes)) if sizes[text] <= most]
    of_kind = [set(texts[answerable == kind]) for kind in (True, False)]
    first = [text for kind in of_kind for text in [text for text in order if text in kind][:1]]
    held = np.zeros(len(questions), bool)
    for text in dict.fromkeys([*first, *order]) if len(first) == 2 else ():
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
    """First and one-past-last character of the answer that most annotators marked; (-1, -1) where there is none."""
    if not answers["text"]:
        return -1, -1
    (text, start), _ = Counter(zip(answers["text"], answers["answer_start"])).most_common(1)[0]
    return start, start + len(text)
