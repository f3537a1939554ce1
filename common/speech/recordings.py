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
EXAMINING = 1  # to be raised when `audio.examine` finds something else
CONTENT = ("digest", "start", "end")  # equal for the same part of the same file
WORKING = ("name", "where", "reason", "problem", "part", "label", "labels", "text")  # columns of frames, not of splits
GENDERS = {"m": "male", "f": "female"}  # by first letter


@dataclass
class SpeechArguments(TaskArguments):
    """The data of the three scripts on recordings."""

    _argument_group_name = "recordings"

    data_dir: str | None = flag(
        None, "all data in one: a folder, an archive, a table or a recording; --split makes splits of it", "--data"
    )
    corpus: str | None = flag(
        None,
        "whose names files of emotions have: shemo, emodb, ravdess, cremad, savee, tess, urdu, iemocap; unset: the one "
        "that all names match alone",
    )
    name_pattern: str | None = flag(
        None,
        "what file names say: {label}_{speaker}_{index}, with folders {speaker}/{label}/{index}, or a regular "
        "expression with such named groups",
    )
    split: Literal["auto", "given", "speaker", "random", "hash"] = flag(
        "auto",
        "how one source (--data_dir, or with the last three one split of --dataset) is split: as the data say (given), "
        "no speaker in two splits, at random with every class in the same shares, or by the hash of the speaker as "
        "Speech Commands; auto: the first that the data allow",
    )
    validation_share: float = flag(0.1, "share of one source that becomes validation data")
    test_share: float = flag(0.1, "share of one source that becomes test data")
    split_seed: int = flag(42, "which speakers or clips go to which split; apart from --seed")
    audio_column: str | None = flag(
        None, "column of the recordings; unset: audio, path, file, ...", "--audio_column_name"
    )
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


# Reading


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
    from common.data import LIMITS, PHASES, Splits, select
    from common.speech.corpora import Reading
    from common.speech.sources import check_texts, encode_classes, joined, measure, read_sources

    reading = Reading(args, kind, {k: tuple(v) for k, v in classes.items()}, tuple(names), corpora, whole_noise, audio)
    needed = [name for name in SPLITS if getattr(args.training_args, PHASES[name])]
    sources = read_sources(needed, reading, hub_folder)
    for sentence in (one for clips in sources.values() for one in clips.warnings + clips.doubts):
        run.warn(sentence)
    frame = joined(sources)
    measure(frame, reading)
    feature = encode_classes(frame, sources, reading) if kind == "label" else check_texts(frame, sources)
    origin, splits = {name: clips.source for name, clips in sources.items()}, Splits()
    rows, skipped = {}, {}
    for name in sources:
        part = frame[frame["part"] == name].copy()
        rows[name], skipped[name] = _dataset(part, origin[name], args, run, feature)
        if prepare:
            rows[name], left_out = prepare(rows[name])
            skipped[name] |= left_out
    if "all" in rows:
        rows, words = _divided(rows["all"], args, origin["all"])
        run.note(f"split {words}")
        rows = {name: rows[name] for name in SPLITS if name in needed and len(rows[name])}
        origin = dict.fromkeys(rows, origin["all"])
        skipped = {name: skipped["all"] if i == 0 else {} for i, name in enumerate(rows)}
    for name, dataset in rows.items():
        dataset = dataset.remove_columns([column for column in ("split",) if column in dataset.column_names])
        splits[name], words = select(dataset, getattr(args, LIMITS[name]), args.sample_seed)
        facts = {"source": origin[name], "available": len(dataset), "selection": words, "skipped": skipped[name]}
        splits.facts[name] = facts
    if absent := [name for name in needed if name not in splits and name != "test"]:
        raise UserError(f"{next(iter(sources.values())).source}: no recording is left for {absent[0]}")
    if kind == "label":
        _check_classes(splits, run)
    if len(splits) > 1 and not all(any(split["speaker"][:]) for split in splits.values()):
        run.warn("speakers are not known: the same one may be in several splits, which makes scores too good")
    return splits if audio else _described(splits)


def _dataset(frame: "pd.DataFrame", source: str, args, run, feature) -> tuple["datasets.Dataset", dict[str, int]]:
    """The good rows of a source, and reason -> how many were left out; says which clips are there twice."""
    import datasets

    from common.speech.corpora import mark

    frame = frame.drop(columns="labels") if "labels" in frame and (frame["labels"] < 0).all() else frame
    frame = frame.drop(columns="text") if "text" in frame and (frame["text"] == "").all() else frame
    truth = [name for name in ("labels", "text") if name in frame]
    mark(frame, frame.duplicated(["path", "start", "end", *truth]), "row is there twice")
    good = frame["reason"] == ""
    again = frame[good].duplicated(["path", "start", "end"])
    if truth and again.any():
        what, where = "class" if feature is not None else "transcript", frame["where"][good][again].iloc[0]
        run.warn(f"{source}: {again.sum():,} rows give a clip another {what} than a row before, the first is {where}")
    skipped = dict(Counter(frame["reason"][~good]))
    broken = frame[frame["problem"] != ""]
    if len(broken) and args.on_bad_example == "stop":
        more = f" ({len(broken):,} clips are unusable)" if len(broken) > 1 else ""
        sentence = f"{broken['where'].iloc[0]}: {broken['problem'].iloc[0]}{more}"
        raise UserError(f"{sentence}; mend it or pass --on_bad_example skip")
    if not good.any():
        raise UserError(f"{source}: no usable recording ({skipped})")
    frame = frame[good].assign(recording=frame["id"][good])
    for name in ("speaker", "gender"):
        frame[name] = [one or None for one in frame[name].fillna("")] if name in frame else None
    frame["gender"] = [one and GENDERS.get(one[0].lower(), one) for one in frame["gender"]]
    numbers = dict.fromkeys(("start", "end", "seconds"), datasets.Value("float64"))
    fixed = ["id", "recording", "path", *numbers, "speaker", "gender", *truth]
    extra = [name for name in frame if name not in (*fixed, *WORKING)]
    kinds = numbers | ({"labels": feature} if "labels" in frame else {})
    features = {name: kinds.get(name, datasets.Value("string")) for name in fixed + extra}
    values = {name: [None if one != one else one for one in frame[name].tolist()] for name in features}
    return datasets.Dataset.from_dict(values, features=datasets.Features(features)), skipped


def _divided(whole: "datasets.Dataset", args, source: str) -> tuple[dict[str, "datasets.Dataset"], str]:
    """One source as splits, and how, in words."""
    import numpy as np

    from common.speech.splits import split_rows, with_columns

    given = np.array(whole["split"][:] if "split" in whole.column_names else [], dtype=str)
    if args.split == "given" and "train" not in given:
        raise UserError(f"{source}: does not say its splits; give --split speaker or --split random")
    words = {"speaker": "by speaker, none of whom is in two splits", "random": "at random"}
    by_people = "speaker" if any(whole["speaker"][:]) else "random"
    if by_people == "random" and args.split == "auto" and len({*whole["path"][:]}) < len(whole):  # parts of files
        people, by_people = with_columns(whole, {"speaker": whole["path"][:]}), "speaker"
        words["speaker"] = "by file, none of which is in two splits"
    else:
        people = whole
    how = args.split if args.split != "auto" else "given" if "train" in given else by_people
    shares = {"validation": args.validation_share, "test": args.test_share}
    shares = {"train": 1 - sum(shares.values()), **shares}
    words |= {"hash": "by the hash of the speaker", "given": "as the data say"}
    rows = {name: np.flatnonzero(given == name) for name in SPLITS if name in given} if how == "given" else {}
    absent = {name: shares[name] for name in SPLITS if name not in rows}
    if absent:  # all, or what the data do not say, which is then taken from their training data
        left = rows.get("train", np.arange(len(whole)))
        how_rest = by_people if how == "given" else how
        parts = split_rows(people.select(left), how_rest, {"train": shares["train"], **absent}, args.split_seed, source)
        rows |= {name: left[part] for name, part in parts.items()}
        rest = f"{' and '.join(absent)} taken from the training data {words[how_rest]} (split_seed {args.split_seed})"
        words["given"] += f"; {rest}"
    said = words[how] if how == "given" else f"{words[how]} (split_seed {args.split_seed})"
    return {name: whole.select(rows[name]) for name in SPLITS}, said


def _check_classes(splits: "Splits", run) -> None:
    """Says which classes cannot be learned; refuses training data of one class."""
    from common.data import label_counts

    counts = {name: label_counts(split) or {} for name, split in splits.items()}
    train = counts.pop("train", {})
    if len(there := [label for label, count in train.items() if count]) == 1:
        source = splits.facts["train"]["source"]
        raise UserError(f"{source}: all training clips are of the class {there[0]!r}; there must be two or more")
    for name in counts if train else ():
        if absent := [label for label, count in counts[name].items() if count and not train[label]]:
            run.warn(f"{name} has clips of {', '.join(absent)}, of which training has none: they cannot be learned")
        if absent := [label for label, count in train.items() if count and not counts[name].get(label, 1)]:
            run.warn(f"{name} has no clip of {', '.join(absent)}: its scores say nothing about them")


# Checking


def check_clips(splits: "Splits", args, run, silent_ok: Sequence[str] = ()) -> "Splits":
    """The splits without clips that are not whole, with a column `digest` (SHA-256 of the file) and true `seconds`.

    Every clip is decoded once, divided over the processes, and remembered. To be called by all processes together.

    Args:
        silent_ok: classes whose clips may be all zeros; those of unknown class may then, too.

    Raises:
        UserError: a bad clip, unless these are skipped.
    """
    from common.data import overlaps
    from common.speech.splits import with_columns

    truths, contents, may_be_silent = {}, {}, {*silent_ok, ""} if silent_ok else ()
    for name, split in splits.items():
        facts, skipped = splits.facts[name], Counter(splits.facts[name]["skipped"])
        distinct = list(dict.fromkeys(split["path"][:]))
        found = dict(zip(distinct, _examined(distinct, args, run)))
        labels = split.features["labels"].names if "labels" in split.features else None
        good, seconds = [], []
        kinds = [labels[i] for i in split["labels"][:]] if labels else [""] * len(split)
        rows = zip(kinds, *(split[key][:] for key in ("id", "path", "start", "end")))
        for i, (label, name_of_it, path, start, end) in enumerate(rows):
            clip = found[path]
            reason, problem, length = clip["reason"], clip["problem"].removeprefix(f"{path}: "), clip["seconds"]
            end = length if end is None else min(end, length)
            if not reason and not clip["peak"] and label not in may_be_silent:
                reason, problem = "silent", "is silent: all samples are 0"
            elif not reason and start >= end:
                reason, problem = "part beyond the end", f"its part begins after its end, at {length:.2f} s"
            if reason and args.on_bad_example == "stop":
                where = f"{facts['source']}, {name_of_it}" if "#" in path else path
                raise UserError(f"{where}: {problem}; mend it or pass --on_bad_example skip")
            if reason:
                skipped[reason] += 1
            else:
                good.append(i)
                seconds.append(end - start)
        if not good:
            raise UserError(f"{facts['source']}: no usable recording ({dict(skipped)})")
        split, facts["skipped"] = split.select(good), dict(skipped)
        digests = [found[path]["digest"] for path in split["path"][:]]
        splits[name] = split = with_columns(split, {"seconds": seconds, "digest": digests})
        contents[name] = [*zip(*(split[key][:] for key in CONTENT))]
        truth = next((column for column in ("labels", "text") if column in split.column_names), None)
        for content, said in zip(contents[name], split[truth][:] if truth else []):
            truths.setdefault(content, set()).add(said)
    for shared in overlaps(contents, "clip"):
        first, second = shared["between"]
        run.warn(f"{shared['examples']:,} clips of {second} ({shared['share']:.0%}) are in {first}, too")
    if twice := sum(len(said) > 1 for said in truths.values()):
        run.warn(f"{twice:,} clips are there more than once, with different labels or transcripts")
    return _described(splits)


def _examined(paths: list[str], args, run) -> list[dict]:
    """What `audio.examine` finds of each clip."""
    import hashlib

    import datasets
    import soundfile

    from common.cache import shared_map
    from common.speech.audio import examine, stored

    digest = hashlib.sha256()
    for path in paths:
        file = path.partition("#")[0]
        known = os.stat(file) if os.path.exists(file) else None
        digest.update(repr((path, known and (known.st_size, known.st_mtime_ns))).encode())

    def several(rows: dict[str, list]) -> dict[str, list]:
        # Threads, as decoding leaves Python's lock.
        with ThreadPoolExecutor(args.preprocessing_num_workers or os.cpu_count()) as threads:
            found = [*threads.map(lambda path: examine(stored(path), path), rows["path"])]
        return {name: [one[name] for one in found] for name in found[0]}

    key = {"examined": EXAMINING, "files": digest.hexdigest(), "libsndfile": soundfile.__libsndfile_version__}
    clips = datasets.Dataset.from_dict({"path": paths})
    options = {"batched": True, "batch_size": 64, "remove_columns": ["path"], "desc": "decoding"}
    return shared_map(clips, several, key=key, args=args, run=run, **options).to_list()


# Describing


def _described(splits: "Splits") -> "Splits":
    """With the facts and overlaps of results.json."""
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
    return splits


def hours(dataset: "datasets.Dataset") -> float:
    """Hours of sound; overlapping parts of a clip, and copies of it, count once."""
    total, last, until = 0.0, None, 0.0
    for clip, start, seconds in sorted(zip(*(dataset[key][:] for key in ("path", "start", "seconds")))):
        until = until if clip == last else 0.0
        total, last, until = total + max(0.0, start + seconds - max(start, until)), clip, max(until, start + seconds)
    return total / 3600


def recordings_table(splits: "Splits") -> tuple[list[str], list[list]]:
    """The table of all recordings, for a csv file and the report: header and rows."""
    rows = []
    for name, split in splits.items():
        labels = split.features["labels"].names if "labels" in split.features else None
        for row in split:
            truth = labels[row["labels"]] if labels else row.get("text")
            seconds = None if row["seconds"] is None else round(row["seconds"], 3)
            place = row["id"] if "#" in row["path"] else row["path"]
            rows.append([row["gender"], row["speaker"], truth, row["recording"], name, seconds, place])
    return ["gender", "speaker", "label" if labels else "text", "utterance", "split", "seconds", "path"], rows
