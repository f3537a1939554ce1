"""What sources say of their clips, checked: where it is read from, classes by number, transcripts, lengths by header.

What folders and corpora say stands in `corpora`, what tables say in `tables`.
"""

import glob
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import datasets
import numpy as np
import pandas as pd
import soundfile

from common.cache import is_archive, shared_map, unpacked
from common.errors import UserError
from common.hub import fetching, load_split
from common.labels import canonical, encode_labels
from common.speech import audio, corpora, tables
from common.speech.corpora import Reading, mark

ROUNDING = 0.05  # seconds by which a part may end after its clip: tables round
GENDERS = {"m": "male", "f": "female"}  # by first letter
WORKING = ("name", "where", "reason", "problem", "part", "label", "labels", "text")  # columns of frames, not of splits
EXAMINING = 4  # to be raised when `audio.examine` finds something else
THREADS = 16  # of headers read at once, which is mostly waiting for the disk
REMEDIES = {
    "label": "the clips are not in folders by class; make such folders, give a table, --name_pattern or --corpus, or, "
    "where classes are only to be predicted, a --test_file",
    "text": "clips alone have no transcripts; give a table with paths and texts, or what is only to be transcribed as "
    "--test_file",
}


def read_sources(needed: Sequence[str], reading: Reading, hub_folder: str | None) -> dict[str, pd.DataFrame]:
    """Split -> what its source says (`corpora.clips_frame`); "all" for one source that is to be split."""
    args = reading.args
    files = {"train": args.train_file, "validation": args.validation_file, "test": args.test_file}
    names = {"train": args.train_split_name, "validation": args.eval_split_name, "test": args.test_split_name}
    if args.data_dir:
        return {"all": _read([args.data_dir], reading)}
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
    return {name: _checked(tables.hub_clips(*found, reading), reading) for name, found in loaded.items()}


def _read(paths: list[str], reading: Reading) -> pd.DataFrame:
    """The clips of a folder or an archive, or of one or several recordings or tables, which patterns may name."""
    args, source = reading.args, ", ".join(paths)
    paths = [path for one in paths for path in ([] if os.path.exists(one) else sorted(glob.glob(one))) or [one]]
    path = Path(paths[0])
    sounds = {os.path.abspath(one): one for one in paths if corpora.is_audio(one) and not os.path.isdir(one)}
    above = os.path.commonpath(map(os.path.dirname, sounds)) if sounds else ""
    files = {Path(place).relative_to(above).as_posix(): one for place, one in sounds.items()}
    for one in map(Path, paths):
        if one.is_dir() or (one.is_file() and is_archive(one)):
            files |= corpora.list_files(one if one.is_dir() else unpacked(one, args), args)
            if len(paths) > 1 and (one.is_dir() or any(map(corpora.is_audio, files))):
                raise UserError(f"{source}: several folders or archives cannot be read as one; make one folder of them")
    if sounds and not {*map(os.path.abspath, paths)} <= {*sounds}:
        raise UserError(f"{source}: recordings and tables cannot be read as one; put them into one table")
    if path.is_dir() or len(files) > 1 or any(map(corpora.is_audio, files)):
        frame = corpora.with_truths(files)
        frame = tables.tables_in(files, reading) if frame is None else frame
        frame = corpora.class_folders(files, reading) if frame is None else frame
    elif path.name.endswith(".parquet") and path.is_file():  # maybe with the sound in it, so not read as a whole
        with fetching("file", source):
            dataset = datasets.Dataset.from_parquet(paths, cache_dir=args.cache_dir)
        frame = tables.hub_clips(dataset, source, reading)
    else:
        frame = tables.table_clips(tables.read_table(paths, args), reading)
    frame.attrs.setdefault("source", source)
    return _checked(frame, reading)


def _checked(frame: pd.DataFrame, reading: Reading) -> pd.DataFrame:
    """With what the names of the files say."""
    if not len(frame):
        raise UserError(
            f"{frame.attrs['source']}: has no clip; sound ends with one of {', '.join(audio.AUDIO_ENDINGS)}"
        )
    corpora.add_names(frame, reading)
    if reading.kind == "label" and (doubt := frame.attrs.get("doubt")):
        reading.run.warn(f"{frame.attrs['source']}: {doubt}")
    return frame


def with_truth(column: str, frame: pd.DataFrame, sources: Mapping[str, pd.DataFrame]) -> pd.Series:
    """Which rows are of parts with the truth, whose column gets "" for gaps; only a test set may be without it."""
    frame[column] = frame[column].fillna("").str.normalize("NFC") if column in frame else ""  # macOS names are NFD
    found = (frame[column] != "").groupby(frame["part"]).transform("any")
    if absent := [name for name in frame["part"][~found].unique() if name != "test"]:
        about = sources[absent[0]].attrs
        raise UserError(f"{about['source']}: {about.get('remedy') or REMEDIES[column]}")
    return found


def encode_classes(
    frame: pd.DataFrame, sources: Mapping[str, pd.DataFrame], reading: Reading
) -> datasets.ClassLabel | None:
    """Gives the frame the column `labels` (-1: no truth), and returns its feature (None: no source has classes).

    The classes are those of all splits; spellings that differ only in case are one.
    """
    args, known, usual = reading.args, reading.classes, {}
    true, frame["labels"] = with_truth("label", frame, sources), -1
    meant = frame["label"].map({label: canonical(label, known) for label in frame["label"].unique()})
    for spelling in meant.value_counts().index:
        usual.setdefault(spelling.casefold(), spelling)  # YES and yes are one class
    frame["label"] = meant.str.casefold().map(usual)
    test = frame["part"] == "test"
    if reading.names and not frame["label"][test].isin(reading.names).any():
        true &= ~test  # folders need not be called by class where a model is used
    there = sorted({*frame["label"]} - {""})
    dropped = {usual.get(canonical(name, known).casefold(), name) for name in args.drop_labels}
    if absent := dropped - {*there}:
        raise UserError(f"--drop_labels {min(absent)}: there is no such class, only {', '.join(there)}")
    mark(frame, frame["label"].isin(dropped), f"class dropped ({', '.join(sorted(dropped))})")
    table = frame[true & (frame["reason"] == "")]
    if not len(table):
        return None
    rows, places = table.index, [where.rpartition(", row ") for where in table["where"]]
    table = table.set_index(pd.MultiIndex.from_tuples([(file or row, row) for file, _, row in places]))
    if not any(sources[name].attrs.get("numbered") for name in table["part"].unique()):
        table.attrs = {"label_names": {"label": sorted({*table["label"]} - {""})}}  # also what looks like a number
    names = reading.names or None
    ids, feature, problems = encode_labels(table, "label", known=known, label_order=args.order, names=names)
    if ids is None:
        raise UserError(f"{table['where'].iloc[0]}: no clip has a label; it may be a hidden test set")
    frame.loc[rows, "labels"] = ids
    for at, (reason, problem) in problems.items():
        frame.loc[rows[at], ["reason", "problem"]] = reason, problem or ""
    return feature


def check_texts(frame: pd.DataFrame, sources: Mapping[str, pd.DataFrame]) -> None:
    """Takes rows with an empty transcript out."""
    true = with_truth("text", frame, sources)
    mark(frame, true & (frame["text"] == ""), "empty transcript", "the transcript is empty")


def measure(frame: pd.DataFrame, reading: Reading) -> None:
    """Adds `seconds` by the headers of the clips; takes out bad ones, and those that are not as long as asked for."""
    for name in ("start", "end", "seconds"):
        frame[name] = frame[name].astype(float) if name in frame else np.nan
    frame["start"] = frame["start"].fillna(0.0)
    if not reading.audio:
        return

    def header(path: str) -> tuple[float, str, str]:
        try:
            return audio.seconds_of(path), "", ""
        except audio.BadAudio as problem:
            return np.nan, problem.reason, str(problem)

    paths = frame["path"][frame["reason"] == ""].unique()
    with ThreadPoolExecutor(THREADS) as threads:
        found = pd.DataFrame(threads.map(header, paths), paths, ["length", "reason", "problem"])
    found = found.reindex(frame["path"])
    mark(frame, found["length"].isna(), found["reason"], found["problem"])
    lengths = found["length"].to_numpy()
    beyond = (frame["start"] >= lengths) | (frame["end"] > lengths + ROUNDING)
    mark(frame, beyond, "part beyond the end", [f"its part ends after the clip, at {end:.2f} s" for end in lengths])
    frame["seconds"] = np.fmin(frame["end"], lengths) - frame["start"]
    if reading.kind == "text":
        wrong = ~frame["seconds"].between(reading.args.min_seconds, reading.args.max_seconds or np.inf)
        mark(frame, wrong, "shorter or longer than asked for")


def without_bad(frame: pd.DataFrame, source: str, skip: bool) -> tuple[pd.DataFrame, dict[str, int]]:
    """The good rows (see `corpora.mark`), and reason -> how many were left out.

    Raises:
        UserError: for the first one with a problem, unless such are skipped; or no row is left.
    """
    bad = frame[frame["reason"] != ""]
    broken = bad[bad["problem"] != ""]
    if len(broken) and not skip:
        counts = ", ".join(f"{count:,} {reason}" for reason, count in broken["reason"].value_counts().items())
        more = f" ({len(broken):,} clips are unusable: {counts})" if len(broken) > 1 else ""
        where, problem = broken[["where", "problem"]].iloc[0]
        sentence = f"{where}: {problem.removeprefix(f'{where}: ')}{more}"
        raise UserError(f"{sentence}; mend it or pass --on_bad_example skip")
    skipped = bad["reason"].value_counts(sort=False).to_dict()
    if len(bad) == len(frame):
        raise UserError(f"{source}: no usable recording ({skipped})")
    return frame[frame["reason"] == ""], skipped


def to_dataset(frame: pd.DataFrame, source: str, args, feature) -> tuple[datasets.Dataset, dict[str, int]]:
    """The good rows of a source, with classes of that feature if any, and reason -> how many were left out."""
    truth = ["labels"] if feature is not None and (frame["labels"] >= 0).any() else []
    truth += ["text"] if "text" in frame and (frame["text"] != "").any() else []
    mark(frame, frame.duplicated(["path", "start", "end", *truth]), "row is there twice")
    good, skipped = without_bad(frame, source, args.on_bad_example == "skip")
    good = good.assign(recording=good["id"])
    for name, spelt in (("speaker", {}), ("gender", GENDERS)):
        said = good[name].fillna("") if name in good else [""] * len(good)
        good[name] = [spelt.get(one[:1].lower(), one) or None for one in said]
    fixed = ["id", "recording", "path", "start", "end", "seconds", "speaker", "gender", *truth]
    kinds = dict.fromkeys(("start", "end", "seconds"), datasets.Value("float64")) | {"labels": feature}
    names = [*fixed, *(name for name in good if name not in (*fixed, *WORKING))]
    features = datasets.Features({name: kinds.get(name, datasets.Value("string")) for name in names})
    return datasets.Dataset.from_pandas(good[names], features=features, preserve_index=False), skipped


def examined(paths: list[str], args, run) -> pd.DataFrame:
    """What `audio.examine` finds of each clip, a row each, with the path as index."""

    def several(rows: dict[str, list]) -> dict[str, list]:
        # Threads, as decoding leaves Python's lock.
        with ThreadPoolExecutor(args.preprocessing_num_workers or os.cpu_count()) as threads:
            return pd.DataFrame(threads.map(audio.examine, rows["path"])).to_dict("list")

    stats = [os.stat(path.rsplit("#", 2)[0] if ".arrow#" in path else path) for path in paths]
    key = {"examined": EXAMINING, "libsndfile": soundfile.__libsndfile_version__}
    key["files"] = [(path, stat.st_size, stat.st_mtime_ns) for path, stat in zip(paths, stats)]
    clips = datasets.Dataset.from_dict({"path": paths})
    options = {"batched": True, "batch_size": 64, "desc": "decoding"}
    return shared_map(clips, several, key=key, args=args, run=run, **options).to_pandas().set_index("path")
