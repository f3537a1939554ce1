"""run_qa.py through `main`, on the built-in data: what it leaves behind, and that the figures are right."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import jsonschema
import pytest
from safetensors.torch import load_file

import run_qa
from common.demo.qa import question_answering_demo
from common.models import check_vocabulary
from tests.helpers import hub_rows, message, read
from tests.helpers import refused as sentence_of
from tests.official_squad import score_file

ROOT = Path(run_qa.__file__).parent
QUICK = ["--max_length", "64", "--stride", "16", "--use_cpu", "--per_device_eval_batch_size", "64"]


@pytest.fixture(scope="module")
def demo(tmp_path_factory) -> dict[str, str]:
    """The built-in data as a user's files, and the tiny model as a user's folder."""
    return question_answering_demo(tmp_path_factory.mktemp("data"), "distilbert-base-uncased")


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> tuple[Path, dict, str]:
    """One whole `--demo` run, as users start it: its folder, its results, what it printed."""
    folder = tmp_path_factory.mktemp("runs") / "demo"
    flags = ["--demo", "--num_train_epochs", "2", "--output_dir", folder, "--use_cpu"]
    command = [sys.executable, ROOT / "run_qa.py", *flags]
    done = subprocess.run(
        command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=True
    )
    return folder, read(folder / "results.json"), done.stderr


def files(demo: dict, *names: str) -> list[str]:
    return [argument for name in names for argument in (f"--{name}_file", demo[f"{name}_file"])]


def short(demo: dict, tmp_path: Path, *more: str) -> tuple[Path, dict]:
    """A training of a few steps on files."""
    out = tmp_path / "out"
    argv = ["--model", demo["model"], *files(demo, "train", "validation"), "--output_dir", str(out), *QUICK]
    limits = ["--max_train_samples", "48", "--max_eval_samples", "40", "--num_train_epochs", "1"]
    return out, run_qa.main([*argv, *limits, *more])


def evaluated(folder: Path, out: Path, file: str, *more: str, phase: str = "eval") -> dict:
    """The trained model on a file of its own."""
    name = {"eval": "validation", "predict": "test"}[phase]
    argv = [f"--do_{phase}", "--model", str(folder), f"--{name}_file", file, "--output_dir", str(out), *QUICK]
    return run_qa.main([*argv, *more])


def questions(squad: dict) -> list[dict]:
    """The questions of a SQuAD file with their contexts, to be changed in place."""
    return [qa | {"context": p["context"]} for a in squad["data"] for p in a["paragraphs"] for qa in p["qas"]]


# A whole run


def test_demo_learns_and_shows_answers(trained):
    folder, results, printed = trained
    head, metrics = results["headline"], results["metrics"]["validation"]
    assert head["baseline_name"] == "all unanswerable" and head["baseline"] == 50.0
    assert head["low"] > head["baseline"] + 10, "training has to beat saying nothing, clearly"
    assert metrics["HasAns_f1"]["value"] > 50 and metrics["NoAns_f1"]["value"] > 50
    assert results["protocol"] == {"name": "honest", "leaks": False, "demo": True, "notes": []}
    shown, answers = [line for line in printed.splitlines() if "  ->  " in line], read(folder / "predictions.json")
    asked = questions(read(folder / "demo" / "validation.json"))[:3]
    evaluations = [row for row in results["history"] if "eval_f1" in row]
    assert len(shown) == 3 * len(evaluations) > 9 and all(row["step"] for row in evaluations)
    for line, qa in zip(shown[-3:], asked):
        assert qa["question"] in line and (qa["answers"][0]["text"] if qa["answers"] else "no answer") in line
        assert f"->  {answers[qa['id']] or 'no answer'}" in line


def test_results_follow_the_schema_and_files_are_there(trained):
    folder, results, _ = trained
    jsonschema.validate(results, read(ROOT / "common" / "results.schema.json"))
    for name in results["files"].values():
        assert (folder / name).stat().st_size > 0, name
    assert {"token_lengths", "character_lengths", "loss", "scores"} <= set(results["files"])
    everything = read(folder / "all_results.json")
    assert {"train_loss", "eval_f1", "eval_exact", "eval_loss", "tuning_f1", "train_samples"} <= set(everything)
    (structure,) = results["tables"]
    assert {"activation", "hidden size", "attention heads", "layers", "vocabulary"} <= {r[0] for r in structure["rows"]}
    page, card = (folder / "report.html").read_text("utf-8"), (folder / "README.md").read_text("utf-8")
    value = f"{results['headline']['value']:.2f}"
    assert value in page and value in card and "synthetic" in page and "synthetic" in card
    assert results["published"] == [] and "feed-forward size" in page


def test_figures_equal_the_official_definition(trained):
    folder, results, _ = trained
    official = score_file(read(folder / "demo" / "validation.json"), read(folder / "predictions.json"))
    written = read(folder / "eval_results.json")
    for name, value in official.items():
        assert results["metrics"]["validation"][name]["value"] == pytest.approx(value, abs=1e-9), name
        assert written[f"eval_{name}"] == pytest.approx(value, abs=1e-9), name


def test_threshold_comes_from_held_out_questions_only(trained):
    folder, results, _ = trained
    splits = results["data"]["splits"]
    assert 240 <= splits["tuning"]["examples"] < 260 and splits["tuning"]["label_counts"]["unanswerable"] > 50
    assert splits["tuning"]["examples"] + splits["train"]["examples"] == 2400 and results["data"]["overlaps"] == []
    threshold = results["extra"]["null_threshold"]
    odds, answers = read(folder / "null_odds.json"), read(folder / "predictions.json")
    assert {i for i, o in odds.items() if o > threshold["null_threshold"]} == {i for i, a in answers.items() if not a}
    assert "held-out" in threshold["from"]
    # The best threshold on the validation questions themselves is found by trying them all on the best answers.
    squad, best = read(folder / "demo" / "validation.json"), read(folder / "best_predictions.json")
    tried = [
        score_file(squad, {i: best[i] if odds[i] <= t else "" for i in odds})["f1"] for t in [*set(odds.values()), -1e9]
    ]
    assert results["metrics"]["validation"]["best_f1"]["value"] == pytest.approx(max(tried), abs=1e-9)
    assert not [row for row in results["history"] if any("tuning" in name for name in row)], (
        "evaluated once, at the end"
    )


def test_the_code_of_the_card_gives_the_predictions_of_the_run(trained, tmp_path):
    """Run as it stands, with nothing but torch and transformers: windows, threshold and all."""
    folder, _, _ = trained
    code = (folder / "README.md").read_text("utf-8").split("```python\n")[1].split("```")[0]
    asked = questions(read(folder / "demo" / "validation.json"))
    asked = [[qa["question"], qa["context"]] for qa in asked]
    (tmp_path / "asked.json").write_text(json.dumps(asked))
    code += "\nimport json\nasked = json.load(open('asked.json'))\n"
    code += "json.dump([answer(*pair) for pair in asked], open('found.json', 'w'))\n"
    (tmp_path / folder.name).symlink_to(folder)
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-P", "-c", code], cwd=tmp_path, env=environment, check=True, capture_output=True)
    assert read(tmp_path / "found.json") == list(read(folder / "predictions.json").values())


# Using what was trained


def test_the_truth_decides_no_prediction(trained, tmp_path):
    """The same questions with answers, answerable ones alone, and without: the same predictions, byte for byte."""
    folder, _, _ = trained
    squad, names = read(folder / "demo" / "validation.json"), {}
    for name, kept in (("truth", ("answers", "is_impossible")), ("no_truth", ())):
        for a in squad["data"]:
            for p in a["paragraphs"]:
                p["qas"] = [qa for qa in p["qas"] if qa.get("answers") or name == "no_truth"]
                p["qas"] = [{k: v for k, v in qa.items() if k in ("id", "question", *kept)} for qa in p["qas"]]
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps(squad))
        for model, more in ((str(folder), ()), ("unknown", ("--n_best_size", "3"))):
            out = tmp_path / f"{name}-{Path(model).name}"
            if model == "unknown":  # of another origin: nothing is stored with it
                model = tmp_path / "unknown"
                _without_settings(folder, model)
            results = evaluated(Path(model), out, str(path), *more, phase="predict")
            names[out.name] = [(out / f"test_{n}").read_bytes() for n in ("predictions.json", "nbest_predictions.json")]
            assert (results["headline"] is None) == (name == "no_truth")
            threshold = results["extra"]["null_threshold"]
            assert threshold["allow_null"] and (("stored" in threshold["from"]) == (out.name.endswith("demo")))
    assert names["truth-demo"] == names["no_truth-demo"] and names["truth-unknown"] == names["no_truth-unknown"]
    assert b'""' in names["truth-demo"][0], "some of the answerable questions get no answer"
    assert not (tmp_path / "truth-demo" / "model.safetensors").exists()


def _without_settings(folder: Path, target: Path) -> None:
    target.mkdir(exist_ok=True)
    for name in ("model.safetensors", "tokenizer.json", "tokenizer_config.json"):
        if not (target / name).exists():
            (target / name).symlink_to(folder / name)
    config = {k: v for k, v in read(folder / "config.json").items() if k != "question_answering"}
    (target / "config.json").write_text(json.dumps(config))


def test_evaluate_again_gives_the_same(trained, tmp_path):
    folder, before, _ = trained
    out, validation = tmp_path / "again", str(folder / "demo" / "validation.json")
    after = evaluated(folder, out, validation)
    for name in ("predictions.json", "best_predictions.json"):
        assert read(out / name) == read(folder / name)
    for name, entry in before["metrics"]["validation"].items():
        assert after["metrics"]["validation"][name]["value"] == pytest.approx(entry["value"], rel=1e-5), name
    bare = ["--do_eval", "--model", str(folder), "--validation_file", validation, "--use_cpu"]
    bare = run_qa.main([*bare, "--output_dir", str(tmp_path / "bare")])  # the windows are the model's
    losses = [results["metrics"]["validation"]["loss"]["value"] for results in (bare, before)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert bare["arguments"]["stride"] == {"value": 16, "source": f"remembered with {folder}"}
    again = evaluated(folder, tmp_path / "given", validation, "--null_score_diff_threshold=-1e6")
    assert again["metrics"]["validation"]["NoAns_f1"]["value"] == 100 and again["headline"]["value"] == 50
    tuned = ["--train_file", str(folder / "demo" / "train.json"), "--max_train_samples", "400"]
    again = evaluated(folder, tmp_path / "tuned", validation, *tuned)
    assert "held-out" in again["extra"]["null_threshold"]["from"] and "train" not in again["data"]["splits"]
    assert 40 <= again["data"]["splits"]["tuning"]["examples"] < 60


# Data


def test_a_run_on_flat_files_with_every_window(demo, tmp_path):
    """csv and nested json: the same examples, the same weights; sampled by question, with all their windows."""
    import pandas as pd
    from transformers import AutoTokenizer

    first, results = short(demo, tmp_path / "nested")
    splits = results["data"]["splits"]
    assert splits["train"]["examples"] == 48 and splits["validation"]["examples"] == 40
    assert 4 <= splits["tuning"]["examples"] <= 20, "a tenth of the questions used"
    assert "at random (sample_seed 42)" in splits["train"]["selection"]
    answered, tokenizer = read(first / "predictions.json"), AutoTokenizer.from_pretrained(demo["model"])
    asked = [qa for qa in questions(read(Path(demo["validation_file"]))) if qa["id"] in answered]
    pairs = [[qa[name] for qa in asked] for name in ("question", "context")]
    cut = tokenizer(*pairs, truncation="only_second", max_length=64, stride=16, return_overflowing_tokens=True)
    assert splits["validation"]["statistics"]["windows"] == len(cut["input_ids"]) > 40
    flat = {}
    for split in ("train", "validation"):
        table = pd.DataFrame(hub_rows(demo[f"{split}_file"]))
        table["answers"] = table["answers"].map(str)
        flat[f"{split}_file"] = str(tmp_path / f"{split}.csv.gz")
        table.to_csv(flat[f"{split}_file"], index=False)
    other, again = short({**demo, **flat}, tmp_path / "flat")
    for split in ("train", "tuning", "validation"):
        assert again["data"]["splits"][split]["fingerprint"] == splits[split]["fingerprint"]
    assert (other / "model.safetensors").read_bytes() == (first / "model.safetensors").read_bytes()


def test_without_unanswerable_questions_there_is_always_an_answer(demo, tmp_path):
    """As SQuAD v1.1; and one text that all questions are about; nothing is held out then."""
    paths = {}
    for split in ("train", "validation"):
        asked = [qa for qa in questions(read(Path(demo[f"{split}_file"]))) if qa["answers"]]
        paragraphs = [{"context": qa.pop("context"), "qas": [qa]} for qa in asked]
        for qa in asked:
            del qa["is_impossible"]
        paths[f"{split}_file"] = str(tmp_path / f"{split}.json")
        Path(paths[f"{split}_file"]).write_text(json.dumps({"data": [{"paragraphs": paragraphs}]}))
    out, results = short({**demo, **paths}, tmp_path)
    assert all(read(out / "predictions.json").values()) and "tuning" not in results["data"]["splits"]
    assert "NoAns_f1" not in results["metrics"]["validation"] and "best_f1" not in results["metrics"]["validation"]
    assert results["extra"]["null_threshold"]["allow_null"] is False and results["warnings"] == []
    assert all(entry["text"] for entries in read(out / "nbest_predictions.json").values() for entry in entries)
    config = read(out / "config.json")
    windows = {"max_length": 64, "stride": 16, "max_answer_length": 30}
    assert config["question_answering"] == {"allow_null": False, "null_threshold": 0.0, **windows}


def test_as_many_questions_as_the_user_wants_are_held_out(demo, tmp_path):
    _, results = short(demo, tmp_path, "--tuning_samples", "30")
    assert results["data"]["splits"]["tuning"]["examples"] >= 30


def test_one_text_with_many_questions_trains_with_a_warning(demo, tmp_path):
    squad = read(Path(demo["train_file"]))
    text = " ".join(p["context"] for p in squad["data"][0]["paragraphs"])
    qas = []
    for number in range(40):
        gold = text.split()[number].strip(".,")
        answers = [{"text": gold, "answer_start": text.index(gold)}] * (number % 2)
        qas.append({"id": str(number), "question": f"What is number {number}?", "answers": answers})
    path = tmp_path / "one.json"
    path.write_text(json.dumps({"data": [{"paragraphs": [{"context": text, "qas": qas}]}]}))
    _, results = short({**demo, "train_file": str(path)}, tmp_path)
    assert results["data"]["splits"]["train"]["examples"] == 40
    (warning,) = results["warnings"]
    assert "threshold" in warning and "held out" in warning and "--null_threshold" in warning


def test_the_best_model_is_chosen_on_held_out_questions_or_the_results_say_so(demo, tmp_path):
    steps = [
        "--load_best_model_at_end",
        "--eval_steps",
        "2",
        "--save_steps",
        "2",
        "--per_device_train_batch_size",
        "16",
    ]
    _, results = short(demo, tmp_path / "held-out", *steps)
    assert results["arguments"]["metric_for_best_model"]["value"] == "tuning_f1"
    assert any("eval_tuning_f1" in row for row in results["history"]) and not results["protocol"]["leaks"]
    _, results = short(demo, tmp_path / "evaluated", *steps, "--metric_for_best_model", "f1")
    assert any("is chosen on the validation questions" in warning for warning in results["warnings"])


def test_bad_and_long_examples_are_skipped_and_counted(demo, tmp_path, capsys):
    squad = read(Path(demo["validation_file"]))
    broken = squad["data"][0]["paragraphs"][0]["qas"]
    next(q for q in broken if q["answers"])["answers"][0]["answer_start"] += 1
    broken.append({**broken[-1]})
    broken.append({"id": "long", "question": "why " * 60, "answers": []})
    path = tmp_path / "broken.json"
    path.write_text(json.dumps(squad))
    changed = {**demo, "validation_file": str(path)}
    more = ["--max_eval_samples", "-1", "--max_steps", "1"]
    _, results = short(changed, tmp_path, "--on_bad_example", "skip", *more)
    split = results["data"]["splits"]["validation"]
    assert split["skipped"] == {"answer_start does not match": 1, "duplicate id": 1, "question too long": 1}
    assert split["examples"] == 299
    broken[0]["answers"], broken[1:] = [], [broken[-1]]
    path.write_text(json.dumps(squad))
    argv = ["--model", demo["model"], "--do_eval", "--validation_file", str(path), *QUICK]
    sentence = sentence_of(capsys, run_qa.main, "run_qa.py", *argv, "--output_dir", str(tmp_path / "no"))
    assert ("'long'" in sentence and "--max_length" in sentence) or "head" in sentence


# Arguments


def test_official_command_line_runs(demo, tmp_path, capsys):
    """The official example's flags, those that transformers 5 dropped included."""
    out = tmp_path / "official"
    results = run_qa.main(
        f"--model_name_or_path {demo['model']} --train_file {demo['train_file']} "
        f"--validation_file {demo['validation_file']} --pad_to_max_length "
        "--do_train --do_eval --per_device_train_batch_size 12 --learning_rate 3e-5 --num_train_epochs 1 "
        "--max_seq_length 64 --doc_stride 16 --version_2_with_negative --warmup_ratio 0.1 --overwrite_output_dir "
        f"--evaluation_strategy epoch --no_cuda --max_train_samples 24 --max_eval_samples 16 --output_dir {out} "
        "--preprocessing_num_workers 2 --n_best_size 5 --null_score_diff_threshold 0.5".split()
    )
    assert results["arguments"]["max_length"] == {"value": 64, "source": "command line"}
    assert results["arguments"]["weight_decay"]["source"] == "recipe"
    assert results["extra"]["null_threshold"]["null_threshold"] == 0.5
    assert max(len(entries) for entries in read(out / "nbest_predictions.json").values()) == 6  # and "no answer"


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
        "eval_strategy": "steps",
        "eval_steps": 2500,
    }
    assert {k: run_qa.RECIPE[k] for k in published} == published
    fields = run_qa.QuestionAnsweringArguments.__dataclass_fields__
    assert (fields["max_length"].default, fields["stride"].default) == (512, 128)


def test_published_rows_stand_beside_published_data_only():
    def rows(*argv: str) -> int:
        args = run_qa.parse_arguments(run_qa.QuestionAnsweringArguments, list(argv), recipe=run_qa.RECIPE)
        return len(run_qa.published_rows(args, "distilbert"))

    assert rows() == 1 and rows("--do_eval") == 1
    assert not rows("--do_predict") and not rows("--dataset", "squad") and not rows("--validation_file", "dev.json")


# Bad input: one sentence, status 2, nothing written


def test_refusals(demo, tmp_path, capsys):
    from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification, CanineConfig, CanineTokenizer

    from common.demo.tiny_text import tiny_model

    out = tmp_path / "out"

    def refused(*argv: str, **changes) -> str:
        given = {**demo, "output_dir": str(out), **changes}
        given = {name: value for name, value in given.items() if value and name != "test_file"}
        argv = [*argv, *(part for name, value in given.items() for part in (f"--{name}", value))]
        sentence = sentence_of(capsys, run_qa.main, "run_qa.py", *QUICK, *argv)
        assert not out.exists()
        return sentence

    squad = read(Path(demo["train_file"]))
    question = next(q for p in squad["data"][0]["paragraphs"] for q in p["qas"] if q["answers"])
    question["answers"][0]["answer_start"] += 3
    path = tmp_path / "train.json"
    path.write_text(json.dumps(squad))
    sentence = refused(train_file=str(path))
    assert str(path) in sentence and question["id"] in sentence and "--on_bad_example skip" in sentence
    assert "--validation_file" in refused(validation_file=None)
    assert "no such file" in refused(train_file=str(tmp_path / "nothing.json"))
    assert "null_threshold" in refused("--null_threshold", "often")
    assert "null_threshold" in refused("--null_threshold", "nan")
    assert "leave one of them out" in refused("--null_threshold", "1", "--tuning_samples", "5")
    assert "--tuning_samples 2400: must be fewer than the 2,400" in refused("--tuning_samples", "2400")
    assert "--n_best_size 1001: must be from 1 to 1000" in refused("--n_best_size", "1001")
    assert "--stride" in refused("--stride", "-1")
    assert "--max_answer_length" in refused("--max_answer_length", "0")
    assert "not one of" in refused("--load_best_model_at_end", "--metric_for_best_model", "bleu")

    other = tiny_model("bert-base-uncased", ["a few words to cut"], tmp_path / "classifier", "none")
    BertForSequenceClassification(BertConfig.from_pretrained(other)).save_pretrained(other)
    sentence = refused("--do_eval", model=str(other))
    assert "BertForSequenceClassification" in sentence and "question answering head" in sentence
    tokens = tiny_model("bert-base-uncased", [" ".join(map(str, range(5000)))], tmp_path / "tokens", "none")
    assert "give its own" in refused("--tokenizer_name", str(tokens))
    slow = tmp_path / "slow"
    CanineTokenizer().save_pretrained(slow)
    CanineConfig().save_pretrained(slow)
    sentence = refused(model=str(slow))
    assert str(slow) in sentence and "slow tokenizer" in sentence
    nan = tmp_path / "nan"
    weights = load_file(Path(demo["model"]) / "model.safetensors")
    weights["qa_outputs.weight"][0, 0] = float("nan")
    _without_settings(Path(demo["model"]), nan)
    (nan / "model.safetensors").unlink()
    from safetensors.torch import save_file

    save_file(weights, nan / "model.safetensors", {"format": "pt"})
    assert "qa_outputs.weight" in refused("--do_eval", model=str(nan))
    content = (nan / "model.safetensors").read_bytes()
    for part in (content[:999], b""):
        (nan / "model.safetensors").write_bytes(part)
        assert "this model cannot be loaded" in refused(model=str(nan))
    assert AutoTokenizer.from_pretrained(nan).is_fast


def test_a_classifier_of_three_classes_gives_its_encoder_and_damage_is_said(demo, tmp_path, capsys):
    from safetensors.torch import save_file
    from transformers import AutoTokenizer, DistilBertConfig, DistilBertForSequenceClassification

    folder = tmp_path / "classifier"
    config = DistilBertConfig.from_pretrained(demo["model"], num_labels=3)
    DistilBertForSequenceClassification(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(demo["model"], pad_token=None, eos_token="[SEP]").save_pretrained(folder)
    weights = load_file(folder / "model.safetensors")
    del weights["distilbert.transformer.layer.0.ffn.lin1.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    given = {**demo, "model": str(folder), "output_dir": str(tmp_path / "o"), "max_steps": "1"}
    argv = [*QUICK, *(part for name, value in given.items() if name != "test_file" for part in (f"--{name}", value))]
    warnings = run_qa.main(argv)["warnings"]
    assert any("another task" in one for one in warnings) and any("ffn.lin1.weight" in one for one in warnings)
    config.vocab_size = 7
    config.save_pretrained(folder)
    said = sentence_of(capsys, run_qa.main, "run_qa.py", *argv, "--overwrite_output_dir")
    assert "another shape" in said


def test_left_padding_tokenizer_puts_the_text_first(demo, tmp_path):
    """The convention of the official example; the batch itself is padded on the right all the same."""
    from transformers import AutoTokenizer

    left = tmp_path / "left"
    _without_settings(Path(demo["model"]), left)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (left / name).unlink()
    AutoTokenizer.from_pretrained(demo["model"], padding_side="left").save_pretrained(left)
    out, results = short({**demo, "model": str(left)}, tmp_path, "--max_steps", "2")
    contexts = {row["id"]: row["context"] for row in hub_rows(demo["validation_file"])}
    nbest = read(out / "nbest_predictions.json")
    assert all(e["text"] in contexts[i] for i, entries in nbest.items() for e in entries)
    assert results["data"]["splits"]["validation"]["examples"] == 40
    assert AutoTokenizer.from_pretrained(out).padding_side == "left"
    assert 'context, question, truncation="only_first"' in (out / "README.md").read_text("utf-8")


def test_an_added_token_that_nothing_needs_is_no_other_vocabulary():
    model = SimpleNamespace(get_input_embeddings=lambda: SimpleNamespace(weight=[0.0] * 10))
    args = SimpleNamespace(tokenizer_name=None, model="m")
    ids = {"cls_token_id": 0, "sep_token_id": 1, "pad_token_id": 2, "unk_token_id": None}
    check_vocabulary(model, SimpleNamespace(vocab_size=10, **ids), args)  # whatever was added behind the ten
    for other in ({"vocab_size": 11}, {"vocab_size": 10, "pad_token_id": 10}):
        assert "give its own" in message(check_vocabulary, model, SimpleNamespace(**ids | other), args)
