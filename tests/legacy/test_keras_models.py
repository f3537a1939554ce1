"""common/keras_models.py: the published network by hand, and detectors that come back as they were saved."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

from common.legacy.keras_models import (  # first: it sets Keras up
    USAGE,
    Detector,
    layer_table,
    mlp,
    predict,
    published_cnn,
)

# isort: split
import keras
import numpy as np
import pytest

from tests.legacy.helpers import message

ROOT = Path(__file__).resolve().parents[2]
COLUMNS = ["Time", "V 1", "V2", "V3", "V4", "V5", 'V"6', "Amount"]


def make_detector(kind: str = "cnn", threshold: float = 0.4) -> Detector:
    generator = np.random.default_rng(3)
    keras.utils.set_random_seed(3)
    model = (published_cnn if kind == "cnn" else mlp)(8)
    for variable in model.weights:  # moving averages as of a trained model, too
        value = variable.numpy() + generator.normal(0, 0.2, variable.shape)
        variable.assign(np.abs(value) if "variance" in variable.path else value)
    facts = {"threshold": threshold, "target": "Class", "positive": None, "kind": kind}
    return Detector(model, COLUMNS, generator.normal(size=8), generator.uniform(0.5, 900, 8), **facts)


def rows(count: int) -> np.ndarray:
    return np.random.default_rng(9).normal(50, 400, (count, 8))


# Models


def parameters_by_hand(columns: int) -> int:
    """Convolutions, normalisations of 4 numbers a channel, and dense layers, with what is left between them."""
    after_first = (columns - 2 + 1) // 2
    after_second = (after_first - 2 + 1) // 2
    first, second = 2 * 1 * 32 + 32 + 4 * 32, 2 * 32 * 64 + 64 + 4 * 64
    return first + second + after_second * 64 * 64 + 64 + 64 * 1 + 1


@pytest.mark.parametrize("columns, parameters", [(30, 29_345), (7, None), (8, None), (2000, None)])
def test_parameters_of_the_published_network(columns, parameters):
    assert (
        published_cnn(columns).count_params()
        == (parameters or parameters_by_hand(columns))
        == parameters_by_hand(columns)
    )


def test_layers_of_the_published_network():
    table = layer_table(published_cnn(30))
    found = [(row["type"], row["output shape"], row["parameters"]) for row in table.values()]
    assert found == [
        ("Conv1D", "29 x 32", 96),
        ("BatchNormalization", "29 x 32", 128),
        ("MaxPooling1D", "14 x 32", 0),
        ("Dropout", "14 x 32", 0),
        ("Conv1D", "13 x 64", 4160),
        ("BatchNormalization", "13 x 64", 256),
        ("MaxPooling1D", "6 x 64", 0),
        ("Dropout", "6 x 64", 0),
        ("Flatten", "384", 0),
        ("Dense", "64", 24_640),
        ("Dropout", "64", 0),
        ("Dense", "1", 65),
    ]
    layers = published_cnn(30).layers
    assert [layer.rate for layer in layers if layer.__class__.__name__ == "Dropout"] == [0.2, 0.5, 0.5]
    activations = [layer.activation.__name__ for layer in layers if hasattr(layer, "activation")]
    assert activations == ["relu", "relu", "relu", "sigmoid"]


def test_the_published_network_computes_what_its_layers_say():
    """In numpy, as it is used: moving averages, no dropout."""
    model, inputs = make_detector().model, np.random.default_rng(1).normal(size=(5, 8)).astype(np.float32)
    conv1, norm1, _, _, conv2, norm2, _, _, _, dense1, _, dense2 = (
        [w.numpy() for w in layer.weights] for layer in model.layers
    )

    def convolve(signal, kernel, bias):  # [N, L, C] with [2, C, D]
        return np.maximum(signal[:, :-1] @ kernel[0] + signal[:, 1:] @ kernel[1] + bias, 0)

    def normalise(signal, gamma, beta, mean, variance):
        return gamma * (signal - mean) / np.sqrt(variance + 1e-3) + beta

    def pool(signal):
        pairs = signal[:, : signal.shape[1] // 2 * 2]
        return np.maximum(pairs[:, ::2], pairs[:, 1::2])

    signal = pool(normalise(convolve(inputs[..., None], *conv1), *norm1))
    signal = pool(normalise(convolve(signal, *conv2), *norm2))
    hidden = np.maximum(signal.reshape(5, -1) @ dense1[0] + dense1[1], 0)
    expected = 1 / (1 + np.exp(-(hidden @ dense2[0] + dense2[1])))
    np.testing.assert_allclose(predict(model, inputs, 2), expected[:, 0], rtol=1e-4, atol=1e-6)


def test_too_few_columns_for_the_published_network():
    said = message(published_cnn, 6)
    assert "--model mlp" in said and "7" in said and "6" in said


@pytest.mark.parametrize("columns", [1, 6, 30])
def test_the_small_network_takes_any_number_of_columns(columns):
    model = mlp(columns)
    assert model.count_params() == columns * 64 + 64 + 4 * 64 + 64 * 32 + 32 + 4 * 32 + 32 + 1
    found = predict(model, np.ones((3, columns), np.float32), 2)
    assert found.shape == (3,) and ((found > 0) & (found < 1)).all()


# Saving and loading


@pytest.mark.parametrize("kind", ["cnn", "mlp"])
def test_a_detector_comes_back_as_it_was(tmp_path, kind):
    detector, table = make_detector(kind), rows(40)
    detector.save(tmp_path / "new")
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["detector.json", "model.keras"]
    loaded = Detector.load(tmp_path / "new")
    for name in ("columns", "threshold", "target", "positive", "kind"):
        assert getattr(loaded, name) == getattr(detector, name)
    assert np.array_equal(loaded.mean, detector.mean) and np.array_equal(loaded.scale, detector.scale)
    probabilities = loaded.probabilities(table, 7)
    assert probabilities.dtype == np.float64 and np.ptp(probabilities) > 1e-3
    np.testing.assert_allclose(probabilities, detector.probabilities(table, 40), rtol=0, atol=1e-6)
    scaled = loaded.standardise(table)
    assert scaled.dtype == np.float32
    np.testing.assert_allclose(scaled, (table - detector.mean) / detector.scale, rtol=1e-6)


@pytest.mark.parametrize("kind", ["cnn", "mlp"])
def test_the_usage_of_the_model_card_runs(tmp_path, capsys, kind):
    """In plain Keras, on a file with its columns in another order and one more, in quotes as the ULB set has them."""
    detector, table = make_detector(kind), rows(20)
    detector.columns = ["Time", *(f"V{n}" for n in range(1, 7)), "Amount"]
    detector.threshold = float(np.median(detector.probabilities(table, 20)))
    detector.save(tmp_path)
    order = [3, 0, 1, 7, 6, 5, 4, 2]
    with open(tmp_path / "new.csv", "w", newline="") as file:
        writer = csv.writer(file, quoting=csv.QUOTE_NONNUMERIC)
        writer.writerow([*(detector.columns[at] for at in order), "Class"])
        writer.writerows([*row[order].tolist(), "1"] for row in table)
    variables = {}
    exec(USAGE.format(model=tmp_path, csv=tmp_path / "new.csv"), variables)
    expected = detector.probabilities(table, 20)
    np.testing.assert_allclose(variables["probabilities"], expected, rtol=0, atol=1e-6)
    printed = capsys.readouterr().out
    decided = expected >= detector.threshold
    assert printed.count("True") == decided.sum() and printed.count("False") == (~decided).sum()
    assert decided.sum() == 10


def refused(folder: Path) -> str:
    return message(Detector.load, folder)


def test_what_is_no_detector(tmp_path):
    assert "model.keras" in refused(tmp_path / "nowhere") and "run_fraud.py" in refused(tmp_path)
    make_detector("mlp").save(tmp_path)
    facts, model = tmp_path / "detector.json", tmp_path / "model.keras"
    written, weights = facts.read_text(), model.read_bytes()

    def with_facts(**changes) -> str:
        facts.write_text(json.dumps(json.loads(written) | changes))
        return refused(tmp_path)

    assert "multinli" in with_facts(task="multinli")
    assert "not of the same run" in with_facts(columns=COLUMNS[:-1])
    assert "not of the same run" in with_facts(mean=[0.0])
    assert "detector.json" in with_facts(mean=["a"])
    for broken in ("{", "[1]", "{}"):
        facts.write_text(broken)
        assert "detector.json: damaged" in refused(tmp_path)
    facts.write_text(written)
    for broken in (b"", b"not a model", weights[:5000]):
        model.write_bytes(broken)
        assert "model.keras: cannot be loaded" in refused(tmp_path)
    model.unlink()
    assert "model.keras" in refused(tmp_path)


def test_a_model_that_brings_code_is_not_loaded(tmp_path):
    detector = make_detector("mlp")
    detector.model = keras.Sequential([keras.Input((8,)), keras.layers.Lambda(lambda x: x), keras.layers.Dense(1)])
    detector.save(tmp_path)
    assert "cannot be loaded" in refused(tmp_path)


def test_a_model_that_cannot_be_written_leaves_the_old_one(tmp_path, monkeypatch):
    detector = make_detector("mlp")
    detector.save(tmp_path)
    before = (tmp_path / "model.keras").read_bytes()

    def fails(path):
        Path(path).write_bytes(b"half")
        raise OSError("full")

    monkeypatch.setattr(detector.model, "save", fails)
    with pytest.raises(OSError):
        detector.save(tmp_path)
    assert (tmp_path / "model.keras").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["detector.json", "model.keras"]


def test_importing_the_module_loads_nothing_heavy():
    program = "import sys, common.keras_models; print({'keras', 'tensorflow', 'torch', 'h5py'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


@pytest.mark.parametrize("users", [{}, {"TF_ENABLE_ONEDNN_OPTS": "1", "TF_NUM_INTRAOP_THREADS": "3"}])
@pytest.mark.parametrize(("batch", "chosen"), [(32, ["0", "1"]), (255, ["0", "1"]), (256, [None, None])])
def test_kernels_go_by_the_batch_and_the_users_own_choice_stays(users, batch, chosen):
    names = ("TF_ENABLE_ONEDNN_OPTS", "TF_NUM_INTRAOP_THREADS")
    program = f"""if True:
        import os
        from common.legacy.keras_models import choose_kernels
        choose_kernels({batch})
        print([os.environ.get(name) for name in {names}])
    """
    environment = {name: value for name, value in os.environ.items() if name not in names} | users
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, env=environment)
    assert done.stdout == f"{list(users.values()) or chosen}\n"
