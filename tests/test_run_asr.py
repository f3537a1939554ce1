"""run_asr.py through `main` and the command line: it learns, its figures are right, and speech comes from anywhere."""

import contextlib
import csv
import io
import json
import os
import re
import signal
import sys
import tarfile
import types
import zipfile
from functools import partial
from pathlib import Path

import jiwer
import jsonschema
import numpy as np
import pytest
import soundfile
from safetensors.torch import load_file

import run_asr
from common.chunking import chunked, joined
from common.errors import exit_status
from common.recordings import Reading, read_recordings
from common.speech_heads import RecurrentCtc
from common.trainer import FinetuneTrainer
from tests.hub import Hub, add_librispeech
from tests.scripts import ROOT, TORCHRUN, finish, plain, read, refused, rows_of, start

SCRIPT = str(ROOT / "run_asr.py")
QUICK = ["--use_cpu", "--disable_tqdm", "true", "--eval_train_samples", "4", "--preprocessing_num_workers", "1"]
SHORT = ["--num_train_epochs", "1", "--learning_rate", "1e-2", "--warmup_steps", "1"]
TABLES = ("--train_file", "--validation_file", "--test_file")
RATE = 16_000
refused = partial(refused, main=run_asr.main, script="run_asr.py")


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> tuple[Path, dict]:
    """One whole `--demo` run."""
    folder = tmp_path_factory.mktemp("runs") / "demo"
    return folder, run_asr.main(["--demo", "--output_dir", str(folder), *QUICK])


@pytest.fixture(scope="module")
def encoder(trained) -> str:
    """The tiny encoder, as a user's folder."""
    return str(trained[0] / "demo" / "tiny-hubert")


@pytest.fixture(scope="module")
def clips(trained) -> dict[str, list[tuple[str, str]]]:
    """split -> a few (path, transcript)."""
    found = {}
    for split, subset, count in (("train", "train-clean-100", 16), ("validation", "dev-clean", 6), ("test", "test", 6)):
        lists = sorted((trained[0] / "demo" / "LibriSpeech").glob(f"{subset}*/*/*/*.trans.txt"))
        lines = [(path.parent, *line.split(" ", 1)) for path in lists for line in path.read_text().splitlines()]
        found[split] = [(str(folder / f"{name}.flac"), text) for folder, name, text in lines[:: len(lines) // count]]
    return {name: rows[: {"train": 16}.get(name, 6)] for name, rows in found.items()}


@pytest.fixture(scope="module")
def tables(clips, tmp_path_factory) -> list[str]:
    """The flags with the clips as a user's csv files."""
    folder, flags = tmp_path_factory.mktemp("tables"), []
    for name, rows in clips.items():
        flags += [f"--{name}_file", write_csv(folder / f"{name}.csv", rows)]
    return flags


@pytest.fixture(scope="module")
def short(encoder, tables, tmp_path_factory) -> tuple[Path, dict]:
    """A short run on the tables."""
    folder = tmp_path_factory.mktemp("runs") / "short"
    return folder, run_asr.main(["--model", encoder, *tables, *QUICK, *SHORT, "--output_dir", str(folder)])


def write_csv(path: Path, rows, header=("path", "transcript")) -> str:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return str(path)


def heard(folder: Path, prefix: str = "") -> list[str]:
    return [row["hypothesis"] for row in rows_of(folder / f"{prefix}predictions.csv")]


def weights_of(folder: Path) -> dict[str, np.ndarray]:
    return {name: tensor.numpy() for name, tensor in load_file(folder / "model.safetensors").items()}


def same_weights(one: Path, other: Path, tolerance: float = 0.0) -> bool:
    first, second = weights_of(one), weights_of(other)
    return first.keys() == second.keys() and all(np.allclose(first[n], second[n], 0, tolerance) for n in first)


def use_card(folder: Path, clip: str) -> str:
    """Runs the code of a model card on a clip; what it prints."""
    (code,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text("utf-8"), re.DOTALL)
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(code.replace("speech.wav", clip), {})
    return printed.getvalue().strip()


# Learning and judging


def test_demo_learns_and_reports(trained):
    folder, results = trained
    head = results["headline"]
    assert (head["split"], head["metric"], head["higher_is_better"]) == ("test", "wer", False)
    assert head["high"] < head["baseline"] - 20, "training has to beat silence"
    written = read(folder / "results.json")
    jsonschema.validate(written, read(ROOT / "common" / "results.schema.json"))
    for name in written["files"].values():
        assert (folder / name).stat().st_size > 0, name
    assert {"loss", "wer", "durations", "test_wer_by_length", "test_confused_words"} <= written["files"].keys()
    curve = [entry["eval_validation_wer"] for entry in written["history"] if "eval_validation_wer" in entry]
    assert len(curve) == 30 and curve[-1] < curve[0] - 20
    page = (folder / "report.html").read_text("utf-8")
    assert page.count("<audio") == 20 and "Most confused words" in page
    assert "speaker" in written["groups"]["test"]
    for name in ("train_results.json", "eval_results.json", "predict_results.json", "all_results.json"):
        assert read(folder / name)
    assert {"trainer_state.json", "vocab.json", "tokenizer_config.json"} <= {path.name for path in folder.iterdir()}


def test_figures_are_jiwers(trained):
    folder, results = trained
    for name, prefix, subset in (("validation", "", "dev-clean"), ("test", "test_", "test-clean")):
        rows = rows_of(folder / f"{prefix}predictions.csv")
        lists = (folder / "demo" / "LibriSpeech" / subset).glob("*/*/*.trans.txt")
        said = dict(line.split(" ", 1) for path in lists for line in path.read_text().splitlines())
        assert {row["id"]: row["reference"] for row in rows} == said, "each once, none missing"
        found = results["metrics"][name]
        truth, texts = [row["reference"] for row in rows], [row["hypothesis"] for row in rows]
        words = jiwer.process_words(truth, texts)
        assert found["wer"]["value"] == pytest.approx(100 * words.wer)
        assert found["cer"]["value"] == pytest.approx(100 * jiwer.cer(truth, texts))
        for kind in ("substitutions", "deletions", "insertions"):
            assert sum(int(row[kind]) for row in rows) == getattr(words, kind)
        for row in rows:
            assert float(row["wer"]) == pytest.approx(100 * jiwer.wer(row["reference"], row["hypothesis"]), abs=0.01)
        measured = read(folder / "all_results.json")
        assert measured[f"{'eval' if name == 'validation' else 'predict'}_wer"] == pytest.approx(100 * words.wer)


def test_the_best_checkpoint_is_kept(trained):
    folder, results = trained
    wer = results["metrics"]["validation"]["wer"]["value"]
    assert wer == pytest.approx(min(e["eval_validation_wer"] for e in results["history"] if "eval_validation_wer" in e))


def test_the_cards_code_gives_the_same_transcripts(trained):
    folder, _ = trained
    for row in rows_of(folder / "test_predictions.csv")[:12:4]:
        (clip,) = (folder / "demo" / "LibriSpeech").glob(f"test-clean/*/*/{row['id']}.flac")
        assert use_card(folder, str(clip)) == row["hypothesis"]


def test_a_trained_model_is_evaluated_with_its_own_vocabulary(trained, tmp_path):
    folder, results = trained
    data = str(folder / "demo" / "LibriSpeech")
    argv = ["--do_eval", "--do_predict", "--model", str(folder), "--data_dir", data, *QUICK]
    again = run_asr.main([*argv, "--per_device_eval_batch_size", "1", "--output_dir", str(tmp_path / "out")])
    for name, prefix in (("validation", ""), ("test", "test_")):
        assert heard(tmp_path / "out", prefix) == heard(folder, prefix), "one clip at a time"
        old, new = (r["metrics"][name] for r in (results, again))
        assert new["wer"] == old["wer"] and new["loss"]["value"] == pytest.approx(old["loss"]["value"], abs=1e-4)
    assert again["arguments"]["case"] == {"value": "upper", "source": "the model's vocabulary"}
    assert again["published"] == [] and not (tmp_path / "out" / "model.safetensors").exists()
    assert use_card(tmp_path / "out", str(next(Path(data).glob("test-clean/*/*/*.flac"))))


# Clips without truth, and long ones


def test_transcribing_clips_and_one_file(trained, clips, tmp_path):
    folder, _ = trained
    expected = {row["id"]: row["hypothesis"] for row in rows_of(folder / "test_predictions.csv")}
    write_csv(tmp_path / "clips.csv", [(path,) for path, _ in clips["test"]], ("audio",))
    argv = ["--do_predict", "--model", str(folder), *QUICK, "--test_file"]
    results = run_asr.main([*argv, str(tmp_path / "clips.csv"), "--output_dir", str(tmp_path / "some")])
    assert results["headline"] is None and results["metrics"] == {}
    jsonschema.validate(read(tmp_path / "some" / "results.json"), read(ROOT / "common" / "results.schema.json"))
    assert "unknown characters" not in results["data"]["splits"]["test"]["statistics"]
    rows = rows_of(tmp_path / "some" / "test_predictions.csv")
    assert [row["hypothesis"] for row in rows] == [expected[Path(path).stem] for path, _ in clips["test"]]
    assert all(row["reference"] == row["wer"] == "" for row in rows)
    clip = clips["test"][0][0]
    run_asr.main([*argv, clip, "--output_dir", str(tmp_path / "one")])
    assert heard(tmp_path / "one", "test_") == [expected[Path(clip).stem]]


@pytest.fixture(scope="module")
def talk(clips, tmp_path_factory) -> Path:
    """Half a minute of clips one after the other."""
    path = tmp_path_factory.mktemp("talk") / "talk.wav"
    rows = [*clips["test"], *clips["validation"]]
    soundfile.write(path, np.concatenate([soundfile.read(clip)[0] for clip, _ in rows]), RATE)
    return path


def test_long_recordings_in_chunks(trained, talk, tmp_path):
    folder, _ = trained
    argv = ["--do_predict", "--model", str(folder), "--test_file", str(talk), *QUICK]
    run_asr.main([*argv, "--chunk_seconds", "300", "--output_dir", str(tmp_path / "whole")])
    run_asr.main([*argv, "--chunk_seconds", "8", "--chunk_overlap", "2", "--output_dir", str(tmp_path / "chunks")])
    (whole,), (parts,) = (heard(tmp_path / name, "test_") for name in ("whole", "chunks"))
    assert len(whole.split()) > 30
    assert jiwer.cer(whole, parts) < 0.1, "only the encoder's own view of the whole differs"
    (row,) = rows_of(tmp_path / "chunks" / "test_predictions.csv")
    assert row["id"] == "talk.wav" and float(row["seconds"]) == pytest.approx(soundfile.info(talk).duration, abs=1e-3)


def test_labels_of_chunks_are_those_of_the_whole(trained, talk, tmp_path):
    import torch
    from transformers import AutoProcessor

    from common.speech_encoders import frames_in
    from common.speech_heads import load_speech_model
    from common.waveforms import Waveforms, collate_waveforms

    model, processor = load_speech_model(str(trained[0])), AutoProcessor.from_pretrained(trained[0])
    recordings = read_recordings(talk, Reading(kind="text", truth=None), tmp_path)

    def labels(seconds: float, overlap: float) -> np.ndarray:
        chunks, believed = chunked(recordings, seconds, overlap)
        inputs = Waveforms(chunks, processor.feature_extractor)
        batch = collate_waveforms([inputs[row] for row in range(len(inputs))])
        with torch.no_grad():
            logits = model(batch["input_values"], attention_mask=batch["attention_mask"]).logits
        (path,) = joined(chunks, believed, logits.argmax(-1).numpy(), frames_in(model, batch).numpy())
        return path

    whole, parts = labels(300, 4), labels(8, 2)
    assert whole.shape == parts.shape
    assert (whole == parts).mean() > 0.95


def test_beam_search_over_joined_chunks(trained, talk, tmp_path, monkeypatch):
    """A search that follows the best label of every frame finds in chunks what greedy decoding finds."""
    folder, _ = trained

    def build(tokens, **_):
        def best(scores, beam_width):
            assert beam_width == 7
            ids = scores.argmax(axis=1)
            return [("".join(tokens[n] for n, before in zip(ids, [-1, *ids]) if n != before),)]

        return types.SimpleNamespace(decode_beams=best)

    monkeypatch.setitem(sys.modules, "ctc_beam_decoder", types.SimpleNamespace(build_ctcdecoder=build))
    argv = ["--do_predict", "--model", str(folder), "--test_file", str(talk), *QUICK, "--chunk_seconds", "8"]
    argv += ["--chunk_overlap", "2"]
    run_asr.main([*argv, "--output_dir", str(tmp_path / "greedy")])
    run_asr.main([*argv, "--decoding", "beam", "--beam_width", "7", "--output_dir", str(tmp_path / "beam")])
    assert heard(tmp_path / "beam", "test_") == heard(tmp_path / "greedy", "test_")
    argv = ["--do_eval", "--model", str(folder), "--data_dir", str(folder / "demo" / "LibriSpeech"), *QUICK]
    argv += ["--decoding", "beam", "--beam_width", "7", "--output_dir", str(tmp_path / "judged")]
    results = run_asr.main(argv)
    assert heard(tmp_path / "judged") == heard(folder) and results["extra"]["method"]["decoding"] == "beam"


# Heads, layers and freezing


def test_features_kept_or_not_is_the_same(short, encoder, tables, tmp_path):
    folder, results = short
    argv = ["--model", encoder, *tables, *QUICK, *SHORT, "--feature_cache"]
    off = run_asr.main([*argv, "off", "--output_dir", str(tmp_path / "off")])
    assert not off["extra"]["method"]["features computed once"] and results["extra"]["method"]["features computed once"]
    assert same_weights(folder, tmp_path / "off", 2e-3), "float16, the recipe's, rounds"
    kept = run_asr.main([*argv, "float32", "--output_dir", str(tmp_path / "kept")])
    assert same_weights(tmp_path / "kept", tmp_path / "off", 1e-4)
    assert heard(tmp_path / "kept", "test_") == heard(tmp_path / "off", "test_")
    assert kept["metrics"]["test"]["loss"]["value"] == pytest.approx(off["metrics"]["test"]["loss"]["value"], abs=1e-4)


@pytest.fixture
def small_recurrent(monkeypatch):
    """SUPERB's head at a size for tests."""
    around = RecurrentCtc.around
    monkeypatch.setattr(RecurrentCtc, "around", partial(around, projection_size=16, recurrent_size=8))


@pytest.mark.parametrize(
    ("flags", "architecture", "trainable"),
    [
        (["--head", "blstm"], "RecurrentCtc", ("projector.", "recurrent.", "lm_head.")),
        (["--layer", "weighted"], "RecurrentCtc", ("layer_weights", "lm_head.")),
        (["--head", "blstm", "--layer", "1"], "RecurrentCtc", ("projector.", "recurrent.", "lm_head.")),
        (["--layer", "1"], "HubertForCTC", ("lm_head.",)),
        (["--freeze", "none"], "HubertForCTC", ("hubert.", "lm_head.")),
        (["--freeze", "convolution"], "HubertForCTC", ("hubert.feature_projection", "hubert.encoder", "lm_head.")),
    ],
    ids=lambda value: "-".join(value).replace("--", "") if isinstance(value, list) else "",
)
def test_heads_layers_and_freezing(small_recurrent, encoder, clips, tables, tmp_path, flags, architecture, trainable):
    folder = tmp_path / "out"
    results = run_asr.main(["--model", encoder, *tables, *QUICK, *SHORT, *flags, "--output_dir", str(folder)])
    assert results["model"]["architecture"] == architecture
    shared = "hubert." if architecture == "HubertForCTC" else "encoder."
    before, after = weights_of(Path(encoder)), weights_of(folder)
    for name, tensor in after.items():
        ours = before.get(name.removeprefix(shared))
        free = name.startswith(trainable) or (trainable[0] == "hubert." and "feature_extractor" in name)
        assert ours is None or free or np.array_equal(tensor, ours), name
    moved = [n for n in after if n.removeprefix(shared) in before and not np.array_equal(after[n], before[n[len(shared) :]])]
    assert bool(moved) == ("--freeze" in flags)
    if "none" in flags:
        assert any("feature_extractor" in name for name in moved)
    layers = {re.search(r"layers\.(\d)", name)[1] for name in after if re.search(r"encoder\.layers\.\d", name)}
    assert layers == ({"0"} if flags[-1] == "1" else {"0", "1"})
    if architecture == "RecurrentCtc" or "--layer" in flags:
        evaluating = ["--do_predict", "--model", str(folder), *tables[-2:], *QUICK]
        again = run_asr.main([*evaluating, "--output_dir", str(tmp_path / "again")])
        assert heard(tmp_path / "again", "test_") == heard(folder, "test_")
        assert again["arguments"]["head"]["value"] == ("blstm" if "blstm" in flags else "linear")
        assert use_card(folder, clips["test"][0][0]) == heard(folder, "test_")[0]


def test_a_trained_model_keeps_its_head(short, tables, tmp_path, capsys):
    folder, _ = short
    argv = ["--model", str(folder), *tables, *QUICK, *SHORT, "--output_dir", str(tmp_path / "out")]
    for flags in (["--head", "blstm"], ["--layer", "weighted"]):
        said = refused(capsys, argv=None, *[*argv, *flags]) if False else refuse(capsys, *argv, *flags)
        assert said.startswith(" ".join(flags)) and str(folder) in said and "another head" in said
    assert not (tmp_path / "out").exists()
