"""Who decides on "no answer", what the scores are, and what the files hold, against the official definition."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from datasets import Dataset, DatasetDict

from common.text.answers import NoAnswerRule, score_splits, sweep_of, usage_of, write_answers
from common.text.spans import NO_SPAN, Answers
from tests.helpers import read, rows_of
from tests.official_squad import score

WORDS = ["our", "old", "tower", "stands", "in", "Brenn", "since", "1848"]
CONTEXT = " ".join(WORDS)


def questions_of(golds: list[list[str]] | None, split: str, count: int = 0) -> Dataset:
    """Questions on one text; `golds` None: of unknown truth."""
    count = count or len(golds)
    columns = {
        "id": [f"{split}-{i}" for i in range(count)],
        "question": ["what?"] * count,
        "context": [CONTEXT] * count,
    }
    if golds is not None:
        columns["answers"] = [{"text": g, "answer_start": [CONTEXT.index(one) for one in g]} for g in golds]
    return Dataset.from_dict(columns, split=split)


def random_case(seed: int, split: str, count: int = 40) -> tuple[Dataset, Answers]:
    """Questions, half of them unanswerable, and answers with random words and scores."""
    random = np.random.default_rng(seed)
    golds = [list(random.choice(WORDS, random.integers(1, 3))) if random.random() < 0.5 else [] for _ in range(count)]
    words = random.choice(WORDS, (count, 3))
    first = np.array([[CONTEXT.index(word) for word in row] for row in words])
    last = first + np.array([[len(word) for word in row] for row in words])
    scores = -np.sort(-random.normal(0, 3, (count, 3)), axis=1)
    return questions_of(golds, split), Answers(scores, first, last, random.normal(0, 3, count))


def arguments(train: bool, threshold: str = "auto", negative: bool = False):
    training_args = SimpleNamespace(do_train=train)
    return SimpleNamespace(training_args=training_args, null_threshold=threshold, version_2_with_negative=negative)


def rule_of(args, stored=None, **splits: Dataset) -> tuple[NoAnswerRule, list[str]]:
    warned = []
    return NoAnswerRule(args, DatasetDict(splits), stored or {}, warned.append), warned


ALL, SOME = [["tower"], ["Brenn"]], [["tower"], []]


def test_in_training_the_training_questions_decide():
    for golds, negative, allowed in ((ALL, False, False), (SOME, False, True), (ALL, True, True)):
        for evaluated in (ALL, SOME):
            splits = {"train": questions_of(golds, "train"), "validation": questions_of(evaluated, "validation")}
            rule, warned = rule_of(arguments(True, negative=negative), {"allow_null": not allowed}, **splits)
            assert rule.allow_null == allowed and rule.threshold == 0
            assert bool(warned) == allowed, "there are no held-out questions"
    tuning = {"train": questions_of(ALL, "train"), "tuning": questions_of(SOME, "tuning")}
    rule, warned = rule_of(arguments(True), **tuning)
    assert rule.allow_null and rule.tunes and not warned and "2 held-out" in rule.chosen_by


def test_later_the_model_decides_and_never_the_truth():
    for golds in (ALL, SOME, None):
        splits = {"validation": questions_of(golds, "validation", 2)}
        for stored in ({"allow_null": True, "null_threshold": -1.5}, {"allow_null": False, "null_threshold": 0.0}):
            rule, warned = rule_of(arguments(False), stored, **splits)
            assert rule.settings() == stored and not warned
            assert rule_of(arguments(False, "2.5", True), stored, **splits)[0].settings()["null_threshold"] == 2.5
            assert rule_of(arguments(False, negative=True), stored, **splits)[0].allow_null
            said = rule_of(arguments(False, "2.5"), stored, **splits)[1]
            assert stored["allow_null"] or "--null_threshold has no effect" in said[0]
        rule, (warning,) = rule_of(arguments(False), **splits)
        assert rule.allow_null and rule.threshold == 0 and "--null_threshold" in warning


def test_a_threshold_separates_answers_from_none():
    questions, answers = random_case(0, "validation")
    best = [CONTEXT[a:b] for a, b in zip(answers.first[:, 0], answers.last[:, 0])]
    for threshold in (-3.0, 0.0, 2.0):
        rule, _ = rule_of(arguments(False, str(threshold)))
        expected = [t if n - s <= threshold else "" for t, n, s in zip(best, answers.null, answers.scores[:, 0])]
        assert rule.choose(answers, questions) == expected and "" in expected
    rule, _ = rule_of(arguments(False), {"allow_null": False})
    assert rule.choose(answers, questions) == best
    nothing = Answers(np.full((1, 1), NO_SPAN), np.zeros((1, 1), int), np.zeros((1, 1), int), np.zeros(1))
    assert rule.choose(nothing, questions.select([0])) == [""], "a text without a token"


@pytest.mark.parametrize("seed", range(3))
def test_the_tuning_questions_set_the_threshold_and_all_scores_are_official(seed):
    cases = {name: random_case(seed + i, name) for i, name in enumerate(("validation", "tuning", "test"))}
    questions = DatasetDict({name: split for name, (split, _) in cases.items()}, train=questions_of(SOME, "train"))
    answers = {name: found for name, (_, found) in cases.items()}
    rule, _ = rule_of(arguments(True), **questions)
    flat = {prefix: {f"{prefix}_loss": 1.5, f"{prefix}_f1": -1} for prefix in ("eval", "tuning", "predict")}
    results = score_splits(rule, questions, answers, flat)

    def mean(name, threshold):
        """Official exact match and F1 of a split with this threshold, by question."""
        split, found = cases[name]
        texts = [t if o <= threshold else "" for t, o in zip(found.best_texts(split), found.null_odds)]
        return np.array([score(text, answer["text"]) for text, answer in zip(texts, split["answers"])])

    for name, prefix in (("validation", "eval"), ("tuning", "tuning"), ("test", "predict")):
        split, found = cases[name]
        tried = [mean(name, t).mean(axis=0) * 100 for t in [*found.null_odds, -1e9]]
        metrics = {key: value["value"] for key, value in results["metrics"][name].items()}
        assert [metrics["best_exact"], metrics["best_f1"]] == pytest.approx(np.max(tried, axis=0).tolist())
        known = np.array([bool(answer["text"]) for answer in split["answers"]])
        for group, mask in (("", known | True), ("HasAns_", known), ("NoAns_", ~known)):
            expected = mean(name, rule.threshold)[mask].mean(axis=0) * 100
            assert [metrics[group + "exact"], metrics[group + "f1"]] == pytest.approx(expected.tolist())
            assert flat[prefix][f"{prefix}_{group}f1"] == pytest.approx(expected[1])
        assert metrics["loss"] == 1.5
        assert results["baseline"][name]["metrics"]["f1"]["value"] == pytest.approx(100 * (~known).mean())
    tuned = results["metrics"]["tuning"]
    assert tuned["f1"]["value"] == pytest.approx(tuned["best_f1"]["value"])
    assert results["headline"]["split"] == "validation" and results["headline"]["metric"] == "f1"


def test_splits_without_truth_are_left_out():
    _, answers = random_case(1, "test")
    rule, _ = rule_of(arguments(False), {"allow_null": True})
    found = score_splits(rule, DatasetDict(test=questions_of(None, "test", 40)), {"test": answers}, {"predict": {}})
    assert found == {"headline": None, "metrics": {}, "baseline": {}}


@pytest.mark.parametrize("allowed", [True, False])
def test_the_files_are_what_the_official_scorer_takes(tmp_path, allowed):
    questions, answers = random_case(2, "validation")
    rule, _ = rule_of(arguments(False), {"allow_null": allowed, "null_threshold": 0.5})
    names = write_answers(tmp_path, "test_", rule, questions, answers)
    assert sorted(names.values()) == sorted(path.name for path in tmp_path.iterdir())
    files = {name: read(tmp_path / f"test_{name}.json") for name in ("predictions", "best_predictions", "null_odds")}
    ids, best = questions["id"][:], answers.best_texts(questions)
    assert files["predictions"] == dict(zip(ids, rule.choose(answers, questions)))
    assert files["best_predictions"] == dict(zip(ids, best)) and all(files["best_predictions"].values())
    assert files["null_odds"] == dict(zip(ids, answers.null_odds.tolist()))
    # The official search, as published: from all declared unanswerable, question after question by its null odds.
    golds = {row["id"]: row["answers"]["text"] for row in questions}
    exact = {i: score(files["best_predictions"][i], golds[i])[0] for i in ids}
    current = best_exact = sum(not golds[i] for i in ids)
    for i in sorted(ids, key=files["null_odds"].get):
        current += exact[i] if golds[i] else -1 if files["best_predictions"][i] else 0
        best_exact = max(best_exact, current)
    assert sweep_of(answers, questions)["best_exact"] == pytest.approx(100 * best_exact / len(ids))

    n_best = read(tmp_path / "test_nbest_predictions.json")
    assert n_best == json.loads(json.dumps(dict(answers.n_best(questions, allowed))))
    assert {len(entries) for entries in n_best.values()} == {3 + allowed}
    for row, i in zip(rows_of(tmp_path / "test_predictions.csv"), range(len(ids)), strict=True):
        assert (row["id"], row["prediction"], row["best_answer"]) == (ids[i], files["predictions"][ids[i]], best[i])
        assert (float(row["exact"]), float(row["f1"])) == pytest.approx(
            score(row["prediction"], golds[ids[i]]), abs=1e-4
        )
        assert float(row["null_odds"]) == pytest.approx(files["null_odds"][ids[i]], abs=1e-4)
        assert row["truth"] == " | ".join(dict.fromkeys(golds[ids[i]]))
    write_answers(tmp_path, "", rule, questions.remove_columns("answers"), answers)
    assert {(row["truth"], row["exact"], row["f1"]) for row in rows_of(tmp_path / "predictions.csv")} == {("", "", "")}
    assert (tmp_path / "predictions.json").read_bytes() == (tmp_path / "test_predictions.json").read_bytes()


@pytest.mark.parametrize("cls", [True, False])
def test_the_code_of_the_card_runs_where_a_tokenizer_has_no_cls_token(tiny_folder, tiny_tokenizer, tmp_path, cls):
    from transformers import AutoConfig, AutoModelForQuestionAnswering, PreTrainedTokenizerFast

    backend, named = tiny_tokenizer("roberta-base").backend_tokenizer, {"cls_token": "<s>"} if cls else {}  # T5, GPT-2
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", **named)
    config = AutoConfig.from_pretrained(tiny_folder("roberta-base"))
    for part in (AutoModelForQuestionAnswering.from_config(config), tokenizer):
        part.save_pretrained(tmp_path)
    args = arguments(False)
    args.stride, args.max_answer_length, args.model = 4, 30, str(tmp_path)
    rule, found = SimpleNamespace(allow_null=True, threshold=1e9), {}
    exec(usage_of(args, rule, tokenizer, 24), found)
    assert found["answer"]("what?", CONTEXT) in CONTEXT
