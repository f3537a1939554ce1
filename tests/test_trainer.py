"""common/trainer.py against bare loops of torch, and against itself: other batches, processes, stopped and resumed."""

import itertools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import TrainerCallback

from common.checkpoints import damage
from common.samplers import epoch_order, evaluation_order
from tests.helpers import ROOT, TORCHRUN, message
from tests.trainer_worker import (
    CLASS_WEIGHTS,
    STRATEGIES,
    WAYS,
    LabelTrainer,
    Sentences,
    collate,
    losses_of,
    make_model,
    train,
    weights_of,
)

pytestmark = pytest.mark.usefixtures("one_thread")
EVERY_TWO = {"eval_strategy": "steps", "eval_steps": 2, "save_strategy": "steps", "save_steps": 2, "eval_count": 11}
EVERY_EPOCH = {"eval_strategy": "epoch", "save_strategy": "epoch", "eval_count": 11}
BEST = {"load_best_model_at_end": True, "metric_for_best_model": "accuracy"}


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory) -> list[dict]:
    """What each of two processes found (`trainer_worker.main`)."""
    folder = tmp_path_factory.mktemp("two")
    done = subprocess.run(
        [*TORCHRUN, str(ROOT / "tests" / "trainer_worker.py"), str(folder)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return [torch.load(folder / f"rank{rank}.pt", weights_only=False) for rank in range(2)]


def sizes(way: str) -> dict:
    size, steps = WAYS[way]
    return {"per_device_train_batch_size": size, "gradient_accumulation_steps": steps}


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_same_training_however_a_step_is_divided(tmp_path, two_processes, strategy):
    settings = {"num_train_epochs": 2, "train_sampling_strategy": strategy, "optim": "sgd"}
    whole = train(tmp_path / "whole", **settings, **sizes("16x1"))
    pieces = train(tmp_path / "pieces", **settings, **sizes("4x4"))
    assert whole.state.global_step == 6  # 34 rows: the last step of an epoch has 2
    rows = [sorted(step) for step in whole.seen]
    first, second = rows[:3], rows[3:]
    assert sorted(itertools.chain(*first)) == list(range(34)) == sorted(itertools.chain(*second))
    assert (first == second) == (strategy == "sequential")
    torch.testing.assert_close(weights_of(pieces), weights_of(whole), rtol=0, atol=5e-6)
    np.testing.assert_allclose(losses_of(pieces), losses_of(whole), atol=1e-6)
    for way in ("8x1", "4x2"):
        for rank in two_processes:
            weights, losses = rank[strategy, way]
            torch.testing.assert_close(weights, weights_of(whole), rtol=0, atol=5e-6)
            np.testing.assert_allclose(losses, losses_of(whole), atol=1e-6)


def test_a_step_is_the_weighted_mean_of_a_bare_loop(tmp_path):
    trainer = train(tmp_path / "out", train_sampling_strategy="sequential", optim="sgd", **sizes("4x4"))
    model, data, losses = make_model().train(), Sentences(34), []
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
    for begin in range(0, 34, 16):
        batch = collate(data.rows[begin : begin + 16])
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        loss = cross_entropy(logits, batch["labels"], weight=CLASS_WEIGHTS)  # sum of w l over sum of w
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    np.testing.assert_allclose(losses_of(trainer), losses, atol=1e-5)
    bare = torch.cat([p.detach().double().flatten() for p in model.parameters()])
    torch.testing.assert_close(weights_of(trainer), bare, rtol=0, atol=1e-6)


def test_predictions_stand_in_the_order_of_the_data_and_the_loss_is_exact(tmp_path, two_processes):
    trainer, data = train(tmp_path / "out"), Sentences(37, seed=3)
    output = trainer.predict(data, metric_key_prefix="eval")
    with torch.no_grad():
        trainer.model.eval()
        logits = torch.cat([trainer.model(input_ids=row["input_ids"][None]).logits for row in data.rows])
    np.testing.assert_allclose(output.predictions, logits, atol=1e-5)
    assert (output.label_ids == data.labels).all()
    mean = cross_entropy(logits, torch.tensor(data.labels), weight=CLASS_WEIGHTS).item()
    assert output.metrics["eval_loss"] == pytest.approx(mean, abs=1e-6)
    assert output.metrics["eval_accuracy"] == (logits.argmax(1).numpy() == data.labels).mean()
    for rank in two_processes:
        predictions, truth, metrics = rank["prediction"]
        assert len(predictions) == 37 and (truth == data.labels).all()
        assert metrics["eval_accuracy"] == (predictions.argmax(axis=1) == data.labels).mean()
    (first, *_), (second, *_) = (rank["prediction"] for rank in two_processes)
    assert (first == second).all()


def test_processes_evaluate_with_the_statistics_that_are_saved(two_processes):
    assert [rank["statistics"] for rank in two_processes] == [[0, 0], [0, 0]]


def test_without_truth_there_are_predictions_and_no_loss(tmp_path):
    output = train(tmp_path / "out").predict(Sentences(9, truth=False), metric_key_prefix="predict")
    assert output.predictions.shape == (9, 3) and output.label_ids is None
    assert not {"predict_loss", "predict_accuracy"} & output.metrics.keys()


def test_two_processes_stop_together_and_resume_to_the_same_weights(two_processes):
    for rank in two_processes:
        whole, sentence, resumed = rank["resumed"]
        assert "stopped at step 3 of 8" in sentence and torch.equal(whole, resumed)


@pytest.mark.parametrize("stop_at", [1, 2, 5, 9, 10])  # in an epoch, where one evaluates, at an epoch's end, last
@pytest.mark.parametrize("schedule", [EVERY_TWO | BEST, EVERY_EPOCH | BEST | {"save_total_limit": 1}])
def test_a_stopped_run_resumes_to_the_weights_of_one_that_never_stopped(tmp_path, schedule, stop_at):
    settings = {**schedule, "dropout": 0.1, "num_train_epochs": 2, **sizes("8x1")}
    whole = train(tmp_path / "whole", **settings)
    stopped = train(tmp_path / "out", stop_at=stop_at, **settings)
    assert f"stopped at step {stop_at} of 10" in stopped.interrupted
    resumed = train(tmp_path / "out", resume_from_checkpoint="auto", **settings)
    assert torch.equal(weights_of(whole), weights_of(resumed))
    shown = [
        [
            {k: v for k, v in e.items() if k in ("step", "loss", "eval_loss", "eval_accuracy")}
            for e in t.state.log_history
        ]
        for t in (whole, resumed)
    ]
    evaluations = [[e for e in log if "eval_loss" in e] for log in shown]
    assert evaluations[0] == evaluations[1]
    assert whole.metrics["train"]["train_loss"] == pytest.approx(resumed.metrics["train"]["train_loss"], abs=1e-6)
    assert resumed.metrics["train"]["train_runtime"] > stopped.state.log_history[-1]["seconds"]
    finished = train(tmp_path / "out", resume_from_checkpoint="auto", **settings)
    assert torch.equal(weights_of(whole), weights_of(finished))


def test_what_differs_from_the_run_that_is_resumed_is_refused_by_name(tmp_path):
    settings = {**EVERY_TWO, "num_train_epochs": 2, **sizes("8x1")}
    train(tmp_path / "out", stop_at=3, **settings)
    sentence = message(train, tmp_path / "out", resume_from_checkpoint="auto", **settings | {"weight_decay": 0.5})
    assert "weight_decay was null, is 0.5" in sentence
    sentence = message(train, tmp_path / "out", resume_from_checkpoint="auto", **settings | {"num_train_epochs": 3})
    assert "num_train_epochs was 2, is 3" in sentence
    copy = shutil.copytree(tmp_path / "out" / "checkpoint-2", tmp_path / "elsewhere" / "checkpoint-2")
    (tmp_path / "latest").symlink_to(tmp_path / "out" / "checkpoint-2")
    for path in (copy, tmp_path / "latest"):
        other = settings | {"resume_from_checkpoint": str(path), "weight_decay": 0.5}
        assert "weight_decay was null, is 0.5" in message(train, tmp_path / "new", **other)
    (tmp_path / "out" / "run.json").write_text("")  # a checkpoint has its own
    assert train(tmp_path / "out", resume_from_checkpoint="auto", **settings).state.global_step == 10


def test_a_damaged_best_model_is_refused_before_training_goes_on(tmp_path):
    settings = {**EVERY_TWO, **BEST, "num_train_epochs": 2, **sizes("8x1")}
    stopped = train(tmp_path / "out", stop_at=7, **settings)
    best = tmp_path / "out" / f"checkpoint-{stopped.state.best_global_step}"
    (best / "model.safetensors").write_bytes(b"half")
    assert f"{best}: the best model" in message(train, tmp_path / "out", resume_from_checkpoint="auto", **settings)


class Signal(TrainerCallback):
    """Asks the run to stop while it evaluates."""

    def __init__(self, step: int):
        self.step = step

    def on_evaluate(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            self.run.stop.signal_number = 15


class Signalled(LabelTrainer):
    def __init__(self, run, callbacks, **kwargs):
        callbacks[0].run = run
        super().__init__(run, callbacks=callbacks, **kwargs)


@pytest.mark.parametrize("save", ["no", "epoch", "steps"])
@pytest.mark.parametrize("step", [5, 10])
def test_a_stop_during_an_evaluation_leaves_a_whole_checkpoint_behind_it(tmp_path, save, step):
    settings = {**EVERY_EPOCH, "num_train_epochs": 2, "save_strategy": save, "save_steps": 5, **sizes("8x1")}
    stopped = train(tmp_path / "out", kind=Signalled, callbacks=[Signal(step)], **settings)
    assert f"stopped at step {step} of 10; checkpoint-{step} is saved" in stopped.interrupted
    assert damage(tmp_path / "out" / f"checkpoint-{step}") is None, "also where it was saved twice"


def test_a_run_that_saves_models_alone_can_be_stopped(tmp_path):
    settings = {"num_train_epochs": 2, "save_only_model": True, **sizes("8x1")}
    train(tmp_path / "out", stop_at=7, **settings)
    resumed = train(tmp_path / "out", resume_from_checkpoint="auto", **settings)
    assert resumed.seen[0] != train(tmp_path / "whole", **settings).seen[0]  # it did not start anew


def test_a_killed_run_has_the_mean_loss_and_the_seconds_of_all_its_parts(tmp_path):
    class Kill(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == 5:
                raise KeyError("killed")

    rare = {"logging_steps": 50, "save_strategy": "steps", "save_steps": 3, "num_train_epochs": 2, **sizes("8x1")}
    with pytest.raises(KeyError, match="killed"):
        train(tmp_path / "out", callbacks=[Kill()], **rare)
    resumed, whole = train(tmp_path / "out", resume_from_checkpoint="auto", **rare), train(tmp_path / "whole", **rare)
    means = [trainer.metrics["train"]["train_loss"] for trainer in (resumed, whole)]
    assert means[0] == pytest.approx(means[1], abs=1e-6) == resumed.state.log_history[-1]["train_loss"]
    assert resumed.run.seconds["training"] > resumed.run.earlier_seconds > 0


@pytest.mark.parametrize(
    "name",
    ["model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json", "checksums.json"],
)
@pytest.mark.parametrize("how", ["empty", "cut", "one bit", "missing"])
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(tmp_path, checkpoints_of_a_run, name, how, caplog):
    from common.checkpoints import _newest_whole

    folder = shutil.copytree(checkpoints_of_a_run, tmp_path / "out")
    file = folder / "checkpoint-10" / name
    content = file.read_bytes()
    half = len(content) // 2
    flipped = content[:half] + bytes([content[half] ^ 1]) + content[half + 1 :]
    file.unlink()
    if how != "missing":
        file.write_bytes({"empty": b"", "cut": content[:half], "one bit": flipped}[how])
    found = _newest_whole(folder)
    assert found == folder / "checkpoint-8" and "checkpoint-10 is passed over" in caplog.text


@pytest.fixture(scope="module")
def checkpoints_of_a_run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "out"
    train(folder, num_train_epochs=2, **EVERY_TWO, **BEST, **sizes("8x1"))
    return folder


def test_a_run_folder_that_was_renamed_keeps_its_best_model(tmp_path):
    settings = {**EVERY_TWO, **BEST, "num_train_epochs": 2, "learning_rate": 3e-2, **sizes("8x1")}
    whole = train(tmp_path / "whole", **settings)
    train(tmp_path / "out", stop_at=7, **settings)
    (tmp_path / "out").rename(tmp_path / "renamed")
    resumed = train(tmp_path / "renamed", resume_from_checkpoint="auto", **settings)
    assert Path(resumed.state.best_model_checkpoint).parent == tmp_path / "renamed"
    assert torch.equal(weights_of(whole), weights_of(resumed))


def test_nothing_is_evaluated_twice_with_the_same_weights(tmp_path):
    trainer = train(tmp_path / "out", num_train_epochs=2, **EVERY_TWO, **BEST, **sizes("8x1"))
    before, kept = trainer.forwards, trainer.predict(trainer.eval_dataset, metric_key_prefix="eval")
    assert trainer.forwards == before
    trainer._kept.clear()
    again = trainer.predict(trainer.eval_dataset, metric_key_prefix="eval")
    assert trainer.forwards > before
    np.testing.assert_array_equal(kept.predictions, again.predictions)
    assert kept.metrics["eval_loss"] == again.metrics["eval_loss"]
    best = max(e["eval_accuracy"] for e in trainer.state.log_history if "eval_accuracy" in e)
    assert again.metrics["eval_accuracy"] == best


def test_the_best_model_is_there_also_with_fewer_saves_than_evaluations(tmp_path):
    settings = {**EVERY_TWO, **BEST, "save_steps": 4, "num_train_epochs": 3, "learning_rate": 3e-2, **sizes("8x1")}
    whole = train(tmp_path / "out", **settings | {"metric_for_best_model": "loss"})
    best = whole.state.best_global_step
    assert Path(whole.state.best_model_checkpoint).name == f"checkpoint-{best}" and best % 4
    kept = whole.predict(whole.eval_dataset, metric_key_prefix="eval")
    whole._kept.clear()
    again = whole.predict(whole.eval_dataset, metric_key_prefix="eval")
    np.testing.assert_array_equal(kept.predictions, again.predictions)


def test_evaluations_take_no_random_numbers_from_training(tmp_path):
    often = train(tmp_path / "often", dropout=0.3, **{**EVERY_TWO, "eval_steps": 1}, **sizes("8x1"))
    never = train(tmp_path / "never", dropout=0.3, **sizes("8x1"))
    assert torch.equal(weights_of(often), weights_of(never))


def test_frozen_parts_have_no_dropout(tmp_path):
    class Frozen(LabelTrainer):
        def __init__(self, run, model, **kwargs):
            model.bert.requires_grad_(False)
            super().__init__(run, model=model, **kwargs)

        def example_losses(self, outputs, batch):
            assert not self.model.bert.encoder.layer[0].training and not self.model.bert.embeddings.training
            assert self.model.dropout.training == torch.is_grad_enabled()
            return super().example_losses(outputs, batch)

    assert train(tmp_path / "out", kind=Frozen, dropout=0.5, **EVERY_TWO).state.global_step


def test_a_diverged_run_stops_at_that_step(tmp_path):
    class Diverging(LabelTrainer):
        def example_losses(self, outputs, batch):
            return super().example_losses(outputs, batch) * (float("nan") if self.state.global_step == 2 else 1)

    sentence = message(train, tmp_path / "out", kind=Diverging, **sizes("8x1"))
    assert "at step 3" in sentence and "--learning_rate" in sentence


def test_a_wrong_metric_is_refused_before_training(tmp_path):
    class Untrained(LabelTrainer):
        def train(self):
            raise AssertionError("training began")

    wrong = {**EVERY_TWO, **BEST, "metric_for_best_model": "eval_acuracy"}
    assert "not one of loss, accuracy" in message(train, tmp_path / "out", kind=Untrained, **wrong)
    for name in ("accuracy", "eval_accuracy", "loss", "eval_loss"):
        trainer = train(tmp_path / name, **EVERY_TWO, **BEST | {"metric_for_best_model": name}, **sizes("8x1"))
        assert trainer.args.greater_is_better == ("loss" not in name) and trainer.state.best_global_step
    worst = train(tmp_path / "worst", **EVERY_TWO, **BEST, greater_is_better=False, **sizes("8x1"))
    assert worst.args.greater_is_better is False, "as it was given"


def test_flags_that_could_not_work_do_or_are_refused(tmp_path):
    odd = {"eval_do_concat_batches": False, "dataloader_persistent_workers": True}
    assert train(tmp_path / "out", **EVERY_EPOCH, **odd, **sizes("8x1")).state.global_step == 5
    assert "leaves no batch" in message(train, tmp_path / "few", count=5, dataloader_drop_last=True, **sizes("8x1"))


def test_early_stopping(tmp_path):
    settings = {**EVERY_TWO, **BEST, "num_train_epochs": 20, "learning_rate": 0.0, **sizes("8x1")}
    trainer = train(tmp_path / "out", early_stopping_patience=2, **settings)
    assert trainer.state.global_step == 6 and trainer.state.best_global_step == 2
    train(tmp_path / "stopped", early_stopping_patience=2, stop_at=5, **settings)
    for folder in ("stopped", "out"):  # it goes on waiting, and is over when it is over
        again = train(tmp_path / folder, early_stopping_patience=2, resume_from_checkpoint="auto", **settings)
        evaluated = [entry["step"] for entry in again.state.log_history if "eval_loss" in entry]
        assert again.state.global_step == 6 and evaluated == [2, 4, 6]
    assert "--early_stopping_patience" in message(train, tmp_path / "no", early_stopping_patience=2)


def test_weights_that_are_saved_under_other_names_are_loaded_whole_or_refused(tmp_path):
    from safetensors.torch import load_file, save_file

    from common.models import load_whole

    model = make_model()
    model.save_pretrained(tmp_path / "saved")
    other = make_model()
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    load_whole(other, tmp_path / "saved")  # all names are there: stock Trainer has loaded them
    assert not any(parameter.any() for parameter in other.parameters())
    weights = load_file(tmp_path / "saved" / "model.safetensors")
    del weights["classifier.weight"]
    save_file(weights, tmp_path / "saved" / "model.safetensors", metadata={"format": "pt"})
    assert "does not hold all weights" in message(load_whole, other, tmp_path / "saved")


def test_epoch_order():
    lengths = np.random.default_rng(0).integers(1, 500, 1000)
    order = epoch_order(1000, 1, 0, lengths, 16)
    assert sorted(order) == list(range(1000)) and lengths[order[:16]].max() == lengths.max()
    spread = lambda o: np.mean([np.ptp(lengths[o[i : i + 16]]) for i in range(0, 992, 16)])  # noqa: E731
    assert spread(order) < 0.1 * spread(epoch_order(1000, 1, 0))
    assert (order == epoch_order(1000, 1, 0, lengths, 16)).all() and (
        order != epoch_order(1000, 1, 1, lengths, 16)
    ).any()
    data = Sentences(50)
    assert (np.diff(data.lengths[evaluation_order(data)]) <= 0).all()


def test_permissions_and_no_token_in_what_is_saved(tmp_path, checkpoints_of_a_run):
    checkpoint = checkpoints_of_a_run / "checkpoint-10"
    probe = tmp_path / "probe"
    probe.touch()
    assert {path.stat().st_mode for path in checkpoint.iterdir()} == {probe.stat().st_mode}
    trainer = train(tmp_path / "out", hub_token="hf_secret", **sizes("8x1"))
    trainer.save()
    assert all(b"hf_secret" not in path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file())
    assert json.loads((tmp_path / "out" / "trainer_state.json").read_text())["global_step"] == 5


def test_trackers_get_the_flags_of_the_task_the_final_metrics_and_the_report(tmp_path, monkeypatch):
    board = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "runs"))
    trainer = train(tmp_path / "out", report_to=["tensorboard"], **EVERY_TWO)
    accuracy = {"value": 60.0, "low": 40.0, "high": 80.0}
    kept = []
    monkeypatch.setitem(sys.modules, "mlflow", SimpleNamespace(log_artifact=kept.append))
    trainer.args.report_to = ["tensorboard", "mlflow"]
    trainer.track({"metrics": {"test": {"accuracy": accuracy}}})
    events = board.EventAccumulator(str(tmp_path / "runs")).Reload()
    final = [events.Scalars(f"train/final_test_accuracy{end}")[-1].value for end in ("", "_low", "_high")]
    assert final == [60.0, 40.0, 80.0]
    noted = events.Tensors("model_config/text_summary")[-1].tensor_proto.string_val[0].decode()
    assert '"task_flags"' in noted and '"model": "tiny"' in noted
    assert not hasattr(trainer.model.config, "task_flags")  # nor in config.json
    assert kept == [str(tmp_path / "out" / "report.html")]
