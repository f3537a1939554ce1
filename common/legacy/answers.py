"""Answers judged: the threshold for "no answer", the official scores with intervals, the files, the worst errors.

The threshold is chosen on held-out training questions, never on those that are scored; what the best threshold on the
scored ones would have given is reported beside it, as the official scorer does, and is an upper bound.
"""

from pathlib import Path

import numpy as np

from common.legacy import plotting, report
from common.legacy.files import write_csv, write_json
from common.legacy.metrics.squad_v2.squad_v2 import question_scores, summary, threshold_sweep
from common.legacy.results import headline, metric, plain_metric
from common.legacy.spans import Answers, answers_of_questions
from common.legacy.squad import Questions
from common.legacy.text import Windows

USAGE = """\
from transformers import AutoModelForQuestionAnswering, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{model}")
model = AutoModelForQuestionAnswering.from_pretrained("{model}")
question, context = "Where is the tower?", "The old tower stands in Brenn."
inputs = tokenizer(question, context, return_tensors="pt")
scores = model(**inputs)
first, last = scores.start_logits.argmax(), scores.end_logits.argmax()
print(tokenizer.decode(inputs["input_ids"][0, first : last + 1]))  # the class token alone: no answer
"""
GROUPS = {"answerable": "HasAns_", "unanswerable": "NoAns_", "all": ""}


class Scorer:
    """Decides between the best span and "no answer", and scores.

    Attributes:
        allow_null: whether "no answer" is a possible answer.
        threshold: "no answer" where null odds exceed it.
        chosen_by: where the threshold comes from, in words.
        warnings: sentences for the results.
    """

    def __init__(
        self,
        splits: dict[str, Questions],
        *,
        n_best: int,
        null_threshold: str,
        force_null: bool,
        stored: dict | None,
    ):
        """
        Args:
            splits: questions by split; "tuning" is what the threshold is chosen on.
            null_threshold: a number, or "auto".
            stored: what `settings` gave when the model was trained, if it was trained here.
        """
        stored = stored or {}
        known = [q for name, q in splits.items() if q.answers is not None]
        unanswerable = any(not q.answerable.all() for q in known)
        # Without any truth at hand, what the model was trained for decides; of an unknown model either may be true.
        self.allow_null = force_null or unanswerable or (not known and stored.get("allow_null", True))
        self.n_best = n_best
        self.tuning = splits.get("tuning") if null_threshold == "auto" and self.allow_null else None
        self.warnings: list[str] = []
        self.threshold = 0.0
        if not self.allow_null:
            self.chosen_by = "not used: every question has an answer"
        elif null_threshold != "auto":
            self.threshold, self.chosen_by = float(null_threshold), "given by --null_threshold"
        elif self.tuning is not None:
            self.chosen_by = f"best F1 on {len(self.tuning):,} held-out training questions"
        elif "null_threshold" in stored:
            self.threshold, self.chosen_by = stored["null_threshold"], "stored with the model when it was trained"
        else:
            self.chosen_by = "0, since nothing is known"
            self.warnings.append(
                "the threshold for 'no answer' is 0, since there are no held-out training questions to choose it on; "
                "give --train_file or --null_threshold"
            )

    def settings(self) -> dict:
        """What a trained model needs to know to answer as it was evaluated; saved in its configuration."""
        return {"allow_null": bool(self.allow_null), "null_threshold": float(self.threshold)}

    def decide(self, answers: Answers, questions: Questions) -> list[str]:
        """The final answer of each question; "" for no answer."""
        best = answers.texts(questions)
        if not self.allow_null:
            return best
        return ["" if odds > self.threshold else text for odds, text in zip(answers.null_odds, best)]

    def sweep(self, answers: Answers, questions: Questions) -> dict:
        """Scores by threshold (`threshold_sweep`)."""
        answered = question_scores(answers.texts(questions), questions.golds)
        return threshold_sweep(answers.null_odds, answered, questions.answerable)

    def score(self, kept: tuple[np.ndarray, ...], windows) -> dict[str, float]:
        """Metrics of one evaluation, in the official scorer's names; on the tuning split, sets the threshold first."""
        questions = windows.examples
        if questions.answers is None:
            return {}
        answers = answers_of_questions(windows, kept, self.n_best)
        best = {}
        if self.allow_null:
            sweep = self.sweep(answers, questions)
            best = {name.replace("threshold", "thresh"): v for name, v in sweep.items() if name.startswith("best_")}
            if questions is self.tuning:
                self.threshold = float(sweep["best_f1_threshold"])
        scores = question_scores(self.decide(answers, questions), questions.golds)
        return summary(scores, questions.answerable) | best


def score_table(questions: Questions, texts: list[str]) -> tuple[dict[str, dict], np.ndarray]:
    """Metrics with intervals as results.json wants them, and exact match and F1 of every question [N, 2]."""
    scores = question_scores(texts, questions.golds)
    masks = {"": np.ones(len(questions), bool), "HasAns_": questions.answerable, "NoAns_": ~questions.answerable}
    table = {}
    for prefix, mask in masks.items():
        if mask.any():
            for column, name in enumerate(("exact", "f1")):
                table[prefix + name] = metric(scores[mask, column], "percent", scale=100)
    return table, scores


def judge(scorer: Scorer, splits: dict[str, Questions], answers: dict[str, Answers], measured: dict) -> dict:
    """The parts of results.json that are about scores: headline, metrics, baseline, extra.

    `measured` maps a split to the metrics of its evaluation, of which the loss is taken. Splits without truth are left
    out.
    """
    metrics, baseline, threshold = {}, {}, {**scorer.settings(), "from": scorer.chosen_by}
    for name in ("validation", "test", "tuning"):
        if name not in answers or splits[name].answers is None:
            continue
        questions, found = splits[name], answers[name]
        metrics[name], _ = score_table(questions, scorer.decide(found, questions))
        loss = next(value for key, value in measured[name].items() if key.endswith("_loss"))
        metrics[name]["loss"] = plain_metric(loss, "nats")
        if scorer.allow_null:
            sweep = scorer.sweep(found, questions)
            for measure in ("exact", "f1"):
                metrics[name][f"best_{measure}"] = plain_metric(sweep[f"best_{measure}"], "percent")
            threshold[f"best_on_{name}"] = {
                measure: float(sweep[f"best_{measure}_threshold"]) for measure in ("exact", "f1")
            }
        silent, _ = score_table(questions, [""] * len(questions))
        baseline[name] = {"name": "all unanswerable", "metrics": silent}
    first = next((name for name in ("validation", "test") if name in metrics), None)
    return {
        "headline": headline(metrics, baseline, first, "f1") if first else None,
        "metrics": metrics,
        "baseline": baseline,
        "extra": {"null_threshold": threshold},
    }


def write_answers(
    output_dir: Path, prefix: str, scorer: Scorer, questions: Questions, answers: Answers
) -> dict[str, str]:
    """Writes the answers of one split; returns file names for results.json.

    predictions.csv: a row a question. predictions.json: id -> text, what the official scorer takes. null_odds.json: id
    -> odds of no answer, what it takes for its best thresholds. nbest_predictions.json: id -> the n best answers with
    probabilities and places. `prefix` stands before each name.
    """
    texts = scorer.decide(answers, questions)
    best = answers.texts(questions)
    odds, probability = answers.null_odds, answers.no_answer_probability
    names = [
        prefix + name for name in ("predictions.csv", "predictions.json", "nbest_predictions.json", "null_odds.json")
    ]
    known = questions.answers is not None
    scores = question_scores(texts, questions.golds) if known else None
    header = [
        "id",
        "question",
        "truth",
        "prediction",
        "exact",
        "f1",
        "best_answer",
        "null_odds",
        "no_answer_probability",
    ]
    rows = (
        [
            questions.ids[i],
            questions.questions[i],
            " | ".join(dict.fromkeys(questions.golds[i])) if known else "",
            texts[i],
            *((f"{scores[i, 0]:g}", f"{scores[i, 1]:.4f}") if known else ("", "")),
            best[i],
            f"{odds[i]:.4f}",
            f"{probability[i]:.4f}",
        ]
        for i in range(len(questions))
    )
    write_csv(output_dir / f"{prefix}predictions.csv", header, rows)
    write_json(output_dir / f"{prefix}predictions.json", dict(zip(questions.ids, texts)))
    write_json(output_dir / f"{prefix}null_odds.json", dict(zip(questions.ids, odds.tolist())))
    n_best = answers.n_best(questions, with_null=scorer.allow_null)
    write_json(output_dir / f"{prefix}nbest_predictions.json", dict(zip(questions.ids, n_best)))
    return {name: name for name in names}


def error_cards(scorer: Scorer, questions: Questions, answers: Answers, count: int = 20) -> list[str]:
    """The worst errors as HTML: no word right, and the surest first, with predicted and gold spans in the context."""
    texts = scorer.decide(answers, questions)
    scores = question_scores(texts, questions.golds)
    sureness = np.abs(answers.null_odds - scorer.threshold)
    order = np.lexsort((-sureness, scores[:, 1]))
    cards = []
    for i in order[:count]:
        if scores[i, 0] == 1:
            break
        spans = [(start, start + len(text), "gold") for text, start in set(questions.answers[i])]
        if texts[i]:
            spans.append((int(answers.first[i, 0]), int(answers.last[i, 0]), "predicted"))
        golds = " | ".join(dict.fromkeys(questions.golds[i])) or "no answer"
        rows = [
            ("Truth", golds),
            ("Predicted", texts[i] or "no answer"),
            ("F1", f"{100 * scores[i, 1]:.0f} %"),
            ("Probability of no answer", f"{100 * answers.no_answer_probability[i]:.1f} %"),
            ("Id", questions.ids[i]),
        ]
        cards.append(report.card(questions.questions[i], rows, report.marked_text(questions.context(i), spans)))
    return cards


def draw_plots(
    results: dict,
    scorer: Scorer,
    splits: dict[str, Questions],
    answers: dict[str, Answers],
    windows: dict[str, Windows],
    output_dir: Path,
) -> dict[str, str]:
    """Draws what the report shows; returns file names for results.json.

    Lengths in tokens with the cut-off, losses and scores while training, exact match and F1 of the three groups with
    intervals and baseline, and the scores by threshold.
    """
    folder = output_dir / "plots"
    name = "train" if "train" in windows else next(iter(windows))
    drawn = [
        plotting.histogram(
            windows[name].pair_lengths,
            folder / "token_lengths.png",
            title=f"Question and text together ({name})",
            xlabel="tokens",
            cutoff=windows[name].max_length,
            cutoff_label="one window",
        )
    ]
    if results["history"]:
        losses = {"train": "loss", "validation": "eval_validation_loss", "held out": "eval_tuning_loss"}
        drawn.append(plotting.curves(results["history"], folder / "loss.png", title="Loss", series=losses))
        scores = {"F1": "eval_validation_f1", "exact match": "eval_validation_exact"}
        drawn.append(
            plotting.curves(results["history"], folder / "scores.png", title="Validation scores", series=scores)
        )
    for name in (n for n in ("validation", "test") if n in results["metrics"]):

        def table(metrics: dict, value) -> dict:
            return {
                group: {label: value(metrics[prefix + key]) for label, key in (("exact match", "exact"), ("F1", "f1"))}
                for group, prefix in GROUPS.items()
                if prefix + "f1" in metrics
            }

        metrics, baseline = results["metrics"][name], results["baseline"][name]["metrics"]
        drawn.append(
            plotting.grouped_bars(
                table(metrics, lambda m: m["value"]),
                folder / f"{name}_scores.png",
                title=f"Exact match and F1 ({name})",
                ylabel="percent",
                low_high=table(metrics, lambda m: (m["low"], m["high"])),
                baseline=table(baseline, lambda m: m["value"]),
            )
        )
        if scorer.allow_null:
            sweep = scorer.sweep(answers[name], splits[name])
            drawn.append(
                plotting.threshold_curve(
                    sweep["thresholds"],
                    {"F1": sweep["f1"], "exact match": sweep["exact"]},
                    folder / f"{name}_threshold.png",
                    title=f"Scores by threshold ({name})",
                    xlabel="threshold: no answer where the null odds exceed it",
                    ylabel="percent",
                    marks={"used": scorer.threshold, "best here (F1)": sweep["best_f1_threshold"]},
                )
            )
    return {path.stem: str(path.relative_to(output_dir)) for path in drawn}
