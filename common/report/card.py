"""`README.md` of a run, the model card as the hub reads it, from the facts in results.json."""

import re
from collections.abc import Iterable, Mapping
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


def _markdown(text: object) -> str:
    """Text from data as Markdown shows it unchanged, on one line, without the folders of this machine."""
    return re.sub(r"([\\`*_{}\[\]<>|#~])", r"\\\1", FOLDERS.sub("", " ".join(words.fact(text).split())))


def _table(table: Mapping) -> str:
    lines = [
        map(_markdown, table["head"]),
        ["---"] * len(table["head"]),
        *(map(_markdown, row) for row in table["rows"]),
    ]
    lines = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    above, below = (f"### {_markdown(table['title'])}\n\n" if table.get("title") else ""), table.get("note", "")
    return f"{above}{lines}\n" + (f"\n{_markdown(below)}\n" if below else "")


def _section(title: str, text: Iterable[str] = (), tables: Iterable[Mapping] = ()) -> str:
    return "\n".join([f"## {title}\n", *(f"{_markdown(sentence)}\n" for sentence in text), *map(_table, tables)])


def _card_data(results: Mapping, output_dir: Path):
    from huggingface_hub import EvalResult, ModelCardData

    demo, task = results["protocol"].get("demo"), results["task"]
    pattern = r"[\w-][\w.-]*(/[\w-][\w.-]*)?"  # a folder of this machine is no id, and the hub rejects a card with it
    splits, name = results["data"]["splits"], str(results["model"]["name"])
    model = (
        name if re.fullmatch(pattern, name) and not Path(name).exists() and not demo and task != "card-fraud" else None
    )
    dataset = str(results["arguments"].get("dataset", {}).get("value"))
    used = re.fullmatch(pattern, dataset) and any(one["source"].startswith(dataset) for one in splits.values())
    dataset = dataset if used and not demo else None
    measured = []
    for split, metrics in results["metrics"].items():
        source = FOLDERS.sub("", splits[split]["source"]) if split in splits else split
        on = PIPELINES.get(task, "other"), dataset or ("demo" if demo else "own-data"), source
        for metric, one in metrics.items():
            if metric in METRICS and one["value"] is not None:
                interval, percent = words.interval_text(one), " in percent" if one["unit"] == "percent" else ""
                name = words.words(metric) + percent + (f" ({words.INTERVAL} {interval})" if interval else "")
                measured.append(
                    EvalResult(*on, METRICS[metric], round(one["value"], 4), dataset_split=split, metric_name=name)
                )
    adapter = (output_dir / "adapter_config.json").is_file()
    tags = [task, *(["demo"] if demo else []), *(["leaking-evaluation"] if results["protocol"]["leaks"] else [])]
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
        tags=tags,
    )


def write_model_card(results: Mapping, output_dir: Path, *, usage: str) -> Path:
    """Writes output_dir/README.md, the model card as the hub reads it. `usage` is Python code that loads the model."""
    headline, notes = results["headline"], results["protocol"]["notes"] + results["warnings"]
    number = f"**{words.format_value(headline['value'], headline['unit'])}**: " if headline else ""
    settings = [k for k, a in results["arguments"].items() if k != "output_dir" and "default" not in a["source"]]
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", usage)), default=0))
    *shared, run = words.sections(results).values()
    parts = [f"# {_markdown(words.model_name(results))}, {words.words(results['task'])}\n"]
    parts += [f"> **{_markdown(sentence)}**\n" for sentence, _ in words.badges(results)]
    parts.append(number + "  \n".join(map(_markdown, words.headline_sentences(headline))) + "\n")
    parts += [_section(**section) for section in shared]
    parts.append(_section("Training", tables=[words.arguments_table(results, settings)]))
    parts.append(f"## Usage\n\n{fence}python\n{FOLDERS.sub('', usage).strip()}\n{fence}\n")
    limits = "\n".join(f"- {_markdown(note)}" for note in notes) or "None were found by the checks of the script."
    parts.append(f"## Limitations\n\n{limits}\n")
    parts.append(_section(**run))
    card = "\n".join([f"---\n{_card_data(results, output_dir).to_yaml()}\n---\n", *parts])
    return write_bytes(output_dir / "README.md", card.encode("utf-8", "replace"))
