"""The published tables as data: which command line stands for which row, with its published figures.

A figure is percent, by the name that the metric has in results.json; "precision of NAME", "recall of NAME" and "f1 of
NAME" are of that class. The figures are those of the scripts. Nothing here runs anything; `benchmarks.published` does.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import run_asr
import run_fraud
import run_keyword
import run_mnli_lora
import run_nli_parsbert
import run_qa
import run_ser


@dataclass(frozen=True)
class Row:
    """One row: a command line of the table's script.

    `leaks`: the published figures were measured with test data, or their speakers, in training. `demo`: arguments
    that take the place of `arguments` with --demo, whose clips and models are smaller. `minutes`: of the published run.
    `bar`: where the row's main metric stands in a figure of its table: the group on the x axis, and the bar in it.
    """

    label: str
    arguments: tuple[str, ...] = ()
    published: Mapping[str, float] = field(default_factory=dict)
    leaks: bool = False
    demo: tuple[str, ...] | None = None
    minutes: float | None = None
    bar: tuple[str, str] | None = None


@dataclass(frozen=True)
class Files:
    """One way in which a table's data may lie in --data_dir: flag -> pattern; a final / stands for a folder.

    `optional` files are taken where they are; `arguments` say what else the script must know about these files.
    """

    flags: Mapping[str, str]
    optional: Mapping[str, str] = field(default_factory=dict)
    arguments: tuple[str, ...] = ()


@dataclass(frozen=True)
class Table:
    """A published table: rows by the name of their folder; `metrics` in the order shown, the main one first.

    `split` is what is reported; where a run lacks it, validation is, and the table says so. `files`: the first of
    them that is there is used. `references`: published figures that no row stands for. `launched`: several processes
    are started by a launcher, not by the script.
    """

    title: str
    source: str
    script: str
    metrics: tuple[str, ...]
    rows: Mapping[str, Row]
    files: tuple[Files, ...]
    split: str = "test"
    references: tuple[tuple[str, Mapping[str, float]], ...] = ()
    note: str = ""
    launched: bool = True

    @property
    def layout(self) -> str:
        """Where the files are looked for, in words."""
        return " or ".join(", ".join([*files.flags.values(), *files.optional.values()]) for files in self.files)


@dataclass(frozen=True)
class Lesson:
    """The same experiment with a protocol that leaks and with one that does not; a side is (table, row, split)."""

    title: str
    leaking: tuple[str, str, str]
    honest: tuple[str, str, str]
    metrics: tuple[str, ...]


EMOTIONS = "anger fear happiness neutral sadness surprise"
FARSTAIL = "neutral entailment contradiction"
FARSTAIL_NAMES = {"train": "Train", "validation": "Val", "test": "Test"}
MULTINLI = "entailment neutral contradiction"
COLUMNS = ("precision", "recall", "f1")


def by_class(names: str, columns: Iterable[str]) -> dict[str, float]:
    """Precision, recall and F1 of the classes, from columns of numbers, the classes' first."""
    found = zip(COLUMNS, columns)
    return {f"{column} of {name}": float(v) for column, vs in found for name, v in zip(names.split(), vs.split())}


def pairs(published: tuple, names: str) -> dict[str, float]:
    """The figures of a row of the scripts on pairs."""
    _, accuracy, f1, classes = published
    return {"accuracy": accuracy, "f1": f1, **by_class(names, classes.split(" / "))}


def emotions(segments: bool, copies: bool) -> dict[str, float]:
    """The figures of a row of run_ser.py."""
    _, scores, *columns = run_ser.PUBLISHED[segments, copies]
    return dict(zip(("accuracy", "f1", "f1_weighted"), map(float, scores.split()))) | by_class(EMOTIONS, columns)


def fraud(row: str) -> dict[str, float]:
    """The figures of a row of run_fraud.py, at the threshold 0.5."""
    return dict(zip(("precision_at_half", "recall_at_half", "f1_at_half"), run_fraud.PUBLISHED[row]))


FARSTAIL_FILES = (Files({f"--{split}_file": f"farstail/{name}-word.csv" for split, name in FARSTAIL_NAMES.items()}),)
MULTINLI_FILES = (
    Files(
        {"--train_file": "mnli/*train*.jsonl", "--validation_file": "mnli/*dev_matched.jsonl"},
        optional={"--test_file": "mnli/*dev_mismatched.jsonl"},
    ),
)
CLIPS = r"S(?P<speaker>(?P<gender>[MF])\d+)_F(?P<utterance>\d+)_(?P<label>[AHNS])\d+"  # names of the URDU set

SEGMENTS = {
    "published": emotions(True, False),
    "arguments": ("--segment_seconds", "5"),
    "demo": ("--segment_seconds", "1"),
}
COPIES = ("--copies", "fear=15", "happiness=3", "surprise=3")  # the report's test supports follow from these
OVERSAMPLED = {
    "published": emotions(True, True),
    "arguments": ("--segment_seconds", "5", *COPIES),
    "demo": ("--segment_seconds", "1", *COPIES),
}


def leaking(label: str, published: Mapping[str, float], arguments: tuple, demo: tuple) -> Row:
    """A row of the emotion table by the report's own protocol."""
    protocol = ("--protocol", "published")
    return Row(label, (*protocol, *arguments), published, leaks=True, demo=(*protocol, *demo))


TABLES = {
    "ser": Table(
        "Speech emotion on ShEMO, HuBERT",
        "report 000, test; split by utterance, cut and oversampled before the split",
        "run_ser.py",
        ("accuracy", "f1", "f1_weighted", "unweighted_average_recall"),
        {
            "plain": Row(
                "whole utterances",
                published=emotions(False, False),
                leaks=True,
            ),
            "class-weights": Row("whole utterances, balanced class weights", ("--class_weights", "balanced")),
            "max": Row("whole utterances, the maximum over time", ("--pooling", "max")),
            "first": Row("whole utterances, the first frame", ("--pooling", "first")),
            "segments": Row("5 s segments", leaks=True, **SEGMENTS),
            "oversampled": Row("5 s segments, rare classes oversampled", leaks=True, **OVERSAMPLED),
            "segments-published": leaking("5 s segments, cut before the split", **SEGMENTS),
            "oversampled-published": leaking("5 s segments, oversampled before the split", **OVERSAMPLED),
        },
        (
            Files({"--data_dir": "emotion/[Ss]h[Ee][Mm][Oo]/"}),
            Files({"--data_dir": "emotion/urdu_emotion*.zip"}, arguments=("--name_pattern", CLIPS)),
        ),
        references=(("ShEMO's authors: support vector machine", {"unweighted_average_recall": 58.2}),),
    ),
    "nli": Table(
        "Persian NLI on FarsTail, ParsBERT",
        "report 000, test",
        "run_nli_parsbert.py",
        ("accuracy", "f1"),
        {
            "full": Row("full fine-tuning", (), pairs(run_nli_parsbert.PUBLISHED["full"], FARSTAIL)),
            "freeze_9": Row(
                "first 9 layers frozen",
                ("--strategy", "freeze_9", "--head_learning_rate", "1e-4"),
                pairs(run_nli_parsbert.PUBLISHED["freeze_9"], FARSTAIL),
                demo=("--strategy", "freeze_3"),
            ),
            "last_layer": Row(
                "frozen but the last layer, pooler and classifier",
                ("--strategy", "last_layer"),
                pairs(run_nli_parsbert.PUBLISHED["last_layer"], FARSTAIL),
            ),
            "last_layer-1e-4": Row(
                "the same, classifier at 1e-4", ("--strategy", "last_layer", "--head_learning_rate", "1e-4")
            ),
            "last_layer-embeddings": Row(
                "the same, classifier at 1e-4, embeddings trained, too",
                ("--strategy", "last_layer", "--head_learning_rate", "1e-4", "--train_embeddings"),
            ),
            "head_only": Row(
                "frozen but the classifier",
                ("--strategy", "head_only"),
                pairs(run_nli_parsbert.PUBLISHED["head_only"], FARSTAIL),
            ),
            "first_9": Row(
                "only the first 9 layers kept",
                ("--strategy", "first_9"),
                pairs(run_nli_parsbert.PUBLISHED["first_9"], FARSTAIL),
                demo=("--strategy", "first_3"),
            ),
            "prune_heads": Row(
                "half of the heads removed at random",
                ("--strategy", "prune_heads"),
                pairs(run_nli_parsbert.PUBLISHED["prune_heads"], FARSTAIL),
            ),
            "prune_first": Row(
                "half of the first layer's heads removed at random",
                ("--strategy", "prune_heads", "--pruned_layers", "0"),
            ),
        },
        FARSTAIL_FILES,
        references=(
            ("FarsTail's authors: decomposable attention", {"accuracy": 66.62}),
            ("FarsTail's authors: HBMP", {"accuracy": 66.04}),
            ("FarsTail's authors: ESIM", {"accuracy": 71.16}),
            ("FarsTail's authors: multilingual BERT", {"accuracy": 83.38}),
        ),
        note="The published figure of 9 frozen layers is not a plausible one: what trains more should do better. Which "
        "heads the report removed is not sure: its table says half of all, its text half of the first layer's.",
    ),
    "persian": Table(
        "Steps of Persian text preparation on FarsTail, ParsBERT",
        "report 000 describes the steps, in this order, without a figure of each; validation",
        "run_nli_parsbert.py",
        ("accuracy", "f1"),
        {
            name: Row(label, ("--preprocessing", *steps))
            for name, label, *steps in (
                ("raw", "raw text", "raw"),
                ("stop-words", "without stop words", "remove_stop_words"),
                ("zwnj", "without zero-width non-joiners", "remove_zwnj"),
                ("normalize", "normalised", "normalize"),
                ("published", "the report's steps together", "published"),
            )
        },
        FARSTAIL_FILES,
        split="validation",
    ),
    "asr": Table(
        "Speech recognition on LibriSpeech, DistilHuBERT frozen, CTC",
        "SUPERB, test-clean; the report shows curves only",
        "run_asr.py",
        ("wer", "cer"),
        {
            "linear": Row("linear head (the report's)"),
            "blstm": Row(
                "recurrent head (SUPERB's)",
                ("--head", "blstm"),
                run_asr.PUBLISHED[0][2],
                demo=("--head", "blstm", "--learning_rate", "5e-3", "--num_train_epochs", "12"),
            ),
        },
        (
            Files({"--data_dir": "asr/LibriSpeech/"}),
            Files({"--data_dir": "asr/ljspeech*.zip"}, arguments=("--split", "random")),
        ),
        references=(("SUPERB: recurrent head, language model", run_asr.PUBLISHED[1][2]),),
    ),
    "keyword": Table(
        "Keyword spotting on Speech Commands, DistilHuBERT frozen",
        "report 002 (weighted loss) and SUPERB, test",
        "run_keyword.py",
        ("accuracy", "precision", "recall", "precision_micro", "recall_micro"),
        {
            "weighted": Row(
                "weighted loss (the report's)",
                published=run_keyword.REPORT,
            ),
            "unweighted": Row("plain loss (SUPERB's)", ("--class_weights", "none"), {"accuracy": 95.98}),
            "no-silence": Row("weighted loss, without _silence_", ("--drop_labels", "_silence_")),
        },
        (
            Files({"--data_dir": "keywords/speech_commands_v0.0*"}),
            Files(
                {"--data_dir": "keywords/fsdd_recordings*"},
                arguments=("--name_pattern", "{label}_{speaker}_{index}"),
            ),
            Files({"--data_dir": "keywords/speech_commands*"}),
        ),
    ),
    "qa": Table(
        "Question answering on SQuAD v2",
        "model cards on the hub, whole validation set and other settings; the report's figures are in a picture only",
        "run_qa.py",
        ("f1", "exact", "HasAns_f1", "HasAns_exact", "NoAns_f1", "NoAns_exact"),
        {
            "distilbert": Row(
                "DistilBERT", ("--model", "distilbert-base-uncased"), run_qa.PUBLISHED["distilbert"][0][2]
            ),
            "xlm-roberta": Row("XLM-R", ("--model", "xlm-roberta-base"), run_qa.PUBLISHED["xlm-roberta"][0][2]),
        },
        (Files({"--train_file": "squad_v2/*train*.json", "--validation_file": "squad_v2/*dev*.json"}),),
        split="validation",
    ),
    "mnli": Table(
        "MultiNLI, 1,000 training pairs, RoBERTa",
        "report 004, mismatched set; its LoRA row alone is of the large model",
        "run_mnli_lora.py",
        ("accuracy", "f1"),
        {
            name: Row(
                f"{label}, roberta-{size}", ("--method", method, "--model", f"roberta-{size}"), figures, minutes=time
            )
            for name, label, method, size, figures, time in (
                ("full", "full fine-tuning", "full", "base", pairs(run_mnli_lora.PUBLISHED["full"], MULTINLI), 20),
                ("full-large", "full fine-tuning", "full", "large", {}, None),
                ("freeze", "frozen encoder", "freeze", "base", pairs(run_mnli_lora.PUBLISHED["freeze"], MULTINLI), 2.9),
                ("freeze-large", "frozen encoder", "freeze", "large", {}, None),
                ("lora", "LoRA of rank 32", "lora", "large", pairs(run_mnli_lora.PUBLISHED["lora"], MULTINLI), 10),
                ("lora-base", "LoRA of rank 32", "lora", "base", {}, None),
            )
        },
        MULTINLI_FILES,
    ),
    "rank": Table(
        "The rank of LoRA on MultiNLI, roberta-large",
        "report 004 discusses it, without figures; mismatched set",
        "run_mnli_lora.py",
        ("accuracy", "f1"),
        {
            f"rank-{rank}{name}": Row(
                f"rank {rank}, {bar}",
                ("--method", "lora", "--lora_rank", str(rank), "--lora_alpha", str(alpha or rank)),
                bar=(f"rank {rank}", bar),
            )
            for name, bar, alpha in (("", "alpha = rank", None), ("-alpha-32", "alpha = 32", 32))
            for rank in (1, 2, 4, 8, 16, 32, 64)
        },
        MULTINLI_FILES,
    ),
    "fraud": Table(
        "Card fraud, 1-D CNN",
        "report 004, test, threshold 0.5",
        "run_fraud.py",
        ("f1_at_half", "precision_at_half", "recall_at_half", "auprc", "f1"),
        {
            "none": Row("as it is", (), fraud("as it is, the text")),
            "adasyn": Row(
                "ADASYN",
                ("--resample", "adasyn"),
                fraud("ADASYN before the split (leaks)"),
                leaks=True,
            ),
            **{
                kind: Row(kind, ("--resample", kind))
                for kind in ("smote", "borderline-smote", "oversample", "undersample")
            },
            "class-weights": Row("balanced class weights", ("--class_weights", "balanced")),
            "adasyn-published": Row(
                "ADASYN before the split",
                ("--resample", "adasyn", "--protocol", "published"),
                fraud("ADASYN before the split (leaks)"),
                leaks=True,
            ),
        },
        (Files({"--train_file": "creditcard/*.parquet"}), Files({"--train_file": "creditcard/*.csv"})),
        launched=False,
    ),
}

FRAUD = ("f1_at_half", "precision_at_half", "recall_at_half", "auprc")
SPEECH = ("accuracy", "f1", "unweighted_average_recall")
LESSONS = (
    Lesson(
        "Speech emotion: segments cut before or after the split",
        ("ser", "segments-published", "test"),
        ("ser", "segments", "test"),
        SPEECH,
    ),
    Lesson(
        "Speech emotion: rare classes oversampled before or after the split",
        ("ser", "oversampled-published", "test"),
        ("ser", "oversampled", "test"),
        SPEECH,
    ),
    Lesson(
        "Card fraud: ADASYN before or after the split",
        ("fraud", "adasyn-published", "test"),
        ("fraud", "adasyn", "test"),
        FRAUD,
    ),
    Lesson(
        "Card fraud: the leaking run's own model, on resampled rows and on rows put aside before",
        ("fraud", "adasyn-published", "test"),
        ("fraud", "adasyn-published", "holdout"),
        FRAUD,
    ),
)
