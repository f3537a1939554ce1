"""run_asr.py through `main` and the command line: it learns, figures are right, flags, two processes."""

import contextlib
import io
import re
import shutil
import sys
from pathlib import Path

import jiwer
import jsonschema
import pytest

import run_asr
from tests.helpers import ROOT, TORCHRUN, finish, plain, read, refused, rows_of, start

pytestmark = pytest.mark.usefixtures("one_thread")
QUICK = ["--use_cpu", "--disable_tqdm", "true", "--eval_train_samples", "8", "--preprocessing_num_workers", "1"]
FEW = ["--max_train_samples", "32", "--max_eval_samples", "8", "--max_predict_samples", "8"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> tuple[Path, dict, str]:
    """A `--demo` run, and what it said."""
    import logging

    folder, lines = tmp_path_factory.mktemp("runs") / "demo", io.StringIO()
    handler = logging.StreamHandler(lines)
    logging.getLogger("run_asr").addHandler(handler)
    argv = ["--demo", "--output_dir", str(folder), *QUICK, "--num_train_epochs", "6", "--timestamps"]
    results = run_asr.main(argv)
    logging.getLogger("run_asr").removeHandler(handler)
    return folder, results, lines.getvalue()


@pytest.fixture(scope="module")
def model(trained) -> str:
    (folder,) = (path.parent for path in (trained[0] / "demo").glob("*/config.json"))
    return str(folder)


@pytest.fixture(scope="module")
def tree(trained) -> Path:
    """The built-in data: a tree like LibriSpeech's."""
    return trained[0] / "demo" / "LibriSpeech"


def short(model: str, tree: Path, out: Path, *more: str) -> dict:
    argv = ["--model", model, "--data_dir", str(tree), "--output_dir", str(out), *QUICK, *FEW, "--num_train_epochs"]
    return run_asr.main([*argv, "1", "--learning_rate", "1e-2", "--warmup_steps", "0", *more])


def test_demo_learns_and_reports(trained):
    folder, results, said = trained
    head = results["headline"]
    assert (head["split"], head["metric"], head["baseline"]) == ("test", "wer", 100) and head["high"] < 95
    used = {name: results["arguments"][name]["value"] for name in ("data_dir", "model")}
    assert used == {"data_dir": str(folder / "demo/LibriSpeech"), "model": str(folder / "demo/model")}
    written = read(folder / "results.json")
    jsonschema.validate(written, read(ROOT / "common" / "results.schema.json"))
    for name in written["files"].values():
        assert (folder / name).stat().st_size > 0, name
    plots = {Path(name).stem for name in written["files"].values() if name.startswith("plots/")}
    assert plots >= {"loss", "wer"}
    assert any("train_wer" in row for row in written["history"]) and any("eval_wer" in r for r in written["history"])
    shapes = next(table for table in written["tables"] if table["title"] == "Shapes of a batch")
    rows = dict(shapes["rows"])
    assert rows["logits"].startswith("16 x ") and rows["input_values"].endswith(" x 1 x 64")
    assert said.count("said:") == said.count("written:") == 3 * 6, "three transcripts after each evaluation"
    validation = rows_of(folder / "predictions.csv")
    assert f"said:    {validation[0]['reference']}\n" in said
    assert written["extra"]["characters"] == len({*"".join(r["reference"] for r in validation)} - {" "}) + 3
    assert (folder / "report.html").read_text("utf-8").count("<audio") > 0


def test_figures_equal_jiwers(trained):
    folder, results, _ = trained
    for name, prefix in (("validation", ""), ("test", "test_")):
        rows = rows_of(folder / f"{prefix}predictions.csv")
        texts = [row["reference"] for row in rows], [row["hypothesis"] for row in rows]
        assert results["metrics"][name]["wer"]["value"] == pytest.approx(100 * jiwer.wer(*texts))
        assert results["metrics"][name]["cer"]["value"] == pytest.approx(100 * jiwer.cer(*texts))


def test_the_times_of_words(trained):
    folder, _, _ = trained
    rows = {row["id"]: row for row in rows_of(folder / "test_predictions.csv")}
    for entry in read(folder / "test_predictions.json"):
        assert entry["text"] == rows[entry["id"]]["hypothesis"] == " ".join(word["text"] for word in entry["chunks"])
        times = [second for word in entry["chunks"] for second in word["timestamp"]]
        assert times == sorted(times) and times[-1] <= float(rows[entry["id"]]["seconds"])


def test_the_code_of_the_card_gives_the_same_transcripts(trained, tree, monkeypatch):
    folder, _, _ = trained
    monkeypatch.chdir(folder.parent)
    code = re.search(r"```python\n(.*?)```", (folder / "README.md").read_text("utf-8"), re.DOTALL)[1]
    for row in rows_of(folder / "test_predictions.csv")[:3]:
        (clip,) = tree.glob(f"**/{row['id']}.flac")
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(code.replace("clip.wav", str(clip)), {})
        assert " ".join(eval(printed.getvalue())["text"].split()) == row["hypothesis"]


def test_a_recurrent_head_cached_or_not_and_used_again(model, tree, tmp_path):
    head = ["--head", "blstm", "--head_size", "16", "--layer", "weighted", "--feature_cache"]
    short(model, tree, tmp_path / "cached", *head, "float32")
    short(model, tree, tmp_path / "off", *head, "off", "--per_device_eval_batch_size", "3")
    import torch
    from safetensors.torch import load_file

    ours, theirs = (load_file(tmp_path / name / "model.safetensors") for name in ("cached", "off"))
    for name, tensor in ours.items():
        torch.testing.assert_close(tensor, theirs[name], rtol=1e-3, atol=2e-4, msg=name)
    cached = read(tmp_path / "cached" / "results.json")
    used = ["--do_predict", "--model", str(tmp_path / "cached"), "--data_dir", str(tree), *QUICK, *FEW]
    again = run_asr.main([*used, "--output_dir", str(tmp_path / "again")])
    assert again["metrics"]["test"]["wer"]["value"] == cached["metrics"]["test"]["wer"]["value"]
    assert again["arguments"]["case"] == {"value": "upper", "source": "the model's vocabulary"}
    card = (tmp_path / "cached" / "README.md").read_text("utf-8")
    assert "import common.speech.heads" in card


def test_impossible_transcripts(model, tree, tmp_path, capsys):
    """Refused or left out in training, counted in validation."""
    data = tmp_path / "data"
    for subset in ("train-clean-100", "dev-clean", "test-clean"):
        for place in sorted((tree / subset).glob("*/*"))[:2]:
            shutil.copytree(place, data / place.relative_to(tree))
            trans = next((data / place.relative_to(tree)).glob("*.trans.txt"))
            lines = trans.read_text().splitlines()
            trans.write_text("\n".join([lines[0] + " THE STONE" * 90, *lines[1:]]) + "\n")
    argv = [*FEW[2:4], "--do_train", "--do_eval", "--max_steps", "1", "--eval_strategy", "no", "--save_strategy", "no"]
    base = ["--model", model, "--data_dir", str(data), *QUICK, *argv]
    sentence = refused(capsys, run_asr.main, "run_asr.py", *base, "--output_dir", str(tmp_path / "no"))
    assert "the transcript has more characters than its audio has frames" in sentence
    results = run_asr.main([*base, "--on_bad_example", "skip", "--output_dir", str(tmp_path / "out")])
    splits = results["data"]["splits"]
    assert splits["train"]["skipped"] == {"transcript longer than the audio": 2} and splits["train"]["examples"] == 18
    assert any("have more characters than their audio has frames" in warning for warning in results["warnings"])


def test_refusals(trained, model, tree, tmp_path, capsys):
    base = ["--model", model, "--data_dir", str(tree), "--output_dir", str(tmp_path / "out"), *QUICK]
    for flags, words in {
        ("--phoneme_language", "de"): "--phoneme_language de: units are characters",
        ("--ctc_loss_reduction", "sum"): "--ctc_loss_reduction sum",
        ("--language_model", "lm.arpa"): "--language_model belongs to --decoding beam",
        ("--timestamps", "--decoding", "beam"): "a beam search does not say when a word was said",
        ("--beam_width", "5"): "--beam_width belongs to --decoding beam",
        ("--label_smoothing_factor", "0.1"): "--label_smoothing_factor: CTC has no label for each frame",
        ("--do_eval",): "has no vocabulary of characters; train it with --do_train",
    }.items():
        assert words in refused(capsys, run_asr.main, "run_asr.py", *base, *flags)
    own = ["--model", str(trained[0]), "--data_dir", str(tree), "--output_dir", str(tmp_path / "out"), *QUICK]
    for flags in (["--head", "blstm"], ["--case", "lower"], ["--unk_token", "<unk>", "--do_eval"]):
        assert "has its own, which stays" in refused(capsys, run_asr.main, "run_asr.py", *own, *flags)
    sys.modules["ctc_beam_decoder"], before = None, sys.modules.get("ctc_beam_decoder")
    try:
        sentence = refused(capsys, run_asr.main, "run_asr.py", *own, "--decoding", "beam", "--do_eval")
    finally:
        del sys.modules["ctc_beam_decoder"]
        if before is not None:
            sys.modules["ctc_beam_decoder"] = before
    assert "pip install ctc-beam-decoder" in sentence


def test_only_preprocessing(model, tree, tmp_path):
    assert short(model, tree, tmp_path / "out", "--preprocessing_only", "--eval_metrics", "wer") == {}
    assert not (tmp_path / "out" / "results.json").exists()


def test_two_processes_give_the_same(model, tree, tmp_path):
    """Features, training and decoding divided over two processes, against one; the same examples a step."""
    argv = [
        "--data_dir",
        str(tree),
        "--model",
        model,
        *QUICK,
        *FEW,
        "--num_train_epochs",
        "1",
        "--learning_rate",
        "1e-2",
    ]
    argv += ["--warmup_steps", "0", "--max_eval_samples", "7", "--max_train_samples", "16"]
    two = [*TORCHRUN, str(ROOT / "run_asr.py"), *argv, "--output_dir", "two", "--per_device_train_batch_size", "4"]
    finish(start(two, tmp_path, plain(tmp_path / "home")))
    run_asr.main([*argv, "--output_dir", str(tmp_path / "one"), "--per_device_train_batch_size", "8"])
    one, other = read(tmp_path / "one" / "results.json"), read(tmp_path / "two" / "results.json")
    assert other["environment"]["processes"] == 2
    for split in ("validation", "test"):
        assert other["metrics"][split]["loss"]["value"] == pytest.approx(
            one["metrics"][split]["loss"]["value"], abs=1e-4
        )
        assert other["metrics"][split]["wer"] == one["metrics"][split]["wer"]
    for name in ("predictions.csv", "test_predictions.csv"):
        assert rows_of(tmp_path / "one" / name) == rows_of(tmp_path / "two" / name)
