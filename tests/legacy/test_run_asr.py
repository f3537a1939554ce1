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
from pathlib import Path

import jiwer
import jsonschema
import numpy as np
import pytest
import soundfile
from safetensors.torch import load_file

import run_asr
from common.legacy.chunking import chunked, joined
from common.legacy.errors import exit_status
from common.legacy.recordings import Reading, read_recordings
from common.legacy.trainer import FinetuneTrainer
from tests.legacy.hub import Hub, add_librispeech
from tests.legacy.scripts import ROOT, TORCHRUN, finish, plain, read, refused, rows_of, start

SCRIPT = str(ROOT / "run_asr.py")
QUICK = ["--use_cpu", "--disable_tqdm", "true", "--eval_train_samples", "4", "--preprocessing_num_workers", "1"]
SHORT = ["--num_train_epochs", "1", "--learning_rate", "1e-2", "--warmup_steps", "0"]
SHORT += ["--per_device_train_batch_size", "4"]
RATE = 16_000


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
    for split, subset, count in (
        ("train", "train-clean-100", 16),
        ("validation", "dev-clean", 6),
        ("test", "test-clean", 6),
    ):
        lists = sorted((trained[0] / "demo" / "LibriSpeech" / subset).glob("*/*/*.trans.txt"))
        lines = [(path.parent, *line.split(" ", 1)) for path in lists for line in path.read_text().splitlines()]
        chosen = lines[:: len(lines) // count][:count]
        found[split] = [(str(folder / f"{name}.flac"), text) for folder, name, text in chosen]
    return found


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


def refuse(capsys, *argv: str) -> str:
    return refused(capsys, run_asr.main, "run_asr.py", *argv)


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
    jsonschema.validate(written, read(ROOT / "common" / "legacy" / "results.schema.json"))
    for name in written["files"].values():
        assert (folder / name).stat().st_size > 0, name
    assert {"loss", "wer", "durations", "test_wer_by_length", "test_confused_words"} <= written["files"].keys()
    curve = [entry["eval_validation_wer"] for entry in written["history"] if "eval_validation_wer" in entry]
    assert len(curve) == run_asr.DEMO["num_train_epochs"] and curve[-1] < curve[0] - 20
    page = (folder / "report.html").read_text("utf-8")
    assert page.count("<audio") == 20, "the worst of the test set can be heard"
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
    results = trained[1]
    wer = results["metrics"]["validation"]["wer"]["value"]
    assert wer == pytest.approx(min(e["eval_validation_wer"] for e in results["history"] if "eval_validation_wer" in e))


def test_the_cards_code_gives_the_same_transcripts(trained):
    folder, _ = trained
    for row in rows_of(folder / "test_predictions.csv")[:12:4]:
        (clip,) = (folder / "demo" / "LibriSpeech").glob(f"test-clean/*/*/{row['id']}.flac")
        assert use_card(folder, str(clip)).split() == row["hypothesis"].split()


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
    jsonschema.validate(
        read(tmp_path / "some" / "results.json"), read(ROOT / "common" / "legacy" / "results.schema.json")
    )
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

    from common.legacy.speech_encoders import frames_in
    from common.legacy.speech_heads import load_speech_model
    from common.legacy.waveforms import Waveforms, collate_waveforms

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


@pytest.mark.parametrize(
    ("flags", "architecture", "trainable"),
    [
        (["--head", "blstm", "--head_size", "8"], "RecurrentCtc", ("projector.", "recurrent.", "lm_head.")),
        (["--layer", "weighted"], "RecurrentCtc", ("layer_weights", "lm_head.")),
        (
            ["--head", "blstm", "--head_size", "8", "--layer", "1"],
            "RecurrentCtc",
            ("projector.", "recurrent.", "lm_head."),
        ),
        (["--layer", "1"], "HubertForCTC", ("lm_head.",)),
        (["--freeze", "none"], "HubertForCTC", ("hubert.", "lm_head.")),
        (["--freeze", "convolution"], "HubertForCTC", ("hubert.feature_projection", "hubert.encoder", "lm_head.")),
    ],
    ids=lambda value: "-".join(value).replace("--", "") if isinstance(value, list) else "",
)
def test_heads_layers_and_freezing(encoder, clips, tables, tmp_path, capsys, flags, architecture, trainable):
    folder = tmp_path / "out"
    results = run_asr.main(["--model", encoder, *tables, *QUICK, *SHORT, *flags, "--output_dir", str(folder)])
    assert results["model"]["architecture"] == architecture
    shared = "hubert." if architecture == "HubertForCTC" else "encoder."
    before, after = weights_of(Path(encoder)), weights_of(folder)
    for name, tensor in after.items():
        ours = before.get(name.removeprefix(shared))
        free = name.startswith(trainable) or (trainable[0] == "hubert." and "feature_extractor" in name)
        assert ours is None or free or np.array_equal(tensor, ours), name
    moved = [
        n for n in after if n.removeprefix(shared) in before and not np.array_equal(after[n], before[n[len(shared) :]])
    ]
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
        assert "blstm" not in flags or again["arguments"]["head_size"]["value"] == 8
        for flag in ["--head linear", "--head_size 16"] if "blstm" in flags else []:
            said = refuse(capsys, *evaluating, "--output_dir", str(tmp_path / "other"), *flag.split())
            assert said.startswith(flag) and str(folder) in said and "another head" in said
        assert use_card(folder, clips["test"][0][0]).split() == heard(folder, "test_")[0].split()


def test_a_trained_model_keeps_its_head(short, tables, tmp_path, capsys):
    folder, _ = short
    argv = ["--model", str(folder), *tables, *QUICK, *SHORT, "--output_dir", str(tmp_path / "out")]
    for flags in (["--head", "blstm"], ["--head_size", "8"], ["--layer", "weighted"]):
        said = refuse(capsys, *argv, *flags)
        assert said.startswith(" ".join(flags)) and str(folder) in said and "another head" in said
    assert not (tmp_path / "out").exists()


# Interrupted, refused, spread over processes


def test_stopped_and_resumed_is_as_uninterrupted(encoder, tables, tmp_path, monkeypatch, capsys):
    argv = ["--model", encoder, *tables, *QUICK, *SHORT, "--num_train_epochs", "3"]
    argv += ["--output_dir"]
    run_asr.main([*argv, str(tmp_path / "straight")])
    step, steps = FinetuneTrainer.training_step, []

    def stopped(*args, **kwargs):
        steps.append(1)
        if len(steps) == 6:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(*args, **kwargs)

    with monkeypatch.context() as patched:
        patched.setattr(FinetuneTrainer, "training_step", stopped)
        assert exit_status(lambda: run_asr.main([*argv, str(tmp_path / "stopped")]), "run_asr.py") == 128 + 15
    assert (tmp_path / "stopped" / "checkpoint-6").is_dir() and not (tmp_path / "stopped" / "results.json").exists()
    said = refuse(capsys, *argv, str(tmp_path / "stopped"))
    assert "--resume_from_checkpoint auto" in said
    said = refuse(capsys, *argv, str(tmp_path / "stopped"), "--resume_from_checkpoint", "auto", "--layer", "1")
    assert "layer" in said
    run_asr.main([*argv, str(tmp_path / "stopped"), "--resume_from_checkpoint", "auto"])
    assert same_weights(tmp_path / "straight", tmp_path / "stopped")
    assert heard(tmp_path / "straight", "test_") == heard(tmp_path / "stopped", "test_")
    assert "is not empty" in refuse(capsys, *argv, str(tmp_path / "straight"))


def test_two_processes(encoder, tables, tmp_path):
    everything = ["--model", encoder, *tables, *QUICK, *SHORT, "--feature_cache", "float32"]
    one = [sys.executable, SCRIPT, *everything, "--per_device_train_batch_size", "8", "--output_dir", "one"]
    two = [*TORCHRUN, SCRIPT, *everything, "--per_device_train_batch_size", "4", "--output_dir", "two"]
    for command in (one, two):
        finish(start(command, tmp_path, plain(tmp_path)))
    assert [read(tmp_path / n / "results.json")["environment"]["processes"] for n in ("one", "two")] == [1, 2]
    assert same_weights(tmp_path / "one", tmp_path / "two", 1e-4)
    for prefix in ("", "test_"):
        assert heard(tmp_path / "one", prefix) == heard(tmp_path / "two", prefix)


# Vocabularies


def test_going_on_from_a_trained_model_keeps_its_vocabulary(short, clips, tmp_path):
    folder, _ = short
    rows = [(path, text.lower().replace("the", "a zoo")) for path, text in clips["train"]]
    argv = ["--model", str(folder), "--train_file", write_csv(tmp_path / "t.csv", rows), *QUICK, *SHORT]
    results = run_asr.main([*argv, "--do_train", "--learning_rate", "0", "--output_dir", str(tmp_path / "out")])
    assert read(tmp_path / "out" / "vocab.json") == read(folder / "vocab.json")
    assert same_weights(folder, tmp_path / "out"), "no head is new"
    assert results["arguments"]["case"]["value"] == "upper"
    count = sum(text.count("ZOO") for text in (text.upper() for _, text in rows))
    assert results["data"]["splits"]["train"]["statistics"]["unknown characters"] == count > 0
    (warning,) = [sentence for sentence in results["warnings"] if sentence.startswith("train: ")]
    assert f"Z (U+005A) {count}" in warning


def test_case_punctuation_and_ignored_characters(encoder, clips, tmp_path):
    rows = [(path, f"{text.capitalize()}, it\u2019s 3 {{x}}!") for path, text in clips["train"]]
    table, said = write_csv(tmp_path / "t.csv", rows), "".join(text for _, text in rows)
    argv = ["--model", encoder, "--train_file", table, "--validation_file", table, *QUICK, *SHORT]
    for name, flags, expected in (
        ("upper", [], set(said.upper().replace("\u2019", "'")) - set(" ,{}!")),
        ("lower", ["--chars_to_ignore", "x", "3"], set(said.lower().replace("\u2019", "'")) - set(" ,{}!x3")),
        ("keep", ["--punctuation", "keep"], set(said) - {" "}),
    ):
        run_asr.main([*argv, "--case", name, *flags, "--output_dir", str(tmp_path / name)])
        assert {token for token in read(tmp_path / name / "vocab.json") if len(token) == 1} == {"|", *expected}
    again = ["--do_eval", "--model", str(tmp_path / "lower"), "--validation_file", table, *QUICK]
    results = run_asr.main([*again, "--chars_to_ignore", "3", "--output_dir", str(tmp_path / "again")])
    assert results["arguments"]["case"] == {"value": "lower", "source": "the model's vocabulary"}
    assert results["data"]["splits"]["validation"]["statistics"]["transcripts with unknown characters"] == len(rows)
    (warning,) = results["warnings"]
    assert "x (U+0078)" in warning


def test_digits(short, clips, tmp_path, capsys):
    folder, _ = short
    rows = [(path, text + " IN 1921" * (i == 2)) for i, (path, text) in enumerate(clips["validation"])]
    table = write_csv(tmp_path / "t.csv", rows)
    argv = ["--do_eval", "--model", str(folder), "--validation_file", table, *QUICK, "--output_dir"]
    results = run_asr.main([*argv, str(tmp_path / "keep")])
    assert results["data"]["splits"]["validation"]["statistics"]["unknown characters"] == 4
    assert "1 (U+0031) 2" in results["warnings"][0]
    said = refuse(capsys, *argv, str(tmp_path / "refuse"), "--digits", "refuse")
    assert "1921" in said and rows[2][0] in said and "--on_bad_example skip" in said
    flags = ["--digits", "refuse", "--on_bad_example", "skip"]
    split = run_asr.main([*argv, str(tmp_path / "skip"), *flags])["data"]["splits"]["validation"]
    assert split["skipped"] == {"digits in the transcript": 1} and split["examples"] == len(rows) - 1


# Sources


def libri_tar(clips, folder: Path) -> list[str]:
    path = folder / "LibriSpeech.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for split, subset in (("train", "train-clean-100"), ("validation", "dev-clean"), ("test", "test-clean")):
            chapters: dict[str, list[str]] = {}
            for clip, text in ((Path(clip), text) for clip, text in clips[split]):
                speaker, chapter, _ = clip.stem.split("-")
                above = f"LibriSpeech/{subset}/{speaker}/{chapter}"
                archive.add(clip, f"{above}/{clip.name}")
                chapters.setdefault(f"{above}/{speaker}-{chapter}.trans.txt", []).append(f"{clip.stem} {text}\n")
            for name, lines in chapters.items():
                info = tarfile.TarInfo(name)
                info.size = len("".join(lines))
                archive.addfile(info, io.BytesIO("".join(lines).encode()))
    return ["--data_dir", str(path)]


def lj_zip(clips, folder: Path) -> list[str]:
    path = folder / "LJ.zip"
    with zipfile.ZipFile(path, "w") as archive:
        lines = []
        for number, (clip, text) in enumerate(clips["train"]):
            archive.write(clip, f"LJSpeech-1.1/wavs/LJ001-{number:04d}.flac")
            lines.append(f"LJ001-{number:04d}|{text} 3|{text.lower()} three\n")
        archive.writestr("LJSpeech-1.1/metadata.csv", "".join(lines))
    return ["--data_dir", str(path), "--split", "stratified", "--validation_share", "0.2", "--test_share", "0.2"]


def jsonl(clips, folder: Path) -> list[str]:
    flags = []
    for name, rows in clips.items():
        path = folder / f"{name}.jsonl"
        lines = [json.dumps({"clip": clip, "words": text}) for clip, text in rows]
        path.write_text("\n".join(lines), encoding="utf-8")
        flags += [f"--{name}_file", str(path)]
    return [*flags, "--audio_column_name", "clip", "--text_column_name", "words"]


def parquet(clips, folder: Path) -> list[str]:
    import datasets

    flags = []
    for name, rows in clips.items():
        cells = [{"audio": {"bytes": Path(p).read_bytes(), "path": Path(p).name}, "sentence": t} for p, t in rows]
        path = folder / f"{name}.parquet"
        datasets.Dataset.from_list(cells).to_parquet(str(path))
        flags += [f"--{name}_file", str(path)]
    return flags


@pytest.mark.parametrize("source", [libri_tar, lj_zip, jsonl, parquet], ids=lambda source: source.__name__)
def test_sources(source, encoder, clips, tmp_path):
    flags = source(clips, tmp_path)
    argv = ["--model", encoder, *flags, *QUICK, "--max_steps", "1", "--output_dir", str(tmp_path / "out")]
    results = run_asr.main(argv)
    counts = {name: split["examples"] for name, split in results["data"]["splits"].items()}
    assert sum(counts.values()) == (16 if source is lj_zip else 28) and min(counts.values()) >= 3
    said = {text for rows in clips.values() for _, text in rows}
    if source is lj_zip:
        said = {f"{text} THREE" for text in said}
    rows = rows_of(tmp_path / "out" / "predictions.csv") + rows_of(tmp_path / "out" / "test_predictions.csv")
    assert {row["reference"] for row in rows} <= said


def test_lj_speech_itself(encoder, shared_data, tmp_path):
    path = shared_data / "asr" / "ljspeech_excerpt.zip"
    argv = ["--model", encoder, "--data_dir", str(path), *QUICK, *SHORT, "--output_dir", str(tmp_path / "out")]
    results = run_asr.main([*argv, "--max_train_samples", "8", "--max_eval_samples", "3", "--max_predict_samples", "3"])
    split = results["data"]["splits"]["train"]
    assert split["examples"] == 8 and split["statistics"]["longest"] > 5
    references = [row["reference"] for row in rows_of(tmp_path / "out" / "predictions.csv")]
    assert all(text == text.upper() and not re.search(r'[,.;"]', text) for text in references)


# Bad input


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--head", "lstm"], ("--head", "blstm")),
        (["--layer", "7"], ("--layer 7", "1 to 2")),
        (["--layer", "0"], ("--layer 0",)),
        (["--chunk_overlap", "12"], ("--chunk_overlap",)),
        (["--beam_width", "0"], ("--beam_width 0",)),
        (["--head_size", "0"], ("--head_size 0",)),
        (["--language_model", "words.arpa"], ("--language_model", "--decoding beam")),
        (["--min_seconds", "99"], ("--min_seconds",)),
        (["--text_column", "words"], ("words", "transcript")),
        (["--ctc_loss_reduction", "sum"], ("--ctc_loss_reduction sum", "mean")),
        (["--metric_for_best_model", "wer"], ("--metric_for_best_model wer", "validation_wer")),
        (["--train_file", "missing.csv"], ("missing.csv", "no such file")),
        (["--head_type", "blstm"], ("--head_type",)),
    ],
)
def test_bad_arguments_are_one_sentence(encoder, tables, tmp_path, capsys, flags, words):
    out = tmp_path / "out"
    said = refuse(capsys, "--model", encoder, *tables, *QUICK, *SHORT, "--output_dir", str(out), *flags)
    assert all(word in said for word in words), said
    assert not out.exists()


def test_what_a_search_lacks_is_said_before_training(encoder, short, tables, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "ctc_beam_decoder", None)
    monkeypatch.setattr(FinetuneTrainer, "train", None)
    argv = [*tables, *QUICK, *SHORT, "--decoding", "beam", "--output_dir", str(tmp_path / "out")]
    for model in (encoder, str(short[0])):
        assert "pip install ctc-beam-decoder" in refuse(capsys, "--model", model, *argv)
    monkeypatch.setitem(sys.modules, "ctc_beam_decoder", types.SimpleNamespace(build_ctcdecoder=None))
    argv += ["--language_model", "missing.arpa"]
    assert "missing.arpa: no such file" in refuse(capsys, "--model", encoder, *argv)
    assert not (tmp_path / "out").exists()


def test_models_that_cannot_transcribe(encoder, short, clips, tmp_path, capsys):
    argv = ["--test_file", clips["test"][0][0], *QUICK, "--output_dir", str(tmp_path / "out"), "--do_predict"]
    assert "no vocabulary" in refuse(capsys, *argv, "--model", encoder)
    assert "no vocabulary" in refuse(capsys, *argv, "--model", str(short[0]), "--tokenizer_name", encoder)
    assert "nowhere" in refuse(capsys, *argv, "--model", "nowhere")
    assert not (tmp_path / "out").exists()


def test_bad_examples_end_the_run_or_are_counted(encoder, clips, tmp_path, capsys):
    """Every clip of a table but the first eight is bad in its own way."""
    rows, good = list(clips["train"][:8]), soundfile.read(clips["train"][0][0])[0]
    bad: dict[str, tuple[str, str, str]] = {}  # name -> transcript, words of its sentence, reason that is counted

    def add(name: str, samples, words: str, reason: str, *, rate=RATE, text="THE HORSE RUNS", content=None, **settings):
        path = tmp_path / name
        if content is not None:
            path.write_bytes(content)
        else:
            soundfile.write(path, samples, rate, **settings)
        bad[str(path)] = text, words, reason

    whole = Path(clips["train"][0][0]).read_bytes()
    add("text.wav", None, "text.wav", "cannot be decoded", content=b"this is no sound\n" * 50)
    add("cut.flac", None, "cut.flac", "truncated", content=whole[: len(whole) // 2])
    add("empty.wav", None, "empty.wav", "no samples", content=b"")
    add("one.wav", good[:1], "one.wav", "too short")
    add("silent.wav", np.zeros(RATE), "silent", "silent")
    add("blank.wav", good, "the transcript is empty", "empty transcript", text=" ")
    add("dots.wav", good, "the transcript is empty", "empty transcript", text="...")
    add("much.wav", good, "characters and needs", "transcript longer than the audio", text="THE HORSE " * 60)
    bad[str(tmp_path / "gone.wav")] = "THE SUN RUNS", "gone.wav", "missing file"
    for name, count in (("eight_bit.wav", 1), ("six.wav", 6), ("fast.wav", 1)):  # not bad at all
        kind = {"subtype": "PCM_U8"} if name == "eight_bit.wav" else {}
        samples = np.repeat(good[:, None], count, axis=1)
        soundfile.write(tmp_path / name, samples, 96_000 if name == "fast.wav" else RATE, **kind)
        rows.append((str(tmp_path / name), "SO"))
    soundfile.write(tmp_path / "named.mp3", good, RATE, format="MP3")
    (tmp_path / "named.mp3").rename(tmp_path / "named.wav")
    rows.append((str(tmp_path / "named.wav"), "THE HORSE RUNS"))
    dev = ["--validation_file", write_csv(tmp_path / "dev.csv", clips["validation"])]
    argv = ["--model", encoder, *dev, *QUICK, *SHORT, "--output_dir", str(tmp_path / "out"), "--train_file"]
    for path, (text, words, _) in bad.items():
        said = refuse(capsys, *argv, write_csv(tmp_path / "train.csv", [*rows, (path, text)]))
        assert words in said and "--on_bad_example skip" in said, said
        assert not (tmp_path / "out").exists()
    table = write_csv(tmp_path / "train.csv", [*rows, *((path, text) for path, (text, *_) in bad.items())])
    split = run_asr.main([*argv, table, "--on_bad_example", "skip"])["data"]["splits"]["train"]
    assert split["examples"] == len(rows)
    reasons = [reason for *_, reason in bad.values()]
    assert split["skipped"] == {reason: reasons.count(reason) for reason in reasons}


# As users type it


@pytest.fixture(scope="module")
def hub_root(tmp_path_factory, trained, clips, encoder) -> Path:
    """LibriSpeech as the hub has it, and a tiny DistilHuBERT under its real id."""
    root = tmp_path_factory.mktemp("hub")
    add_librispeech(root, {"train.100": clips["train"], "validation": clips["validation"], "test": clips["test"]})
    model = root / "models" / "ntu-spml" / "distilhubert"
    model.mkdir(parents=True)
    for file in Path(encoder).iterdir():
        (model / file.name).write_bytes(file.read_bytes())
    return root


def test_the_published_experiment_as_typed(hub_root, clips, tmp_path):
    """`python run_asr.py`, and nothing else."""
    with Hub(hub_root) as hub:
        environment = hub.environment(tmp_path / "home") | {"CUDA_VISIBLE_DEVICES": ""}
        finish(start([sys.executable, SCRIPT], tmp_path, environment))
        asked = {path for _, path in hub.requests}
    allowed = ("ntu-spml/distilhubert", "openslr/librispeech_asr")
    assert asked and not [path for path in asked if not any(name in path for name in allowed)], asked
    results = read(tmp_path / "outputs" / "asr" / "results.json")
    assert {name: split["examples"] for name, split in results["data"]["splits"].items()} == {
        name: len(rows) for name, rows in clips.items()
    }
    values = {name: entry["value"] for name, entry in results["arguments"].items()}
    assert (values["learning_rate"], values["weight_decay"], values["warmup_steps"]) == (1e-3, 5e-3, 250)
    assert (values["per_device_train_batch_size"], values["num_train_epochs"], values["head"]) == (16, 5.0, "linear")
    assert [row["metrics"]["wer"]["value"] for row in results["published"]] == [13.37, 9.21]
    assert results["data"]["splits"]["train"]["source"].endswith("train.100")
    assert results["data"]["splits"]["train"]["statistics"]["speakers"] > 1
    references = {row["reference"] for row in rows_of(tmp_path / "outputs" / "asr" / "test_predictions.csv")}
    assert references == {text for _, text in clips["test"]}


def test_the_official_command(hub_root, tmp_path, capsys):
    """Of transformers' run_speech_recognition_ctc.py, on data from the hub."""
    command = (
        "--dataset_name openslr/librispeech_asr --dataset_config_name clean --model_name_or_path ntu-spml/distilhubert "
        "--train_split_name train.100+validation --eval_split_name validation --output_dir out --overwrite_output_dir "
        "--num_train_epochs 1 --per_device_train_batch_size 8 --gradient_accumulation_steps 2 --learning_rate 3e-4 "
        "--warmup_steps 500 --eval_strategy steps --text_column_name text --save_steps 400 --eval_steps 100 "
        "--layerdrop 0.0 --save_total_limit 3 --freeze_feature_encoder --gradient_checkpointing --group_by_length "
        '--chars_to_ignore , ? . ! - ; : " \u201c % \u2018 \u201d --max_duration_in_seconds 20 --do_train --do_eval '
        "--use_cpu"
    )
    with Hub(hub_root) as hub:
        said = finish(start([sys.executable, SCRIPT, *command.split()], tmp_path, hub.environment(tmp_path / "home")))
    assert "--freeze_feature_encoder is --freeze=convolution today" in said
    results = read(tmp_path / "out" / "results.json")
    assert results["data"]["splits"]["train"]["examples"] == 16 + 6 and set(results["metrics"]) == {"validation"}
    assert results["extra"]["method"]["frozen"] == "the convolutions are frozen"
