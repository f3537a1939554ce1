"""Recordings of speech with their classes or transcripts, from any source, as splits: a row a clip, never samples."""

import os
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import datasets
import numpy as np
import pandas as pd
import soundfile

from common.cache import is_archive, shared_map, unpacked
from common.data import LIMITS, PHASES, SPLITS, Splits, select
from common.errors import UserError, without_secrets
from common.files import matching
from common.hub import fetching, load_split
from common.labels import canonical, encode_labels
from common.speech import audio, corpora, tables
from common.speech.corpora import Reading, mark, without_bad
from common.speech.names import OWN, add_names
from common.speech.splits import CONTENT, check_classes, divided
from common.speech.transcripts import normalize

ROUNDING = 0.05  # seconds by which a part may end after its clip: tables round
GENDERS = {"m": "male", "male": "male", "f": "female", "female": "female"}  # and male_masculine of Common Voice


def load_recordings(args, run, *, rules=None, classes: Mapping = {}, names=(), hub_folder=None, prepare=None) -> Splits:
    """The splits that the run needs, from `--data_dir` or the files that are given, else from the hub.

    Rows have the columns id, recording (the id of the whole), path (see `audio`), digest (of the file), start, end in
    seconds (None: the clip's end), seconds, speaker, gender (None: unknown), labels (a ClassLabel) or text (neither in
    test data without truth), and what names of files say beside. Raises `UserError`.

    Args:
        rules: how transcripts are made alike (`Normalization`); None: the clips have classes.
        classes: emotions -> other spellings; corpora of them are told by the names of their files.
        names: the classes of a model that is only used.
        hub_folder: of `--dataset`, see `hub.load_split`.
        prepare: what is done with all rows (a `Dataset`) of a source before it is split.
    """
    reading = Reading(args, run, "label" if rules is None else "text", classes, names)
    needed = [name for name in SPLITS if getattr(args.training_args, PHASES[name])]
    sources = read_sources(needed, reading, hub_folder)
    for clips in sources.values():
        add_names(clips, reading)
        if rules is None and (doubt := clips.attrs.get("doubt")):
            run.warn(f"{clips.attrs['source']}: {doubt}")
    frame = pd.concat([clips.assign(part=name) for name, clips in sources.items()], ignore_index=True)
    true = with_truth(frame, sources, reading)
    if rules is None:
        feature = encode_classes(frame, true, sources, reading)
    else:
        feature, frame["text"] = None, [normalize(text, rules) for text in frame["text"]]
        mark(frame, true & (frame["text"] == ""), "empty transcript", "nothing in the transcript is spoken")
    check_sound(frame, reading)
    check_truths(frame, reading)
    splits = Splits()
    for name, clips in sources.items():
        source = clips.attrs["source"]
        dataset, skipped = to_dataset(frame[frame["part"] == name].copy(), source, args, feature)
        parts = {name: prepare(dataset) if prepare else dataset}
        if name == "all":
            parts, words = divided(parts[name], args, source)
            run.note(f"split {words}")
        elif "split" in dataset.column_names and len({*dataset["split"][:]}) > 1:
            run.warn(f"{source}: has clips of several splits, all of which are {name} data here; --data_dir heeds them")
        for part in (part for part in needed if len(parts.get(part, ()))):
            rows = parts[part].remove_columns([column for column in ("split",) if column in dataset.column_names])
            splits[part], selection = select(rows, getattr(args, LIMITS[part]), args.sample_seed)
            facts = {"source": source, "available": len(rows), "selection": selection, "skipped": skipped}
            splits.facts[part], skipped = facts, {}
    if absent := [n for n in needed if n not in splits and (n != "test" or "do_predict" in args.explicit)]:
        raise UserError(f"{source}: no recording is left for {absent[0]}")
    if rules is None:
        check_classes(splits, run)
    if len(splits) > 1 and not all(any(split["speaker"][:]) for split in splits.values()):
        run.warn("speakers are not known: the same one may be in several splits, which makes scores too good")
    return splits


def read_sources(needed: Sequence[str], reading: Reading, hub_folder: str | None) -> dict[str, pd.DataFrame]:
    """Split -> what its source says (`corpora.clips_frame`); "all" for one source that is to be split."""
    args = reading.args
    files = {"train": args.train_file, "validation": args.validation_file, "test": args.test_file}
    names = {"train": args.train_split_name, "validation": args.eval_split_name, "test": args.test_split_name}
    if args.data_dir:
        return {"all": _read([args.data_dir], reading)}
    idle = {"split_seed", "validation_share", "test_share"} | ({"split"} if args.split != "auto" else set())
    if (idle := sorted(idle & args.explicit)) and (any(files.values()) or args.split == "auto"):
        remedy = "leave it out, or give --data_dir, or --dataset with --split speaker or random"
        raise UserError(f"--{idle[0]} is for one source, but there is one for each split; {remedy}")
    if any(files.values()):
        optional = () if "do_predict" in args.explicit else ("test",)
        if absent := [name for name in needed if not files[name] and name not in optional]:
            sentence = f"there is no {absent[0]} data: give --{absent[0]}_file"
            raise UserError(f"{sentence}, or choose among --do_train --do_eval --do_predict")
        return {name: _read(files[name], reading) for name in needed if files[name]}
    if not args.dataset:
        raise UserError("there are no data: give --data_dir, --train_file, --dataset with a hub id, or --demo")
    wanted = {name: names[name] for name in needed} if args.split == "auto" else {"all": args.train_split_name}
    loaded = {name: load_split(args, split, folder=hub_folder) for name, split in wanted.items()}
    return {name: tables.hub_clips(*found, reading) for name, found in loaded.items()}


def _read(paths: list[str], reading: Reading) -> pd.DataFrame:
    """The clips of a folder or an archive, or of one or several recordings or tables, which patterns may name."""
    args, source = reading.args, ", ".join(map(without_secrets, paths))
    paths = [path for one in paths for path in matching(one)]
    path, files, sounds = Path(paths[0]), {}, [*filter(corpora.is_audio, paths)]
    trees = [one for one in paths if os.path.isdir(one) or (is_archive(one) and os.path.isfile(one))]
    if len(paths) > 1 and (trees or 0 < len(sounds) < len(paths)):
        raise UserError(f"{source}: cannot be read as one; put the recordings into one folder or table")
    if trees:
        files = corpora.list_files(path if path.is_dir() else unpacked(path, args), args)
    elif sounds:
        above = os.path.commonpath([os.path.dirname(os.path.abspath(one)) for one in paths])
        files = {Path(os.path.relpath(one, above)).as_posix(): one for one in paths}
    if path.is_dir() or len(files) > 1 or any(map(corpora.is_audio, files)):  # an archive may have a table alone
        readings = (corpora.with_truths, tables.tables_in, corpora.class_folders)
        found = (read(files, reading) for read in readings)
        frame = next(frame for frame in found if frame is not None)
    elif path.name.endswith(".parquet") and path.is_file():  # maybe with the sound in it, so not read as a whole
        with fetching("file", source):
            dataset = datasets.Dataset.from_parquet(paths, cache_dir=args.cache_dir)
        frame = tables.hub_clips(dataset, source, reading)
    else:
        frame = tables.table_clips(tables.read_table(paths, args), reading)
    if odd := next((one for one in frame["path"] if re.search("[\ud800-\udfff]", one)), None):
        raise UserError(f"{os.fsencode(odd)!r}: the name of this file is not UTF-8; rename it")
    frame.attrs.setdefault("source", source)
    return frame


def with_truth(frame: pd.DataFrame, sources: Mapping[str, pd.DataFrame], reading: Reading) -> pd.Series:
    """Which rows are of parts with the truth, whose column gets "" for gaps; only a test set may be without it."""
    column = reading.kind
    frame[column] = frame[column].fillna("").str.normalize("NFC") if column in frame else ""  # macOS names are NFD
    found = (frame[column] != "").groupby(frame["part"]).transform("any")
    if absent := [name for name in frame["part"][~found].unique() if name != "test"]:
        about = sources[absent[0]].attrs
        remedy = f"nothing says the {column} of its clips; give a table that does"
        remedy += ", or folders by class, --name_pattern or --corpus" * (column == "label")
        raise UserError(f"{about['source']}: {about.get('remedy') or remedy}; or give --test_file only")
    return found


def encode_classes(frame: pd.DataFrame, true: pd.Series, sources: Mapping[str, pd.DataFrame], reading: Reading):
    """Gives the frame the column `labels` (-1: no truth); the `ClassLabel` of all splits, None where none has any."""
    args, known = reading.args, reading.classes
    meant = frame["label"].map(lambda label: canonical(label, known))
    usual = meant.groupby(meant.str.casefold()).agg(lambda same: same.value_counts().index[0])  # YES and yes are one
    frame["label"], frame["labels"] = meant.str.casefold().map(usual), -1
    ours = frame["label"].str.casefold().isin([name.casefold() for name in reading.names])
    named = ours.groupby(frame["part"]).transform("any")
    if reading.names:  # of a model that is used: folders need not be called by class
        free = [name for name in sources if name == "test" or not args.training_args.do_eval]
        true &= named | ~frame["part"].isin([name for name in free if "numbered" not in sources[name].attrs])
    there = sorted({*frame["label"]} - {""})
    dropped = {usual.get(canonical(name, known).casefold(), name) for name in args.drop_labels}
    if absent := dropped - {*there}:
        raise UserError(f"--drop_labels {min(absent)}: there is no such class, only {', '.join(there) or 'unknown'}")
    mark(frame, frame["label"].isin(dropped), f"class dropped ({', '.join(sorted(dropped))})")
    if corpora.UNKNOWN in reading.names:  # it is for every other word
        frame.loc[named & ~ours & ~frame["label"].isin(["", corpora.SILENCE]), "label"] = corpora.UNKNOWN
    table = frame[true & (frame["reason"] == "")]
    if not len(table):
        return None
    rows, places = table.index, [where.rpartition(", row ") for where in table["where"]]
    table = table.set_index(pd.MultiIndex.from_tuples([(file or row, row) for file, _, row in places]))
    if not any(sources[name].attrs.get("numbered") for name in table["part"].unique()):
        table.attrs = {"label_names": {"label": sorted({*table["label"]} - {""})}}  # also what looks like a number
    options = {"known": known, "label_order": args.order, "names": reading.names or None}
    ids, feature, problems = encode_labels(table, "label", **options)
    if ids is None:
        raise UserError(f"{table['where'].iloc[0]}: no clip has a label; it may be a hidden test set")
    frame.loc[rows, "labels"] = ids
    for at, (reason, problem) in problems.items():
        frame.loc[rows[at], ["reason", "problem"]] = reason, problem or ""
    return feature


def check_sound(frame: pd.DataFrame, reading: Reading) -> None:
    """Adds `seconds` and `digest` (of the file) of the clips; takes bad ones out, and too short or too long ones."""
    args = reading.args
    for name in ("start", "end"):
        frame[name] = frame[name].astype(float) if name in frame else np.nan
    frame["start"] = frame["start"].fillna(0.0)
    paths = [*frame["path"][frame["reason"] == ""].unique()]
    found = examined(paths or [""], args, reading.run).reindex(frame["path"]).set_index(frame.index)
    frame["digest"], lengths = found["digest"], found["seconds"]
    mark(frame, found["reason"] != "", found["reason"], found["problem"])
    beyond = (frame["reason"] == "") & ((frame["start"] >= lengths) | (frame["end"] > lengths + ROUNDING))
    own = frame["path"].str.contains(".arrow#", regex=False)
    if own.any() and beyond[own].mean() > 0.5:  # as of AMI and GigaSpeech, on the hub; of a few rows it is a mistake
        reading.run.warn("times are not used: rows have sound of their own, and they are of what it was cut from")
        frame.loc[own, ["start", "end"]], beyond = (0.0, np.nan), beyond & ~own
    late = "its part ends after the clip, at {:.2f} s; if these are times of what it was cut from, remove their columns"
    mark(frame, beyond, "part beyond the end", [*map(late.format, lengths)])
    frame["seconds"] = np.fmin(frame["end"], lengths) - frame["start"]
    mark(frame, frame["seconds"].round(5) < audio.MINIMUM, "too short", f"too short: encoders need {audio.MINIMUM} s")
    silent = found["peak"] == 0
    if reading.kind == "label" and not reading.classes:  # of keywords, where silence may be the class
        silent &= (frame["labels"] >= 0) & (frame["label"] != corpora.SILENCE)
    mark(frame, silent, "silent", "is silent: all samples are 0")
    if reading.kind == "text":
        wrong = ~frame["seconds"].between(args.min_seconds, np.inf if args.max_seconds is None else args.max_seconds)
        mark(frame, wrong, "shorter or longer than asked for")


def check_truths(frame: pd.DataFrame, reading: Reading) -> None:
    """Warns of the same sound with different classes or transcripts, and of copies of files in one split."""
    truth = "text" if reading.kind == "text" else "labels"
    good = frame[frame["reason"] == ""]
    rows = good[~good[truth].isin(["", -1])]
    rows = rows[rows.groupby(CONTENT, dropna=False)[truth].transform("nunique") > 1]
    files = good.drop_duplicates(["path", *CONTENT])
    words = {"there more than once, with different labels or transcripts": rows.drop_duplicates(CONTENT)}
    words["copies of others, and count as often as they are there"] = files[files.duplicated(["part", *CONTENT, truth])]
    for said, found in words.items():
        if len(found):
            reading.run.warn(f"{len(found):,} clips are {said}, such as {found['where'].iloc[0]}")


def examined(paths: list[str], args, run) -> pd.DataFrame:
    """What `audio.examine` finds of each clip, by path; remembered, and shared by all processes."""

    def several(rows: dict[str, list]) -> dict[str, list]:
        with ThreadPoolExecutor(args.preprocessing_num_workers or os.cpu_count()) as threads:
            return pd.DataFrame(threads.map(audio.examine, rows["path"])).to_dict("list")

    def stamp(path: str) -> list:
        file = path.rsplit("#", 2)[0] if ".arrow#" in path else path
        return [path, os.path.getsize(file), os.path.getmtime(file)] if os.path.isfile(file) else [path]

    key = {"libsndfile": soundfile.__libsndfile_version__, "files": [*map(stamp, paths)]}
    clips = datasets.Dataset.from_dict({"path": paths})
    options = {"batched": True, "batch_size": 64, "desc": "decoding"}
    return shared_map(clips, several, key=key, args=args, run=run, **options).to_pandas().set_index("path")


def to_dataset(frame: pd.DataFrame, source: str, args, feature) -> tuple[datasets.Dataset, dict[str, int]]:
    """The good rows of a source, with classes of that feature if any, and reason -> how many were left out."""
    truth = ["labels"] if feature is not None and (frame["labels"] >= 0).any() else []
    truth += ["text"] if "text" in frame and (frame["text"] != "").any() else []
    mark(frame, frame.duplicated(["path", "start", "end", *truth]), "row is there twice")
    good, skipped = without_bad(frame, source, args.on_bad_example == "skip")
    good = good.assign(recording=good["id"])
    for name, spelt in (("speaker", {}), ("gender", GENDERS)):
        said = good[name].fillna("") if name in good else [""] * len(good)
        good[name] = [spelt.get(one.lower().partition("_")[0], one) or None for one in said]
    fixed = ["id", "recording", "path", "digest", "start", "end", "seconds", "speaker", "gender", *truth]
    kinds = dict.fromkeys(("start", "end", "seconds"), datasets.Value("float64")) | {"labels": feature}
    names = [*fixed, *(name for name in good if name not in (*fixed, *OWN, "label", "labels", "text"))]
    features = datasets.Features({name: kinds.get(name, datasets.Value("string")) for name in names})
    return datasets.Dataset.from_pandas(good[names], features=features, preserve_index=False), skipped
