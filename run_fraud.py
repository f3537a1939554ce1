# /// script
# requires-python = ">=3.11"
# dependencies = [
#   "datasets==5.2.0", "evaluate==0.4.6", "filelock==4.3.1", "huggingface-hub==2.4.0", "imbalanced-learn==0.14.2",
#   "jinja2==3.1.6", "matplotlib==3.11.2", "numpy==2.4.6", "pandas==3.1.1", "pyyaml==6.0.4", "scikit-learn==1.9.1",
#   "tensorflow==2.21.0; sys_platform != 'linux' or platform_machine != 'x86_64'",
#   "tensorflow-cpu==2.21.0; sys_platform == 'linux' and platform_machine == 'x86_64'", "transformers==5.23.0",
# ]
# ///
"""Card fraud with a 1-D convolutional network in Keras, resampling, a protocol to believe, on the ULB card data.

The published experiment is the default: 70 / 30 split, thirteen layers, 46 epochs. Only training rows are resampled,
the threshold is chosen on validation rows, and what a practitioner would take instead stands beside the network.

    python run_fraud.py
    python run_fraud.py --resample adasyn --output_dir outputs/fraud-adasyn
    python run_fraud.py --protocol published --output_dir outputs/fraud-published    # resamples before the split: leaks
    python run_fraud.py --split time --threshold cost --amount_column Amount --alert_cost 3 --output_dir outputs/time

Your own table (csv, tsv, parquet, json; several, compressed): numbers, text, times, missing cells. One is split here:

    python run_fraud.py --train_file payments.csv --target is_fraud --time_column unix_time --ignore_columns first last
    python run_fraud.py --train_file train.parquet --validation_file dev.parquet --test_file test.parquet --model mlp

A probability and a decision for every row of a file of any size, by a model trained here:

    python run_fraud.py --do_predict --model outputs/fraud --test_file new.csv --output_dir outputs/decided
    python run_fraud.py --demo
"""

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from common.arguments import DataArguments, RunArguments, flag, parse_arguments
from common.errors import UserError, exit_status
from common.run import start_run
from common.tabular.network import USAGE, KerasArguments, prepare_keras

# The published recipe (report 004, card fraud); the names are the flags.
RECIPE = {
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
# What resampling before the split needs; --help shows it.
VARIANTS = {"protocol": {"published": {"resample": "adasyn", "calibrate": "none"}}}
ULB = (284_807, 492)  # rows and frauds of the published data
PUBLISHED = {  # precision, recall and F1 at 0.5, in percent
    "as it is, the text": (88.28, 76.87, 82.18),
    "as it is, the table of another run": (93.0, 76.0, 84.0),
    "ADASYN before the split (leaks)": (99.974, 99.951, 99.963),
}
LEAKS = (
    "Published protocol: rows were scaled and resampled before the split: copies of test rows, or rows made from them, "
    "may stand in training, and the tested rows are balanced as no real ones are."
)
HOLDOUT = "The part 'holdout' was put aside before all that: its figures, of the same model, are those to believe."
# Flags that change something where nothing is trained.
OF_PREDICTION = {
    *("model", "do_eval", "do_predict", "validation_file", "test_file", "on_bad_example", "threshold", "miss_cost"),
    *("alert_cost", "alerts_per_day", "output_dir", "overwrite_output_dir", "report_to", "token", "push_predictions"),
    *("push_to_hub", "hub_model_id", "hub_private_repo", "hub_revision", "hub_token"),
}


@dataclass
class FraudArguments(RunArguments, DataArguments):
    """What this task has."""

    _argument_group_name = "fraud"
    # No flags here: nothing is prepared by several processes, or kept in a cache, and no code comes with a table.
    overwrite_cache: ClassVar[bool] = False
    preprocessing_num_workers: ClassVar[None] = None
    trust_remote_code: ClassVar[bool] = False

    model: str = flag("cnn", "cnn, the published network; mlp, fully connected; or the folder of a model trained here")
    token: str | None = flag(None, "access token for private data; unset: the one of `hf auth login`")
    cache_dir: str | None = flag(None, "folder for downloads; unset: each library's own cache")
    target: str = flag("Class", "column with the class, 1 for fraud")
    positive: str | None = flag(None, "value of the target that means fraud, where it is not 0 and 1")
    ignore_columns: list[str] = flag([], "columns that are no features; they are carried into predictions.csv")
    missing: Literal["impute", "error", "skip"] = flag("impute", "empty cells: fill and mark, refuse, leave rows out")
    max_categories: int = flag(32, "of a column of text: values that get a feature each; the rest share one")
    split: Literal["stratified", "time"] = flag("stratified", "how one table is split: by chance, or past and future")
    time_column: str = flag("Time", "numbers of seconds, or timestamps; for --split time and alerts by day")
    test_share: float = flag(0.3, "of one table, for test")
    validation_share: float = flag(0.2, "of what is not for test, for validation")
    split_seed: int = flag(42, "which rows are in which part")
    resample: Literal["none", "adasyn", "smote", "borderline-smote", "oversample", "undersample"] = flag(
        "none", "balance the training rows"
    )
    resample_ratio: float = flag(1.0, "how far: frauds per legitimate row afterwards; beta of ADASYN")
    neighbours: int = flag(5, "k of ADASYN and SMOTE")
    protocol: Literal["honest", "published"] = flag("honest", "published: resamples before the split, which leaks")
    holdout_share: float | None = flag(None, "rows that --protocol published leaves alone; unset: --test_share")
    class_weights: Literal["none", "balanced", "sqrt"] = flag("none", "weights of the classes in the loss")
    calibrate: Literal["prior", "isotonic", "none"] = flag(
        "prior", "make probabilities those of real rows: by the share of frauds before resampling, or from validation"
    )
    threshold: str = flag("f1", "a row is fraud from here on: f1, the best on validation; cost, the least; or a number")
    amount_column: str | None = flag(None, "what a missed fraud costs; unset, or where it is empty: --miss_cost")
    miss_cost: float = flag(100.0, "cost of a missed fraud")
    alert_cost: float = flag(1.0, "cost of looking at an alert")
    alerts_per_day: int = flag(100, "that a fraud desk can look at: precision of the likeliest of each day")
    baselines: bool = flag(True, "train logistic regression, boosting and an isolation forest on the same rows, too")

    def check_use(self) -> None:
        """Refuses what would have no effect, or could not be done."""
        training, published = self.training_args, self.protocol == "published"
        is_rule = self.threshold in ("f1", "cost")
        try:
            if not (is_rule or 0 < float(self.threshold) < 1):
                raise ValueError
        except ValueError:
            raise UserError(f"--threshold {self.threshold}: must be f1, cost, or a number between 0 and 1") from None
        if published and (self.resample == "none" or self.split == "time" or self.validation_file):
            raise UserError(
                "--protocol published resamples and then splits everything at random: it takes no --resample none, "
                "--split time or --validation_file"
            )
        useless = {
            "test_share": self.test_file and not published,
            "validation_share": self.validation_file,
            "holdout_share": not published or self.test_file,
            "split": self.validation_file and self.test_file,
            "split_seed": not published and (self.split == "time" or (self.validation_file and self.test_file)),
            "max_eval_samples": published,
            "resample_ratio": self.resample == "none",
            "neighbours": self.resample in ("none", "oversample", "undersample"),
            "early_stopping_threshold": not (training.load_best_model_at_end or self.early_stopping_patience),
        }
        for name in sorted(self.explicit):
            if useless.get(name) or not (training.do_train or name in OF_PREDICTION):
                raise UserError(f"--{name} changes nothing in this run; leave it out")
        if training.do_train:
            if self.model not in ("cnn", "mlp"):
                raise UserError(f"--model {self.model}: only cnn and mlp are trained; a trained one takes --do_predict")
            if self.target in (*self.ignore_columns, self.time_column, self.amount_column):
                raise UserError(f"--target {self.target}: another flag names it, too, and the target is no feature")
            return
        if self.model in ("cnn", "mlp"):
            raise UserError("without --do_train, --model must be the folder of a model trained here")
        if "threshold" in self.explicit and is_rule:
            raise UserError(f"--threshold {self.threshold}: is chosen in training; give a number, or leave it out")
        for phase, file in (("do_eval", "validation_file"), ("do_predict", "test_file")):
            if getattr(training, phase) != bool(getattr(self, file)):
                raise UserError(f"--{phase} and --{file} need each other without --do_train")


def main(argv: list[str] | None = None) -> dict:
    """Runs the script with the arguments `argv` (default: the command line); returns what results.json holds."""
    phases = ("do_train", "do_eval", "do_predict")
    settings = {"recipe": RECIPE, "demo": DEMO, "variants": VARIANTS, "training": KerasArguments, "phases": phases}
    args = parse_arguments(FraudArguments, argv, **settings)
    args.check_use()
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError("this script is one process: start it by python, not by torchrun or accelerate launch")
    prepare_keras(args.training_args.per_device_train_batch_size)
    with start_run(args, task="card-fraud") as run:
        return trained(run, args) if args.training_args.do_train else decided(run, args)


def trained(run, args) -> dict:
    """Trains a detector, chooses its threshold on validation rows, and scores what is asked for."""
    from common.classification import class_weights
    from common.demo.fraud import fraud_demo
    from common.tabular import results
    from common.tabular.detection import Calibration, Detections, choose
    from common.tabular.network import Detector, build
    from common.tabular.resampling import resampled
    from common.tabular.splits import describe, split_resampled, training_parts

    training, published, adasyn = args.training_args, args.protocol == "published", None
    with run.phase("data"):
        run.use_demo(lambda folder: {"train_file": fraud_demo(folder)})
        parts, columns = training_parts(args)
        real = parts["train"]
        on_cards = (sum(map(len, parts.values())), sum(int(p.target.sum()) for p in parts.values())) == ULB

    with run.phase("preprocessing"):
        if args.resample != "none":
            parts["train"], adasyn = resampled(real, args, columns.categories())
        made = parts["train"]
        parts = split_resampled(parts, args) if published else parts
        run.notes += columns.notices()
        for sentence in columns.suspicions(real):
            run.warn(sentence)
        if args.resample != "none" and len(made) == len(real):
            run.warn(f"--resample {args.resample} changes nothing here. {adasyn.summary() if adasyn else ''}".strip())
        describe(parts if published else parts | {"train": real}, run)
        weights = class_weights(parts["train"].target, 2, args.class_weights)

    import keras

    from common.tabular.trainer import KerasTrainer

    with run.phase("model"):
        keras.utils.set_random_seed(training.seed)
        detector = Detector(build(args.model, len(columns.features)), columns)
        detector.model.summary()
    trainer = KerasTrainer(run, detector, parts["train"], parts["validation"], weights)
    with run.phase("training"):
        trainer.train()

    with run.phase("results"):
        said = {name: detector.raw(part.features) for name, part in parts.items() if name != "train"}
        validation = parts["validation"], said["validation"]
        detector.calibration = Calibration.fit(args.calibrate, real, parts["train"], weights, *validation)
        said = {name: detector.calibration(values) for name, values in said.items()}
        detector.threshold, how = choose(parts["validation"], said["validation"], args)
        run.note(f"threshold {detector.threshold:.4g}: {how}")
        models = {results.OURS: {name: Detections(parts[name], said[name], detector.threshold) for name in said}}
        models |= results.baselines(parts, args) if args.baselines else {}
    resampling = (args.resample, real, made, adasyn) if args.resample != "none" else None
    return finish(run, args, trainer, models, resampling, PUBLISHED if on_cards else {})


def decided(run, args) -> dict:
    """Scores and predicts files of any size, a part at a time, by a model trained here."""
    from common.tabular import results
    from common.tabular.network import Detector
    from common.tabular.trainer import KerasTrainer

    training, detections = args.training_args, {}
    with run.phase("model"):
        detector = Detector.load(Path(args.model))
        if "alerts_per_day" in args.explicit and "time" not in detector.columns.roles:
            raise UserError("--alerts_per_day changes nothing: the model was trained without a --time_column")
        if given := "threshold" in args.explicit:
            detector.threshold = float(args.threshold)
        run.note(f"threshold {detector.threshold:.4g}: {'given' if given else 'that of the training'}")
    files = {"validation": args.validation_file * training.do_eval, "test": args.test_file * training.do_predict}
    for name in [name for name in files if files[name]]:
        with run.phase("predicting"):
            detections[name] = results.predict_files(run, name, files[name], detector)
    return finish(run, args, KerasTrainer(run, detector, None, None), {results.OURS: detections})


def finish(run, args, trainer, models, resampling=None, published=None) -> dict:
    """Scores the parts that were asked for, and writes all that the run leaves behind."""
    from common.results import published as reference
    from common.tabular import results
    from common.tabular.detection import leak_worth

    training = args.training_args
    asked = {"validation": training.do_eval, "test": training.do_predict, "holdout": training.do_predict}
    predicted = {name: one for name, one in models[results.OURS].items() if asked[name]}
    known = {name for name, one in predicted.items() if one.part.target is not None}
    models = {name: {split: one for split, one in of.items() if split in known} for name, of in models.items()}
    scores, tables = results.scores(models, args)
    for split, of in scores["metrics"].items():  # as official examples save them
        prefix, values = results.PREFIXES[split], {name: one["value"] for name, one in of.items()}
        trainer.metrics[prefix] = {f"{prefix}_{name}": value for name, value in values.items() if value is not None}
    if args.protocol == "published":
        run.leaks(LEAKS)
        run.leaks(HOLDOUT)
        if {"test", "holdout"} <= known:
            table, sentence = leak_worth(*(models[results.OURS][name] for name in ("test", "holdout")))
            tables.insert(0, table)
            run.leaks(sentence)
    tables += [results.resampling_table(*resampling)] if resampling else []

    def write(content: dict) -> tuple[dict, list, str]:
        files = results.draw_plots(content, models, run.output_dir)
        for name, one in predicted.items():
            files[f"{name}_predictions"] = results.PREDICTIONS[name]
            if training.do_train:
                results.write_predictions(run.output_dir / results.PREDICTIONS[name], [one])
        if resampling and resampling[3] and resampling[3].generated_.any():
            files |= results.draw_adasyn(*resampling[1:], run.output_dir)
        return files, (), ""

    names = ("precision_at_half", "recall_at_half", "f1_at_half")
    rows = [reference("report 004, test", of, dict(zip(names, values))) for of, values in (published or {}).items()]
    usage = USAGE.format(model=run.output_dir if training.do_train else args.model, csv="new.csv")
    return run.finish(trainer, scores, write=write, published=rows, usage=usage, tables=tables)


if __name__ == "__main__":
    sys.exit(exit_status(main, "run_fraud.py"))
