"""Files of every format that the scripts read, damaged at random: what is in them, or one sentence, soon."""

import contextlib
import gzip
import io
import json
import random
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import run_qa
from common.arguments import parse_arguments
from common.errors import UserError
from common.files import read_files
from common.speech.audio import RATE, examine, load_clip
from common.tabular.tables import Tables
from common.text.squad import to_questions
from tests.faults import COUNT

ROWS = [
    {"premise": "یک مرد، و زن", "hypothesis": 'he said "no"', "label": "e"},
    {"premise": "two\nlines", "hypothesis": "; | , \t", "label": "c"},
]
ANSWERS = {"text": ["Anna"], "answer_start": [0]}
QUESTIONS = [{"id": f"q{i}", "question": "Who?", "context": "Anna Berg.", "answers": ANSWERS} for i in range(3)]
SQUAD = {"version": "v2.0", "data": [{"title": "t", "paragraphs": [{"context": "Anna Berg.", "qas": [
    {"id": "1", "question": "Who?", "answers": [{"text": "Anna", "answer_start": 0}], "is_impossible": False},
    {"id": "2", "question": "Why?", "answers": [], "is_impossible": True},
]}]}]}  # fmt: skip
CARDS = pd.DataFrame({"Time": [0.0, 3.5, 1e5], "V1": [-1.25, 7, 0], "Shop": ["a", "b", ""], "Class": [0, 1, 0]})
ARGUMENTS = {"learning_rate": 3e-5, "max_length": 128, "do_train": True, "train_file": ["a.csv", "b.csv"]}


def delimited(mark: str, encoding: str = "utf-8") -> bytes:
    return pd.DataFrame(ROWS).to_csv(sep=mark, index=False).encode(encoding)


def parquet(frame: pd.DataFrame) -> bytes:
    buffer = io.BytesIO()
    frame.to_parquet(buffer)
    return buffer.getvalue()


def zipped(name: str, content: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, content)
    return buffer.getvalue()


def sound(kind: str) -> bytes:
    buffer, samples = io.BytesIO(), 0.3 * np.sin(np.arange(RATE // 2) / 9)
    soundfile.write(buffer, samples, RATE, format=kind)
    return buffer.getvalue()


def read_rows(path: Path) -> None:
    frame = read_files(path)
    assert len(frame) and frame.columns.is_unique


def read_questions(path: Path) -> None:
    for row in to_questions(read_files(path), "train", False)[0]:
        starts, texts = row["answers"]["answer_start"], row["answers"]["text"]
        assert all(row["context"][start:].startswith(text) for start, text in zip(starts, texts))


def read_cards(path: Path) -> None:
    assert all(part.columns.is_unique for part in Tables([str(path)]))


def read_sound(path: Path) -> None:
    found = examine(str(path))
    if found["reason"]:
        raise UserError(found["problem"])
    samples = load_clip({"path": str(path), "start": 0.0, "end": None})
    assert samples.dtype == np.float32 and abs(len(samples) / RATE - found["seconds"]) < 0.1


def read_arguments(path: Path) -> None:
    with contextlib.redirect_stderr(io.StringIO()):
        parse_arguments(run_qa.QuestionAnsweringArguments, [str(path)], recipe=run_qa.RECIPE, demo=run_qa.DEMO)


LINES = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
FILES = {  # name of the file -> what reads it, and what stands in it
    "rows.csv": (read_rows, delimited(",")),
    "semicolon.csv": (read_rows, delimited(";", "utf-16")),
    "rows.tsv": (read_rows, delimited("\t")),
    "rows.json": (read_rows, json.dumps(ROWS).encode()),
    "rows.jsonl": (read_rows, LINES),
    "rows.parquet": (read_rows, parquet(pd.DataFrame(ROWS))),
    "rows.csv.gz": (read_rows, gzip.compress(delimited(","))),
    "rows.zip": (read_rows, zipped("rows.jsonl", LINES)),
    "squad.json": (read_questions, json.dumps(SQUAD).encode()),
    "questions.jsonl": (read_questions, "".join(json.dumps(row) + "\n" for row in QUESTIONS).encode()),
    "questions.parquet": (read_questions, parquet(pd.DataFrame(QUESTIONS))),
    "cards.csv": (read_cards, CARDS.to_csv(index=False).encode()),
    "comma.csv": (read_cards, CARDS.to_csv(index=False, sep=";", decimal=",").encode()),
    "cards.parquet": (read_cards, parquet(CARDS)),
    "cards.csv.gz": (read_cards, gzip.compress(CARDS.to_csv(index=False).encode())),
    "cards.jsonl": (read_cards, CARDS.to_json(orient="records", lines=True).encode()),
    **{f"clip.{kind.lower()}": (read_sound, sound(kind)) for kind in ("WAV", "FLAC", "OGG", "MP3")},
    "run.yaml": (read_arguments, yaml.safe_dump(ARGUMENTS).encode()),
    "run.json": (read_arguments, json.dumps(ARGUMENTS).encode()),
}
ODD = [
    b"",
    b"\0",
    b"\xff\xfe",
    b"\xef\xbb\xbf",
    b'"',
    b"\n",
    b"\r",
    b",",
    b"{",
    b"]",
    b"NaN",
    b"1e999",
    b"-",
    b"=",
    b"\\u",
]
edits = st.tuples(
    st.floats(0, 1),
    st.sampled_from(["cut", "insert", "replace", "drop", "double"]),
    st.sampled_from(ODD) | st.binary(min_size=1, max_size=6),
)


def edited(content: bytes, place: float, how: str, new: bytes) -> bytes:
    at = round(place * len(content))
    return {
        "cut": content[:at],
        "insert": content[:at] + new + content[at:],
        "replace": content[:at] + new + content[at + len(new) :],
        "drop": content[:at] + content[at + 5 :],
        "double": content[:at] + content,
    }[how]


@pytest.mark.parametrize("name", FILES)
def test_whole_files_are_read(tmp_path, name):
    read, content = FILES[name]
    (tmp_path / name).write_bytes(content)
    read(tmp_path / name)


@settings(
    max_examples=max(60, 67 * COUNT),  # 2,000 and more by `make faults`
    deadline=10_000,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(name=st.sampled_from(sorted(FILES)), changes=st.lists(edits, min_size=1, max_size=3))
def test_a_damaged_file_is_read_or_refused_in_one_sentence(tmp_path, name, changes):
    read, content = FILES[name]
    for change in changes:
        content = edited(content, *change)
    path = tmp_path / f"{random.getrandbits(64):x}-{name}"  # no reader shall know the file from before
    path.write_bytes(content)
    try:
        read(path)
    except UserError as error:
        assert str(error).strip() and "\n" not in str(error)
    finally:
        path.unlink()
