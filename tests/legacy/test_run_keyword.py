"""run_keyword.py through `main` and the command line: it learns, figures are right, and clips come from anywhere."""

import contextlib
import csv
import io
import os
import re
import shutil
import signal
import sys
import tarfile
import zipfile
from pathlib import Path
from unittest import mock

import jsonschema
import numpy as np
import pytest
import soundfile
from safetensors.torch import load_file
from sklearn.metrics import accuracy_score, confusion_matrix, precision_recall_fscore_support
from sklearn.utils.class_weight import compute_class_weight

import run_keyword
from common.legacy.errors import exit_status
from common.legacy.trainer import FinetuneTrainer
from tests.legacy.hub import Hub, add_parquet_dataset, add_superb_keywords
from tests.legacy.scripts import ROOT, TORCHRUN, finish, plain, read, refused, rows_of, start

SCRIPT = str(ROOT / "run_keyword.py")
QUICK = ["--use_cpu", "--disable_tqdm", "true", "--eval_train_samples", "8", "--preprocessing_num_workers", "1"]
FEW = ["--max_train_samples", "48", "--max_eval_samples", "16", "--max_predict_samples", "16"]
STEPS = [
    "--num_train_epochs",
    "1",
    "--per_device_train_batch_size",
    "16",
    "--eval_strategy",
    "epoch",
    "--logging_steps",
]
WORDS = ["--keywords", "yes", "no", "stop", "go"]
RATE = 16_000


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> tuple[Path, dict]:
    """One whole `--demo` run."""
    folder = tmp_path_factory.mktemp("runs") / "demo"
    return folder, run_keyword.main(["--demo", "--output_dir", str(folder), *QUICK])


@pytest.fixture(scope="module")
def model(trained) -> str:
    """The tiny encoder, as a user's folder."""
    (folder,) = (path.parent for path in (trained[0] / "demo").glob("*/config.json"))
    return str(folder)


@pytest.fixture(scope="module")
def tree(trained) -> Path:
    """The built-in data: a tree like Speech Commands'."""
    return trained[0] / "demo" / "speech_commands"


@pytest.fixture(scope="module")
def tables(tmp_path_factory, tree) -> dict[str, str]:
    """Some of its clips as csv files: 40 of train, 16 of validation and test each; yes, no and tree."""
    folder = tmp_path_factory.mktemp("tables")
    held = {s: (tree / f"{s}ing_list.txt").read_text().split() for s in ("test",)}
    held["validation"] = (tree / "validation_list.txt").read_text().split()
    everything = sorted(str(p.relative_to(tree)) for word in ("yes", "no", "tree") for p in (tree / word).glob("*.wav"))
    held["train"] = [name for name in everything if not any(name in names for names in held.values())]
    for split, count in (("train", 40), ("validation", 16), ("test", 16)):
        names = [name for name in everything if name in held[split]]
        chosen = sorted(np.random.default_rng(0).permutation(names)[:count])
        write_table(folder / f"{split}.csv", [(str(tree / name), name.split("/")[0]) for name in chosen])
    return {f"{split}_file": str(folder / f"{split}.csv") for split in held}


def write_table(path: Path, rows: list[tuple[str, ...]], header: tuple[str, ...] = ("path", "label")) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def files(tables: dict, *names: str) -> list[str]:
    return [argument for name in names for argument in (f"--{name}_file", tables[f"{name}_file"])]


def short(model: str, out: Path, *more: str) -> dict:
    """A training of few steps."""
    everything = ["--model", model, "--output_dir", str(out), *QUICK, *FEW, *STEPS, "1", "--learning_rate", "1e-2"]
    return without_plots([*everything, *more])


def used(model: Path | str, out: Path, *more: str) -> dict:
    """A model that is only used."""
    return without_plots(["--model", str(model), "--output_dir", str(out), *QUICK, *more])


def without_plots(argv: list[str]) -> dict:
    """A run that draws nothing, which is most of the time of a short one; whole runs show that drawing works."""
    drawing = ("common.legacy.task.draw_plots", "common.legacy.speech_results.draw_durations")
    with contextlib.ExitStack() as patches:
        for name in drawing:
            patches.enter_context(mock.patch(name, return_value={}))
        return run_keyword.main(argv)


def weights(folder: Path) -> dict[str, np.ndarray]:
    return {name: tensor.numpy() for name, tensor in load_file(folder / "model.safetensors").items()}


def same(one: Path, other: Path, tolerance: float) -> None:
    """Whether two runs have the same weights and predictions."""
    first, second = weights(one), weights(other)
    assert first.keys() == second.keys()
    for name, weight in first.items():
        assert np.abs(weight - second[name]).max() <= tolerance, name
    alike(one / "test_predictions.csv", other / "test_predictions.csv", max(tolerance, 1.01e-4))


def alike(one: Path, other: Path, tolerance: float = 1.01e-4) -> None:
    """Whether two files have the same probabilities (written with four digits) for the same ids."""
    first, second = rows_of(one), rows_of(other)
    assert [row["id"] for row in first] == [row["id"] for row in second] and first[0].keys() == second[0].keys()
    for name in (name for name in first[0] if name.startswith("probability_")):
        assert [float(r[name]) for r in first] == pytest.approx([float(r[name]) for r in second], abs=tolerance)


# What a run leaves


def test_demo_learns_and_reports(trained, tree):
    folder, results = trained
    head = results["headline"]
    assert (head["split"], head["metric"]) == ("test", "accuracy")
    assert head["low"] > head["baseline"] + 10, "training has to beat the majority class, clearly"
    written = read(folder / "results.json")
    jsonschema.validate(written, read(ROOT / "common" / "legacy" / "results.schema.json"))
    for name in written["files"].values():
        assert (folder / name).stat().st_size > 0, name
    plots = {Path(name).stem for name in written["files"].values() if name.startswith("plots/")}
    assert plots >= {"class_counts", "durations", "loss", "accuracy", "f1_by_class", "test_confusion"}
    history = {key for entry in written["history"] for key in entry}
    assert {"eval_train_accuracy", "eval_validation_accuracy", "eval_train_loss", "eval_validation_loss"} <= history
    assert written["extra"]["method"] == {"frozen": "the whole encoder is frozen", "features computed once": True}
    assert [*written["per_class"]["test"]] == ["yes", "no", "stop", "go", "_silence_", "_unknown_"]
    assert written["data"]["overlaps"] == [], "no speaker and no clip in two splits"
    said = [row["id"] for row in rows_of(folder / "test_predictions.csv")]
    words = [name for name in said if "#" not in name]
    assert sorted(words) == sorted((tree / "testing_list.txt").read_text().split()) and len(words) < len(said)
    for name in ("train_results", "eval_results", "predict_results", "all_results", "trainer_state"):
        assert read(folder / f"{name}.json")
    assert read(folder / "predict_results.json")["predict_samples"] == len(said)
    rows = rows_of(folder / "test_predictions.csv")
    wrong = sum(row["truth"] != row["prediction"] for row in rows)
    assert (folder / "report.html").read_text("utf-8").count("<audio") == min(wrong, 20), "errors can be heard"


def test_figures_equal_scikit_learns(trained):
    folder, results = trained
    labels = [*results["per_class"]["test"]]
    for name, prefix in (("validation", ""), ("test", "test_")):
        rows = rows_of(folder / f"{prefix}predictions.csv")
        truth, said = ([row[column] for row in rows] for column in ("truth", "prediction"))
        found = results["metrics"][name]
        assert found["accuracy"]["value"] == pytest.approx(100 * accuracy_score(truth, said))
        for average, ending in (("macro", ""), ("micro", "_micro")):
            scores = precision_recall_fscore_support(truth, said, average=average, zero_division=0)
            for metric, score in zip(("precision", "recall", "f1"), scores):
                assert found[f"{metric}{ending}"]["value"] == pytest.approx(100 * score), (name, metric, average)
        by_class = precision_recall_fscore_support(truth, said, labels=labels, zero_division=0)
        for at, label in enumerate(labels):
            there = results["per_class"][name][label]
            assert [there[k] for k in ("precision", "recall", "f1", "support")] == pytest.approx(
                [column[at] for column in by_class]
            )
        assert results["confusion"][name]["matrix"] == confusion_matrix(truth, said, labels=labels).tolist()
        assert results["baseline"][name]["metrics"]["recall_micro"] == results["baseline"][name]["metrics"]["accuracy"]


def test_the_code_of_the_card_gives_the_same_predictions(trained, tree):
    folder, _ = trained
    code = re.search(r"```python\n(.*?)```", (folder / "README.md").read_text("utf-8"), re.DOTALL)[1]
    assert "audio-classification" in code and "common" not in code
    rows = [row for row in rows_of(folder / "test_predictions.csv") if "#" not in row["id"]]
    for row in rows[:: len(rows) // 6]:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(code.replace("clip.wav", str(tree / row["id"])), {})  # what a reader of the card would run
        found = {answer["label"]: answer["score"] for answer in eval(printed.getvalue())}
        assert max(found, key=found.get) == row["prediction"]
        for label, score in found.items():
            assert score == pytest.approx(float(row[f"probability_{label}"]), abs=1e-3)


def test_the_same_directory_twice_is_refused(trained, capsys):
    folder, _ = trained
    before = (folder / "results.json").read_bytes()
    said = refused(capsys, run_keyword.main, "run_keyword.py", "--demo", "--output_dir", str(folder), *QUICK)
    assert "is not empty" in said and "--overwrite_output_dir" in said
    assert (folder / "results.json").read_bytes() == before


# Cache, batches, accumulation, stopping


@pytest.mark.parametrize("layer", [[], ["--layer", "1"], ["--layer", "weighted"]], ids=["last", "first", "weighted"])
def test_the_cache_changes_nothing_and_the_model_reloads(model, tree, tmp_path, layer):
    common = ["--data_dir", str(tree), *WORDS, "--num_train_epochs", "2", *layer]
    cached = short(model, tmp_path / "cached", *common)
    off = short(model, tmp_path / "off", *common, "--feature_cache", "off", "--per_device_eval_batch_size", "5")
    assert [r["extra"]["method"]["features computed once"] for r in (cached, off)] == [True, False]
    same(tmp_path / "cached", tmp_path / "off", 1e-4)

    from transformers import pipeline

    classify = pipeline("audio-classification", model=str(tmp_path / "cached"))
    assert classify.model.config.num_hidden_layers == (1 if layer == ["--layer", "1"] else 2)
    assert classify.model.config.use_weighted_layer_sum == (layer == ["--layer", "weighted"])
    for row in rows_of(tmp_path / "cached" / "test_predictions.csv")[:3]:
        name, _, window = row["id"].partition("#")
        if window:
            continue
        samples, rate = soundfile.read(tree / name, dtype="float32")
        found = classify({"array": samples, "sampling_rate": rate}, top_k=None)
        assert {a["label"]: a["score"] for a in found} == pytest.approx(
            {a["label"]: float(row[f"probability_{a['label']}"]) for a in found}, abs=1e-3
        )
    again = used(tmp_path / "cached", tmp_path / "again", "--do_predict", "--data_dir", str(tree), *FEW)
    assert again["metrics"]["test"]["accuracy"] == cached["metrics"]["test"]["accuracy"]
    alike(tmp_path / "cached" / "test_predictions.csv", tmp_path / "again" / "test_predictions.csv")
    if layer == ["--layer", "weighted"]:
        mix = weights(tmp_path / "cached")["layer_weights"]
        assert len(mix) == 3 and np.abs(mix - mix.mean()).max() > 1e-4, "the mixture of layers is trained"


def test_a_clip_scores_the_same_in_any_batch(trained, tree, tmp_path):
    argv = ["--do_predict", "--data_dir", str(tree), "--feature_cache", "off", "--max_predict_samples", "24"]
    results = used(trained[0], tmp_path / "alone", *argv, "--per_device_eval_batch_size", "1")
    lengths = results["data"]["splits"]["test"]["statistics"]
    assert lengths["shortest"] < lengths["longest"], "there is something to pad"
    used(trained[0], tmp_path / "padded", *argv, "--per_device_eval_batch_size", "24")
    alike(tmp_path / "alone" / "test_predictions.csv", tmp_path / "padded" / "test_predictions.csv")
    found = {row["id"]: row for row in rows_of(trained[0] / "test_predictions.csv")}
    for row in rows_of(tmp_path / "alone" / "test_predictions.csv"):
        assert float(row["probability_yes"]) == pytest.approx(float(found[row["id"]]["probability_yes"]), abs=2e-4)


def test_accumulating_four_batches_is_one_batch_of_their_sum(model, tree, tmp_path):
    common = ["--data_dir", str(tree), *WORDS, "--max_train_samples", "16", "--train_sampling_strategy", "sequential"]
    common += ["--max_steps", "1", "--optim", "sgd", "--learning_rate", "5", "--warmup_steps", "0", "--do_train"]
    common += ["--max_grad_norm", "0", "--weight_decay", "0", "--eval_strategy", "no"]
    short(model, tmp_path / "one", *common, "--per_device_train_batch_size", "16")
    accumulating = ["--per_device_train_batch_size", "4", "--gradient_accumulation_steps", "4"]
    short(model, tmp_path / "four", *common, *accumulating)
    short(model, tmp_path / "unweighted", *common, *accumulating, "--class_weights", "none")
    one, four, other = (weights(tmp_path / name) for name in ("one", "four", "unweighted"))
    assert max(np.abs(one[name] - four[name]).max() for name in one) < 1e-5
    assert max(np.abs(four[name] - other[name]).max() for name in four) > 1e-3, "the weights have an effect"


def test_the_loss_is_weighted_as_torchs(model, tree, tmp_path):
    import torch

    results = short(model, tmp_path / "out", "--data_dir", str(tree), *WORDS)
    (by_class,) = (value for name, value in results["extra"].items() if name.startswith("class weights"))
    labels, rows = [*by_class], rows_of(tmp_path / "out" / "test_predictions.csv")
    shares = torch.tensor([[float(row[f"probability_{label}"]) for label in labels] for row in rows])
    truth = torch.tensor([labels.index(row["truth"]) for row in rows])
    loss = torch.nn.functional.nll_loss(shares.log(), truth, weight=torch.tensor(list(by_class.values())))
    assert results["metrics"]["test"]["loss"]["value"] == pytest.approx(loss.item(), abs=5e-3)


def test_stopped_and_resumed_is_as_if_never_stopped(model, tree, tmp_path, monkeypatch, capsys):
    argv = ["--data_dir", str(tree), *WORDS, "--num_train_epochs", "3"]
    short(model, tmp_path / "straight", *argv)
    steps, step = [], FinetuneTrainer.training_step

    def stopping(self, *args, **kwargs):
        steps.append(self.state.global_step)
        if len(steps) == 5:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self, *args, **kwargs)

    monkeypatch.setattr(FinetuneTrainer, "training_step", stopping)
    stopped = tmp_path / "stopped"
    assert exit_status(lambda: short(model, stopped, *argv), "run_keyword.py") == 128 + signal.SIGTERM
    assert "--resume_from_checkpoint auto" in capsys.readouterr().err
    assert (stopped / "checkpoint-5").is_dir() and not (stopped / "results.json").exists()
    everything = ["--model", model, "--output_dir", str(stopped), *QUICK, *FEW, *STEPS, "1", *argv]
    everything += ["--learning_rate", "1e-2", "--resume_from_checkpoint", "auto"]
    other = refused(capsys, run_keyword.main, "run_keyword.py", *everything, "--class_weights", "sqrt")
    assert "belongs to another run" in other and "class_weights was balanced, is sqrt" in other
    without_plots(everything)
    assert steps == list(range(9)), "each step once"
    same(tmp_path / "straight", stopped, 0)


# Classes


@pytest.mark.parametrize("how", ["none", "balanced", "sqrt", "effective"])
def test_class_weights_are_printed_and_stored(model, tables, tmp_path, capsys, how):
    argv = ["--do_train", "--eval_strategy", "no", "--class_weights", how, "--train_file", tables["train_file"]]
    results = short(model, tmp_path / "out", *argv)
    counts = results["data"]["splits"]["train"]["label_counts"]
    n = np.array(list(counts.values()))
    balanced = compute_class_weight("balanced", classes=np.arange(3), y=np.repeat(np.arange(3), n))
    effective = (1 - 0.999) / (1 - 0.999**n)  # Cui et al. 2019, equation 4
    expected = {"balanced": balanced, "sqrt": np.sqrt(balanced), "effective": effective}.get(how)
    found = {name: value for name, value in results["extra"].items() if name.startswith("class weights")}
    printed = [line for line in capsys.readouterr().err.splitlines() if line.startswith("class weights")]
    if how == "none":
        assert not found and not printed
        return
    expected = expected * n.sum() / (expected @ n)  # the mean weight of an example is 1
    assert [*found] == [f"class weights ({how})"] and [*found[f"class weights ({how})"]] == [*counts]
    assert list(found[f"class weights ({how})"].values()) == pytest.approx(expected.tolist(), abs=1e-4)
    assert len(printed) == 1 and f"yes {expected[[*counts].index('yes')]:.3g}" in printed[0]
    assert results["warnings"] == []


def test_a_class_of_one_clip_is_warned_of(model, tree, tmp_path):
    clips = [clip for word in ("yes", "tree", "cat", "nine") for clip in sorted((tree / word).glob("*.wav"))][:105]
    rows = [(str(clips[0]), "rare"), *((str(clip), "frequent") for clip in clips[1:])]
    assert len(rows) == 105
    argv = ["--train_file", str(write_table(tmp_path / "train.csv", rows)), "--do_train", "--eval_strategy", "no"]
    (warning,) = short(model, tmp_path / "out", *argv, "--max_train_samples", "-1", "--max_steps", "1")["warnings"]
    assert "'rare'" in warning and "52" in warning and "--drop_labels rare" in warning


def test_silence_can_be_dropped_and_other_words_be_unknown(model, tree, tmp_path):
    argv = ["--data_dir", str(tree), "--do_train", "--do_predict", "--eval_strategy", "no", "--max_train_samples", "-1"]
    argv += ["--max_steps", "1", "--max_predict_samples", "-1"]
    dropped = ["--keywords", "yes,no", "--unknown_share", "0.5", "--drop_labels", "_silence_"]
    results = short(model, tmp_path / "out", *argv, *dropped)
    lists = (tree / "testing_list.txt").read_text().split()
    said = sum(name.startswith("yes/") for name in lists)
    splits = results["data"]["splits"]
    assert splits["test"]["label_counts"] == {"yes": said, "no": said, "_unknown_": round(said / 2)}
    train = splits["train"]["label_counts"]
    assert train["_unknown_"] == round((train["yes"] + train["no"]) / 4)
    skipped = splits["train"]["skipped"]
    assert skipped["class dropped (_silence_)"] > 0 and skipped["unknown word above the share"] > 0
    one = short(model, tmp_path / "all", *argv, "--keywords", "all")
    words = {path.parent.name for path in tree.glob("*/*_nohash_*.wav")}
    assert set(one["data"]["splits"]["test"]["label_counts"]) == words | {"_silence_"}


# Where clips come from


def test_speech_commands_as_an_archive_and_without_lists(trained, model, tree, tmp_path):
    """The built-in lists agree with the hash rule, as those of the real data."""
    with tarfile.open(tmp_path / "speech_commands_v0.02.tar.gz", "w:gz", compresslevel=1) as archive:
        archive.add(tree, arcname=".")
    bare = tmp_path / "without"
    shutil.copytree(tree, bare, ignore=shutil.ignore_patterns("*_list.txt"))
    expected = {name: split["label_counts"] for name, split in trained[1]["data"]["splits"].items()}
    for name, source in (("tar", tmp_path / "speech_commands_v0.02.tar.gz"), ("bare", bare)):
        argv = ["--data_dir", str(source), *WORDS, "--max_steps", "1", "--eval_strategy", "no"]
        for limit in ("train", "eval", "predict"):
            argv += [f"--max_{limit}_samples", "-1"]
        results = short(model, tmp_path / name, *argv)
        assert {name: split["label_counts"] for name, split in results["data"]["splits"].items()} == expected
        assert results["protocol"]["notes"] == ["split as the data say"] and results["data"]["overlaps"] == []


def test_tables_and_separate_trees(model, tree, tables, tmp_path):
    """Words that are unknown in training are in validation and test, too."""
    results = short(
        model, tmp_path / "tables", *files(tables, "train", "validation", "test"), "--keywords", "yes", "no"
    )
    assert {len(s["label_counts"]) for s in results["data"]["splits"].values()} == {3}
    assert [*results["per_class"]["test"]] == ["yes", "no", "_unknown_"]
    for split in ("train", "dev"):
        for word in ("yes", "no", "tree"):
            (tmp_path / split / word).mkdir(parents=True)
            for clip in sorted((tree / word).glob("*.wav"))[: 8 if split == "train" else 3]:
                shutil.copy(clip, tmp_path / split / word)
    argv = ["--train_file", str(tmp_path / "train"), "--validation_file", str(tmp_path / "dev"), "--keywords", "yes"]
    results = short(model, tmp_path / "folders", *argv)
    assert results["data"]["splits"]["validation"]["label_counts"] == {"yes": 3, "_unknown_": 6}
    assert "clip" in {found["key"] for found in results["data"]["overlaps"]}, "the same clips twice are noticed"


def test_own_words_with_the_built_in_model(tables, tmp_path):
    argv = ["--demo", *files(tables, "train", "validation"), *QUICK, "--max_steps", "1", "--eval_strategy", "no"]
    results = without_plots([*argv, "--output_dir", str(tmp_path / "out")])
    assert [*results["data"]["splits"]["train"]["label_counts"]] == ["no", "tree", "yes"]


def test_names_that_say_everything(model, tree, tmp_path):
    folder = tmp_path / "recordings"
    folder.mkdir()
    for word in ("yes", "no"):
        clips = {clip.name.split("_")[0]: clip for clip in sorted((tree / word).glob("*.wav"))}
        for number, (speaker, clip) in enumerate(sorted(clips.items())[:10]):
            shutil.copy(clip, folder / f"{word}_{speaker}_{number}.wav")
    with zipfile.ZipFile(tmp_path / "recordings.zip", "w") as archive:
        for clip in folder.iterdir():
            archive.write(clip, f"recordings/{clip.name}")
    argv = ["--name_pattern", "{label}_{speaker}_{index}", "--split", "speaker", "--test_share", "0.3"]
    results = short(model, tmp_path / "out", "--data_dir", str(tmp_path / "recordings.zip"), *argv)
    splits = results["data"]["splits"]
    assert {name: split["statistics"]["speakers"] for name, split in splits.items()} == {
        "train": 6,
        "validation": 1,
        "test": 3,
    }
    assert results["data"]["overlaps"] == [] and "speaker" in results["protocol"]["notes"][0]


def test_spoken_digits_with_speakers_held_out(shared_data, model, tmp_path):
    folder = tmp_path / "digits"
    with tarfile.open(shared_data / "keywords" / "fsdd_recordings.tar.xz") as archive:
        wanted = re.compile(r".*/[0-3]_[a-z]+_[01]\.wav")
        archive.extractall(folder, [m for m in archive.getmembers() if wanted.fullmatch(m.name)], filter="data")
    argv = ["--data_dir", str(folder), "--name_pattern", "{label}_{speaker}_{index}", "--split", "speaker"]
    results = short(model, tmp_path / "out", *argv, "--test_share", "0.2", "--validation_share", "0.2")
    splits = results["data"]["splits"]
    assert sum(split["available"] for split in splits.values()) == 48 and results["data"]["overlaps"] == []
    assert [*splits["train"]["label_counts"]] == ["0", "1", "2", "3"], "digits are names here, not numbers of classes"
    speakers = [
        {row["speaker"] for row in rows_of(tmp_path / "out" / f)} for f in ("predictions.csv", "test_predictions.csv")
    ]
    assert all(speakers) and not speakers[0] & speakers[1]


def test_real_speech_commands_in_folders_by_class(shared_data, model, tmp_path):
    argv = ["--data_dir", str(shared_data / "keywords" / "speech_commands_v2_480.zip"), "--max_train_samples", "32"]
    results = short(model, tmp_path / "out", *argv, "--max_eval_samples", "12", "--max_predict_samples", "12")
    splits = results["data"]["splits"]
    assert sum(split["available"] for split in splits.values()) == 480
    assert len(splits["train"]["label_counts"]) == 12 and results["data"]["overlaps"] == []
    assert splits["train"]["statistics"]["longest"] == 1.0


# A trained model at work


def test_a_trained_model_is_evaluated_again(trained, tree, tmp_path):
    folder, results = trained
    again = used(folder, tmp_path / "out", "--do_eval", "--do_predict", "--data_dir", str(tree))
    for split in ("validation", "test"):
        assert again["metrics"][split]["accuracy"] == results["metrics"][split]["accuracy"]
    alike(folder / "test_predictions.csv", tmp_path / "out" / "test_predictions.csv")
    assert again["published"] == [] and not (tmp_path / "out" / "model.safetensors").exists()


def test_clips_without_classes(trained, tree, tmp_path):
    folder, _ = trained
    rows = [row for row in rows_of(folder / "test_predictions.csv") if row["id"].startswith(("yes/", "cat/"))]
    for at, row in enumerate(rows):
        clip = tmp_path / "clips" / ("monday" if at % 2 else "tuesday") / row["id"].replace("/", "-")
        clip.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(tree / row["id"], clip)
    results = used(folder, tmp_path / "out", "--do_predict", "--test_file", str(tmp_path / "clips"))
    jsonschema.validate(
        read(tmp_path / "out" / "results.json"), read(ROOT / "common" / "legacy" / "results.schema.json")
    )
    assert results["headline"] is None and "'monday', 'tuesday'" in results["warnings"][0]
    said = {Path(row["id"]).name: row for row in rows_of(tmp_path / "out" / "test_predictions.csv")}
    assert len(said) == len(rows) and {row["truth"] for row in said.values()} == {""}
    assert all(said[row["id"].replace("/", "-")]["prediction"] == row["prediction"] for row in rows)
    heard = {Path(row["recording"]).name: row["keyword"] for row in rows_of(tmp_path / "out" / "keywords.csv")}
    assert set(heard.values()) <= {"yes", "no", "stop", "go"} and "yes" in heard.values()
    one = used(folder, tmp_path / "one", "--do_predict", "--test_file", str(tree / rows[0]["id"]))
    assert one["data"]["splits"]["test"]["examples"] == 1 and one["warnings"] == []


def test_keywords_in_a_long_recording(trained, tree, tmp_path):
    folder, _ = trained
    right = {}
    for row in rows_of(folder / "test_predictions.csv"):
        if row["prediction"] == row["truth"] and float(row[f"probability_{row['truth']}"]) > 0.9:
            right.setdefault(row["truth"], row["id"])
    noise, _ = soundfile.read(tree / "_background_noise_" / "pink_noise.wav", dtype="float32")
    pieces, spoken, at = [], [], 0.0
    for word in ("yes", "stop", "_unknown_", "go", "no", "yes"):
        clip, _ = soundfile.read(tree / right[word], dtype="float32")
        pieces += [0.3 * noise[-2 * RATE :], clip]
        spoken.append((word, at + 2, at + 2 + len(clip) / RATE))
        at = spoken[-1][2]
    soundfile.write(tmp_path / "long.wav", np.concatenate([*pieces, 0.3 * noise[-2 * RATE :]]), RATE)
    argv = ["--do_predict", "--test_file", str(tmp_path / "long.wav"), "--hop_seconds", "0.1"]
    results = used(folder, tmp_path / "out", *argv)
    assert results["files"]["keywords"] == "keywords.csv" and results["headline"] is None
    found = [
        (row["keyword"], float(row["start"]), float(row["end"]), float(row["score"]))
        for row in rows_of(tmp_path / "out" / "keywords.csv")
    ]
    for word, begin, end in spoken:
        here = [(name, score) for name, start, stop, score in found if start < end and stop > begin]
        assert word == "_unknown_" or word in [name for name, _ in here], (word, begin, found)
    silent = [(begin - 1, begin - 0.9) for _, begin, _ in spoken]  # in the middle between two words
    assert not [f for f in found for begin, end in silent if f[1] < begin and f[2] > end], found
    windows = rows_of(tmp_path / "out" / "test_predictions.csv")
    assert len(windows) == int(np.ceil((at + 1) / 0.1 - 1e-6)) + 1 and windows[-1]["seconds"] == "1.00"
    sure = used(folder, tmp_path / "sure", *argv, "--spot_threshold", "0.95")
    assert len(rows_of(tmp_path / "sure" / "keywords.csv")) < len(found) and sure["warnings"] == []


# As users type it


@pytest.fixture(scope="module")
def hub_root(tmp_path_factory, model) -> Path:
    """SUPERB's ks as the hub's converter has it, another set, and the tiny DistilHuBERT under its real id."""
    import datasets

    root = tmp_path_factory.mktemp("hub")
    names = [*run_keyword.WORDS, "_silence_", "_unknown_"]
    features = datasets.Features(
        {
            "file": datasets.Value("string"),
            "audio": {"bytes": datasets.Value("binary"), "path": datasets.Value("string")},
            "label": datasets.ClassLabel(names=names),
        }
    )
    random, splits = np.random.default_rng(0), {}
    for split, count in (("train", 4), ("validation", 2), ("test", 2)):
        rows = []
        for label, name in enumerate(names):
            for take in range(count):
                seconds = 4.0 if name == "_silence_" and split == "train" else random.uniform(0.5, 1.0)
                time, file = np.arange(int(seconds * RATE)) / RATE, io.BytesIO()
                sound = 0.3 * np.sin(2 * np.pi * 200 * 1.3**label * time) + 0.02 * random.standard_normal(len(time))
                soundfile.write(file, sound, RATE, format="WAV", subtype="PCM_16")
                path = f"{name}/{split}{take}.wav"
                rows.append({"file": path, "audio": {"bytes": file.getvalue(), "path": path}, "label": label})
        made = datasets.Dataset.from_list(rows, features=features)
        splits[split] = made.cast_column("audio", datasets.Audio(sampling_rate=RATE, decode=False))
    add_superb_keywords(root, splits)
    other = {"training": splits["train"].select(range(16)), "held_out": splits["validation"].select(range(8))}
    renamed = {name: rows.rename_columns({"audio": "sound", "label": "word"}) for name, rows in other.items()}
    add_parquet_dataset(root, "someone/words", renamed, "small")
    shutil.copytree(model, root / "models" / "ntu-spml" / "distilhubert")
    return root


def test_the_published_experiment_as_typed(hub_root, tmp_path):
    """`python run_keyword.py`, and nothing else."""
    with Hub(hub_root) as hub:
        environment = hub.environment(tmp_path / "home") | {"CUDA_VISIBLE_DEVICES": ""}
        said = finish(start([sys.executable, SCRIPT], tmp_path, environment))
        asked = {path for _, path in hub.requests}
    allowed = ("ntu-spml/distilhubert", "s3prl/superb")
    assert asked and not [path for path in asked if not any(name in path for name in allowed)], asked
    assert any("refs%2Fconvert%2Fparquet" in path for path in asked)
    results = read(tmp_path / "outputs" / "keyword" / "results.json")
    assert {name: split["examples"] for name, split in results["data"]["splits"].items()} == {
        "train": 11 * 4 + 4 * 4,  # four clips of silence of four seconds each are cut into clips of one
        "validation": 24,
        "test": 24,
    }
    assert [*results["per_class"]["test"]] == [*run_keyword.WORDS, "_silence_", "_unknown_"]
    assert results["published"][0]["metrics"]["accuracy"]["value"] == 97.09 and "class weights (balanced)" in said
    arguments = {name: fact["value"] for name, fact in results["arguments"].items()}
    assert (arguments["learning_rate"], arguments["weight_decay"], arguments["warmup_steps"]) == (1e-3, 5e-3, 250)
    assert (arguments["per_device_train_batch_size"], arguments["num_train_epochs"]) == (64, 10)
    assert (arguments["eval_steps"], arguments["class_weights"], arguments["freeze"]) == (300, "balanced", "encoder")


def test_another_hub_set_with_an_official_command(hub_root, tmp_path):
    official = "--model_name_or_path ntu-spml/distilhubert --dataset_name someone/words --dataset_config_name small "
    official += "--train_split_name training --eval_split_name held_out --audio_column_name sound "
    official += "--label_column_name word --output_dir out --remove_unused_columns False --do_train --do_eval "
    official += "--learning_rate 3e-3 --max_length_seconds 1 --attention_mask False --warmup_ratio 0.1 "
    official += "--num_train_epochs 2 --per_device_train_batch_size 8 --dataloader_num_workers 1 --eval_strategy epoch "
    official += "--save_strategy epoch --metric_for_best_model validation_accuracy --seed 0 --drop_labels up"
    with Hub(hub_root) as hub:
        environment = hub.environment(tmp_path / "home") | {"CUDA_VISIBLE_DEVICES": ""}
        said = finish(start([sys.executable, SCRIPT, *official.split()], tmp_path, environment))
    assert "--max_length_seconds has no effect" in said and "--attention_mask has no effect" in said
    results = read(tmp_path / "out" / "results.json")
    splits = results["data"]["splits"]
    assert {name: split["examples"] for name, split in splits.items()} == {"train": 12, "validation": 6}
    assert splits["train"]["skipped"] == {"class dropped (up)": 4} and results["published"] == []
    assert (
        splits["validation"]["source"].startswith("someone/words@") and "up" not in results["per_class"]["validation"]
    )


def test_two_processes_give_what_one_gives(model, tree, tmp_path):
    everything = ["--model", model, "--data_dir", str(tree), *WORDS, *QUICK, *FEW, *STEPS, "1", "--max_grad_norm", "0"]
    two = [*TORCHRUN, SCRIPT, *everything, "--per_device_train_batch_size", "8", "--output_dir", "two"]
    running = start(two, tmp_path, plain(tmp_path))
    without_plots([*everything, "--output_dir", str(tmp_path / "one")])
    finish(running)
    results = [read(tmp_path / name / "results.json") for name in ("one", "two")]
    assert [r["environment"]["processes"] for r in results] == [1, 2]
    same(tmp_path / "one", tmp_path / "two", 1e-4)
    losses = [r["metrics"]["test"]["loss"]["value"] for r in results]
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)


# What is wrong


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--keywords", "yes", "banana"], ("'banana'", "classes")),
        (["--drop_labels", "silence"], ("--drop_labels silence", "'_silence_'")),
        (["--unknown_share", "-1"], ("--unknown_share -1",)),
        (["--window_seconds", "0.01"], ("--window_seconds",)),
        (["--hop_seconds", "0"], ("--hop_seconds",)),
        (["--spot_threshold", "1.5"], ("--spot_threshold 1.5",)),
        (["--layer", "0"], ("--layer 0",)),
        (["--layer", "3"], ("--layer 3", "1 to 2")),
        (["--do_predict", "--layer", "1"], ("--layer 1", "only used")),
        (["--class_weights", "inverse"], ("--class_weights", "balanced")),
        (["--validation_share", "0.7"], ("--validation_share 0.7",)),
        (["--keyword", "yes"], ("--keyword", "--keywords")),
        (["--do_eval"], ("no trained classification head", "--do_train")),
        (["--data_dir", "missing"], ("missing", "no such file")),
        (["--name_pattern", "{label"], ("--name_pattern",)),
        (["--model", "missing"], ("missing", "cannot be reached")),
    ],
)
def test_bad_arguments_are_one_sentence(model, tree, tmp_path, capsys, argv, words):
    out = tmp_path / "out"
    everything = ["--model", model, "--data_dir", str(tree), "--output_dir", str(out), *QUICK, *FEW]
    said = refused(capsys, run_keyword.main, "run_keyword.py", *everything, *argv)
    assert all(word in said for word in words), said
    assert not out.exists()


@pytest.fixture(scope="module")
def bad_clips(tmp_path_factory, tree) -> dict[str, Path]:
    """What is wrong -> a file with it."""
    folder = tmp_path_factory.mktemp("bad")
    good = sorted((tree / "yes").glob("*.wav"))[0].read_bytes()
    contents = {"text": b"these are words, and no sound\n" * 40, "empty": b"", "truncated": good[:40]}
    for name, content in contents.items():
        (folder / f"{name}.wav").write_bytes(content)
    for name, samples in (("silent", RATE), ("nothing", 0), ("one", 1)):
        soundfile.write(folder / f"{name}.wav", np.zeros(samples), RATE)
    paths = {path.stem: path for path in folder.glob("*.wav")}
    return paths | {"missing": folder / "missing.wav"}


def test_bad_clips_stop_the_run_or_are_counted(model, tables, bad_clips, tmp_path, capsys):
    good = [(row["path"], row["label"]) for row in rows_of(Path(tables["train_file"]))][::3][:12]
    common = ["--model", model, *QUICK, *STEPS, "1", "--do_train", "--eval_strategy", "no"]
    for name, path in bad_clips.items():
        table = write_table(tmp_path / f"{name}.csv", [*good, (str(path), "yes")])
        argv = [*common, "--train_file", str(table), "--output_dir", str(tmp_path / "out")]
        said = refused(capsys, run_keyword.main, "run_keyword.py", *argv)
        assert path.name in said and "--on_bad_example skip" in said, (name, said)
        assert not (tmp_path / "out").exists()
    table = write_table(
        tmp_path / "all.csv", [*good, *((str(path), "yes") for path in bad_clips.values()), (good[0][0], "")]
    )
    argv = [*common, "--train_file", str(table), "--output_dir", str(tmp_path / "out"), "--on_bad_example", "skip"]
    split = without_plots(argv)["data"]["splits"]["train"]
    assert split["examples"] == 12 and sum(split["skipped"].values()) == len(bad_clips) + 1
    assert {"missing file", "silent", "no label"} <= split["skipped"].keys()


def test_data_that_cannot_be_learned_from(model, tree, tables, tmp_path, capsys):
    yes = sorted((tree / "yes").glob("*.wav"))[:6]
    one_class = write_table(tmp_path / "one.csv", [(str(clip), "yes") for clip in yes])
    unlabelled = write_table(tmp_path / "none.csv", [(str(clip),) for clip in yes], header=("path",))
    numbered = write_table(tmp_path / "numbers.csv", [(str(clip), i % 2) for i, clip in enumerate(yes)])
    other = write_table(tmp_path / "other.csv", [(str(clip), "maybe") for clip in yes])
    cases = [
        (["--train_file", str(one_class)], ("one.csv", "'yes'", "two or more")),
        (["--train_file", str(unlabelled)], ("none.csv", "--label_column")),
        (["--train_file", str(numbered)], ("numbers.csv", "--label_order")),
        (["--train_file", tables["train_file"], "--label_column", "word"], ("'word'",)),
        (["--train_file", tables["train_file"], "--validation_file", str(other)], ("other.csv", "'maybe'")),
        (["--data_dir", str(tree / "yes")], ("not in folders by class", "--name_pattern")),
        (["--data_dir", str(tree), "--name_pattern", "{label}-{speaker}"], ("no name matches", "--name_pattern")),
    ]
    few = tmp_path / "few"
    for word, count in (("yes", 8), ("no", 1)):
        (few / word).mkdir(parents=True)
        for at, clip in enumerate(sorted((tree / word).glob("*.wav"))[:count]):
            shutil.copy(clip, few / word / f"{at}.wav")
    cases.append((["--data_dir", str(few), "--split", "stratified"], ("'no'",)))
    cases.append((["--data_dir", str(few), "--split", "speaker"], ("speaker",)))
    for argv, words in cases:
        more = [] if "--validation_file" in argv or "--data_dir" in argv else ["--do_train"]
        everything = ["--model", model, *QUICK, *argv, *more, "--output_dir", str(tmp_path / "out")]
        said = refused(capsys, run_keyword.main, "run_keyword.py", *everything)
        assert all(word in said for word in words), (argv, said)
        assert not (tmp_path / "out").exists()
