"""Results of a detector: baselines, scores by part, the file of predictions, plots."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from common import classification
from common.errors import UserError, csv_cell, whole_file
from common.files import where
from common.report import plots
from common.report.words import format_value, words
from common.results import headline
from common.tabular.columns import ARRAYS, CLASSES, Part
from common.tabular.detection import HALF, Detections, alerts_by_day, choose, detection_metrics
from common.tabular.resampling import ADASYN
from common.tabular.splits import facts_of
from common.tabular.tables import Tables

HEADLINE = "auprc"
COMPARED = ("auprc", "roc_auc", "precision", "recall", "f1", "accuracy", "cost")
PREDICTIONS = {"validation": "predictions.csv", "test": "test_predictions.csv", "holdout": "holdout_predictions.csv"}
PREFIXES = {"validation": "eval", "test": "predict", "holdout": "holdout"}
OURS, NEVER = "this model", "never fraud"


def baselines(parts: Mapping[str, Part], args) -> dict[str, dict[str, Detections]]:
    """Name -> part -> what a practitioner would take instead of a network says, trained on the same rows, with its
    threshold chosen by the same rule."""
    from sklearn.ensemble import HistGradientBoostingClassifier, IsolationForest
    from sklearn.linear_model import LogisticRegression

    seed = {"random_state": args.training_args.seed}
    # Small trees and steps: with the defaults' 31 leaves a few hundred frauds make boosting diverge.
    boosting = {"learning_rate": 0.05, "max_iter": 200, "max_leaf_nodes": 8, "l2_regularization": 1.0}
    models = {
        "logistic regression": LogisticRegression(max_iter=1000),
        "gradient boosting": HistGradientBoostingClassifier(**boosting, early_stopping=False, **seed),
        "isolation forest (no labels)": IsolationForest(**seed),
    }
    found, train = {}, parts["train"]
    for name, model in models.items():
        model.fit(train.features, train.target)  # which the forest does not look at
        sure = getattr(model, "predict_proba", None)
        said = {
            split: sure(part.features)[:, 1] if sure else -model.score_samples(part.features)
            for split, part in parts.items()
            if split != "train"
        }
        threshold, _ = choose(parts["validation"], said["validation"], args)
        found[name] = {split: Detections(parts[split], said[split], threshold) for split in said}
    return found


def scores(models: Mapping[str, Mapping[str, Detections]], args) -> tuple[dict, list[dict]]:
    """The parts of results.json about scores, and tables of all models, and of the days of a fraud desk.

    models: name -> part -> what it says; one is this run's. "Never fraud" is right almost always, and finds none.
    """
    ours, tables = models[OURS], []
    found: dict = {name: {} for name in ("metrics", "per_class", "confusion", "baseline")}
    top = "test" if "test" in ours else "validation"
    for split, one in ours.items():
        everyone = {name: of[split] for name, of in models.items()}
        everyone[NEVER] = Detections(one.part, np.zeros(len(one.probabilities)), HALF)
        rows = {n: detection_metrics(of, args) for n, of in everyone.items()}
        found["metrics"][split], found["baseline"][split] = rows[OURS], {"name": NEVER, "metrics": rows[NEVER]}
        called = np.eye(2, dtype=np.float32)[(one.probabilities >= one.threshold).astype(int)]
        said = {split: classification.Predictions(list(CLASSES), called, one.part.target, ids=())}
        classes = classification.score_predictions(said, {split: 0.0}, headline_metric="f1", train_targets=None)
        found["per_class"] |= classes["per_class"]
        found["confusion"] |= classes["confusion"]
        cells = [[n, *(format_value(row[k]["value"], row[k]["unit"]) for k in COMPARED)] for n, row in rows.items()]
        tables.append({"title": f"Models on {split}", "head": ["model", *map(words, COMPARED)], "rows": cells})
        days = alerts_by_day(one, args.alerts_per_day)[:31].reset_index()
        title = f"The {args.alerts_per_day} likeliest rows of each day ({split})"
        tables += [{"title": title, "head": [*days], "rows": days.to_numpy(int).tolist()}] if len(days) else []
    known = found["metrics"].get(top, {}).get(HEADLINE, {}).get("value") is not None
    best = headline(found["metrics"], found["baseline"], top, HEADLINE) if known else None
    return {"headline": best, **found}, tables


def write_predictions(path: Path, detections: Iterable[Detections]) -> None:
    """A row for a row of the data: row, columns that are no features, truth, decisions, and the probability in full."""
    names = np.array(CLASSES)
    with whole_file(path) as partial, partial.open("w", encoding="utf-8", newline="") as file:
        for one in detections:
            if not len(said := one.probabilities):
                continue
            ours = {"truth": "" if one.part.target is None else names[one.part.target]}
            ours |= {"prediction": names[(said >= one.threshold) * 1], "prediction_at_half": names[(said >= HALF) * 1]}
            ours |= {"probability": said}
            shown, source = one.part.shown, one.part.facts["source"]
            shown = shown.rename(columns={name: f"{name} (data)" for name in [*shown.index.names, *ours]}).reset_index()
            shown = shown if (shown["file"] != source).any() else shown.drop(columns="file")
            shown = shown.map(csv_cell).rename(columns=csv_cell).assign(**ours)
            shown.to_csv(file, index=False, header=not file.tell())


def predict_files(run, split: str, files: list[str], detector) -> Detections:
    """Writes the predictions of files of any size, a part at a time, and tells the run of their rows.

    Returns what is said of all rows, with as much of them as scores need.
    """
    parts, said, digest, skipped, unknown = [], [], hashlib.sha256(), Counter(), Counter()
    settings = {"skip_bad": run.args.on_bad_example == "skip", "truth": split == "validation" or None}

    def detections() -> Iterable[Detections]:
        for frame in Tables(files, run.args):
            part = detector.columns.part(frame, **settings)
            if parts and (part.target is None) != (parts[0].target is None):
                problem = f"from here on {detector.columns.target} is empty, or no longer"
                raise UserError(f"{where(frame, 0)}: {problem}; predict the rows that have it on their own")
            said.append(detector.probabilities(part.features))
            yield Detections(part, said[-1], detector.threshold)
            digest.update(facts_of(part)["fingerprint"].encode())
            skipped.update(part.facts["skipped"])
            unknown.update(part.unknown)
            parts.append(replace(part, features=part.features[:, :0].copy(), shown=part.shown[[]]))
        if not any(map(len, parts)):
            raise UserError(f"{parts[0].facts['source']}: no usable row ({dict(skipped)})")

    write_predictions(run.output_dir / PREDICTIONS[split], detections())
    known = [name for name in ARRAYS if getattr(parts[0], name) is not None]
    arrays = {name: np.concatenate([getattr(part, name) for part in parts]) for name in known}
    facts = parts[0].facts | {"available": len(arrays["real"]), "skipped": dict(skipped)}
    whole = replace(parts[0], facts=facts, shown=pd.DataFrame(), **arrays)
    for name, count in (+unknown).items():
        run.warn(f"{count:,} rows have a value of {name}, or an empty cell, that training had not")
    run.data["splits"][split] = facts_of(whole) | {"fingerprint": digest.hexdigest()}
    return Detections(whole, np.concatenate(said), detector.threshold)


def draw_plots(results: dict, models: Mapping[str, Mapping[str, Detections]], output_dir: Path) -> dict[str, str]:
    """What every report on classes shows, and precision-recall of what was tested."""
    files = classification.draw_plots(results, output_dir)
    for split, one in models[OURS].items():
        truth, said = one.part.target, {name: of[split].probabilities for name, of in models.items()}
        if truth.any():
            path, title = output_dir / "plots" / f"{split}_precision_recall", f"Precision-recall ({split})"
            files[path.stem] = f"plots/{plots.precision_recall(truth, said, path, title=title).name}"
    return files


def resampling_table(method: str, before: Part, after: Part, adasyn: ADASYN | None) -> dict:
    """Training rows of each class before and after; of ADASYN d and G, too."""
    rows = [["before", *before.label_counts().values()], ["after", *after.label_counts().values()]]
    table = {"title": f"Resampling: {method}", "head": ["rows", *CLASSES], "rows": rows}
    return table | {"note": adasyn.summary() if adasyn else ""}


def draw_adasyn(before: Part, after: Part, adasyn: ADASYN, output_dir: Path) -> dict[str, str]:
    """ADASYN step by step: r, G, and the neighbourhood of the fraud of which most rows are made."""
    from sklearn.decomposition import PCA

    X, y, n, folder = before.features, before.target, len(before), output_dir / "plots"
    r, G = "ADASYN: r, legitimate rows among a fraud's neighbours", "ADASYN: G, synthetic rows made of each fraud"
    drawn = [plots.histogram(adasyn.density_, folder / "adasyn_r", title=r, xlabel="r")]
    drawn.append(plots.histogram(adasyn.generated_, folder / "adasyn_g", title=G, xlabel="G"))
    most = adasyn.generated_.argmax()
    centre = adasyn.minority_[most]
    near = np.union1d(np.argsort(((X - X[centre]) ** 2).sum(1))[:60], adasyn.neighbours_[most])
    made = after.features[n:][adasyn.sample_indices_[n:] == centre]
    plane = PCA(2, random_state=0).fit(np.concatenate([X[near], made]))
    groups = {"legitimate": X[near[y[near] == 0]], "fraud": X[near[y[near] == 1]], "synthetic": made}
    points = {name: plane.transform(rows) for name, rows in groups.items() if len(rows)}
    title = "ADASYN: a fraud's neighbourhood, with the rows made of it"
    drawn.append(plots.scatter(points, folder / "adasyn_neighbourhood", title=title))
    return {path.stem: f"plots/{path.name}" for path in drawn}
