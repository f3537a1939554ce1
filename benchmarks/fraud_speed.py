"""How fast run_fraud.py trains, resamples and starts, beside stock Keras and imbalanced-learn, in one run.

    python -m benchmarks.fraud_speed
    python -m benchmarks.fraud_speed --only training --rows 20000 --output fraud_speed.json

Every side runs in processes of its own, and they take turns; what counts is the time of the processor.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from types import SimpleNamespace

import numpy as np

from benchmarks.side_by_side import publish, row
from common.demo.fraud import synthetic_cards

ROOT = Path(__file__).resolve().parent.parent
PARTS = ("training", "adasyn", "start")
BATCH, EPOCHS, SEED = 32, 4, 42
GOAL = 2.0  # times the speed of stock `fit`
TOLERANCE = 0.03  # relative, of losses: the same steps, but sums in another order, which thousands of steps magnify
FULL_SIZE, FULL_FRAUDS = 284_807, 492  # of the ULB set
PROGRAMS = {
    "the help of run_fraud.py": [str(ROOT / "run_fraud.py"), "--help"],
    "importing Keras": ["-c", "import keras"],
}


def standardised(rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Synthetic cards: float32 [rows, 30] and int8 [rows], with as few frauds as in the ULB set."""
    columns = synthetic_cards(rows, max(20, round(rows * FULL_FRAUDS / FULL_SIZE)))
    target = columns.pop("Class").astype(np.int8)
    features = np.stack(list(columns.values()), axis=1)
    return ((features - features.mean(axis=0)) / features.std(axis=0)).astype(np.float32), target


def our_epochs(rows: int) -> dict:
    """Seconds and loss of each epoch of `KerasTrainer`, without validation rows and checkpoints."""
    from common.tabular.network import Detector, KerasArguments, build, prepare_keras

    prepare_keras(BATCH)
    import keras
    import pandas as pd

    from common.launch import StopRequest
    from common.tabular.columns import Part
    from common.tabular.trainer import KerasTrainer

    ends = []

    class Timed(KerasTrainer):
        def _end_epoch(self, logs):
            self.history.append({"loss": logs["loss"], "seconds": time.perf_counter() - self.start})
            ends.append(time.process_time())

    features, target = standardised(rows)
    part = Part({}, features, target, *[np.full(rows, np.nan)] * 2, np.ones(rows, dtype=bool), pd.DataFrame())
    keras.utils.set_random_seed(SEED)
    detector = Detector(build("cnn", features.shape[1]), None)
    settings = {"learning_rate": 1e-4, "num_train_epochs": EPOCHS, "per_device_train_batch_size": BATCH, "seed": SEED}
    with tempfile.TemporaryDirectory() as folder:
        run = SimpleNamespace(
            args=SimpleNamespace(early_stopping_patience=None, early_stopping_threshold=0.0),
            training_args=KerasArguments(output_dir=folder, **settings),
            begin_training=lambda: None,
            checkpoint=None,
            stop=StopRequest(),
            earlier_seconds=0.0,
            seconds={},
        )
        trainer = Timed(run, detector, part, part)
        ends.append(time.process_time())
        trainer.train()
    return {"seconds": np.diff(ends).tolist(), "values": [found["loss"] for found in trainer.history]}


def stock_epochs(rows: int) -> dict:
    """The same of `model.fit` as people call it, with rows that are shuffled before, as ours are, untimed."""
    os.environ["KERAS_BACKEND"] = "tensorflow"
    import keras

    from common.tabular.network import build

    features, target = standardised(rows)
    keras.utils.set_random_seed(SEED)
    model, seconds, losses = build("cnn", features.shape[1]), [], []
    model.compile(optimizer=keras.optimizers.Adam(1e-4), loss="binary_crossentropy", metrics=["accuracy"])
    for epoch in range(EPOCHS):
        order = np.random.default_rng((SEED, epoch)).permutation(rows)
        X, y = features[order][:, :, None], target[order].astype(np.float32)
        start = time.process_time()
        losses += model.fit(X, y, batch_size=BATCH, shuffle=False, verbose=0).history["loss"]
        seconds.append(time.process_time() - start)
    return {"seconds": seconds, "values": losses}


def our_adasyn(rows: int) -> dict:
    from common.tabular.resampling import ADASYN

    return _resampled(ADASYN(k=5, random_state=SEED).fit_transform, rows)


def reference_adasyn(rows: int) -> dict:
    from imblearn.over_sampling import ADASYN

    return _resampled(ADASYN(n_neighbors=5, random_state=SEED).fit_resample, rows)


def _resampled(resample, rows: int) -> dict:
    features, target = standardised(rows)
    start = time.process_time()
    found, _ = resample(features, target)
    return {"seconds": [time.process_time() - start], "values": [len(found), float(found.sum(dtype=np.float64))]}


def in_a_process(side: str, rows: int) -> dict:
    code = f"import json; from benchmarks.fraud_speed import {side}; print(json.dumps({side}({rows})))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def compared(part: str, sides: tuple[str, str], options, goal: float, first: int) -> tuple[dict, dict]:
    """A row of the table; not of the first epoch, which traces. Both sides must come to the same values."""
    seconds, values = {side: [] for side in sides}, {}
    for _ in range(options.repeats):
        for side in sides:
            found = in_a_process(side, options.rows)
            seconds[side] += found["seconds"][first:]
            values[side] = found["values"]
    ours, reference = (np.array(values[side]) for side in sides)
    if not np.allclose(ours, reference, rtol=TOLERANCE):
        raise RuntimeError(f"{part}: {sides[0]} comes to {ours}, {sides[1]} to {reference}")
    difference = {"relative difference": float(np.max(np.abs(ours / reference - 1)))}
    return row(part, *seconds.values(), options.rows, goal, unit="rows/s"), difference


def start(options) -> tuple[dict, dict]:
    seconds = {name: [] for name in PROGRAMS}
    for _ in range(options.repeats):
        for name, program in PROGRAMS.items():
            begin = time.perf_counter()
            subprocess.run([sys.executable, *program], cwd=ROOT, capture_output=True, check=True)
            seconds[name].append(time.perf_counter() - begin)
    return row("the help, to importing Keras", *seconds.values(), 1, 1.0, unit="starts/s"), {
        name: median(values) for name, values in seconds.items()
    }


def main(argv: list[str] | None = None) -> dict:
    """Measures, prints the table and returns {"rows", "checks", "setting"}."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=PARTS, help="measure this part alone")
    parser.add_argument("--rows", type=int, default=100_000, help="of the table (default 100,000)")
    parser.add_argument("--repeats", type=int, default=3, help="turns (default 3)")
    parser.add_argument("--output", type=Path, help="write everything to this json file")
    options = parser.parse_args(argv)
    results = {"rows": [], "checks": {}, "setting": {"rows": options.rows, "cores": os.cpu_count()}}
    epoch, adasyn = f"an epoch with batches of {BATCH}, to stock fit", "ADASYN, to imbalanced-learn"
    measures = {
        "training": lambda: compared(epoch, ("our_epochs", "stock_epochs"), options, GOAL, 1),
        "adasyn": lambda: compared(adasyn, ("our_adasyn", "reference_adasyn"), options, 1.0, 0),
        "start": lambda: start(options),
    }
    for part in PARTS if options.only is None else (options.only,):
        found, results["checks"][part] = measures[part]()
        results["rows"].append(found)
    return publish(results, options.output)


if __name__ == "__main__":
    main()
