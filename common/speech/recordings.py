"""Recordings of speech with their classes or transcripts, from any source, as splits: a row a clip, never samples.

The flags of the three scripts, and what every split goes through. What sources say of their clips is in `sources`, who
comes into which split in `splits`, sound in `audio`.
"""

import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from common.arguments import TaskArguments, flag
from common.errors import UserError

if TYPE_CHECKING:
    import datasets
    import pandas as pd

    from common.data import Splits

SPLITS = ("train", "validation", "test")
EXAMINING = 2  # to be raised when `audio.examine` finds something else
CONTENT = ["digest", "start", "end"]  # equal for the same part of the same file
WORKING = ("name", "where", "reason", "problem", "part", "label", "labels", "text")  # columns of frames, not of splits
GENDERS = {"m": "male", "f": "female"}  # by first letter


@dataclass
class SpeechArguments(TaskArguments):
    """The data of the three scripts on recordings."""

    _argument_group_name = "recordings"

    data_dir: str | None = flag(
        None, "all data in one: a folder, an archive, a table or a recording; --split makes splits of it", "--data"
    )
    corpus: str | None = flag(None, "corpus of emotions that names are of; unset: the one that all names match")
    name_pattern: str | None = flag(
        None, "what file names say: {label}_{speaker}_{index}, {speaker}/{label}/{index}, or a regular expression"
    )
    split: Literal["auto", "speaker", "random"] = flag(
        "auto", "how --data_dir is split: no speaker in two splits, or at random; auto: as it says, else by speaker"
    )
    validation_share: float = flag(0.1, "share of one source that becomes validation data")
    test_share: float = flag(0.1, "share of one source that becomes test data")
    split_seed: int = flag(42, "which speakers or clips go to which split; apart from --seed")
    audio_column: str | None = flag(None, "column of the recordings; unset: audio, path, ...", "--audio_column_name")
    speaker_column: str | None = flag(None, "column of the speakers; unset: speaker, speaker_id, client_id, ...")
    train_split_name: str = flag("train", "split of --dataset to train on")
    eval_split_name: str = flag("validation", "split of --dataset that is validation data")
    test_split_name: str = flag("test", "split of --dataset that is test data")

    def __post_init__(self):
        super().__post_init__()
        for name in ("validation_share", "test_share"):
            if not 0 < getattr(self, name) < 0.5:
                raise UserError(f"--{name} {getattr(self, name)}: must lie between 0 and 0.5")
        if self.data_dir and (self.train_file or self.validation_file or self.test_file):
            raise UserError("--data_dir is split by itself; give either it, or a file for each split")


@dataclass
class ClassArguments(SpeechArguments):
    """What the scripts with classes have beside."""

    label_column: str | None = flag(None, "column of the class; unset: label, class, ...", "--label_column_name")
    label_order: str | None = flag(
        None, "what 0, 1, 2 stand for where data or a checkpoint number the classes: NAME,NAME,NAME"
    )
    drop_labels: list[str] = flag([], "classes that are left out, and counted as such")

    def __post_init__(self):
        super().__post_init__()
        if self.label_order is not None and not all(name.strip() for name in self.label_order.split(",")):
            raise UserError(f"--label_order {self.label_order}: must be names with commas between, one for each class")

    @property
    def order(self) -> tuple[str, ...] | None:
        """`label_order` as names."""
        return self.label_order and tuple(name.strip() for name in self.label_order.split(","))


@dataclass
class TextArguments(SpeechArguments):
    """What the script with transcripts has beside."""

    text_column: str | None = flag(None, "column of the transcript; unset: text, sentence, ...", "--text_column_name")
    min_seconds: float = flag(0.0, "shorter recordings are left out", "--min_duration_in_seconds")
    max_seconds: float | None = flag(None, "longer recordings are left out", "--max_duration_in_seconds")


def load_recordings(
    args,
    run,
    *,
    kind: Literal["label", "text"],
    classes: Mapping[str, Sequence[str]] = {},
    names: Sequence[str] = (),
    corpora: bool = False,
    hub_folder: str | None = None,
    prepare: Callable[["datasets.Dataset"], tuple["datasets.Dataset", dict[str, int]]] | None = None,
    whole_noise: bool = False,
    audio: bool = True,
) -> "Splits":
    """The splits that the run needs, from the files that are given, else from `--data_dir`, else from the hub.

    Rows have the columns id, recording (the id of the whole; the same until something is cut), path, start and end in
    seconds (end None: to the clip's end), seconds, speaker, gender (None where unknown), labels (a ClassLabel) or text
    (neither in test data without truth), and columns of few values by which results can be grouped. Of hub data sets,
    path is a place in their memory-mapped files (`audio.stored`). Nothing is decoded: see `check_clips`.

    Args:
        run: its `warn` and `note` get sentences.
        classes: known classes -> other spellings.
        names: the classes of a model that is only used.
        corpora: corpora of emotions are told by the names of their files.
        hub_folder: of `--dataset`, see `hub.load_split`.
        prepare: what is done with all rows of a source before it is split: (rows) -> (rows, reason -> left out).
        whole_noise: files of noise of Speech Commands stay whole.
        audio: False: names without sound will do; `seconds` is None then.

    Raises:
        UserError: naming file, row and remedy for whatever is wrong.
    """
    import pandas as pd

    from common.data import LIMITS, PHASES, Splits, select
    from common.speech.corpora import Reading
    from common.speech.sources import check_texts, encode_classes, measure, read_sources

    reading = Reading(args, kind, classes, names or (), corpora, whole_noise, audio)
    needed = [name for name in SPLITS if getattr(args.training_args, PHASES[name])]
    sources = read_sources(needed, reading, hub_folder)
    for sentence in (one for clips in sources.values() for one in clips.warnings + clips.doubts):
        run.warn(sentence)
    frame = pd.concat([clips.frame.assign(part=name) for name, clips in sources.items()], ignore_index=True)
    measure(frame, reading)
    feature = encode_classes(frame, sources, reading) if kind == "label" else check_texts(frame, sources)
    rows, splits = {}, Splits()
    for name, clips in sources.items():
        dataset, skipped = _dataset(frame[frame["part"] == name].copy(), clips.source, args, feature)
        if prepare:
            dataset, left_out = prepare(dataset)
            skipped |= left_out
        rows[name] = dataset, clips.source, skipped
    if "all" in rows:
        whole, source, skipped = rows["all"]
        parts, words = _divided(whole, args, source)
        run.note(f"split {words}")
        there = [name for name in needed if len(parts[name])]
        rows = {name: (parts[name], source, skipped if name == there[0] else {}) for name in there}
    for name, (dataset, source, skipped) in rows.items():
        dataset = dataset.remove_columns("split") if "split" in dataset.column_names else dataset
        splits[name], words = select(dataset, getattr(args, LIMITS[name]), args.sample_seed)
        facts = {"source": source, "available": len(dataset), "selection": words, "skipped": skipped}
        splits.facts[name] = facts
    if absent := [name for name in needed if name not in splits and name != "test"]:
        raise UserError(f"{next(iter(sources.values())).source}: no recording is left for {absent[0]}")
    if kind == "label":
        _check_classes(splits, run)
    if len(splits) > 1 and not all(any(split["speaker"][:]) for split in splits.values()):
        run.warn("speakers are not known: the same one may be in several splits, which makes scores too good")
    if not audio:
        _describe(splits)
    return splits


def _dataset(frame: "pd.DataFrame", source: str, args, feature) -> tuple["datasets.Dataset", dict[str, int]]:
    """The good rows of a source, and reason -> how many were left out."""
    import datasets

    from common.speech.corpora import mark
    from common.speech.sources import without_bad

    truth = ["labels"] if feature is not None and (frame["labels"] >= 0).any() else []
    truth += ["text"] if "text" in frame and (frame["text"] != "").any() else []
    mark(frame, frame.duplicated(["path", "start", "end", *truth]), "row is there twice")
    good, skipped = without_bad(frame, source, args)
    good = good.assign(recording=good["id"])
    for name in ("speaker", "gender"):
        good[name] = [one or None for one in good[name].fillna("")] if name in good else None
    good["gender"] = [one and GENDERS.get(one[0].lower(), one) for one in good["gender"]]
    kinds = dict.fromkeys(("start", "end", "seconds"), datasets.Value("float64")) | {"labels": feature}
    fixed = ["id", "recording", "path", "start", "end", "seconds", "speaker", "gender", *truth]
    extra = [name for name in good if name not in (*fixed, *WORKING)]
    features = {name: kinds.get(name, datasets.Value("string")) for name in fixed + extra}
    values = {name: [None if one != one else one for one in good[name].tolist()] for name in features}
    return datasets.Dataset.from_dict(values, features=datasets.Features(features)), skipped


def _divided(whole: "datasets.Dataset", args, source: str) -> tuple[dict[str, "datasets.Dataset"], str]:
    """One source as splits, and how, in words; what the data do not say is taken from their training data."""
    import numpy as np

    from common.speech.splits import split_rows, with_columns

    given = np.array(whole["split"][:] if args.split == "auto" and "split" in whole.column_names else [], dtype=str)
    rows = {name: np.flatnonzero(given == name) for name in SPLITS if name in given} if "train" in given else {}
    how, people = "random" if args.split == "random" else "speaker", whole
    words = "by speaker, none of whom is in two splits" if how == "speaker" else "at random"
    if args.split == "auto" and not any(whole["speaker"][:]):
        if len({*whole["path"][:]}) < len(whole):  # parts of files
            people = with_columns(whole, {"speaker": whole["path"][:]})
            words = "by file, none of which is in two splits"
        else:
            how, words = "random", "at random"
    shares = {"validation": args.validation_share, "test": args.test_share}
    shares = {"train": 1 - sum(shares.values()), **shares}
    words = f"{words} (split_seed {args.split_seed})"
    if absent := [name for name in SPLITS if name not in rows]:
        left = rows.get("train", np.arange(len(whole)))
        wanted = {name: shares[name] for name in ("train", *absent)}
        parts = split_rows(people.select(left), how, wanted, args.split_seed, source)
        words = f"as the data say; {' and '.join(absent)} taken from the training data {words}" if rows else words
        rows |= {name: left[part] for name, part in parts.items()}
    else:
        words = "as the data say"
    return {name: whole.select(rows[name]) for name in SPLITS}, words


def _check_classes(splits: "Splits", run) -> None:
    """Says which classes cannot be learned; refuses training data of one class."""
    from common.data import label_counts

    counts = {name: label_counts(split) or {} for name, split in splits.items()}
    train = counts.pop("train", {})
    if len(there := [label for label, count in train.items() if count]) == 1:
        source = splits.facts["train"]["source"]
        raise UserError(f"{source}: all training clips are of the class {there[0]!r}; there must be two or more")
    for name, found in counts.items():
        if absent := [label for label, count in found.items() if count and not train.get(label, 1)]:
            run.warn(f"{name} has clips of {', '.join(absent)}, of which training has none: they cannot be learned")


def check_clips(splits: "Splits", args, run, silent_ok: Sequence[str] = ()) -> "Splits":
    """The splits without clips that are not whole, with a column `digest` (SHA-256 of the file) and true `seconds`.

    Every clip is decoded once, divided over the processes, and remembered. To be called by all processes together.

    Args:
        silent_ok: classes whose clips may be all zeros; those of unknown class may then, too.

    Raises:
        UserError: a bad clip, unless these are skipped.
    """
    import numpy as np
    import pandas as pd

    from common.speech.corpora import mark
    from common.speech.sources import without_bad
    from common.speech.splits import with_columns

    checked, may_be_silent = [], [*silent_ok, ""] if silent_ok else []
    for name, split in splits.items():
        facts, frame = splits.facts[name], split.select_columns(["id", "path", "start", "end"]).to_pandas()
        truth = next((column for column in ("labels", "text") if column in split.features), None)
        frame["truth"] = split[truth][:] if truth else None
        paths = frame["path"].unique()
        frame = frame.join(pd.DataFrame(_examined([*paths], args, run), index=paths), on="path")
        inside = frame["path"].str.contains(".arrow#", regex=False)
        frame["where"] = (facts["source"] + ", " + frame["id"]).where(inside, frame["path"])
        frame["problem"] = [text.removeprefix(f"{path}: ") for text, path in zip(frame["problem"], frame["path"])]
        frame["until"] = np.fmin(frame["end"].astype(float), frame["seconds"])
        labels = frame["truth"].map(dict(enumerate(split.features["labels"].names))) if truth == "labels" else ""
        audible = (frame["peak"] > 0) | np.isin(labels, may_be_silent)
        mark(frame, ~audible, "silent", "is silent: all samples are 0")
        good, skipped = without_bad(frame, facts["source"], args)
        facts["skipped"] = dict(Counter(facts["skipped"]) + Counter(skipped))
        columns = {"seconds": (good["until"] - good["start"]).tolist(), "digest": good["digest"].tolist()}
        splits[name] = with_columns(split.select(good.index), columns)
        checked.append(good)
    _describe(splits)
    for shared in splits.overlaps:
        if shared["key"] == "clip":
            first, second = shared["between"]
            run.warn(f"{shared['examples']:,} clips of {second} ({shared['share']:.0%}) are in {first}, too")
    rows = pd.concat(checked)
    rows = rows[rows.groupby(CONTENT, dropna=False)["truth"].transform("nunique") > 1]
    if len(rows):
        sentence = f"{len(rows.drop_duplicates(CONTENT)):,} clips are there more than once, with different labels or"
        run.warn(f"{sentence} transcripts, such as {rows['where'].iloc[0]}")
    return splits


def _examined(paths: list[str], args, run) -> list[dict]:
    """What `audio.examine` finds of each clip."""
    import datasets
    import soundfile

    from common.cache import shared_map
    from common.speech.audio import examine, stored

    def several(rows: dict[str, list]) -> dict[str, list]:
        # Threads, as decoding leaves Python's lock.
        with ThreadPoolExecutor(args.preprocessing_num_workers or os.cpu_count()) as threads:
            found = [*threads.map(lambda path: examine(stored(path), path), rows["path"])]
        return {name: [one[name] for one in found] for name in found[0]}

    stats = [os.stat(path.rsplit("#", 2)[0] if ".arrow#" in path else path) for path in paths]
    key = {"examined": EXAMINING, "libsndfile": soundfile.__libsndfile_version__}
    key["files"] = [(path, stat.st_size, stat.st_mtime_ns) for path, stat in zip(paths, stats)]
    clips = datasets.Dataset.from_dict({"path": paths})
    options = {"batched": True, "batch_size": 64, "remove_columns": ["path"], "desc": "decoding"}
    return shared_map(clips, several, key=key, args=args, run=run, **options).to_list()


def _describe(splits: "Splits") -> None:
    """Fills the facts and overlaps of results.json."""
    from common.data import describe, overlaps

    keys: dict[str, dict[str, list]] = {"speaker": {}, "utterance": {}, "clip": {}}
    for name, split in splits.items():
        speakers, seconds = split["speaker"][:], [one for one in split["seconds"][:] if one is not None]
        keys["speaker"][name] = [who or object() for who in speakers]  # an unknown speaker is nobody else
        keys["utterance"][name] = split["recording"][:]
        if "digest" in split.column_names:
            keys["clip"][name] = [*zip(*(split[key][:] for key in CONTENT))]
        statistics = {"speakers": len({*speakers} - {None})} if any(speakers) else {}
        if seconds:
            statistics |= {"hours": round(hours(split), 4), "longest": max(seconds), "shortest": min(seconds)}
        facts = [splits.facts[name][key] for key in ("source", "available", "selection", "skipped")]
        splits.facts[name] = describe(split.remove_columns(["path", "seconds"]), *facts, **statistics)
    splits.overlaps = [shared for key, by_split in keys.items() for shared in overlaps(by_split, key)]


def hours(dataset: "datasets.Dataset") -> float:
    """Hours of sound; overlapping parts of a clip, and copies of it, count once."""
    total, last, until = 0.0, None, 0.0
    for clip, start, seconds in sorted(zip(*(dataset[key][:] for key in ("path", "start", "seconds")))):
        until = until if clip == last else 0.0
        total, last, until = total + max(0.0, start + seconds - max(start, until)), clip, max(until, start + seconds)
    return total / 3600


def recordings_table(splits: "Splits") -> tuple[list[str], list[list]]:
    """The table of all recordings, for a csv file and the report: header and rows."""
    rows, labels = [], None
    for name, split in splits.items():
        labels = split.features["labels"].names if "labels" in split.features else None
        for row in split:
            truth = labels[row["labels"]] if labels else row.get("text")
            seconds = row["seconds"] and round(row["seconds"], 3)
            place = row["id"] if ".arrow#" in row["path"] else row["path"]
            rows.append([row["gender"], row["speaker"], truth, row["recording"], name, seconds, place])
    return ["gender", "speaker", "label" if labels else "text", "utterance", "split", "seconds", "path"], rows
