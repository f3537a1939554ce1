"""The network is the report's; training is stock Keras in another order of rows, and can be stopped and resumed."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from common.launch import StopRequest
from common.tabular.columns import Columns, Part
from common.tabular.detection import Calibration
from common.tabular.network import Detector, KerasArguments, build, prepare_keras
from tests.helpers import ROOT, message

prepare_keras(32)

import keras  # noqa: E402

from common.checkpoints import checkpoints, damage  # noqa: E402
from common.errors import Interrupted  # noqa: E402
from common.tabular import trainer as module  # noqa: E402
from common.tabular.trainer import KerasTrainer  # noqa: E402


def part_of(rows: int, seed: int, columns: int = 8) -> Part:
    random = np.random.default_rng(seed)
    target = (random.random(rows) < 0.2).astype(np.int8)
    features = (random.standard_normal((rows, columns)) + target[:, None]).astype(np.float32)
    return Part(
        {"source": "t"}, features, target, *[np.full(rows, np.nan)] * 2, np.ones(rows, dtype=bool), pd.DataFrame()
    )


TRAIN, VALIDATION = part_of(200, 0), part_of(150, 1)


def trainer_of(folder: Path, seed: int = 7, kind: str = "cnn", patience=None, threshold=0.0, weights=None, **settings):
    given = {"num_train_epochs": 4, "per_device_train_batch_size": 16, "learning_rate": 1e-2}
    args = KerasArguments(output_dir=str(folder), **given | settings)
    keras.utils.set_random_seed(seed)
    model = build(kind, 8)
    run_args = SimpleNamespace(early_stopping_patience=patience, early_stopping_threshold=threshold)
    run = SimpleNamespace(args=run_args, training_args=args, output_dir=folder, checkpoint=None, stop=StopRequest())
    run.earlier_seconds, run.seconds, run.identity = 0.0, {}, {}
    run.begin_training = lambda: folder.mkdir(parents=True, exist_ok=True)
    return KerasTrainer(run, Detector(model, Columns("y", ["0", "1"], "impute")), TRAIN, VALIDATION, weights)


def state(trainer: KerasTrainer) -> list[np.ndarray]:
    return [variable.numpy() for variable in (*trainer.model.variables, *trainer.model.optimizer.variables)]


def same(one: KerasTrainer, other: KerasTrainer) -> bool:
    histories = [[row | {"seconds": 0} for row in trainer.history] for trainer in (one, other)]
    states_are = [np.array_equal(a, b) for a, b in zip(state(one), state(other), strict=True)]
    return all(states_are) and histories[0] == histories[1]


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> KerasTrainer:
    """Four epochs that were never stopped."""
    trainer = trainer_of(tmp_path_factory.mktemp("whole"))
    trainer.train()
    return trainer


# The network


def test_the_network_of_the_report():
    model = build("cnn", 30)
    assert model.count_params() == 33_505 and model.output_shape == (None, 1)
    assert [type(layer).__name__ for layer in model.layers] == [
        *("Conv1D", "BatchNormalization", "MaxPooling1D", "Dropout") * 2,
        *("Flatten", "Dense", "Dropout", "Dense", "Dense"),
    ]
    assert [layer.output.shape[1:] for layer in model.layers[:3]] == [(29, 32), (29, 32), (14, 32)]
    shapes = [tuple(w.shape) for w in model.trainable_weights if len(w.shape) > 1]
    assert shapes == [(2, 1, 32), (2, 32, 64), (384, 64), (64, 64), (64, 1)]
    assert [layer.rate for layer in model.layers if hasattr(layer, "rate")] == [0.2, 0.5, 0.5]
    assert "--model mlp" in message(build, "cnn", 6) and build("mlp", 1).output_shape == (None, 1)


@pytest.mark.parametrize("kind", ["linear", "cosine", "constant"])
def test_learning_rates(tmp_path, kind):
    trainer, found = trainer_of(tmp_path, learning_rate=0.1, lr_scheduler_type=kind), []
    trainer._compile()
    for step in (0, 26, 52):  # of four epochs of thirteen
        trainer.model.optimizer.iterations.assign(step)
        found.append(float(trainer.model.optimizer.learning_rate))
    assert found == pytest.approx({"constant": [0.1, 0.1, 0.1]}.get(kind, [0.1, 0.05, 0.0]), abs=1e-7)


# Training


@pytest.mark.parametrize("weights, loss", [(None, "focal"), (np.array([0.5, 3.0]), "crossentropy")])
def test_stock_fit_on_the_same_batches_gives_the_same_weights(tmp_path, weights, loss):
    trainer = trainer_of(tmp_path, weights=weights, loss=loss, num_train_epochs=2)
    trainer.train()
    keras.utils.set_random_seed(7)
    model = build("cnn", 8)
    kind = keras.losses.BinaryFocalCrossentropy if loss == "focal" else keras.losses.BinaryCrossentropy
    model.compile(keras.optimizers.Adam(1e-2), kind(), metrics=["accuracy"], jit_compile=False)
    for epoch in range(2):
        order = np.random.default_rng((42, epoch)).permutation(200)
        class_weight = None if weights is None else dict(enumerate(weights))
        X, y = TRAIN.features[order][:, :, None], TRAIN.target[order].astype("float32")
        history = model.fit(X, y, 16, shuffle=False, verbose=0, class_weight=class_weight).history
    for one, other in zip(trainer.model.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)
    last = trainer.history[-1]
    assert (last["loss"], last["train_accuracy"] / 100) == pytest.approx(
        (history["loss"][0], history["accuracy"][0]), rel=1e-4
    )
    evaluated = model.evaluate(VALIDATION.features[:, :, None], VALIDATION.target.astype("float32"), verbose=0)
    assert (last["eval_loss"], last["eval_accuracy"] / 100) == pytest.approx(evaluated, rel=1e-4)


def test_every_epoch_has_an_order_of_its_own(tmp_path, monkeypatch):
    seen = []
    trainer = trainer_of(tmp_path, num_train_epochs=3)
    monkeypatch.setattr(trainer, "_end_epoch", lambda logs: trainer.history.append({"loss": 0.0, "seconds": 1.0}))
    monkeypatch.setattr(
        trainer.model, "fit", lambda X, y, **settings: seen.append(X[:, :, 0]) or SimpleNamespace(history={})
    )
    trainer.train()
    assert len(seen) == 3 and not np.array_equal(seen[0], seen[1])
    ordered = TRAIN.features[np.lexsort(TRAIN.features.T)]
    assert all(np.array_equal(X[np.lexsort(X.T)], ordered) for X in seen)


def test_the_history_has_loss_and_accuracy_of_both(whole):
    assert [row["epoch"] for row in whole.history] == [1, 2, 3, 4] and whole.history[-1]["step"] == 52
    assert {"loss", "eval_loss", "train_accuracy", "eval_accuracy", "eval_auprc"} <= whole.history[0].keys()
    assert whole.history[-1]["loss"] < whole.history[0]["loss"]
    assert whole.metrics["train"]["train_samples"] == 200 and whole.metrics["train"]["epoch"] == 4


def test_early_stopping_keeps_the_best_epoch(tmp_path):
    trainer = trainer_of(tmp_path, patience=2, learning_rate=5e-2, num_train_epochs=30)
    trainer.train()
    values = [row["eval_auprc"] for row in trainer.history]
    assert len(values) < 30 and int(np.argmax(values)) == len(values) - 3
    said = trainer.detector.raw(VALIDATION.features)
    from sklearn.metrics import average_precision_score

    assert 100 * average_precision_score(VALIDATION.target, said) == pytest.approx(max(values))
    lazy = trainer_of(tmp_path / "lazy", patience=1, threshold=1_000.0, num_train_epochs=30)
    lazy.train()
    assert len(lazy.history) == 2


def test_divergence_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(TRAIN, "features", TRAIN.features * np.float32(np.inf))
    assert "training has diverged" in message(trainer_of(tmp_path).train) and not checkpoints(tmp_path)


# Stopping and resuming


def test_a_resumed_training_is_bit_for_bit_one_that_never_stopped(tmp_path, whole):
    trainer_of(tmp_path, num_train_epochs=2).train()
    (checkpoint,) = checkpoints(tmp_path)
    assert damage(checkpoint) is None
    again = trainer_of(tmp_path, seed=1234)  # other weights and random numbers, as of another process
    again.run.checkpoint = checkpoint
    again.train()
    assert same(again, whole) and [path.name for path in checkpoints(tmp_path)] == ["checkpoint-52"]


def test_the_best_epoch_survives_a_stop(tmp_path):
    settings = {"patience": 3, "learning_rate": 5e-2, "save_total_limit": 9}
    straight = trainer_of(tmp_path / "straight", num_train_epochs=5, **settings)
    straight.train()
    first = trainer_of(tmp_path / "two", num_train_epochs=2, **settings)
    first.train()
    again = trainer_of(tmp_path / "two", seed=5, num_train_epochs=5, **settings)
    again.run.checkpoint = checkpoints(tmp_path / "two")[-1]
    again.train()
    assert same(again, straight)


def test_a_signal_leaves_at_the_next_look_and_costs_the_unfinished_epoch(tmp_path, monkeypatch, whole):
    trainer, steps = trainer_of(tmp_path), []

    class Signalling(keras.callbacks.LambdaCallback):
        def __init__(self, on_train_batch_end):
            super().__init__(on_train_batch_end=lambda batch, logs: self.stopping(on_train_batch_end, batch))

        def stopping(self, look, batch):
            steps.append(batch)
            if len(trainer.history) == 1:
                os.kill(os.getpid(), signal.SIGTERM)
            look(batch, None)

    with monkeypatch.context() as patch, trainer.run.stop:
        patch.setattr(keras.callbacks, "LambdaCallback", Signalling)
        patch.setattr(module, "STEPS", 5)
        with pytest.raises(
            Interrupted, match="stopped in epoch 2; run the same command with --resume_from_checkpoint auto"
        ) as caught:
            trainer.train()
    assert caught.value.signal_number == signal.SIGTERM and len(trainer.history) == 1
    assert steps[-1] == 4, "five of the thirteen steps of the second epoch"
    again = trainer_of(tmp_path, seed=3)
    again.run.checkpoint = checkpoints(tmp_path)[-1]
    again.train()
    assert same(again, whole)


def test_being_killed_while_saving_leaves_no_half_checkpoint(tmp_path, monkeypatch):
    trainer = trainer_of(tmp_path, num_train_epochs=2, save_total_limit=2)
    writes = []

    def killed(path, content):
        writes.append(path)
        if len(writes) == 2:
            raise KeyboardInterrupt
        return real(path, content)

    real = module.write_json
    monkeypatch.setattr(module, "write_json", killed)
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    first, second = checkpoints(tmp_path)
    assert damage(first) is None and damage(second).startswith("it is not whole")


# What is kept of a model


def test_a_detector_comes_back_as_it_was(tmp_path, whole):
    columns = Columns("y", ["0", "1"], "impute")
    columns.columns = {f"V{n}": {"kind": "number", "features": {f"V{n}": [0.0, 1.0]}} for n in range(8)}
    detector = Detector(whole.model, columns, 0.3, Calibration(0.5))
    detector.save(tmp_path)
    again = Detector.load(tmp_path)
    X = VALIDATION.features
    assert again.columns == columns and again.threshold == 0.3
    assert np.array_equal(again.probabilities(X), detector.probabilities(X))
    np.testing.assert_allclose(detector.raw(X, 7), detector.raw(X), atol=1e-6)
    raw = whole.model.predict(X[:, :, None], verbose=0)[:, 0]
    np.testing.assert_allclose(detector.probabilities(X), 0.5 * raw / (0.5 * raw + 1 - raw), atol=1e-5)
    (tmp_path / "model.keras").write_bytes(b"no model")
    assert "cannot be loaded" in message(Detector.load, tmp_path)
    for content in ('{"threshold": 0.5}', "[]", "{"):
        (tmp_path / "columns.json").write_text(content, encoding="utf-8")
        assert "cannot be loaded" in message(Detector.load, tmp_path)
    assert "give the output folder of a training" in message(Detector.load, tmp_path / "none")


def test_flags_out_of_their_range():
    assert "--num_train_epochs 0" in message(KerasArguments, num_train_epochs=0)
    assert "--report_to owl: no such tracker" in message(KerasArguments, report_to="owl")


def test_tensorboard_gets_flags_and_metrics(tmp_path, whole):
    board = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    results = {
        "arguments": {"seed": {"value": 42}},
        "metrics": {"test": {"auprc": {"value": 81.5, "low": 70.0, "high": 90.0}, "f1": {"value": None}}},
    }
    whole.args.report_to, whole.run.output_dir = "tensorboard", tmp_path
    whole.track(results)
    read = board.EventAccumulator(str(tmp_path / "runs" / "fraud")).Reload()
    assert len(read.Scalars("loss")) == len(read.Scalars("eval_auprc")) == 4
    final = [read.Scalars(f"final_test_auprc{end}")[0].value for end in ("", "_low", "_high")]
    assert final == [81.5, 70.0, 90.0]
    (noted,) = tmp_path.glob("runs/fraud/*/hparams.yml")
    assert "seed: '42'" in noted.read_text()


def test_the_flags_load_nothing_heavy():
    heavy = "{'tensorflow', 'keras', 'torch', 'sklearn', 'matplotlib', 'pandas', 'datasets'} & set(sys.modules)"
    code = f"import sys, common.tabular.network; print({heavy})"
    assert (
        subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True).stdout.strip() == "set()"
    )
