"""run_qa.py through `main`, on the built-in data: what it leaves behind, and that the figures are right."""

import json
import os
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from safetensors.torch import load_file

import run_qa
from common.legacy.demo_qa import question_answering_demo
from tests.legacy.helpers import hub_rows
from tests.legacy.official_squad import score_file
from tests.legacy.scripts import read, rows_of
from tests.legacy.scripts import refused as sentence_of

ROOT = Path(run_qa.__file__).parent
QUICK = [
    "--max_length",
    "64",
    "--stride",
    "16",
    "--use_cpu",
    "--disable_tqdm",
    "true",
    "--per_device_eval_batch_size",
    "64",
]


@pytest.fixture(scope="module")
def demo(tmp_path_factory) -> dict[str, str]:
    """The built-in data as a user's files, and the tiny model as a user's folder."""
    return question_answering_demo(tmp_path_factory.mktemp("data"), "distilbert-base-uncased")


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> tuple[Path, dict]:
    """One whole `--demo` run."""
    folder = tmp_path_factory.mktemp("runs") / "demo"
    return folder, run_qa.main(["--demo", "--output_dir", str(folder), "--use_cpu", "--disable_tqdm", "true"])


def files(demo: dict, *names: str) -> list[str]:
    return [argument for name in names for argument in (f"--{name}_file", demo[f"{name}_file"])]


def short(demo: dict, tmp_path: Path, *more: str) -> tuple[Path, dict]:
    """A training of a few steps on files."""
    out = tmp_path / "out"
    argv = ["--model", demo["model"], *files(demo, "train", "validation"), "--output_dir", str(out), *QUICK]
    return out, run_qa.main(
        [*argv, "--max_train_samples", "48", "--max_eval_samples", "40", "--num_train_epochs", "1", *more]
    )


def refused(capsys, *argv: str) -> str:
    """The one sentence with which the script refuses these arguments, with status 2."""
    return sentence_of(capsys, run_qa.main, "run_qa.py", *argv)


# A whole run


def test_demo_learns(trained):
    _, results = trained
    head = results["headline"]
    assert head["baseline_name"] == "all unanswerable" and head["baseline"] == 50.0
    assert head["low"] > head["baseline"] + 10, "training has to beat saying nothing, clearly"
    metrics = results["metrics"]["validation"]
    assert metrics["HasAns_f1"]["value"] > 50 and metrics["NoAns_f1"]["value"] > 50
    assert results["protocol"] == {"name": "honest", "leaks": False, "demo": True, "notes": []}


def test_results_follow_the_schema(trained):
    folder, results = trained
    written = read(folder / "results.json")
    jsonschema.validate(written, read(ROOT / "common" / "legacy" / "results.schema.json"))
    assert written == json.loads(json.dumps(results))
    for name in written["files"].values():
        assert (folder / name).stat().st_size > 0, name


def test_figures_equal_the_official_definition(trained):
    folder, results = trained
    official = score_file(read(folder / "demo" / "validation.json"), read(folder / "predictions.json"))
    written = read(folder / "eval_results.json")
    for name, value in official.items():
        assert results["metrics"]["validation"][name]["value"] == pytest.approx(value, abs=1e-9), name
        assert written[f"eval_{name}"] == pytest.approx(value, abs=1e-9), name
    assert written["eval_samples"] == 300


def test_threshold_comes_from_held_out_questions_only(trained):
    folder, results = trained
    splits = results["data"]["splits"]
    assert splits["tuning"]["examples"] >= 240 and splits["tuning"]["examples"] + splits["train"]["examples"] == 2400
    assert not [o for o in results["data"]["overlaps"] if "train" in o["between"] and o["key"] == "context"]
    threshold = results["extra"]["null_threshold"]
    odds, answers = read(folder / "null_odds.json"), read(folder / "predictions.json")
    assert {i for i, odd in odds.items() if odd > threshold["null_threshold"]} == {
        i for i, a in answers.items() if not a
    }
    assert "held-out" in threshold["from"]
    # The best threshold on the validation questions themselves is found by trying them all.
    squad, nbest = read(folder / "demo" / "validation.json"), read(folder / "nbest_predictions.json")
    best = {i: next(entry["text"] for entry in entries if entry["text"]) for i, entries in nbest.items()}
    tried = [
        score_file(squad, {i: best[i] if odds[i] <= t else "" for i in odds})["f1"] for t in [*set(odds.values()), -1e9]
    ]
    assert results["metrics"]["validation"]["best_f1"]["value"] == pytest.approx(max(tried), abs=1e-9)
    assert results["metrics"]["validation"]["f1"]["value"] <= max(tried) + 1e-9


def test_files_agree_with_each_other(trained):
    folder, _ = trained
    rows = rows_of(folder / "predictions.csv")
    answers, odds = read(folder / "predictions.json"), read(folder / "null_odds.json")
    nbest = read(folder / "nbest_predictions.json")
    contexts = {
        q["id"]: p["context"]
        for a in read(folder / "demo" / "validation.json")["data"]
        for p in a["paragraphs"]
        for q in p["qas"]
    }
    assert [row["id"] for row in rows] == list(answers) == list(odds) == list(contexts)
    for row in rows:
        identity = row["id"]
        assert row["prediction"] == answers[identity]
        assert float(row["null_odds"]) == pytest.approx(odds[identity], abs=1e-3)
        assert 1 / (1 + np.exp(-odds[identity])) == pytest.approx(float(row["no_answer_probability"]), abs=1e-3)
        assert sum(entry["probability"] for entry in nbest[identity]) == pytest.approx(1)
        for entry in nbest[identity]:
            if entry["text"]:
                assert contexts[identity][entry["start"] :].startswith(entry["text"])
        scores = [entry["score"] for entry in nbest[identity]]
        assert scores == sorted(scores, reverse=True)


def test_official_files_are_there(trained):
    folder, _ = trained
    everything = read(folder / "all_results.json")
    assert {"train_loss", "eval_f1", "eval_exact", "eval_loss", "train_samples"} <= set(everything)
    assert (
        read(folder / "train_results.json")["train_samples"]
        == 2400 - read(folder / "results.json")["data"]["splits"]["tuning"]["examples"]
    )
    assert read(folder / "trainer_state.json")["global_step"] > 0


def test_model_answers_without_this_project(trained):
    """The documented call, with transformers alone, finds the answer that the script found."""
    from transformers import AutoModelForQuestionAnswering, AutoTokenizer

    folder, _ = trained
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForQuestionAnswering.from_pretrained(folder)
    right = 0
    rows = [row for row in rows_of(folder / "predictions.csv") if row["prediction"]][:20]
    contexts = {
        q["id"]: p["context"]
        for a in read(folder / "demo" / "validation.json")["data"]
        for p in a["paragraphs"]
        for q in p["qas"]
    }
    for row in rows:
        inputs = tokenizer(row["question"], contexts[row["id"]], return_tensors="pt", return_offsets_mapping=True)
        offsets = inputs.pop("offset_mapping")[0]
        scores = model(**inputs)
        first, last = int(scores.start_logits.argmax()), int(scores.end_logits.argmax())
        right += contexts[row["id"]][offsets[first][0] : offsets[last][1]] == row["prediction"]
    assert right >= 0.7 * len(rows)  # this call sees the text as one window and knows no threshold
    assert (
        model.config.question_answering["null_threshold"]
        == read(folder / "results.json")["extra"]["null_threshold"]["null_threshold"]
    )


def test_report_and_card_tell_the_same(trained):
    folder, results = trained
    page, card = (folder / "report.html").read_text("utf-8"), (folder / "README.md").read_text("utf-8")
    value = f"{results['headline']['value']:.2f}"
    assert value in page and value in card
    assert "synthetic" in page and "synthetic" in card
    assert "http://" not in page and "https://" not in page and page.count("data:image/png;base64") >= 5


# Using what was trained


def test_predict_without_truth(trained, tmp_path):
    folder, _ = trained
    out = tmp_path / "answers"
    results = run_qa.main(
        [
            "--do_predict",
            "--model",
            str(folder),
            "--test_file",
            str(folder / "demo" / "test.json"),
            "--output_dir",
            str(out),
            *QUICK,
        ]
    )
    jsonschema.validate(read(out / "results.json"), read(ROOT / "common" / "legacy" / "results.schema.json"))
    assert results["headline"] is None and results["metrics"] == {}
    rows = rows_of(out / "test_predictions.csv")
    assert len(rows) == 21 and {row["truth"] for row in rows} == {""} and any(row["prediction"] for row in rows)
    assert results["extra"]["null_threshold"]["from"].startswith("stored with the model")
    assert not (out / "model.safetensors").exists() and not (out / "predictions.csv").exists()
    assert (out / "report.html").exists()


def test_evaluate_again_gives_the_same(trained, tmp_path):
    folder, before = trained
    out = tmp_path / "again"
    validation = str(folder / "demo" / "validation.json")
    after = run_qa.main(
        ["--do_eval", "--model", str(folder), "--validation_file", validation, "--output_dir", str(out), *QUICK]
    )
    assert read(out / "predictions.json") == read(folder / "predictions.json")
    assert f'from_pretrained("{folder}")' in (out / "README.md").read_text("utf-8"), "where the model is"
    for name, entry in before["metrics"]["validation"].items():
        assert after["metrics"]["validation"][name]["value"] == pytest.approx(entry["value"], rel=1e-5), name
    assert after["data"]["splits"]["validation"]["fingerprint"] == before["data"]["splits"]["validation"]["fingerprint"]


def test_fixed_threshold(trained, tmp_path):
    folder, _ = trained
    validation = str(folder / "demo" / "validation.json")
    argv = ["--do_eval", "--model", str(folder), "--validation_file", validation, *QUICK]
    never = run_qa.main([*argv, "--null_threshold", "1e6", "--output_dir", str(tmp_path / "never")])
    always = run_qa.main([*argv, "--null_score_diff_threshold=-1e6", "--output_dir", str(tmp_path / "always")])
    assert all(read(tmp_path / "never" / "predictions.json").values())
    assert never["metrics"]["validation"]["NoAns_f1"]["value"] < 2  # an answer such as "the" officially says nothing
    assert always["metrics"]["validation"]["NoAns_f1"]["value"] == 100 and always["headline"]["value"] == 50
    assert always["extra"]["null_threshold"]["null_threshold"] == -1e6


# Data


def test_sampling_is_by_question_and_keeps_every_window(demo, tmp_path):
    out, results = short(demo, tmp_path)
    from transformers import AutoTokenizer

    splits = results["data"]["splits"]
    assert splits["train"]["examples"] == 48 and splits["validation"]["examples"] == 40
    assert "at random (sample_seed 42)" in splits["train"]["selection"]
    tokenizer = AutoTokenizer.from_pretrained(demo["model"])
    answered = read(out / "predictions.json")
    pairs = [
        (q["question"], p["context"])
        for a in read(Path(demo["validation_file"]))["data"]
        for p in a["paragraphs"]
        for q in p["qas"]
        if q["id"] in answered
    ]
    cut = tokenizer(
        *map(list, zip(*pairs)), truncation="only_second", max_length=64, stride=16, return_overflowing_tokens=True
    )
    assert splits["validation"]["statistics"]["windows"] == len(cut["input_ids"]) > 40


def test_more_samples_than_there_are(demo, tmp_path):
    _, results = short(demo, tmp_path, "--max_eval_samples", "100000")
    assert results["data"]["splits"]["validation"]["examples"] == 300
    assert "100,000 were asked for" in results["data"]["splits"]["validation"]["selection"]


def test_same_seed_same_weights_other_seed_others(demo, tmp_path):
    runs = {}
    for name, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        out, results = short(demo, tmp_path / name, "--seed", seed)
        runs[name] = load_file(out / "model.safetensors"), results["data"]["splits"]["validation"]["fingerprint"]
    assert all((runs["a"][0][k] == runs["b"][0][k]).all() for k in runs["a"][0])
    assert any((runs["a"][0][k] != runs["c"][0][k]).any() for k in runs["a"][0])
    assert len({fingerprint for _, fingerprint in runs.values()}) == 1, "seeds share the examples"


def test_without_unanswerable_questions_there_is_always_an_answer(demo, tmp_path):
    paths = {}
    for split in ("train", "validation"):
        squad = read(Path(demo[f"{split}_file"]))
        for article in squad["data"]:
            for paragraph in article["paragraphs"]:
                paragraph["qas"] = [
                    {k: q[k] for k in ("id", "question", "answers")} for q in paragraph["qas"] if q["answers"]
                ]
        paths[f"{split}_file"] = str(tmp_path / f"{split}.json")
        Path(paths[f"{split}_file"]).write_text(json.dumps({"data": squad["data"]}))
    out, results = short({**demo, **paths}, tmp_path)
    assert all(read(out / "predictions.json").values())
    assert "NoAns_f1" not in results["metrics"]["validation"] and "best_f1" not in results["metrics"]["validation"]
    assert results["extra"]["null_threshold"]["allow_null"] is False
    assert all(entry["text"] for entries in read(out / "nbest_predictions.json").values() for entry in entries)


def test_flat_files_give_the_same_run(demo, tmp_path):
    """csv and parquet with the hub's columns: same examples, same weights."""
    import pandas as pd

    first, results = short(demo, tmp_path / "nested")
    for ending in ("csv", "parquet", "jsonl"):
        flat = {}
        for split in ("train", "validation"):
            path = tmp_path / f"{split}.{ending}"
            table = pd.DataFrame(hub_rows(demo[f"{split}_file"]))
            if ending == "csv":
                table["answers"] = table["answers"].map(str)
                table.to_csv(path, index=False)
            elif ending == "parquet":
                table.to_parquet(path)
            else:
                table.to_json(path, orient="records", lines=True)
            flat[f"{split}_file"] = str(path)
        other, again = short({**demo, **flat}, tmp_path / ending)
        for split in ("train", "tuning", "validation"):
            assert again["data"]["splits"][split]["fingerprint"] == results["data"]["splits"][split]["fingerprint"]
        assert (other / "model.safetensors").read_bytes() == (first / "model.safetensors").read_bytes()


def test_overlap_between_splits_is_reported(demo, tmp_path):
    _, results = short({**demo, "validation_file": demo["train_file"]}, tmp_path)
    found = {(tuple(o["between"]), o["key"]) for o in results["data"]["overlaps"]}
    assert (("train", "validation"), "context") in found and (("train", "validation"), "example") in found


def test_bad_examples_are_skipped_and_counted(demo, tmp_path):
    squad = read(Path(demo["validation_file"]))
    broken = squad["data"][0]["paragraphs"][0]["qas"]
    next(q for q in broken if q["answers"])["answers"][0]["answer_start"] += 1
    broken.append({**broken[-1]})
    path = tmp_path / "broken.json"
    path.write_text(json.dumps(squad))
    _, results = short(
        {**demo, "validation_file": str(path)}, tmp_path, "--on_bad_example", "skip", "--max_eval_samples", "-1"
    )
    split = results["data"]["splits"]["validation"]
    assert split["skipped"] == {"answer_start does not match": 1, "duplicate id": 1} and split["examples"] == 299


# Arguments


def test_official_command_line_runs(demo, tmp_path, capsys):
    """The official example's flags, those that transformers 5 dropped included."""
    out = tmp_path / "official"
    results = run_qa.main(
        f"--model_name_or_path {demo['model']} --train_file {demo['train_file']} "
        f"--validation_file {demo['validation_file']} "
        "--do_train --do_eval --per_device_train_batch_size 12 --learning_rate 3e-5 --num_train_epochs 1 "
        "--max_seq_length 64 --doc_stride 16 --version_2_with_negative --warmup_ratio 0.1 --overwrite_output_dir "
        f"--evaluation_strategy epoch --no_cuda --max_train_samples 24 --max_eval_samples 16 --output_dir {out} "
        "--preprocessing_num_workers 2 --n_best_size 5 --null_score_diff_threshold 0.5 --disable_tqdm true".split()
    )
    said = capsys.readouterr().err
    assert "--warmup_steps" in said and "--eval_strategy" in said and "--use_cpu" in said
    arguments = results["arguments"]
    assert arguments["max_length"] == {"value": 64, "source": "command line"}
    assert arguments["learning_rate"]["value"] == 3e-5 and arguments["weight_decay"]["source"] == "recipe"
    assert results["extra"]["null_threshold"]["null_threshold"] == 0.5
    assert max(len(entries) for entries in read(out / "nbest_predictions.json").values()) == 6  # and "no answer"


def test_arguments_from_a_file(demo, tmp_path):
    config = tmp_path / "run.yaml"
    config.write_text(
        f"model: {demo['model']}\ntrain_file: {demo['train_file']}\nvalidation_file: {demo['validation_file']}\n"
        f"learning_rate: 5e-5\nmax_length: 64\nstride: 16\nmax_train_samples: 24\nmax_eval_samples: 16\nuse_cpu: true\n"
        f"num_train_epochs: 1\noutput_dir: {tmp_path / 'ignored'}\ndisable_tqdm: true\n"
    )
    results = run_qa.main([str(config), "--output_dir", str(tmp_path / "out"), "--max_train_samples", "16"])
    assert results["arguments"]["learning_rate"] == {"value": 5e-5, "source": "file run.yaml"}
    assert results["arguments"]["max_train_samples"] == {"value": 16, "source": "command line"}
    assert (tmp_path / "out" / "results.json").exists() and not (tmp_path / "ignored").exists()


def test_the_recipe_is_the_published_one():
    published = {
        "model": "distilbert-base-uncased",
        "dataset": "rajpurkar/squad_v2",
        "max_train_samples": 60000,
        "max_eval_samples": 5000,
        "learning_rate": 1e-5,
        "weight_decay": 1e-4,
        "per_device_train_batch_size": 8,
        "num_train_epochs": 3,
    }
    assert {k: run_qa.RECIPE[k] for k in published} == published
    defaults = run_qa.QuestionAnsweringArguments()
    assert (defaults.max_length, defaults.stride) == (512, 128)


# Bad input: one sentence, status 2, nothing written


def bad(demo: dict, tmp_path: Path, **changes: str) -> list[str]:
    """A good command line with some flags changed."""
    arguments = {
        "model": demo["model"],
        "train_file": demo["train_file"],
        "validation_file": demo["validation_file"],
        "output_dir": str(tmp_path / "out"),
        "max_length": "64",
        "stride": "16",
        "max_train_samples": "32",
        "max_eval_samples": "16",
    } | changes
    return ["--use_cpu", *(part for name, value in arguments.items() for part in (f"--{name}", value))]


@pytest.mark.parametrize(
    ("content", "name", "said"),
    [
        (None, "train.json", ["no such file"]),
        ("", "train.json", ["empty"]),
        ('{"data": [\n{"title": 1,,}]}', "train.json", ["line 2", "column"]),
        ("id,question,text\n1,a,b\n", "train.csv", ["'context'", "'answers'", "'text'"]),
        ('{"data": []}', "train.json", ["no rows"]),
        ("anything", "train.docx", [".docx", ".json", ".parquet"]),
    ],
)
def test_unreadable_training_files(demo, tmp_path, capsys, content, name, said):
    path = tmp_path / name
    if content is not None:
        path.write_text(content)
    sentence = refused(capsys, *bad(demo, tmp_path, train_file=str(path)))
    assert str(path) in sentence and all(word in sentence for word in said), sentence
    assert not (tmp_path / "out").exists()


def test_wrong_answer_start_names_file_and_question(demo, tmp_path, capsys):
    squad = read(Path(demo["train_file"]))
    question = next(q for p in squad["data"][0]["paragraphs"] for q in p["qas"] if q["answers"])
    question["answers"][0]["answer_start"] += 3
    path = tmp_path / "train.json"
    path.write_text(json.dumps(squad))
    sentence = refused(capsys, *bad(demo, tmp_path, train_file=str(path)))
    assert str(path) in sentence and question["id"] in sentence and "--on_bad_example skip" in sentence
    assert not (tmp_path / "out").exists()


def test_window_too_short_for_a_question(demo, tmp_path, capsys):
    sentence = refused(capsys, *bad(demo, tmp_path, max_length="24", stride="16"))
    assert "--max_length" in sentence and "--stride" in sentence and demo["train_file"] in sentence
    needed = sentence.split("--max_length ")[1].split()[0].rstrip(",")
    again = run_qa.main(bad(demo, tmp_path, max_length=needed, stride="16", max_steps="1"))
    assert again["headline"] is not None, "the length that the sentence names is enough"


def test_output_directory_is_not_overwritten(demo, tmp_path, capsys):
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.txt").write_text("mine")
    sentence = refused(capsys, *bad(demo, tmp_path))
    assert str(out) in sentence and "--overwrite_output_dir" in sentence
    assert [p.name for p in out.iterdir()] == ["thesis.txt"]


def test_resuming_another_run_is_refused(demo, tmp_path, capsys):
    out, _ = short(demo, tmp_path)
    before = (out / "results.json").read_bytes()
    argv = ["--model", demo["model"], *files(demo, "train", "validation"), "--output_dir", str(out), *QUICK]
    argv += ["--max_train_samples", "40", "--num_train_epochs", "2", "--resume_from_checkpoint", "auto"]
    sentence = refused(capsys, *argv)
    assert "checkpoint" in sentence and "training data" in sentence
    assert (out / "results.json").read_bytes() == before


def test_other_models_and_checkpoints(demo, tmp_path, capsys):
    from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification, T5Config

    from common.legacy.tiny_models import tiny_model

    other = tiny_model("bert-base-uncased", ["a few words to cut"], tmp_path / "classifier", "none")
    BertForSequenceClassification(BertConfig.from_pretrained(other)).save_pretrained(other)
    sentence = refused(capsys, *bad(demo, tmp_path, model=str(other)), "--do_eval")
    assert (
        str(other) in sentence and "BertForSequenceClassification" in sentence and "question answering head" in sentence
    )
    assert "no such folder" in refused(capsys, *bad(demo, tmp_path, model=str(tmp_path / "nothing")))
    speech = tmp_path / "speech"
    T5Config().save_pretrained(speech)
    AutoTokenizer.from_pretrained(demo["model"]).save_pretrained(speech)
    (speech / "config.json").write_text((speech / "config.json").read_text().replace('"t5"', '"hubert"'))
    assert "hubert" in refused(capsys, *bad(demo, tmp_path, model=str(speech)))
    assert not (tmp_path / "out").exists()


def test_missing_parts_of_the_command_line(demo, tmp_path, capsys):
    argv = ["--model", demo["model"], "--output_dir", str(tmp_path / "out"), "--use_cpu"]
    assert "--train_file" in refused(capsys, *argv, *files(demo, "validation"))
    assert "--validation_file" in refused(capsys, *argv, *files(demo, "train"))
    assert "--learning_rate" in refused(capsys, *argv, "--learing_rate", "1")
    assert "null_threshold" in refused(capsys, *argv, "--null_threshold", "often")
    assert "--resume_from_checkpoint" in refused(capsys, *argv, "--resume_from_checkpoint", str(tmp_path / "no"))


def test_unreachable_hub_names_the_id_and_the_way_out(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    sentence = refused(capsys, "--output_dir", str(tmp_path / "out"), "--use_cpu")
    assert "rajpurkar/squad_v2" in sentence and "--demo" in sentence and "local" in sentence
    assert not (tmp_path / "out").exists()


def test_full_disk_is_a_sentence(demo, tmp_path, capsys, monkeypatch):
    """A disk that fills up while the results are written: one sentence, no results.json, no half file."""
    import errno

    real = os.replace

    def full(source, target):
        if str(target).endswith("nbest_predictions.json"):
            raise OSError(errno.ENOSPC, "No space left on device", str(target))
        return real(source, target)

    monkeypatch.setattr(os, "replace", full)
    sentence = refused(capsys, *bad(demo, tmp_path, max_steps="1"), "--disable_tqdm", "true")
    assert "no space" in sentence and "nbest_predictions.json" in sentence
    left = {p.name for p in (tmp_path / "out").iterdir()}
    assert "results.json" not in left and not any(name.startswith(".") for name in left)


def test_silent_single_process_launch_is_refused(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert "torchrun" in refused(capsys, "--demo", "--output_dir", str(tmp_path / "out"))


def test_slow_tokenizer_is_refused(demo, tmp_path, capsys):
    from transformers import CanineConfig, CanineTokenizer

    slow = tmp_path / "slow"
    CanineTokenizer().save_pretrained(slow)
    CanineConfig().save_pretrained(slow)
    sentence = refused(capsys, *bad(demo, tmp_path, model=str(slow)))
    assert str(slow) in sentence and "slow tokenizer" in sentence and not (tmp_path / "out").exists()


def test_left_padding_tokenizer_puts_the_text_first(demo, tmp_path):
    """The convention of the official example; the batch itself is padded on the right all the same."""
    from transformers import AutoModelForQuestionAnswering, AutoTokenizer

    left = tmp_path / "left"
    AutoModelForQuestionAnswering.from_pretrained(demo["model"]).save_pretrained(left)
    tokenizer = AutoTokenizer.from_pretrained(demo["model"])
    tokenizer.padding_side = "left"
    tokenizer.save_pretrained(left)
    out, results = short({**demo, "model": str(left)}, tmp_path, "--max_steps", "40", "--learning_rate", "1e-3")
    contexts = {row["id"]: row["context"] for row in hub_rows(demo["validation_file"])}
    nbest = read(out / "nbest_predictions.json")
    assert all(e["text"] in contexts[i] for i, entries in nbest.items() for e in entries)
    assert any(e["text"] for entries in nbest.values() for e in entries)
    assert results["data"]["splits"]["validation"]["examples"] == 40
