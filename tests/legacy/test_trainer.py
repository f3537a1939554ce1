"""common/trainer.py against bare torch loops, and stopped and resumed runs against whole ones.

The data, the models and the bare loops are in distributed_worker.py, which is also what two processes run.
"""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import Trainer, TrainerCallback, set_seed

from common.legacy.errors import Interrupted, UserError
from common.legacy.run import StopRequest
from common.legacy.samplers import InOrder, LengthGroupedSampler
from tests.legacy.distributed_worker import (
    Sentences,
    Stop,
    bare_evaluation,
    bare_training,
    collate,
    history_of,
    losses_logged,
    make_arguments,
    make_head,
    make_model,
    make_trainer,
    state_of,
    train_resumable,
)

pytestmark = pytest.mark.usefixtures("one_thread")

ROOT = Path(__file__).resolve().parents[2]
TASKS = ("labels", "spans")


def assert_close(weights: dict, expected: dict) -> None:
    assert weights.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(weights[name], expected[name], rtol=0, atol=1e-6, msg=name)


def assert_equal(weights: dict, expected: dict) -> None:
    assert weights.keys() == expected.keys()
    assert [name for name in expected if not torch.equal(weights[name], expected[name])] == []


def in_steps(count: int, size: int) -> list[list[int]]:
    return [list(range(count))[at : at + size] for at in range(0, count, size)]


@pytest.fixture(scope="module")
def two(tmp_path_factory) -> list[dict]:
    """What each of two processes saw (`distributed_worker.run`)."""
    folder = tmp_path_factory.mktemp("two")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    done = subprocess.run(
        [*command, str(ROOT / "tests" / "legacy" / "distributed_worker.py"), str(folder)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    found = [torch.load(folder / f"rank{rank}.pt", weights_only=False) for rank in range(2)]
    assert [one["world_size"] for one in found] == [2, 2]
    return found


# Loss and update


@pytest.mark.parametrize("limit", [0.0, 0.3])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("task", TASKS)
def test_a_step_is_the_same_however_it_is_spread(tmp_path, task, weighted, limit):
    data = Sentences(26)
    layouts = {  # batch size, accumulation: the examples of each step
        (16, 1): in_steps(26, 16),
        (4, 4): in_steps(26, 16),  # the last step: 4 + 4 + 2
        (3, 4): in_steps(26, 12),  # the last step: 2 in one batch instead of four
    }
    for (batch_size, accumulation), steps in layouts.items():
        losses, norms, weights = bare_training(task, data, steps, weighted=weighted, max_grad_norm=limit)
        trainer = make_trainer(
            tmp_path,
            task,
            head=make_head(task, weighted),
            train=data,
            per_device_train_batch_size=batch_size,
            gradient_accumulation_steps=accumulation,
            max_grad_norm=limit,
        )
        trainer.train()
        assert losses_logged(trainer) == pytest.approx(losses, abs=1e-6)
        logged = [entry["grad_norm"] for entry in trainer.state.log_history if "grad_norm" in entry]
        assert logged == pytest.approx(norms, rel=1e-4)
        assert min(norms) > 0.3  # so that the limit does something
        assert_close(state_of(trainer.model), weights)


def test_one_step_of_ten(tmp_path):
    data = Sentences(10, seed=4)
    losses, _, weights = bare_training("labels", data, [list(range(10))], weighted=True)
    for batch_size, accumulation in ((10, 1), (4, 3), (4, 8), (1, 10)):
        trainer = make_trainer(
            tmp_path,
            "labels",
            head=make_head("labels", weighted=True),
            train=data,
            per_device_train_batch_size=batch_size,
            gradient_accumulation_steps=accumulation,
        )
        trainer.train()
        assert losses_logged(trainer) == pytest.approx(losses, abs=1e-6)
        assert_close(state_of(trainer.model), weights)


def test_two_processes_make_the_steps_of_one(two):
    data = Sentences(32)
    assert len(two[0]["training"]) == 8
    for key in two[0]["training"]:
        task, weighted, _, _, limit = key
        expected = bare_training(task, data, in_steps(32, 16), weighted=weighted, max_grad_norm=limit)
        for found in two:
            losses, norms, weights = found["training"][key]
            assert losses == pytest.approx(expected[0], abs=1e-6), key
            assert norms == pytest.approx(expected[1], rel=1e-4), key
            assert_close(weights, expected[2])


def test_stock_trainer_still_needs_this(tmp_path):
    """Not about our code: when this fails, upstream has mended its loss and FinetuneTrainer may do less."""

    def collate_stock(items):
        batch = collate(items)
        return {"labels": batch["label"], **{name: batch[name] for name in ("input_ids", "attention_mask")}}

    data = Sentences(16)
    expected = bare_training("labels", data, in_steps(16, 16))
    settings = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 4, "remove_unused_columns": False}
    trainer = Trainer(make_model("labels"), make_arguments(tmp_path, **settings), collate_stock, data)
    trainer.train()
    assert losses_logged(trainer)[0] / expected[0][0] == pytest.approx(4, rel=1e-4)
    assert trainer.state.log_history[0]["grad_norm"] / expected[1][0] == pytest.approx(4, rel=1e-4)


# Evaluation


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("task", TASKS)
def test_evaluation_is_exact(tmp_path, task, weighted):
    data = Sentences(23, seed=3)
    model = make_model(task)
    loss, kept = bare_evaluation(task, model, data, weighted)
    for batch_size, strategy in ((1, "random"), (4, "group_by_length"), (7, "sequential"), (64, "group_by_length")):
        trainer = make_trainer(
            tmp_path,
            task,
            head=make_head(task, weighted),
            model=model,
            eval_dataset=data,
            per_device_eval_batch_size=batch_size,
            train_sampling_strategy=strategy,
        )
        assert trainer.evaluate()["eval_loss"] == pytest.approx(loss, abs=1e-6)
        found, metrics = trainer.assess(data, "test", samples=5)
        assert metrics["test_loss"] == pytest.approx(loss, abs=1e-6)
        assert metrics["test_samples"] == 5
        for array, expected in zip(found, kept, strict=True):
            np.testing.assert_allclose(array, expected, atol=1e-5)
        if task == "labels":
            accuracy = (kept[0].argmax(axis=1) == data.labels.numpy()).mean()
            assert metrics["test_accuracy"] == pytest.approx(accuracy)


def test_two_processes_evaluate_each_example_once(two):
    assert len(two[0]["evaluation"]) == 10
    for task, count in two[0]["evaluation"]:
        loss, kept = bare_evaluation(task, make_model(task), Sentences(count, seed=3), weighted=True)
        for process in two:
            measured, (found, metrics) = process["evaluation"][task, count]
            assert measured == pytest.approx(loss, abs=1e-6), (task, count)
            assert metrics["test_loss"] == pytest.approx(loss, abs=1e-6), (task, count)
            for array, expected in zip(found, kept, strict=True):
                np.testing.assert_allclose(array, expected, atol=1e-5)


def test_the_longest_are_evaluated_first():
    lengths = np.array([3, 9, 4, 9, 1])
    assert list(InOrder(lengths)) == [1, 3, 2, 0, 4]


def test_without_truth_there_is_no_loss(tmp_path):
    data = Sentences(7, truth=False)
    trainer = make_trainer(tmp_path, "labels", head=make_head("labels", weighted=True))
    kept, metrics = trainer.assess(data, "predict", samples=7)
    assert kept[0].shape == (7, 3) and np.isfinite(kept[0]).all()
    assert "predict_loss" not in metrics and np.isfinite(list(metrics.values())).all()


def test_a_loss_that_is_not_a_number_is_told(tmp_path):
    model = make_model("labels")
    model.classifier.bias.data[0] = float("nan")
    trainer = make_trainer(tmp_path, "labels", model=model, eval_dataset=Sentences(7))
    with pytest.raises(UserError, match="diverged"):
        trainer.evaluate()


def test_evaluation_takes_no_random_numbers_from_training(tmp_path):
    trainer = make_trainer(tmp_path, "labels", eval_dataset=Sentences(7))
    set_seed(3)
    expected = torch.rand(4)
    set_seed(3)
    trainer.evaluate()
    assert torch.equal(torch.rand(4), expected)


# Samplers


def epoch_of(sampler: LengthGroupedSampler, epoch: int) -> list[int]:
    sampler.set_epoch(epoch)
    return list(sampler)


@pytest.mark.parametrize("count", [0, 1, 7, 8, 9, 64, 65, 1000])
def test_an_epoch_has_every_example_once(count):
    lengths = np.random.default_rng(0).integers(1, 500, count)
    sampler = LengthGroupedSampler(lengths, 8, seed=3, pool=4)
    assert len(sampler) == count
    for epoch in range(3):
        order = epoch_of(sampler, epoch)
        assert sorted(order) == list(range(count)) and all(type(row) is int for row in order)
        if count >= 8:
            assert lengths[order[:8]].max() == lengths.max()


def test_the_order_depends_on_seed_and_epoch_only():
    lengths = np.random.default_rng(0).integers(1, 500, 100)
    first = epoch_of(LengthGroupedSampler(lengths, 8, seed=3), 1)
    np.random.seed(1)
    torch.manual_seed(1)
    assert epoch_of(LengthGroupedSampler(lengths, 8, seed=3), 1) == first
    others = [epoch_of(LengthGroupedSampler(lengths, 8, seed=seed), epoch) for seed, epoch in ((3, 0), (3, 2), (4, 1))]
    assert all(other != first for other in others)


def test_batches_are_of_similar_length_and_come_in_any_order():
    lengths = np.random.default_rng(0).lognormal(4, 0.7, 5000).astype(int) + 1
    order = np.array(epoch_of(LengthGroupedSampler(lengths, 8, seed=3), 0))
    shuffled = np.random.default_rng(1).permutation(5000)
    padded, at_random, without = (
        np.maximum.reduceat(lengths[rows], range(0, 5000, 8)).sum() * 8 for rows in (order, shuffled, np.sort(order))
    )
    assert lengths.sum() <= padded < 1.1 * lengths.sum() < 1.5 * lengths.sum() < min(at_random, without)
    batch_means = lengths[order[8:]].reshape(-1, 8).mean(axis=1)
    assert abs(np.corrcoef(batch_means[:-1], batch_means[1:])[0, 1]) < 0.1  # neither ascending nor in runs


@pytest.mark.parametrize("settings", [{}, {"dataloader_drop_last": True}, {"data_seed": 11}])
def test_training_sets_the_epoch_of_the_sampler(tmp_path, settings):
    seen: list = []
    data = Sentences(30)
    trainer = make_trainer(
        tmp_path,
        "labels",
        head=make_head("labels", seen=seen),
        train=data,
        num_train_epochs=3,
        per_device_train_batch_size=8,
        train_sampling_strategy="group_by_length",
        **settings,
    )
    trainer.train()
    sampler = LengthGroupedSampler(data.lengths, 8, seed=settings.get("data_seed", 5))
    kept = 24 if settings.get("dataloader_drop_last") else 30
    expected = [rows for epoch in range(3) for rows in np.split(np.array(epoch_of(sampler, epoch)[:kept]), [8, 16, 24])]
    assert seen == [rows.tolist() for rows in expected if len(rows)]


def test_two_processes_share_an_epoch(two):
    epochs = {name: [one["epochs"][name] for one in two] for name in ("group_by_length", "random")}
    for first, second in epochs.values():
        assert len(first) == len(second) == 3 * 5
        per_epoch = [first[at : at + 5] + second[at : at + 5] for at in (0, 5, 10)]
        assert all(sorted(np.concatenate(batches)) == list(range(40)) for batches in per_epoch)
        assert len({str(batches) for batches in per_epoch}) == 3
    sampler = LengthGroupedSampler(Sentences(40).lengths, 8, seed=5)
    expected = np.array([epoch_of(sampler, epoch) for epoch in range(3)]).reshape(15, 2, 4)
    assert epochs["group_by_length"] == [expected[:, 0].tolist(), expected[:, 1].tolist()]


# Stopping and resuming


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """Gives whole runs of `train_resumable`, one for each setting."""
    made: dict = {}

    def get(**settings):
        key = json.dumps(settings, sort_keys=True)
        if key not in made:
            made[key] = train_resumable(tmp_path_factory.mktemp("straight"), **settings)
            assert made[key].interrupted is None
        return made[key]

    return get


def checkpoints(folder: Path) -> list[str]:
    return sorted((p.name for p in folder.glob("checkpoint-*")), key=lambda name: int(name[11:]))


def assert_same_run(resumed, stopped, whole) -> None:
    """Bit for bit: batches, logs, best model, and the newest checkpoint that both have, with the optimizer."""
    assert resumed.interrupted is None
    assert stopped.seen + resumed.seen == whole.seen
    assert history_of(resumed) == history_of(whole)
    assert_equal(state_of(resumed.model), state_of(whole.model))
    states = [trainer.state for trainer in (resumed, whole)]
    assert len({(s.global_step, s.epoch, s.best_global_step, s.best_metric) for s in states}) == 1
    here, there = (Path(trainer.args.output_dir) for trainer in (resumed, whole))
    if whole.state.best_model_checkpoint:
        best = [Path(s.best_model_checkpoint) for s in states]
        assert best[0].name == best[1].name and best[0].is_dir()
    last = checkpoints(there)[-1]
    assert last in checkpoints(here)
    optimizers = [torch.load(folder / last / "optimizer.pt")["state"] for folder in (here, there)]
    for index, moments in optimizers[1].items():
        assert_equal(optimizers[0][index], moments)


def assert_stopped(trainer, step: int, number: int = signal.SIGTERM) -> Path:
    assert isinstance(trainer.interrupted, Interrupted)
    assert trainer.interrupted.signal_number == number
    assert f"step {step} of" in str(trainer.interrupted) and f"checkpoint-{step} is" in str(trainer.interrupted)
    folder = Path(trainer.args.output_dir) / f"checkpoint-{step}"
    assert {"model.safetensors", "optimizer.pt", "rng_state.pth", "trainer_state.json"} <= set(os.listdir(folder))
    return folder


@pytest.mark.parametrize(
    ("step", "number"),  # inside the second epoch; at the end of the first, second, last
    [(6, signal.SIGTERM), (6, signal.SIGINT), (4, signal.SIGTERM), (8, signal.SIGINT), (12, signal.SIGTERM)],
)
def test_a_stopped_run_goes_on_as_if_nothing_had_happened(tmp_path, straight, step, number):
    whole = straight()
    assert whole.state.max_steps == 12 and whole.state.best_global_step == 8
    stop = Stop(step, number)
    stopped = train_resumable(tmp_path, stop_at=stop)
    checkpoint = assert_stopped(stopped, step, number)
    assert stop.count == 0  # nothing was evaluated on the way out
    assert checkpoints(tmp_path)[-1] == checkpoint.name
    assert_same_run(train_resumable(tmp_path, resume=checkpoint), stopped, whole)


@pytest.mark.parametrize(
    ("peak", "prediction_step"),  # in the first set, at its end, in the second set
    [(4, 2), (8, 3), (4, 5)],
)
def test_stopped_in_an_evaluation(tmp_path, straight, peak, prediction_step):
    """The checkpoint of that step is there, and its evaluation is made up for before anything else."""
    whole = straight(peak=peak)
    stopped = train_resumable(tmp_path, stop_at=Stop(4, prediction_step=prediction_step), peak=peak)
    checkpoint = assert_stopped(stopped, 4)
    saved = json.loads((checkpoint / "trainer_state.json").read_text())["log_history"]
    assert not any(name.startswith("eval_") for entry in saved for name in entry)
    # Stopped a second time, while making up for it.
    again = train_resumable(tmp_path, resume=checkpoint, stop_at=Stop(4, prediction_step=1), peak=peak)
    assert assert_stopped(again, 4) == checkpoint and again.seen == []
    resumed = train_resumable(tmp_path, resume=checkpoint, peak=peak)
    assert_same_run(resumed, stopped, whole)
    evaluated = [e["step"] for e in resumed.state.log_history if "eval_tuning_loss" in e]
    assert evaluated == [4, 8, 12]
    assert resumed.state.best_global_step == peak


@pytest.mark.parametrize(
    ("step", "settings"),
    [
        (6, {"save_total_limit": 1}),  # stock Trainer ends with removing all but the best
        (8, {"save_total_limit": 1, "peak": 4}),
        (8, {"save_total_limit": 2, "peak": 8}),
        (6, {"eval_strategy": "steps", "save_strategy": "steps", "eval_steps": 3, "save_steps": 3, "peak": 6}),
        (5, {"eval_strategy": "steps", "save_strategy": "steps", "eval_steps": 3, "save_steps": 3, "peak": 6}),
        (7, {"save_strategy": "best", "peak": 4}),
        (8, {"save_strategy": "best", "peak": 8}),
        (6, {"max_steps": 6, "peak": 6}),  # the last step, inside an epoch
        (5, {"eval_on_start": True}),
        (4, {"eval_on_start": True}),
        (4, {"eval_delay": 1.5, "peak": 12}),
        (9, {"train_sampling_strategy": "random"}),
        (6, {"lr_scheduler_type": "cosine", "warmup_steps": 3, "weight_decay": 0.1}),
    ],
    ids=str,
)
def test_stopped_with_other_settings(tmp_path, straight, step, settings):
    whole = straight(**settings)
    stop = Stop(step)
    stopped = train_resumable(tmp_path, stop_at=stop, **settings)
    checkpoint = assert_stopped(stopped, step)
    assert stop.count == 0
    limit = settings.get("save_total_limit")
    assert limit is None or len(checkpoints(tmp_path)) <= max(limit, 2)
    assert_same_run(train_resumable(tmp_path, resume=checkpoint, **settings), stopped, whole)


def test_losses_logged_by_epoch(tmp_path, straight):
    """The part of an epoch before the stop has its own entry, so that no loss is left out of the log."""
    whole = straight(logging_strategy="epoch")
    stopped = train_resumable(tmp_path, stop_at=Stop(7), logging_strategy="epoch")
    resumed = train_resumable(tmp_path, resume=assert_stopped(stopped, 7), logging_strategy="epoch")
    assert_equal(state_of(resumed.model), state_of(whole.model))
    losses = {e["step"]: e["loss"] for e in history_of(resumed) if "loss" in e}
    expected = {e["step"]: e["loss"] for e in history_of(whole) if "loss" in e}
    assert list(losses) == [4, 7, 8, 12] and list(expected) == [4, 8, 12]
    assert (3 * losses[7] + losses[8]) / 4 == pytest.approx(expected[8], rel=1e-5)
    assert losses[12] == expected[12]


def test_stopped_before_the_first_step(tmp_path, straight):
    whole = straight(eval_on_start=True)
    stopped = train_resumable(tmp_path, stop_at=Stop(0, prediction_step=4), eval_on_start=True)
    resumed = train_resumable(tmp_path, resume=assert_stopped(stopped, 0), eval_on_start=True)
    assert_same_run(resumed, stopped, whole)


@pytest.mark.parametrize("settings", [{}, {"max_steps": 6, "peak": 6}], ids=str)
def test_resuming_what_is_finished_trains_nothing(tmp_path, settings):
    whole = train_resumable(tmp_path, **settings)
    last = tmp_path / checkpoints(tmp_path)[-1]
    resumed = train_resumable(tmp_path, resume=last, **settings)
    assert resumed.seen == [] and history_of(resumed) == history_of(whole)
    assert_equal(state_of(resumed.model), state_of(whole.model))


def test_stopping_closes_what_training_opened(tmp_path):
    class Ends(TrainerCallback):
        count = 0

        def on_train_end(self, *args, **kwargs):
            self.count += 1

    ends = Ends()
    with StopRequest() as request:
        trainer = make_trainer(tmp_path, "labels", stop=request, train=Sentences(40), callbacks=[Stop(2), ends])
        with pytest.raises(Interrupted):
            trainer.train()
        assert ends.count == 1 and not trainer.is_in_train
        assert request.deferred is False


@pytest.mark.parametrize("strategy", ["group_by_length", "random"])
@pytest.mark.parametrize("name", ["step", "evaluation"])
def test_two_processes_stop_and_go_on_together(two, name, strategy):
    """The signal went to one of them."""
    step = {"step": 6, "evaluation": 8}[name]
    saved = {"step": ["checkpoint-4", "checkpoint-6"], "evaluation": ["checkpoint-4", "checkpoint-8"]}[name]
    for process in two:
        found = process[name, strategy]
        assert found["raised"][1] == signal.SIGTERM and f"stopped at step {step} of 12" in found["raised"][0]
        assert found["saved"] == saved
        assert {"rng_state_0.pth", "rng_state_1.pth", "optimizer.pt", "trainer_state.json"} <= set(found["files"])
        history, seen, weights = process["straight", strategy]
        assert found["seen"] == seen
        assert found["history"] == history
        assert found["best"] == 8
        assert_equal(found["weights"], weights)
    assert two[0]["straight", strategy][1] != two[1]["straight", strategy][1]
    assert_equal(two[0][name, strategy]["weights"], two[1][name, strategy]["weights"])


# The rest


def test_workers_change_nothing(tmp_path, straight):
    whole = straight()
    loaded = train_resumable(tmp_path, dataloader_num_workers=2)
    assert loaded.seen == whole.seen and history_of(loaded) == history_of(whole)
    assert_equal(state_of(loaded.model), state_of(whole.model))


def test_the_metric_of_the_best_model_must_name_a_set(tmp_path):
    """Before training, not as a KeyError after the first epoch."""
    with pytest.raises(UserError, match=r"--metric_for_best_model loss: .*tuning_loss, tuning_peak, validation_loss"):
        train_resumable(tmp_path, metric_for_best_model="loss", headline="peak")
    assert checkpoints(tmp_path) == []


def test_the_metric_of_the_best_model_must_exist(tmp_path):
    with pytest.raises(UserError, match="--metric_for_best_model tuning_f2: not one of tuning_peak, tuning_mean, tuni"):
        train_resumable(tmp_path, metric_for_best_model="tuning_f2")
    trainer = train_resumable(tmp_path, metric_for_best_model="eval_tuning_loss", greater_is_better=False)
    assert trainer.state.best_metric is not None
    assert "eval_loss" not in trainer.evaluate()  # outside a training nothing is demanded of it


@pytest.mark.parametrize("several", [True, False])
def test_the_bar_shows_the_loss_and_the_headline(tmp_path, capsys, several):
    sets = {"tuning": Sentences(9, seed=2), "other": Sentences(9, seed=3)}

    def score(kept, data):
        return {"f1": 0.123456, "HasAns_f1": 0.5, "best_f1": 0.6}

    trainer = make_trainer(
        tmp_path,
        "labels",
        head=make_head("labels", score=score),
        train=Sentences(40),
        eval_dataset=sets if several else sets["tuning"],
        eval_strategy="epoch",
        headline="f1",
        disable_tqdm=False,
    )
    trainer.train()
    shown = ["tuning_f1=0.1235", "other_f1=0.1235"] if several else ["f1=0.1235"]
    captured = capsys.readouterr()
    last = [line for line in captured.err.replace("\r", "\n").split("\n") if "5/5" in line and "f1" in line][-1]
    words = last[last.rindex("[") :].rstrip("] ").split(", ")[2:]
    assert words == [f"loss={losses_logged(trainer)[-1]:.4g}", *shown]
    assert "{'loss'" not in captured.out + captured.err  # nothing is printed between
