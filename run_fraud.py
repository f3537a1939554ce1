"""Card fraud with a 1-D convolutional network in Keras, ADASYN, and a protocol one can believe, on the ULB card data.

The published experiment is the default: 70 / 30 split, 12 layers, 46 epochs. Only training rows are resampled, the
threshold is chosen on validation rows, and what a practitioner would take instead stands beside the network.

    python run_fraud.py
    python run_fraud.py --resample adasyn --output_dir outputs/fraud-adasyn
    python run_fraud.py --protocol published --output_dir outputs/fraud-published    # resamples before the split: leaks
    python run_fraud.py --split time --threshold cost --miss_cost 120 --alarm_cost 3 --output_dir outputs/fraud-time

Your own table, csv, tsv or parquet: a target of 0 and 1, numbers in all other columns. One file is split here:

    python run_fraud.py --train_file payments.csv --target is_fraud --ignore_columns id country
    python run_fraud.py --train_file train.parquet --validation_file dev.parquet --test_file test.parquet --model mlp

A probability and a decision for every row of a file of any size, by a model trained here:

    python run_fraud.py --do_predict --model outputs/fraud --test_file new.csv --output_dir outputs/decided
    python run_fraud.py --demo
"""

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np

from common.legacy import report
from common.legacy import results as facts
from common.legacy.arguments import SourceArguments, flag, parse_arguments
from common.legacy.balancing import class_weights
from common.legacy.detection import choose_threshold, cross_entropy, parse_rule
from common.legacy.detection_results import Detections, draw_plots, error_cards, judge, write_predictions
from common.legacy.errors import UserError, exit_status
from common.legacy.keras_arguments import DetectorArguments, KerasArguments
from common.legacy.model_card import write_model_card
from common.legacy.rivals import rival_probabilities, side_by_side
from common.legacy.run import DEMO_FOLDER, Clock, StopRequest, check_launch, prepare_output_dir, start_training
from common.legacy.table_cells import TableReading
from common.legacy.table_task import ChunkedFile, describe_parts, identity_of, load_parts, split_afterwards
from common.legacy.tables import Table, check_trainable, read_table

# The published recipe (report 004, card fraud), in one place; the names are the flags.
RECIPE = {
    "model": "cnn",
    "dataset": "David-Egea/Creditcard-fraud-detection",
    "output_dir": "outputs/fraud",
    "learning_rate": 1e-4,
    "num_train_epochs": 46,
    "per_device_train_batch_size": 32,
}
DEMO = {
    "output_dir": "outputs/demo/fraud",
    "learning_rate": 1e-3,
    "num_train_epochs": 12,
    "per_device_train_batch_size": 128,
}
CARDS = (RECIPE["dataset"], "openml:1597")  # the ULB set, on the hub and on OpenML
PUBLISHED = [
    ("as it is", {"precision_at_half": 88.28, "recall_at_half": 76.87, "f1_at_half": 82.18}),
    ("ADASYN before the split (leaks)", {"precision_at_half": 99.974, "recall_at_half": 99.951, "f1_at_half": 99.963}),
]
LEAKS = (
    "Published protocol: rows were scaled and resampled before the split: copies of test rows, or rows made from them, "
    "may stand in training, and the tested rows are balanced as no real ones are."
)
UNTOUCHED = "The part 'untouched' was put aside before all that: its figures, of the same model, are those to believe"
NONE_UNTOUCHED = "No row was put aside before that (--untouched_share 0): no figure of this run is to be believed."


@dataclass
class FraudArguments:
    """What only this task has."""

    _argument_group_name = "fraud"

    target: str = flag("Class", "column with the class, 1 for fraud")
    positive: str | None = flag(None, "value of the target that means fraud, where it is not 0 and 1")
    ignore_columns: list[str] = field(default_factory=list, metadata={"help": "columns that are no features"})
    split: Literal["stratified", "time"] = flag(
        "stratified", "how one table is split: at random, with the same share of frauds; or time: past and future"
    )
    time_column: str = flag("Time", "orders the rows for --split time; where it is missing they are taken as ordered")
    test_share: float = flag(0.3, "of one table, for test")
    validation_share: float = flag(0.2, "of what is not for test, for validation")
    split_seed: int = flag(42, "which rows are in which part")
    drop_duplicates: bool = flag(False, "leave out exact copies of earlier rows, in all parts")
    resample: Literal["none", "adasyn", "oversample", "undersample"] = flag("none", "balance the training rows")
    resample_ratio: float = flag(1.0, "how far: frauds per legitimate row afterwards; beta of ADASYN")
    adasyn_neighbours: int = flag(5, "k of ADASYN")
    protocol: Literal["honest", "published"] = flag(
        "honest", "published: resamples (by ADASYN unless told otherwise) before the split; every output says it leaks"
    )
    untouched_share: float | None = flag(
        None, "rows that --protocol published leaves alone, to be believed; unset: --test_share; 0: none, as published"
    )
    class_weights: Literal["none", "balanced", "sqrt", "effective"] = flag("none", "weights of the classes in the loss")
    threshold: str = flag(
        "f1",
        "probability from which on a row is fraud, chosen on validation: f1, the best; recall@0.9, the largest recall "
        "with that precision; cost, the smallest; or a number",
    )
    miss_cost: float = flag(100.0, "cost of a missed fraud")
    alarm_cost: float = flag(1.0, "cost of a false alarm")
    baselines: bool = flag(True, "train logistic regression and gradient boosting on the same rows, beside the model")

    def __post_init__(self):
        shares = {"test_share": 1, "validation_share": 1, "untouched_share": 0}
        for name, least in shares.items():
            share = getattr(self, name)
            if share is not None and not (0 < share < 1 or share == least == 0):
                raise UserError(f"--{name} {share}: must be above 0 and below 1")
        if not 0 < self.resample_ratio <= 1:
            raise UserError(f"--resample_ratio {self.resample_ratio}: must be above 0, up to 1")
        self.rule = parse_rule(self.threshold, self.miss_cost, self.alarm_cost)

    @property
    def costs(self) -> tuple[float, float]:
        return self.miss_cost, self.alarm_cost

    def check_use(self, data: SourceArguments, training: KerasArguments, model: str) -> None:
        """Refuses what would have no effect, or could not be done."""
        if self.protocol == "published":
            if self.resample == "none" or self.split == "time" or data.validation_file is not None:
                fixed = "takes no --resample none, --split time or --validation_file"
                raise UserError(f"--protocol published resamples and then splits everything at random: it {fixed}")
            if self.untouched_share == 0 and data.test_file is not None:
                raise UserError("--untouched_share 0 uses no rows of --test_file; leave one of them out")
        elif self.untouched_share is not None:
            raise UserError("--untouched_share belongs to --protocol published")
        if training.do_train:
            if model not in ("cnn", "mlp"):
                raise UserError(f"--model {model}: only cnn and mlp are trained; a trained one takes --do_predict")
            return
        if model in ("cnn", "mlp"):
            raise UserError("without --do_train, --model must be the folder of a model trained here")
        for phase, file, limit in (
            ("do_eval", "validation_file", "max_eval_samples"),
            ("do_predict", "test_file", "max_predict_samples"),
        ):
            if getattr(training, phase) and getattr(data, file) is None:
                raise UserError(f"--{phase} without --do_train needs --{file}")
            if getattr(data, limit) is not None:
                raise UserError(f"--{limit} goes with --do_train: a trained model takes the whole file")


def main(argv: list[str] | None = None) -> dict:
    """Runs the script with the arguments `argv` (default: the command line); returns what results.json holds."""
    # Arguments
    check_launch()
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError("one process uses all GPUs of a machine here: start it by python, with --num_devices N")
    groups = (FraudArguments, SourceArguments, DetectorArguments)
    phases = ("do_train", "do_eval", "do_predict")
    texts = {"description": __doc__, "training": KerasArguments, "phases": phases}
    parsed = parse_arguments(groups, argv, recipe=RECIPE, demo=DEMO, **texts)
    task, data, model_args, training = parsed.groups
    published = task.protocol == "published"
    if published:
        parsed.settle("the published protocol", resample="adasyn")
    task.check_use(data, training, model_args.model)
    clock, output_dir, warnings = Clock(), Path(training.output_dir), []
    checkpoint = prepare_output_dir(training, overwrite=data.overwrite_output_dir)
    with StopRequest() as stop:
        # Data
        with clock.phase("data"):
            if data.demo and training.do_train and data.train_file is None:
                from common.legacy.demo_fraud import fraud_demo

                data.train_file = fraud_demo(output_dir / DEMO_FOLDER)["train_file"]
            columns = {"target": task.target, "positive": task.positive, "ignored": tuple(task.ignore_columns)}
            reading = TableReading(**columns, skip_bad=data.on_bad_example == "skip")
            if training.do_train:
                parts, chosen = load_parts(task, data, model_args, reading, shares_of(task))
                check_trainable(parts["train"])

        # Preprocessing
        from common.legacy.keras_models import (
            USAGE,
            Detector,
            choose_kernels,
            devices_scope,
            layer_table,
            mlp,
            published_cnn,
        )

        choose_kernels(training.per_device_train_batch_size)
        with clock.phase("preprocessing"):
            extra, prior, before = {}, None, {}
            if training.do_train:
                train = parts["train"]
                prior, mean, scale = train.target, train.features.mean(axis=0), train.features.std(axis=0)
                about = {"target": task.target, "positive": task.positive, "kind": model_args.model}
                detector = Detector(None, train.columns, mean, scale, threshold=0.5, **about)
                if task.resample != "none":
                    parts["train"], notes = resampled(train, detector, task, training.seed)
                    warnings += notes
                    extra["resampling"] = {"before": train.label_counts(), "after": parts["train"].label_counts()}
                if published:
                    parts, chosen = split_afterwards(parts, chosen, task, data)
                else:
                    before = {"train": train}
                weights = class_weights(parts["train"].target, 2, task.class_weights)
            else:
                detector = Detector.load(Path(model_args.model))
                columns = {"target": detector.target, "positive": detector.positive, "columns": tuple(detector.columns)}
                reading = replace(reading, **columns, truth=None)
                parts = {}
                if training.do_eval:
                    parts["validation"] = read_table(data.validation_file, replace(reading, truth=True))
                chosen = dict.fromkeys(parts, "the whole file")
            inputs = {name: detector.standardise(part.features) for name, part in parts.items()}

        # Model
        import keras

        with clock.phase("model"):
            if training.do_train:
                with devices_scope(training.num_devices):
                    keras.utils.set_random_seed(training.seed)
                    detector.model = (published_cnn if model_args.model == "cnn" else mlp)(len(detector.columns))
                detector.model.summary()
            extra["layers"] = layer_table(detector.model)

        # Training
        from common.legacy.keras_trainer import KerasTrainer

        if training.do_train:
            sets = {name: (inputs[name], parts[name].target) for name in ("train", "validation")}
            trainer = KerasTrainer(detector.model, training, **sets, class_weights=weights, stop=stop)
            start_training(output_dir, checkpoint, identity_of(parsed, parts["train"], "protocol", "class_weights"))
            with clock.phase("training"):
                trainer.train(checkpoint)

        # Results
        with clock.phase("results"):
            batch, files, log, rivals = training.per_device_eval_batch_size, {}, [], {}
            output_dir.mkdir(parents=True, exist_ok=True)
            asked = {"validation": training.do_eval, "test": training.do_predict, "untouched": training.do_predict}
            found = {n: detector.probabilities(part.features, batch) for n, part in parts.items() if n != "train"}
            truths = {name: part.target for name, part in parts.items()}
            if training.do_train:
                log = trainer.history
                detector.threshold, how = choose_threshold(truths["validation"], found["validation"], task.rule)
                extra["decision"] = {"threshold": detector.threshold, "how it was chosen": how}
                detector.save(output_dir)
                files |= {"model": "model.keras", "detector": "detector.json"}
                if task.baselines and (training.do_eval or training.do_predict):
                    rivals = rival_probabilities(inputs, truths["train"], training.seed)
            detected = {n: of_rows(parts[n], found[n], detector, task) for n in found if asked[n]}
            described = describe_parts(parts | before, chosen)
            if training.do_predict and not training.do_train:
                rows, known = ChunkedFile(data.test_file, reading), []
                files |= write_predictions(output_dir, "test_", decided(rows, detector, batch, task, known))
                described["splits"]["test"] = rows.described()
                if known:
                    truth, probabilities = map(np.concatenate, zip(*known))
                    ids = np.arange(1, len(truth) + 1)
                    detected["test"] = Detections(ids, truth, probabilities, {}, detector.threshold)
            for name in [name for name in detected if name in found]:
                files |= write_predictions(output_dir, "" if name == "validation" else f"{name}_", [detected[name]])
            losses = {n: cross_entropy(part.truth, part.probabilities) for n, part in detected.items()}
            top = "test" if "test" in detected else "validation"
            judgement = judge(detected, losses, train_truth=prior, headline_split=top, costs=task.costs)
            extra |= side_by_side(judgement["metrics"], truths, rivals, task.rule, task.costs)
        trainable = sum(int(np.prod(weight.shape)) for weight in detector.model.trainable_weights)
        parameters = {"total": detector.model.count_params(), "trainable": trainable}
        network = {"revision": None, "architecture": "Sequential", "parameters": parameters}
        devices = keras.distribution.list_devices()[: training.num_devices]
        where = facts.environment(", ".join(devices), processes=1)
        leaks = leaks_of(parts, judgement["metrics"]) if published else None
        shared = {"task": "card-fraud", "warnings": warnings, "leaks": leaks}
        results = {
            **facts.of_any_run(parsed, clock, model=network, log=log, environment=where, **shared),
            "data": described,
            **judgement,
            "extra": extra,
        }
        on_cards = training.do_train and any(part.source.startswith(CARDS) for part in parts.values())
        rows = PUBLISHED if on_cards else []
        results["published"] = [facts.published("report 004, test", *row, unit="percent") for row in rows]
        counts = extra.get("resampling", {"before": None, "after": None})
        results["files"] |= files | draw_plots(results, detected, rivals, output_dir, **counts)
        cards = error_cards(detected[top], inputs[top], detector.columns) if top in detected and top in inputs else []
        results = facts.completed(results)
        report.write_report(results, output_dir, error_cards=cards)
        model = output_dir if training.do_train else model_args.model
        write_model_card(results, output_dir, usage=USAGE.format(model=model, csv="new.csv"))
        facts.write_flat(output_dir, results)
        facts.write_results(output_dir, results)
    return results


# Data


def shares_of(task: FraudArguments) -> dict[str, float]:
    """What is cut from one table, in this order; the published protocol splits later, but for the untouched rows."""
    if task.protocol == "honest":
        return {"test": task.test_share, "validation": task.validation_share}
    share = task.test_share if task.untouched_share is None else task.untouched_share
    return {"untouched": share} if share else {}


# Preprocessing


def resampled(table: Table, detector, task: FraudArguments, seed: int) -> tuple[Table, list[str]]:
    """The rows of the table and those made from them, or fewer; and why there are none, if so. Neighbours are looked
    for among standardised rows, since columns of large numbers would decide alone."""
    from common.legacy.resampling import ADASYN, RandomOversampler, RandomUndersampler

    if task.resample == "adasyn":
        sampler = ADASYN(ratio=task.resample_ratio, k=task.adasyn_neighbours, random_state=seed)
    else:
        kind = RandomOversampler if task.resample == "oversample" else RandomUndersampler
        sampler = kind(ratio=task.resample_ratio, random_state=seed)
    sampler.fit(detector.standardise(table.features), table.target)
    features, target = sampler.transform(table.features, table.target)
    rows, notes = table.rows[sampler.origin_], [*sampler.reasons_.values(), *getattr(sampler, "notes_", {}).values()]
    return replace(table, features=features, target=target, rows=rows), notes


# Results


def of_rows(part: Table, probabilities: np.ndarray, detector, task: FraudArguments) -> Detections:
    """The detections of a part, with the columns that people know a row by."""
    shown = [name for name in (task.time_column, "Amount") if name in part.columns]
    columns = {name: part.features[:, part.columns.index(name)] for name in shown}
    return Detections(part.rows, part.target, probabilities, columns, detector.threshold)


def decided(rows: ChunkedFile, detector, batch: int, task: FraudArguments, known: list) -> Iterator[Detections]:
    """Detections of a file, a part at a time; `known` gets what is needed to score them, where there is truth."""
    for part in rows:
        found = of_rows(part, detector.probabilities(part.features, batch), detector, task)
        if part.target is not None:
            known.append((found.truth, found.probabilities))
        yield found


def leaks_of(parts: dict[str, Table], metrics: dict[str, dict]) -> list[str]:
    """What is wrong with the figures of the published protocol, and by how much."""
    if "untouched" not in parts:
        return [LEAKS, NONE_UNTOUCHED]
    areas = [metrics.get(name, {}).get("auprc", {}).get("value") for name in ("untouched", "test")]
    measured = "" if None in areas else ": area under precision-recall {:.2f} % there, {:.2f} % on test".format(*areas)
    return [LEAKS, f"{UNTOUCHED}{measured}."]


if __name__ == "__main__":
    sys.exit(exit_status(main, "run_fraud.py"))
