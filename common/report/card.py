"""`README.md` of a run, the model card as the hub reads it, from the facts in results.json."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from common.errors import write_bytes
from common.report import words

PIPELINES = {  # the hub's names; a task that is not here has a card without it
    **dict.fromkeys(("speech-emotion", "keyword-spotting"), "audio-classification"),
    **dict.fromkeys(("persian-nli", "multinli", "text-topics"), "text-classification"),
    "speech-recognition": "automatic-speech-recognition",
    "question-answering": "question-answering",
    "card-fraud": "tabular-classification",
}
METRICS = {"exact": "exact_match", "mcc": "matthews_correlation", "unweighted_average_recall": "recall"}
METRICS |= {name: name for name in ("accuracy", "f1", "wer", "cer", "precision", "recall", "roc_auc")}
APACHE = ("distilbert-base-uncased", "HooshvareLab/bert-base-parsbert-uncased")
APACHE += ("facebook/hubert-base-ls960", "ntu-spml/distilhubert")
LICENSES = dict.fromkeys(APACHE, "apache-2.0") | dict.fromkeys(("roberta-base", "roberta-large"), "mit")
ENGLISH = ("rajpurkar/squad_v2", "nyu-mll/glue", "openslr/librispeech_asr", "s3prl/superb")
LANGUAGES = dict.fromkeys(ENGLISH, "en") | dict.fromkeys(("azarijafari/FarsTail", "aliyzd95/modified_shemo"), "fa")
FOLDERS = re.compile(r"(?<![\w.:/])(?:/(?:[^/\s]+/)+|[A-Za-z]:\\(?:[^\\\s]+\\)+)")  # of this machine
HUB_ID = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")


def _markdown(text: object) -> str:
    """Text from data as Markdown shows it unchanged, on one line, without the folders of this machine."""
    return re.sub(r"([\\`*_{}\[\]<>|#~])", r"\\\1", FOLDERS.sub("", " ".join(words.fact(text).split())))


def _table(*rows: Sequence) -> str:
    head, *rows = (f"| {' | '.join(map(_markdown, row))} |" for row in rows)
    return "\n".join([head, f"|{' --- |' * len(head.split(' | '))}", *rows])


def _card_data(results: Mapping, output_dir: Path):
    from huggingface_hub import EvalResult, ModelCardData

    demo, task, splits, measured = results["protocol"].get("demo"), results["task"], results["data"]["splits"], []
    model, dataset = results["model"]["name"], str(results["arguments"].get("dataset", {}).get("value"))
    if demo or task == "card-fraud" or Path(model).exists() or not HUB_ID.fullmatch(model):
        model = None
    if demo or not HUB_ID.fullmatch(dataset) or not any(one["source"].startswith(dataset) for one in splits.values()):
        dataset = None
    for split, metrics in results["metrics"].items():
        on = PIPELINES.get(task, "other"), dataset or ("demo" if demo else "own-data"), split
        for metric in (name for name in metrics if name in METRICS and metrics[name]["value"] is not None):
            one = metrics[metric]
            name = f"{words.words(metric)} in {one['unit']} (95 % interval {words.interval_text(one) or 'unknown'})"
            value, kind = round(one["value"], 4), METRICS[metric]
            measured.append(EvalResult(*on, kind, value, dataset_split=split, metric_name=name))
    adapter = (output_dir / "adapter_config.json").is_file()
    return ModelCardData(
        model_name=f"{words.model_name(results)}, {task}",
        eval_results=measured or None,
        base_model=model,
        datasets=[dataset] if dataset else None,
        language=LANGUAGES.get(dataset),
        license=LICENSES.get(model),
        library_name="peft" if adapter else "keras" if task == "card-fraud" else "transformers",
        pipeline_tag=PIPELINES.get(task),
        metrics=list(dict.fromkeys(one.metric_type for one in measured)) or None,
        tags=[task, *["demo"] * bool(demo), *["leaking-evaluation"] * results["protocol"]["leaks"]],
    )


def write_model_card(results: Mapping, output_dir: Path, *, usage: str) -> Path:
    """Writes output_dir/README.md, the model card as the hub reads it. `usage` is Python code that loads the model."""
    headline, metrics = results["headline"], results["metrics"]
    measured = [(split, words.words(name), one) for split, found in metrics.items() for name, one in found.items()]
    given = [(k, str(a["value"]), a["source"]) for k, a in results["arguments"].items() if "default" not in a["source"]]
    limits = results["protocol"]["notes"] + results["warnings"]
    parts = [
        f"---\n{_card_data(results, output_dir).to_yaml()}\n---",
        f"# {_markdown(words.model_name(results))}, {words.words(results['task'])}",
        *(f"> **{_markdown(sentence)}**" for sentence, _ in words.badges(results)),
        f"**{words.format_value(headline['value'], headline['unit'])}**" if headline else "",
        *map(_markdown, words.headline_sentences(headline)),
        "## Metrics",
        _table(("split", "metric", "value (95 % interval)"), *measured),
        "## Training",
        _table(("argument", "value", "source"), *given),
        f"## Usage\n\n```python\n{FOLDERS.sub('', usage).strip()}\n```",
        *["## Limitations"] * bool(limits),
        *(f"- {_markdown(sentence)}" for sentence in limits),
    ]
    return write_bytes(output_dir / "README.md", "\n\n".join(parts).encode("utf-8", "replace"))
