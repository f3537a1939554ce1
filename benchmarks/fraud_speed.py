"""How fast run_fraud.py trains, resamples and starts, beside stock Keras and imbalanced-learn, in one run.

    python -m benchmarks.fraud_speed
    python -m benchmarks.fraud_speed --only training --rows 20000 --output fraud_speed.json

Every side runs in a process of its own, and they take turns. `benchmarks/README.md` says what the rows mean.
"""

import argparse
import contextlib
import multiprocessing
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from statistics import median

import numpy as np

from benchmarks.side_by_side import publish, row
from common.legacy.demo_fraud import synthetic_cards

ROOT = Path(__file__).resolve().parent.parent
PARTS = ("training", "adasyn", "start")
SMALL, LARGE = 32, 512  # batches: as published, and a larger one
GOALS = {SMALL: 2.0, LARGE: 3.5}  # times the speed of stock Keras at the published batch
SEED = 42
TOLERANCE = 0.03  # relative, of losses: the same steps, but sums in another order, which thousands of steps magnify
FULL_SIZE, FULL_FRAUDS = 284_807, 492  # of the ULB set
HEAVY = ("keras", "pandas", "sklearn", "tensorflow", "torch", "transformers")
HELP = """
import contextlib, io, runpy, sys
sys.argv = ["run_fraud.py", "--help"]
with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()):
    runpy.run_path("run_fraud.py", run_name="__main__")
"""
MODEL = """
import sys
from common.legacy.keras_models import published_cnn
published_cnn(30)
"""
LOADED = f"print(*sorted(set({HEAVY}) & set(sys.modules)))"


@contextlib.contextmanager
def process(**environment: str) -> Iterator[ProcessPoolExecutor]:
    """A fresh process with these environment variables, which TensorFlow reads when it is imported."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn, initializer=set_environment, initargs=(environment,)) as pool:
        yield pool


def set_environment(variables: dict[str, str]) -> None:
    os.environ.update(variables)


def cost(part: str, ours: float, reference: float, *, unit: str) -> dict:
    """A row of the table about what there should be less of; without a goal."""
    values = {"part": part, "ours": ours, "reference": reference, "unit": unit, "ratio": reference / ours}
    return values | {"goal": "", "met": None}


def standardised(rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Synthetic cards: float64 [rows, 30] and int64 [rows], with as few frauds as in the ULB set."""
    columns = synthetic_cards(rows, max(20, round(rows * FULL_FRAUDS / FULL_SIZE)))
    target = columns.pop("Class")
    features = np.stack(list(columns.values()), axis=1)
    return (features - features.mean(axis=0)) / features.std(axis=0), target


# Training


def our_epochs(rows: int, batch: int, epochs: int) -> tuple[list[float], list[float]]:
    """Seconds and loss of each epoch of `KerasTrainer` with its checkpoints, without validation rows."""
    from common.legacy.keras_models import choose_kernels, published_cnn

    choose_kernels(batch)
    # isort: split
    import keras

    from common.legacy.keras_arguments import KerasArguments
    from common.legacy.keras_trainer import KerasTrainer
    from common.legacy.run import StopRequest

    ends = []

    class Timed(KerasTrainer):
        def end_epoch(self, loss: float, step: int) -> dict:
            found = super().end_epoch(loss, step)
            ends.append(time.perf_counter())
            return found

    features, target = standardised(rows)
    keras.utils.set_random_seed(SEED)
    settings = {"learning_rate": 1e-4, "num_train_epochs": epochs, "per_device_train_batch_size": batch, "seed": SEED}
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(open(os.devnull, "w")):
        parts = {"train": (features.astype(np.float32), target), "validation": None, "class_weights": None}
        arguments = KerasArguments(output_dir=folder, **settings)
        trainer = Timed(published_cnn(features.shape[1]), arguments, **parts, stop=StopRequest())
        ends.append(time.perf_counter())
        trainer.train(None)
    return np.diff(ends).tolist(), [found["loss"] for found in trainer.history]


def stock_epochs(rows: int, batch: int, epochs: int) -> tuple[list[float], list[float]]:
    """The same of `model.fit` on numpy arrays, which are shuffled before it, as ours are: that is not in the time."""
    from common.legacy.keras_models import LARGE_BATCH, choose_kernels, published_cnn

    choose_kernels(LARGE_BATCH)  # TensorFlow's own choices, since the module has made ours
    # isort: split
    import keras
    import tensorflow as tf

    seconds = []

    class Clock(keras.callbacks.Callback):
        def on_epoch_begin(self, *_, **__):
            self.start = time.perf_counter()

        def on_epoch_end(self, *_, **__):
            seconds.append(time.perf_counter() - self.start)

    features, target = (array.astype(np.float32) for array in standardised(rows))
    keras.utils.set_random_seed(SEED)
    model, losses = published_cnn(features.shape[1]), []
    model.compile(optimizer=keras.optimizers.Adam(1e-4), loss="binary_crossentropy")
    for epoch in range(epochs):
        order = tf.random.experimental.stateless_shuffle(tf.range(rows), [SEED, epoch]).numpy()
        settings = {"batch_size": batch, "shuffle": False, "verbose": 0, "callbacks": [Clock()]}
        losses += model.fit(features[order], target[order], **settings).history["loss"]
    return seconds, losses


def training(options: argparse.Namespace) -> tuple[list[dict], dict]:
    """Epochs of our trainer with both batches, of stock Keras with the published one; not the first, which traces."""
    seconds: dict = {"stock": [], SMALL: [], LARGE: []}
    with contextlib.ExitStack() as stack:  # TensorFlow chooses its kernels once in a process
        pools = {side: stack.enter_context(process()) for side in seconds}
        for _ in range(options.repeats):
            for side, pool in pools.items():
                run, batch = (stock_epochs, SMALL) if side == "stock" else (our_epochs, side)
                found, losses = pool.submit(run, options.rows, batch, options.epochs).result()
                seconds[side] += found[1:]
                if side == "stock":
                    expected = losses
                elif side == SMALL:
                    same = losses
    difference = float(np.max(np.abs(np.array(same) / expected - 1)))
    if not difference < TOLERANCE:
        raise RuntimeError(f"the losses are not those of stock Keras: {same}, {expected}")
    rows = [
        row(f"an epoch with batches of {batch}, to stock Keras with {SMALL}", seconds[batch], seconds["stock"], **unit)
        for batch in (SMALL, LARGE)
        for unit in [{"count": options.rows, "goal": GOALS[batch], "unit": "rows/s"}]
    ]
    return rows, {"relative difference of the losses": difference, "losses": same, "of stock Keras": expected}


# Resampling


def resampled(ours: bool, folder: str) -> tuple[float, int, int, float]:
    """Seconds, bytes added to the peak of this process, rows, and the sum of all cells, of one `fit_resample`."""
    from imblearn.over_sampling import ADASYN as Reference

    from common.legacy.resampling import ADASYN

    features, target = (np.load(Path(folder) / f"{name}.npy") for name in ("features", "target"))
    sampler = ADASYN(k=5, random_state=SEED) if ours else Reference(n_neighbors=5, random_state=SEED)
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    found, _ = sampler.fit_resample(features, target)
    seconds = time.perf_counter() - start
    unit = 1 if sys.platform == "darwin" else 1024
    added = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * unit
    return seconds, added, len(found), float(found.sum())


def adasyn(options: argparse.Namespace) -> tuple[list[dict], dict]:
    """Time and memory of ADASYN, each time in a fresh process; and whether both make the same rows."""
    seconds, added, made = ({True: [], False: []} for _ in range(3))
    with tempfile.TemporaryDirectory() as folder:
        for name, array in zip(("features", "target"), standardised(options.rows)):
            np.save(Path(folder) / f"{name}.npy", array)
        for _ in range(options.repeats):
            for ours in (True, False):
                with process() as pool:
                    took, peak, *found = pool.submit(resampled, ours, folder).result()
                seconds[ours].append(took)
                added[ours].append(peak)
                made[ours] = found
    if not np.allclose(made[True], made[False], rtol=1e-9, atol=1e-3):
        raise RuntimeError(f"ADASYN makes other rows than imbalanced-learn: {made}")
    part = f"ADASYN, {options.rows:,} rows, to imbalanced-learn"
    memory = cost(f"{part}: memory added", *(median(added[ours]) / 1e6 for ours in (True, False)), unit="MB")
    return [row(part, seconds[True], seconds[False], options.rows, 1.0, unit="rows/s"), memory], {"rows": made[True][0]}


# Start


def started(program: str) -> tuple[float, list[str]]:
    """Seconds that a process takes to run `program`, and which of the heavy libraries it has loaded then."""
    start = time.perf_counter()
    settings = {"cwd": ROOT, "capture_output": True, "text": True, "check": True}
    done = subprocess.run([sys.executable, "-c", f"{program}\n{LOADED}"], **settings)
    return time.perf_counter() - start, done.stdout.split()


def start(options: argparse.Namespace) -> tuple[list[dict], dict]:
    """From the command line to the help, and to a model, beside importing Keras; torch must not be loaded."""
    programs = {"help": HELP, "model": MODEL, "keras": "import sys\nimport keras"}
    seconds: dict = {name: [] for name in programs}
    loaded = {}
    for _ in range(options.repeats):
        for name, program in programs.items():
            took, loaded[name] = started(program)
            seconds[name].append(took)
    if "torch" in loaded["help"] + loaded["model"]:
        raise RuntimeError(f"torch is loaded: {loaded}")
    texts = {"help": "the help of run_fraud.py", "model": "a model that is built"}
    taken = {name: median(values) for name, values in seconds.items()}
    rows = [cost(f"{text}, to importing Keras", taken[name], taken["keras"], unit="s") for name, text in texts.items()]
    return rows, {name: {"seconds": taken[name], "loaded": loaded[name]} for name in programs}


def main(argv: list[str] | None = None) -> dict:
    """Measures, prints the table and returns {"rows", "checks", "setting"}."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=PARTS, help="measure this part alone")
    parser.add_argument("--rows", type=int, default=200_000, help="of the table (default 200,000)")
    parser.add_argument("--epochs", type=int, default=3, help="of a turn of training, 2 or more (default 3)")
    parser.add_argument("--repeats", type=int, default=3, help="turns (default 3)")
    parser.add_argument("--output", type=Path, help="write everything to this json file")
    options = parser.parse_args(argv)
    results = {"rows": [], "checks": {}, "setting": {"rows": options.rows, "cores": os.cpu_count()}}
    for part in PARTS if options.only is None else (options.only,):
        rows, results["checks"][part] = {"training": training, "adasyn": adasyn, "start": start}[part](options)
        results["rows"] += rows
    return publish(results, options.output)


if __name__ == "__main__":
    main()
