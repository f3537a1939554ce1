"""common/keras_trainer.py against stock `fit` on the same batches; stopped, killed and resumed runs against whole ones.

Subprocesses import `make_trainer` and its like from here.
"""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from common.legacy.keras_models import devices_scope, predict  # first: it tells Keras how to run

# isort: split
import keras
import numpy as np
import pytest
import tensorflow as tf
from sklearn.metrics import average_precision_score, f1_score, log_loss, precision_score, recall_score

from common.legacy.errors import Interrupted, UserError
from common.legacy.keras_arguments import KerasArguments
from common.legacy.keras_trainer import KerasTrainer, _Follower
from common.legacy.run import StopRequest, checkpoints
from tests.legacy.helpers import message

ROOT = Path(__file__).resolve().parents[2]
ROWS, COLUMNS, BATCH = 101, 5, 8
STEPS = 13  # of an epoch; the last batch has 5 rows
WEIGHTS = np.array([0.5, 3.0])


def data(rows: int = ROWS, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Features float32 [rows, COLUMNS] and a target that can be learned, with a fifth of ones."""
    generator = np.random.default_rng(seed)
    features = generator.normal(size=(rows, COLUMNS)).astype(np.float32)
    target = (features[:, 0] + features[:, 1] + generator.normal(size=rows) > 1.3).astype(np.int8)
    return features, target


def make_model(seed: int, *, plain: bool = False):
    """With dropout and batch normalisation, unless `plain`."""
    keras.utils.set_random_seed(seed)
    layers = [keras.layers.Dense(6, activation="relu")]
    layers += [] if plain else [keras.layers.BatchNormalization(), keras.layers.Dropout(0.3)]
    return keras.Sequential([keras.Input((COLUMNS,)), *layers, keras.layers.Dense(1, activation="sigmoid")])


def make_trainer(folder: Path, *, model=None, kind=KerasTrainer, stop=None, **settings) -> KerasTrainer:
    """A trainer of 4 epochs, by default of the model that is quickest to trace."""
    parts = {"train": data(), "validation": data(60, seed=1), "class_weights": None}
    parts |= {name: settings.pop(name) for name in parts if name in settings}
    given = {
        "num_train_epochs": 4,
        "per_device_train_batch_size": BATCH,
        "learning_rate": 1e-2,
        "steps_per_execution": 1,
    }
    arguments = KerasArguments(output_dir=str(folder), **{**given, **settings})
    model = make_model(7, plain=True) if model is None else model
    return kind(model, arguments, **parts, stop=stop or StopRequest())


def make_full(folder: Path, seed: int = 7, **settings) -> KerasTrainer:
    """The same with dropout and batch normalisation, in executions of 5 steps, which do not fit an epoch of 13."""
    return make_trainer(folder, model=make_model(seed), steps_per_execution=5, **settings)


def state(trainer: KerasTrainer) -> list[np.ndarray]:
    """Weights, moving averages, dropout's random state, and all that Adam keeps."""
    return [variable.numpy() for variable in (*trainer.model.variables, *trainer.model.optimizer.variables)]


def assert_close(found: list[np.ndarray], expected: list[np.ndarray]) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-6)


def assert_same_history(found: list[dict], expected: list[dict]) -> None:
    assert len(found) == len(expected)
    for row, other in zip(found, expected):
        assert row == pytest.approx(other, rel=1e-5)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("checkpoint-*"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> KerasTrainer:
    """A run of four epochs that was never stopped."""
    trainer = make_full(tmp_path_factory.mktemp("whole"))
    trainer.train(None)
    return trainer


def resumed(folder: Path, checkpoint: Path, **settings) -> KerasTrainer:
    """A run of a new process, as far as it matters: other random numbers have been drawn."""
    trainer = make_full(folder, seed=1234, **settings)
    trainer.train(checkpoint)
    return trainer


# Batches and steps


@pytest.mark.parametrize("weights", [np.ones(2), WEIGHTS])
def test_stock_fit_on_the_same_batches_gives_the_same_weights_and_losses(tmp_path, weights):
    features, target = data()
    model, losses = make_model(7), []
    model.compile(optimizer=keras.optimizers.Adam(1e-2), loss="binary_crossentropy", jit_compile=False)
    for epoch in range(3):
        order = tf.random.experimental.stateless_shuffle(tf.range(ROWS), [42, epoch]).numpy()
        assert sorted(order) == list(range(ROWS)) and list(order[:8]) != list(range(8))
        settings = {"batch_size": BATCH, "shuffle": False, "verbose": 0}
        settings["class_weight"] = dict(enumerate(weights))
        losses += model.fit(features[order], target[order].astype(np.float32), **settings).history["loss"]
    trainer = make_full(tmp_path, num_train_epochs=3, class_weights=weights)
    measured = trainer.train(None)
    assert int(trainer.model.optimizer.iterations) == 3 * STEPS
    assert_close(state(trainer), [v.numpy() for v in (*model.variables, *model.optimizer.variables)])
    assert [row["loss"] for row in trainer.history] == pytest.approx(losses, rel=1e-5)
    assert measured["train_loss"] == pytest.approx(np.mean(losses), rel=1e-5)
    assert measured["epoch"] == 3 and measured["train_samples_per_second"] > 0


def batches_of(trainer: KerasTrainer, epoch: int) -> list[np.ndarray]:
    return [batch[0].numpy() for batch in trainer._batches(tf.Variable(epoch, dtype=tf.int64))]


@pytest.mark.parametrize("rows, batch, sizes", [(10, 4, [4, 4, 2]), (8, 4, [4, 4]), (3, 4, [3]), (4, 1, [1] * 4)])
def test_an_epoch_has_every_row_once_in_an_order_of_its_own(tmp_path, rows, batch, sizes):
    features = np.arange(rows * COLUMNS, dtype=np.float32).reshape(rows, COLUMNS)
    settings = {"train": (features, np.zeros(rows, np.int8)), "per_device_train_batch_size": batch}
    trainer = make_trainer(tmp_path, **settings)
    first, second = batches_of(trainer, 0), batches_of(trainer, 1)
    assert [len(part) for part in first] == sizes and trainer.steps == len(sizes)
    assert sorted(map(tuple, np.concatenate(first))) == list(map(tuple, features))
    if rows > 4:
        assert not np.array_equal(np.concatenate(first), np.concatenate(second))
        other = batches_of(make_trainer(tmp_path, seed=1, **settings), 0)
        assert not np.array_equal(np.concatenate(first), np.concatenate(other))
    again = batches_of(make_trainer(tmp_path, **settings), 1)
    assert all(np.array_equal(one, other) for one, other in zip(again, second))


# After every epoch


def test_history_has_what_scikit_learn_measures(whole):
    features, truth = data(60, seed=1)
    assert [row["step"] for row in whole.history] == [13, 26, 39, 52]
    assert [row["epoch"] for row in whole.history] == [1.0, 2.0, 3.0, 4.0]
    probabilities = whole.model.predict(features, verbose=0)[:, 0].astype(np.float64)
    decided = probabilities >= 0.5
    assert 0 < decided.sum() < 60
    expected = {
        "eval_loss": log_loss(truth, probabilities),
        "eval_auprc": 100 * average_precision_score(truth, probabilities),
        "eval_precision": 100 * precision_score(truth, decided),
        "eval_recall": 100 * recall_score(truth, decided),
        "eval_f1": 100 * f1_score(truth, decided),
        "learning_rate": 1e-2,
    }
    last = whole.history[-1]
    assert {name: last[name] for name in expected} == pytest.approx(expected, rel=1e-5)
    assert set(last) == {*expected, "epoch", "step", "loss"}
    assert last["eval_loss"] < whole.history[0]["eval_loss"]


def test_without_frauds_in_validation_the_history_has_what_is_defined(tmp_path):
    features, _ = data(20)
    trainer = make_trainer(tmp_path, validation=(features, np.zeros(20, np.int8)), num_train_epochs=1)
    trainer.train(None)
    assert "eval_loss" in trainer.history[0] and "eval_auprc" not in trainer.history[0]
    without = make_trainer(tmp_path, validation=None, num_train_epochs=1)
    without.train(None)
    assert not any(name.startswith("eval_") for name in without.history[0])


class Scripted(KerasTrainer):
    """Scores are given, and the weights after every epoch kept."""

    scores = (50.0, 70.0, 60.0, 70.0, 10.0)

    def _scores(self, step):
        self.seen = [*getattr(self, "seen", []), [v.numpy() for v in self.model.variables]]
        value = self.scores[len(self.history)]
        return {"eval_auprc": value, "eval_loss": value, "eval_f1": value}


@pytest.mark.parametrize(
    "settings, epochs, best",
    [
        ({"early_stopping_patience": 2}, 4, 2),  # the equal fourth is no better than the second
        ({"early_stopping_patience": 2, "metric_for_best_model": "loss"}, 3, 1),
        ({"load_best_model_at_end": True, "metric_for_best_model": "f1"}, 5, 2),
        ({}, 5, 5),
    ],
)
def test_the_best_epoch_ends_training_and_gives_its_weights(tmp_path, settings, epochs, best):
    trainer = make_trainer(tmp_path, kind=Scripted, num_train_epochs=5, **settings)
    measured = trainer.train(None)
    assert measured["epoch"] == len(trainer.history) == epochs
    for found, expected in zip(trainer.model.variables, trainer.seen[best - 1]):
        assert np.array_equal(found.numpy(), expected)
    if best != epochs:
        assert not np.array_equal(trainer.seen[best - 1][0], trainer.seen[-1][0])
    again = make_trainer(tmp_path, kind=Scripted, model=make_model(1234, plain=True), num_train_epochs=5, **settings)
    measured = again.train(checkpoints(tmp_path)[-1])  # finished: nothing is trained
    assert measured["train_samples_per_second"] == 0 and again.history == trainer.history
    assert_close([v.numpy() for v in again.model.variables], [v.numpy() for v in trainer.model.variables])


@pytest.mark.parametrize("early", [{"early_stopping_patience": 1}, {"load_best_model_at_end": True}])
def test_what_cannot_choose_the_best_epoch(tmp_path, early):
    features, _ = data(20)
    said = message(make_trainer, tmp_path, validation=None, **early)
    assert "--metric_for_best_model auprc" in said and "no validation rows" in said
    honest = (features, np.zeros(20, np.int8))
    assert "no fraud" in message(make_trainer, tmp_path, validation=honest, **early)
    make_trainer(tmp_path, validation=honest, metric_for_best_model="loss", **early)


def test_divergence_is_said_and_leaves_no_checkpoint(tmp_path):
    features, target = data()
    said = message(make_trainer(tmp_path, train=(np.full_like(features, 3e38), target), validation=None).train, None)
    assert "--learning_rate" in said and "not a number" in said
    assert names(tmp_path) == []
    said = message(make_trainer(tmp_path, validation=(np.full_like(features, np.nan), target)).train, None)
    assert "--learning_rate" in said and "step 13" in said
    assert names(tmp_path) == []


def test_nothing_waits_for_the_thread_that_would_tune_the_batches(tmp_path):
    assert make_trainer(tmp_path)._batches(tf.Variable(0, dtype=tf.int64)).options().autotune.enabled is False


# Checkpoints


def test_resuming_gives_the_weights_of_a_run_that_never_stopped(tmp_path, whole):
    make_full(tmp_path, num_train_epochs=2).train(None)
    assert names(tmp_path) == ["checkpoint-26"]
    trainer = resumed(tmp_path, tmp_path / "checkpoint-26")
    assert_close(state(trainer), state(whole))
    assert_same_history(trainer.history, whole.history)
    assert names(tmp_path) == ["checkpoint-52"]
    facts = json.loads((tmp_path / "checkpoint-52" / "trainer_state.json").read_text("utf-8"))
    assert (facts["epoch"], facts["global_step"], facts["best"]) == (4, 52, None)
    assert facts["log_history"] == trainer.history


def test_checkpoints_are_kept_up_to_the_limit_and_stale_ones_go(tmp_path):
    make_trainer(tmp_path, save_total_limit=3).train(None)
    assert names(tmp_path) == ["checkpoint-26", "checkpoint-39", "checkpoint-52"]
    trainer = make_trainer(tmp_path, num_train_epochs=3, save_total_limit=3)
    trainer.train(tmp_path / "checkpoint-26")  # what came after it is another future
    assert names(tmp_path) == ["checkpoint-26", "checkpoint-39"]


def test_another_run_cannot_be_resumed(tmp_path):
    make_trainer(tmp_path, num_train_epochs=1).train(None)
    for settings in ({"per_device_train_batch_size": 50}, {"load_best_model_at_end": True}):
        said = message(make_trainer(tmp_path, **settings).train, tmp_path / "checkpoint-13")
        assert "checkpoint-13" in said and "same settings" in said
    (tmp_path / "checkpoint-13" / "state.npz").unlink()
    assert "same settings" in message(make_trainer(tmp_path).train, tmp_path / "checkpoint-13")


def untrained(folder: Path, model) -> KerasTrainer:
    """A trainer as it is right before its first step."""
    trainer = make_trainer(folder, model=model, load_best_model_at_end=True)
    model.compile(optimizer=keras.optimizers.Adam())
    model.optimizer.build(model.trainable_variables)
    return trainer


@pytest.mark.parametrize("moves", range(4))
@pytest.mark.parametrize("place", ["os.replace", "shutil.rmtree"])
def test_being_killed_while_saving_leaves_a_whole_checkpoint(tmp_path, monkeypatch, place, moves):
    """Killed after some files of the second checkpoint were moved to their places, or while the first is removed."""
    trainer = untrained(tmp_path, make_model(7))
    trainer.end_epoch(0.5, STEPS)
    states = [state(trainer)]
    trainer.model.variables[0].assign(np.full(trainer.model.variables[0].shape, 5.0))
    states.append(state(trainer))
    real, calls = {"os.replace": os.replace, "shutil.rmtree": shutil.rmtree}[place], []

    def until_killed(*arguments):
        calls.append(arguments)
        if len(calls) > moves:
            raise KeyboardInterrupt
        real(*arguments)

    monkeypatch.setattr(place, until_killed)
    with contextlib.suppress(KeyboardInterrupt):
        trainer.end_epoch(0.4, 2 * STEPS)
    monkeypatch.undo()
    newest = checkpoints(tmp_path)[-1]
    written = 2 if place == "shutil.rmtree" or moves == 3 else 1  # state, best, and what makes both valid
    assert newest.name == f"checkpoint-{written * STEPS}"
    assert len(checkpoints(tmp_path)) == 1
    again = untrained(tmp_path, make_model(1234))
    again._restore(newest)
    assert_close(state(again), states[written - 1])
    assert len(again.history) == written


# Signals


def interrupting(monkeypatch, number: int, at: int) -> None:
    """Sends this process a real signal at the end of the execution that makes step `at`."""
    real = _Follower.on_train_batch_end

    def follow(self, batch, logs=None):
        if self.step < at <= self.step + 5:
            os.kill(os.getpid(), number)
        real(self, batch, logs)

    monkeypatch.setattr(_Follower, "on_train_batch_end", follow)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_at_once_and_costs_the_unfinished_epoch(tmp_path, monkeypatch, number):
    interrupting(monkeypatch, number, at=31)  # in the third epoch, of 13 steps
    with pytest.raises(Interrupted) as caught, StopRequest() as stop:
        make_full(tmp_path, stop=stop).train(None)
    assert caught.value.signal_number == number
    said = str(caught.value)
    assert re.search(r"stopped at step 3\d of 52; checkpoint-26 is saved in ", said) and str(tmp_path) in said
    assert "--resume_from_checkpoint auto" in said and "\n" not in said
    assert names(tmp_path) == ["checkpoint-26"]


def test_a_signal_before_the_first_epoch_is_over(tmp_path, monkeypatch):
    interrupting(monkeypatch, signal.SIGTERM, at=3)
    with pytest.raises(Interrupted) as caught, StopRequest() as stop:
        make_full(tmp_path, stop=stop).train(None)
    assert "stopped at step 5 of 52" in str(caught.value) and "no checkpoint yet" in str(caught.value)
    assert names(tmp_path) == []


def test_a_signal_in_the_last_step_of_an_epoch_keeps_it(tmp_path, monkeypatch):
    interrupting(monkeypatch, signal.SIGTERM, at=13)
    with pytest.raises(Interrupted) as caught, StopRequest() as stop:
        trainer = make_full(tmp_path, stop=stop)
        trainer.train(None)
    assert "checkpoint-13" in str(caught.value) and len(trainer.history) == 1
    assert names(tmp_path) == ["checkpoint-13"]


# Processes

KILLED = """
import sys
from pathlib import Path
from tests.legacy.test_keras_trainer import make_full
assert "torch" not in sys.modules
make_full(Path(sys.argv[1]), num_train_epochs=100000).train(None)
"""


def test_a_killed_process_is_resumed_and_torch_is_never_loaded(tmp_path, whole):
    (tmp_path / "keras.json").write_text('{"backend": "torch"}')
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "KERAS_BACKEND": "torch", "KERAS_HOME": str(tmp_path)}
    for name in ("TF_CPP_MIN_LOG_LEVEL", "TF_ENABLE_ONEDNN_OPTS", "TF_NUM_INTRAOP_THREADS"):
        environment.pop(name, None)
    command = [sys.executable, "-c", KILLED, str(tmp_path)]
    process = subprocess.Popen(command, env=environment, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    lines = []
    for line in process.stderr:
        lines.append(line)
        if line.startswith("epoch 2 of") or not line.startswith("epoch"):
            process.kill()
            break
    rest = process.stderr.read().splitlines()
    assert process.wait(60) == -signal.SIGKILL
    assert all(re.match(r"epoch \d+ of 100000: loss [\d.e-]+, eval_loss [\d.e-]+, eval_auprc", s) for s in lines), lines
    assert all(line.startswith("epoch") for line in rest[:-1])
    newest = checkpoints(tmp_path)[-1]
    done = int(newest.name.removeprefix("checkpoint-")) // STEPS
    trainer = resumed(tmp_path, newest, num_train_epochs=max(4, done))
    assert_same_history(trainer.history[:4], whole.history)
    if done <= 4:
        assert_close(state(trainer), state(whole))


DEVICES = """
import json, sys
from pathlib import Path
import numpy as np
from common.legacy.errors import UserError
from common.legacy.keras_models import devices_scope, predict, published_cnn
from tests.legacy.test_keras_trainer import WEIGHTS, data, make_model, make_trainer
import keras
folder, found = Path(sys.argv[1]), {}
keras.utils.set_random_seed(0)  # as the script does; it leaves the devices to be chosen
with devices_scope(2):
    tiny, cnn = make_model(7, plain=True), published_cnn(8)
settings = {"num_train_epochs": 3, "class_weights": WEIGHTS, "per_device_train_batch_size": 4}
trainer = make_trainer(folder / "tiny", model=tiny, **settings, steps_per_execution=None)
trainer.train(None)
found["tiny"] = [trainer.devices, trainer.history, [v.numpy().tolist() for v in tiny.weights]]
found["tiny"] += [int(tiny.optimizer.iterations.numpy())]
try:
    make_trainer(folder, model=tiny, steps_per_execution=5)
except UserError as error:
    found["refused"] = str(error)
generator = np.random.default_rng(0)
rows = generator.normal(size=(90, 8)).astype("float32"), (generator.random(90) < 0.4).astype("int8")
settings = {"train": rows, "validation": rows, "num_train_epochs": 1, "per_device_train_batch_size": 8}
trainer = make_trainer(folder / "cnn", model=cnn, **settings, steps_per_execution=None)
trainer.train(None)
finite = bool(np.isfinite(predict(cnn, rows[0], 16)).all())
found["cnn"] = [trainer.history, finite, int(cnn.optimizer.iterations.numpy())]
cnn.save(folder / "cnn.keras")
same = keras.saving.load_model(folder / "cnn.keras")
found["cnn"] += [float(abs(predict(same, rows[0], 90) - predict(cnn, rows[0], 90)).max())]
(folder / "found.json").write_text(json.dumps(found))
"""


def test_two_devices_make_the_steps_of_one_with_twice_the_batch(tmp_path):
    """The last batch of an epoch has 5 rows for two devices of 4."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-c", DEVICES, str(tmp_path)]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-4000:]
    assert all(line.startswith("epoch") for line in done.stderr.splitlines()), done.stderr
    found = json.loads((tmp_path / "found.json").read_text())
    devices, history, values, steps = found["tiny"]
    one = make_trainer(tmp_path, num_train_epochs=3, class_weights=WEIGHTS)
    one.train(None)
    assert (devices, steps) == (2, 3 * STEPS)
    assert_close([np.array(value) for value in values], [v.numpy() for v in one.model.weights])
    assert [row["loss"] for row in history] == pytest.approx([row["loss"] for row in one.history], rel=0.02)
    assert history[-1]["eval_loss"] == pytest.approx(one.history[-1]["eval_loss"], rel=1e-4)
    assert "--steps_per_execution 5" in found["refused"]
    history, finite, steps, difference = found["cnn"]
    assert finite and steps == 6 and difference < 1e-6
    assert all(np.isfinite(row["loss"]) for row in history)


def test_more_devices_than_gpus(monkeypatch):
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [f"{kind}:0"])
    with pytest.raises(UserError, match=r"--num_devices 2: this machine has 1 GPU$"), devices_scope(2):
        pytest.fail("it went on")


def test_predictions_do_not_depend_on_the_batches(whole):
    features, _ = data(30, seed=5)
    expected = whole.model.predict(features, verbose=0)[:, 0]
    for size in (1, 7, 30, 100):
        found = predict(whole.model, features, size)
        assert found.dtype == np.float64
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)
    assert predict(whole.model, features[:0], 8).shape == (0,)
