"""The built-in questions of run_qa.py: valid SQuAD v2, with what the script has to cope with."""

import json
import re
from pathlib import Path

import pytest

from common.demo.qa import question_answering_demo


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    return question_answering_demo(tmp_path_factory.mktemp("demo"), "distilbert-base-uncased")


def paragraphs(path: str) -> list[dict]:
    content = json.loads(Path(path).read_text(encoding="utf-8"))
    assert content["version"] == "v2.0"
    return [paragraph for article in content["data"] for paragraph in article["paragraphs"]]


def questions(path: str) -> list[dict]:
    return [{**qa, "context": paragraph["context"]} for paragraph in paragraphs(path) for qa in paragraph["qas"]]


@pytest.mark.parametrize("split, share", [("train", 1 / 3), ("validation", 1 / 2)])
def test_answers_lie_where_they_say_and_shares_are_those_of_squad(demo, split, share):
    asked = questions(demo[f"{split}_file"])
    for qa in asked:
        assert bool(qa["answers"]) != qa["is_impossible"]
        for answer in qa["answers"]:
            start = answer["answer_start"]
            assert qa["context"][start : start + len(answer["text"])] == answer["text"] != ""
    assert sum(qa["is_impossible"] for qa in asked) / len(asked) == pytest.approx(share, abs=0.002)


def test_validation_has_several_different_gold_answers_and_training_one(demo):
    answerable = [qa for qa in questions(demo["validation_file"]) if not qa["is_impossible"]]
    assert all(len({answer["text"] for answer in qa["answers"]}) > 1 for qa in answerable)
    assert all(len(qa["answers"]) <= 1 for qa in questions(demo["train_file"]))


def test_the_test_split_gives_nothing_away(demo):
    asked = questions(demo["test_file"])
    assert len(asked) >= 20
    assert all(set(qa) == {"id", "question", "context"} for qa in asked)


def test_ids_are_unique_and_no_paragraph_is_in_two_splits(demo):
    files = [demo[f"{split}_file"] for split in ("train", "validation", "test")]
    ids = [qa["id"] for path in files for qa in questions(path)]
    contexts = [paragraph["context"] for path in files for paragraph in paragraphs(path)]
    assert len(set(ids)) == len(ids)
    assert len(set(contexts)) == len(contexts)


def test_contexts_have_the_promised_lengths_and_some_need_windows(demo):
    from transformers import AutoTokenizer

    lengths = [len(re.findall(r"[.]", paragraph["context"])) for paragraph in paragraphs(demo["train_file"])]
    assert min(lengths) >= 3
    assert 0.8 < sum(length <= 8 for length in lengths) / len(lengths) < 1
    tokenizer = AutoTokenizer.from_pretrained(demo["model"])
    asked = questions(demo["train_file"])
    encoded = tokenizer(
        [qa["question"] for qa in asked],
        [qa["context"] for qa in asked],
        truncation="only_second",
        max_length=64,
        stride=16,
        return_overflowing_tokens=True,
    )
    assert 1.1 < len(encoded["input_ids"]) / len(asked) < 2
    assert tokenizer.unk_token_id not in {token for window in encoded["input_ids"] for token in window}
