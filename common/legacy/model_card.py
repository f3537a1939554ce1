"""`README.md` of a run, the model card as the hub reads it, from the facts in results.json and nothing else."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import yaml

from common.legacy.files import write_bytes
from common.legacy.formats import (
    DATA_HEAD,
    METRIC_HEAD,
    Cell,
    badges,
    class_table,
    confusion_table,
    data_rows,
    environment_rows,
    fact_tables,
    format_argument,
    format_value,
    group_tables,
    headline_sentences,
    metric_rows,
    overlap_sentences,
    published_sentence,
    published_table,
)

PIPELINE_TAGS = {  # how the hub calls the tasks; one that is not here has a card without it
    "speech-emotion": "audio-classification",
    "persian-nli": "text-classification",
    "speech-recognition": "automatic-speech-recognition",
    "keyword-spotting": "audio-classification",
    "question-answering": "question-answering",
    "multinli": "text-classification",
    "card-fraud": "tabular-classification",
    "text-topics": "text-classification",
}
HUB_METRICS = {
    "exact": "exact_match",
    "mcc": "matthews_correlation",
    "word_error_rate": "wer",
    "character_error_rate": "cer",
} | {name: name for name in ("accuracy", "f1", "exact_match", "wer", "cer", "precision", "recall", "roc_auc")}


def _markdown(text: object) -> str:
    """Text from data as Markdown shows it unchanged, on one line; folders of this machine are left out."""
    text = re.sub(r"(?<![\w.:/])/(?:[^/\s]+/)+", "", " ".join(str(text).split()))
    return re.sub(r"([\\`*_{}\[\]<>|#~])", r"\\\1", text)


def _cell(cell: Cell) -> str:
    return _markdown(f"{cell[0]} ({cell[1]})" if isinstance(cell, tuple) else cell)


def _markdown_table(head: Sequence[str], rows: Iterable[Sequence[Cell]]) -> str:
    lines = [map(_cell, head), ["---"] * len(head), *(map(_cell, row) for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _front_matter(results: dict) -> str:
    demo, task = results["protocol"].get("demo"), results["task"]

    def hub_id(name: object) -> bool:  # a folder of this machine is no id, and the hub rejects the card for it
        pattern = r"[\w-][\w.-]*(/[\w-][\w.-]*)?"
        return isinstance(name, str) and re.fullmatch(pattern, name) is not None and not Path(name).exists()

    keras = task == "card-fraud"
    facts: dict = {"library_name": "keras" if keras else "transformers", "pipeline_tag": PIPELINE_TAGS.get(task)}
    if not demo and not keras and hub_id(results["model"]["name"]):
        facts["base_model"] = results["model"]["name"]
    dataset = results["arguments"].get("dataset", {}).get("value")
    sources = [split["source"] for split in results["data"]["splits"].values()]
    if not demo and hub_id(dataset) and any(source.startswith(dataset) for source in sources):
        facts["datasets"] = [dataset]
    names = [name for metrics in results["metrics"].values() for name in metrics]
    facts["metrics"] = list(dict.fromkeys(HUB_METRICS[name] for name in names if name in HUB_METRICS))
    leaks = results["protocol"]["leaks"]
    facts["tags"] = [task, *(["demo"] if demo else []), *(["leaking-evaluation"] if leaks else [])]
    return yaml.safe_dump({key: value for key, value in facts.items() if value}, sort_keys=False, allow_unicode=True)


def write_model_card(results: dict, output_dir: Path, *, usage: str) -> Path:
    """Writes output_dir/README.md, the model card as the hub reads it. `usage` is Python code that loads the model."""
    headline, notes = results["headline"], results["protocol"]["notes"] + results["warnings"]
    number = f"**{format_value(headline['value'], headline['unit'])}**: " if headline else ""
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", usage)), default=0))
    parts = [f"---\n{_front_matter(results)}---\n", f"# {_markdown(results['model']['name'])}, {results['task']}\n"]
    parts += [f"> **{_markdown(sentence)}**\n" for sentence, _ in badges(results)]
    parts.append(number + "  \n".join(map(_markdown, headline_sentences(headline))) + "\n")
    parts.append("## Metrics\n")
    for split in results["metrics"]:
        name = results["baseline"].get(split, {}).get("name")
        title = f"On {split}" + (f"; baseline: {name}" if name else "")
        parts.append(f"{_markdown(title)}\n\n{_markdown_table(METRIC_HEAD, metric_rows(results, split))}")
        parts += [_markdown_table(*table) for table in group_tables(results, split)]
        if split in results.get("per_class", {}):
            parts.append(_markdown_table(*class_table(results["per_class"][split])))
        if split in results.get("confusion", {}):
            parts.append(_markdown_table(*confusion_table(results["confusion"][split])))
    if results["published"]:
        table = _markdown_table(*published_table(results))
        parts.append(f"## Published beside ours\n\n{_markdown(published_sentence(results))}\n\n{table}")
    tables = fact_tables(results.get("extra", {}))
    parts += ["## Only in this task\n"] if tables else []
    for title, table in tables:
        parts += [f"{_markdown(title)}\n"] if title else []
        parts.append(_markdown_table(*table))
    parts.append(f"## Data\n\n{_markdown_table(DATA_HEAD, data_rows(results))}")
    parts += [f"{_markdown(sentence)}\n" for sentence in overlap_sentences(results)]
    settings = {name: a for name, a in results["arguments"].items() if a["source"] != "library default"}
    rows = [[name, format_argument(a["value"]), a["source"]] for name, a in settings.items() if name != "output_dir"]
    parts.append(f"## Training\n\n{_markdown_table(['argument', 'value', 'source'], rows)}")
    parts.append(f"## Usage\n\n{fence}python\n{usage.strip()}\n{fence}\n")
    limits = "\n".join(f"- {_markdown(note)}" for note in notes) or "None were found by the checks of the script."
    parts.append(f"## Limitations\n\n{limits}\n")
    parts.append(f"## Environment\n\n{_markdown_table(['', ''], environment_rows(results))}")
    return write_bytes(Path(output_dir) / "README.md", "\n".join(parts).encode("utf-8", "replace"))
