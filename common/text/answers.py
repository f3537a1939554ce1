"""Answers scored: the threshold for "no answer", the official scores with intervals, the files, plots, worst errors."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from datasets import Dataset, DatasetDict

from common.errors import whole_file, write_csv, write_json
from common.metrics.squad_v2.squad_v2 import question_scores, summary, threshold_sweep
from common.report import page, plots
from common.results import headline, metric, plain_metric
from common.text.spans import NO_SPAN, Answers
from common.text.squad import gold_texts, is_answerable
from common.text.windows import column
from common.trainer import PREFIX

USAGE = '''\
import torch
from transformers import AutoModelForQuestionAnswering, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{model}")
model = AutoModelForQuestionAnswering.from_pretrained("{model}").eval()


def answer(question: str, context: str) -> str:
    """The best span of the context, or "" where "no answer" scores higher by more than the threshold."""
    windows = tokenizer(
        {order}, max_length={max_length}, stride={stride}, padding=True, padding_side="right",
        return_overflowing_tokens=True, return_offsets_mapping=True, return_tensors="pt",
    )
    with torch.no_grad():
        scores = model(**{{name: windows[name] for name in tokenizer.model_input_names}})
    null, best, found = float("inf"), -1e9, ""
    for i, (start, end) in enumerate(zip(scores.start_logits, scores.end_logits)):
        at = (windows["input_ids"][i] == {cls}).int().argmax()  # the token that means "no answer"
        null = min(null, float(start[at] + end[at]))
        inside = torch.tensor([part == {part} for part in windows.sequence_ids(i)])
        allowed = (inside[:, None] & inside).triu().tril({max_answer_length} - 1)
        spans = (start[:, None] + end[None, :]).masked_fill(~allowed, -1e9)
        first, last = divmod(int(spans.argmax()), len(end))
        if spans.max() > best:
            best = float(spans.max())
            found = context[windows["offset_mapping"][i, first, 0] : windows["offset_mapping"][i, last, 1]]
    return "" if null - best > {threshold} else found


print(answer("Where is the tower?", "The old tower stands in Brenn."))
'''
HEADER = ["id", "question", "truth", "prediction", "exact", "f1", "best_answer", "null_odds", "no_answer_probability"]


class NoAnswerRule:
    """Decides between the best span and "no answer": by the model and the flags, never by the evaluated truth.

    allow_null: whether "no answer" is possible. In training the training questions decide, later what was stored with
    the model; of a model of unknown origin it is. threshold: "no answer" where null odds exceed it; chosen_by: why.
    """

    def __init__(self, args, questions: DatasetDict, stored: dict, warn: Callable[[str], None]):
        """`stored`: what `settings` gave when the model was trained, if it was trained here; `warn` gets sentences."""
        training = args.training_args.do_train
        learned = training and not all(is_answerable(questions[n]).all() for n in {"train", "tuning"} & {*questions})
        self.allow_null = args.version_2_with_negative or (learned if training else stored.get("allow_null", True))
        self.threshold, self.tunes = 0.0, False
        if not self.allow_null:
            self.chosen_by = "not used: there is always an answer"
            if args.null_threshold != "auto":
                warn("--null_threshold has no effect: the model is to answer always; add --version_2_with_negative")
        elif args.null_threshold != "auto":
            self.threshold, self.chosen_by = float(args.null_threshold), "given by --null_threshold"
        elif "tuning" in questions:
            self.tunes, self.chosen_by = True, f"best F1 on {len(questions['tuning']):,} held-out training questions"
        elif "null_threshold" in stored and not training:
            self.threshold, self.chosen_by = stored["null_threshold"], "stored with the model when it was trained"
        else:
            self.chosen_by = "0, since there are no held-out questions"
            why = "no whole texts with answerable and unanswerable questions were held out of the training data"
            why = why if training else "nothing is known of this model; --train_file finds a better one"
            warn(f"the threshold for 'no answer' is 0, since {why}; --null_threshold sets another")

    def settings(self) -> dict:
        """What a trained model needs to know to give no answer where it did; saved in its configuration."""
        return {"allow_null": bool(self.allow_null), "null_threshold": float(self.threshold)}

    def choose(self, answers: Answers, questions: Dataset) -> list[str]:
        """The final answer of each question; "" for no answer."""
        best = answers.best_texts(questions)
        if not self.allow_null:
            return best
        return ["" if odds > self.threshold else text for odds, text in zip(answers.null_odds, best)]

    def score(self, answers: Answers, questions: Dataset) -> dict[str, float]:
        """Metrics in the official scorer's names; the tuning questions set the threshold first."""
        best = {}
        if self.allow_null:
            sweep = sweep_of(answers, questions)
            best = {name.replace("threshold", "thresh"): v for name, v in sweep.items() if name.startswith("best_")}
            if self.tunes and questions.split == "tuning":
                self.threshold = float(sweep["best_f1_threshold"])
        scores = question_scores(self.choose(answers, questions), gold_texts(questions))
        return summary(scores, is_answerable(questions)) | best


def sweep_of(answers: Answers, questions: Dataset) -> dict:
    """Scores by threshold (`threshold_sweep`)."""
    scores = question_scores(answers.best_texts(questions), gold_texts(questions))
    return threshold_sweep(answers.null_odds, scores, is_answerable(questions))


def score_splits(
    rule: NoAnswerRule, questions: DatasetDict, answers: dict[str, Answers], flat: dict[str, dict[str, float]]
) -> dict:
    """The parts of results.json that are about scores: headline, metrics, baseline; splits without truth are left out.

    `flat`: the metrics of the evaluations by prefix; they get the scores with the final threshold.
    """
    known = {name for name in answers if "answers" in questions[name].column_names}
    shown = [name for name in ("validation", "test", "tuning") if name in known]
    metrics, baseline = dict.fromkeys(shown), dict.fromkeys(shown)
    for name in reversed(shown):  # the tuning questions first
        prefix, found, asked = PREFIX[name], answers[name], questions[name]
        official = rule.score(found, asked)
        flat[prefix] |= {f"{prefix}_{key}": value for key, value in official.items()}
        metrics[name] = _with_intervals(asked, rule.choose(found, asked))
        metrics[name]["loss"] = plain_metric(flat[prefix][f"{prefix}_loss"], "nats")
        for best in ("best_exact", "best_f1") if rule.allow_null else ():
            metrics[name][best] = plain_metric(official[best], "percent")
        baseline[name] = {"name": "all unanswerable", "metrics": _with_intervals(asked, [""] * len(asked))}
    head = headline(metrics, baseline, shown[0], "f1") if {*shown} - {"tuning"} else None
    return {"headline": head, "metrics": metrics, "baseline": baseline}


def _with_intervals(questions: Dataset, texts: list[str]) -> dict[str, dict]:
    scores, answerable = question_scores(texts, gold_texts(questions)), is_answerable(questions)
    masks = {"": np.ones(len(questions), bool), "HasAns_": answerable, "NoAns_": ~answerable}
    return {
        prefix + name: metric(scores[mask, i], "percent", scale=100)
        for prefix, mask in masks.items()
        for i, name in enumerate(("exact", "f1"))
        if mask.any()
    }


def usage_of(args, rule: NoAnswerRule, tokenizer, max_length: int) -> str:
    """Python code for the model card that gives the answers of this run."""
    settings = {"order": 'question, context, truncation="only_second"', "part": 1}
    if tokenizer.padding_side == "left":
        settings = {"order": 'context, question, truncation="only_first"', "part": 0}
    settings |= {"stride": args.stride, "max_answer_length": args.max_answer_length, "max_length": max_length}
    settings |= {"threshold": rule.threshold if rule.allow_null else 1e9}
    settings["cls"] = -1 if tokenizer.cls_token_id is None else tokenizer.cls_token_id  # none: the first token
    settings |= {"model": args.training_args.output_dir if args.training_args.do_train else args.model}
    return USAGE.format(**settings)


def write_answers(
    folder: Path, prefix: str, rule: NoAnswerRule, questions: Dataset, answers: Answers
) -> dict[str, str]:
    """Writes the answers of one split; returns file names for results.json. `prefix` stands before each name.

    predictions.csv: a row a question. predictions.json: id -> final text, what the official scorer takes. Of
    best_predictions.json (id -> best text that is not empty) and null_odds.json it finds its best thresholds.
    nbest_predictions.json: id -> the n best answers with probabilities and places.
    """
    ids, texts = questions["id"][:], rule.choose(answers, questions)
    best, odds = answers.best_texts(questions), answers.null_odds
    truth, scores = [""] * len(ids), [("", "")] * len(ids)
    if "answers" in questions.column_names:
        golds = gold_texts(questions)
        truth = [" | ".join(dict.fromkeys(gold)) for gold in golds]
        scores = [(f"{exact:g}", f"{f1:.4f}") for exact, f1 in question_scores(texts, golds)]
    columns = [ids, questions["question"][:], truth, texts, *zip(*scores), best]
    columns += [[f"{value:.4f}" for value in values] for values in (odds, answers.no_answer_probability)]
    written = [write_csv(folder / f"{prefix}predictions.csv", HEADER, zip(*columns))]
    for name, values in {"predictions": texts, "best_predictions": best, "null_odds": odds.tolist()}.items():
        written.append(write_json(folder / f"{prefix}{name}.json", dict(zip(ids, values))))
    written.append(folder / f"{prefix}nbest_predictions.json")
    with whole_file(written[-1]) as partial, partial.open("w", encoding="utf-8") as file:
        for i, (key, found) in enumerate(answers.n_best(questions, rule.allow_null)):  # one of them in memory
            file.write(f"{',' if i else '{'}\n{json.dumps(key)}: {json.dumps(found, ensure_ascii=False)}")
        file.write("\n}\n")
    return {path.name: path.name for path in written}


def error_cards(rule: NoAnswerRule, questions: Dataset, answers: Answers, count: int = 20) -> list[str]:
    """The worst errors as HTML: no word right, and the surest first, with predicted and gold spans in the context."""
    texts, golds = rule.choose(answers, questions), gold_texts(questions)
    scores = question_scores(texts, golds)
    sureness, cards = np.abs(answers.null_odds - rule.threshold), []
    for i in np.lexsort((-sureness, scores[:, 1]))[:count].tolist():
        if scores[i, 0] == 1:
            continue
        asked, truth = questions[i], " | ".join(dict.fromkeys(golds[i]))
        starts = set(zip(asked["answers"]["text"], asked["answers"]["answer_start"]))
        spans = [(start, start + len(text), "gold") for text, start in starts]
        if texts[i]:
            spans.append((int(answers.first[i, 0]), int(answers.last[i, 0]), "predicted"))
        rows = {"Truth": truth or "no answer", "Predicted": texts[i] or "no answer", "Id": asked["id"]}
        rows |= {"Probability of no answer": f"{100 * answers.no_answer_probability[i]:.1f} %"}
        cards.append(page.card(asked["question"], [*rows.items()], page.marked_text(asked["context"], spans)))
    return cards


def draw_plots(results, rule: NoAnswerRule, questions, answers, windows, max_length, folder: Path) -> dict:
    """Draws lengths, losses, scores and thresholds into `folder`/plots; returns file names for results.json."""
    to, name = folder / "plots", next(iter(windows))
    first = np.unique(column(windows[name], "example"), return_index=True)[1]
    tokens = column(windows[name], "pair_length")[first]
    characters = np.array([len(context) for context in questions[name]["context"][:]])
    title = {"title": f"Question and text together ({name})", "xlabel": "tokens", "cutoff_label": "one window"}
    drawn = [plots.histogram(tokens, to / "token_lengths", cutoff=max_length, **title)]
    of_a_token = (characters.sum() + sum(map(len, questions[name]["question"][:]))) / tokens.sum()
    title = {"title": f"Texts ({name})", "xlabel": "characters", "cutoff_label": "about one window"}
    drawn.append(plots.histogram(characters, to / "character_lengths", cutoff=max_length * of_a_token, **title))
    if history := results["history"]:
        prefix = "eval_validation" if any("eval_validation_loss" in row for row in history) else "eval"
        losses = {"training": "loss", "validation": f"{prefix}_loss", "held out": "eval_tuning_loss"}
        scores = {"F1": f"{prefix}_f1", "exact match": f"{prefix}_exact", "best F1": f"{prefix}_best_f1"}
        drawn.append(plots.curves(history, to / "loss", title="Loss", series=losses, x="step"))
        drawn.append(plots.curves(history, to / "scores", title="Validation scores", series=scores, x="step"))
    for name in (n for n in ("validation", "test") if n in results["metrics"] and rule.allow_null):
        sweep = sweep_of(answers[name], questions[name])
        real = np.abs(sweep["thresholds"]) < -NO_SPAN / 2  # not of questions without any possible span
        swept = {"F1": "f1", "exact match": "exact"}
        lines = {said: (sweep["thresholds"][real], sweep[key][real]) for said, key in swept.items()}
        labels = {"title": f"Scores by threshold ({name})", "xlabel": "no answer where the null odds exceed it"}
        marks = {"used": rule.threshold, "best here (F1)": sweep["best_f1_threshold"]}
        labels |= {"marks": {f"{label}: {at:.4g}": at for label, at in marks.items()}}
        drawn.append(plots.lines(lines, to / f"{name}_threshold", **labels))
    return {path.stem: str(path.relative_to(folder)) for path in drawn}
