"""What several test modules need: the sentence of a refusal, and SQuAD's nested rows as the hub has them."""

import json
from pathlib import Path

import pytest

from common.errors import UserError


def message(action, *arguments, **options) -> str:
    """The sentence of the `UserError` that `action` raises: one line."""
    with pytest.raises(UserError) as caught:
        action(*arguments, **options)
    sentence = str(caught.value)
    assert "\n" not in sentence
    return sentence


def hub_rows(squad_file: str | Path) -> list[dict]:
    """The questions of a SQuAD json file as rows with the hub's columns."""
    return [
        {
            "id": question["id"],
            "title": article["title"],
            "context": paragraph["context"],
            "question": question["question"],
            "answers": {key: [answer[key] for answer in question["answers"]] for key in ("text", "answer_start")},
        }
        for article in json.loads(Path(squad_file).read_text("utf-8"))["data"]
        for paragraph in article["paragraphs"]
        for question in paragraph["qas"]
    ]
