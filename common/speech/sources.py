"""What sources say of their clips, checked: where it is read from, classes by number, transcripts, lengths by header.

What folders and corpora say stands in `corpora`, what tables say in `tables`.
"""

import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd

from common.cache import is_archive, unpacked
from common.data import read_files
from common.errors import UserError
from common.hub import fetching, load_split
from common.labels import canonical, encode_labels
from common.speech import corpora, tables
from common.speech.audio import BadAudio, seconds_of, stored
from common.speech.corpora import Clips, Reading, mark

ROUNDING = 0.05  # seconds by which a part may end after its clip: tables round
THREADS = 16  # of headers read at once, which is mostly waiting for the disk


def read_sources(needed: Sequence[str], reading: Reading, hub_folder: str | None) -> dict[str, Clips]:
    """Split -> what its source says; "all" for one source that is to be split."""
    args = reading.args
    files = {"train": args.train_file, "validation": args.validation_file, "test": args.test_file}
    names = {"train": args.train_split_name, "validation": args.eval_split_name, "test": args.test_split_name}
    if any(files.values()):
        optional = () if "do_predict" in args.explicit else ("test",)
        if absent := [name for name in needed if not files[name] and name not in optional]:
            sentence = f"there is no {absent[0]} data: give --{absent[0]}_file"
            raise UserError(f"{sentence}, or choose among --do_train --do_eval --do_predict")
        return {name: _named(_read(files[name], reading), reading) for name in needed if files[name]}
    if args.data_dir:
        return {"all": _named(_read([args.data_dir], reading), reading)}
    if not args.dataset:
        raise UserError("there are no data: give --data_dir, --train_file, --dataset with a hub id, or --demo")
    wanted = {name: names[name] for name in needed} if args.split == "auto" else {"all": args.train_split_name}
    loaded = {name: load_split(args, split, folder=hub_folder) for name, split in wanted.items()}
    return {name: _named(tables.hub_clips(*found, reading), reading) for name, found in loaded.items()}


def _read_tree(files: corpora.Files, source: str, reading: Reading) -> Clips:
    """The clips of a folder, by what is in it."""
    if any(name in files for name in corpora.LISTS.values()) or any(path.startswith(corpora.NOISE) for path in files):
        return corpora.speech_commands(files, source, reading.whole_noise)
    if any(path.endswith(".trans.txt") for path in files):
        return corpora.librispeech(files, source)
    if any("EmoEvaluation/" in path for path in files):
        return corpora.iemocap(files, source)
    metadata = {path: files[path] for path in files if PurePosixPath(path).name in ("metadata.csv", "metadata.jsonl")}
    for place in metadata.values():
        if tables.is_ljspeech(Path(place)):
            return tables.ljspeech(Path(place), files, reading)
    if metadata:
        splits = {place: corpora.SPLITS.get(path.split("/")[0].lower()) for path, place in metadata.items()}
        return tables.tables_of_folder(splits, files, source, reading)
    if any(re.search(r"(^|/)clips/", path) for path in files) and any(path.endswith(".tsv") for path in files):
        return tables.common_voice(files, source, reading)
    return corpora.class_folders(files, source, reading)


def _read(paths: list[str], reading: Reading) -> Clips:
    """The clips of a folder, an archive, a recording, or of one or several tables."""
    path, args = Path(paths[0]), reading.args
    if len(paths) > 1 and any(Path(one).is_dir() for one in paths):
        raise UserError(f"{paths[0]}, {paths[1]}: several folders cannot be read as one; put them into one folder")
    if path.is_dir():
        return _read_tree(corpora.list_files(path, args), str(path), reading)
    if path.is_file() and is_archive(path):
        files = corpora.list_files(unpacked(path, args), args)
        if len(files) > 1 or any(map(corpora.is_audio, files)):  # else it is a table, compressed
            return _read_tree(files, str(path), reading)
    if corpora.is_audio(path.name):
        return _read_tree({path.name: str(path)}, str(path), reading)
    if path.name.endswith(".csv") and path.is_file() and tables.is_ljspeech(path):
        return tables.ljspeech(path, {}, reading)
    if path.name.endswith(".parquet") and path.is_file():  # maybe with the sound in it, so not read as a whole
        import datasets

        with fetching("file", str(path)):
            dataset = datasets.Dataset.from_parquet(paths, cache_dir=args.cache_dir)
        return tables.hub_clips(dataset, ", ".join(paths), reading)
    named = tables.named_facts(path)
    return tables.table_clips(read_files(paths, args) if named is None else named, reading)


def _named(clips: Clips, reading: Reading) -> Clips:
    """With what the names of the files say, by `--name_pattern`, or as a corpus of emotions."""
    args = reading.args
    if not len(clips.frame):
        raise UserError(f"{clips.source}: has no clip; sound ends with one of {', '.join(corpora.AUDIO_ENDINGS)}")
    if args.corpus and args.corpus not in corpora.CORPORA:
        raise UserError(f"--corpus {args.corpus}: choose one of {', '.join(corpora.CORPORA)}")
    corpus = args.corpus or (corpora.corpus_of(clips) if reading.corpora and not args.name_pattern else None)
    if args.name_pattern:
        said = corpora.said_by_names(clips, corpora.name_pattern(args.name_pattern))
        corpora.add_names(clips, said, f"--name_pattern {args.name_pattern}")
    elif corpus:
        corpora.apply_corpus(clips, corpus)
        clips.source = f"{clips.source} ({corpus})"
    return clips


def _with_truth(column: str, frame: pd.DataFrame, sources: Mapping[str, Clips]) -> list[str]:
    """The parts that have the truth, without gaps in that column; a test set may be without it, the others may not."""
    frame[column] = frame[column].fillna("") if column in frame else ""
    found = [name for name in sources if (frame[column][frame["part"] == name] != "").any()]
    if absent := [name for name in sources if name not in (*found, "test")]:
        raise UserError(f"{sources[absent[0]].source}: {sources[absent[0]].remedy}")
    return found


def encode_classes(frame: pd.DataFrame, sources: Mapping[str, Clips], reading: Reading):
    """Gives the frame the column `labels` (-1: no truth), and returns its feature (None: no source has classes).

    The classes are those of all splits; spellings that differ only in case are one.
    """
    args, known, usual = reading.args, reading.classes, {}
    parts, frame["labels"] = _with_truth("label", frame, sources), -1
    for spelling in frame["label"].map(lambda label: canonical(label, known)).value_counts().index:
        usual.setdefault(spelling.casefold(), spelling)  # YES and yes are one class

    def name_of(label: str) -> str:
        return usual.get(canonical(label, known).casefold(), canonical(label, known))

    frame["label"] = frame["label"].map(name_of)
    if "test" in parts and reading.names and not {*frame["label"][frame["part"] == "test"]} & {*reading.names}:
        parts.remove("test")  # folders need not be called by class where a model is used
    dropped, there = {*map(name_of, args.drop_labels)}, sorted({*frame["label"]} - {""})
    if absent := dropped - {*there}:
        raise UserError(f"--drop_labels {min(absent)}: there is no such class, only {', '.join(there)}")
    mark(frame, frame["label"].isin(dropped), f"class dropped ({', '.join(sorted(dropped))})")
    table = frame[frame["part"].isin(parts) & (frame["reason"] == "")]
    if not len(table):
        return None
    rows, places = table.index, [where.rpartition(", row ") for where in table["where"]]
    table = table.set_index(pd.MultiIndex.from_tuples([(file or row, row) for file, _, row in places]))
    if not any(sources[name].numbered for name in parts):  # then labels that look like numbers are names, too
        there = sorted({*table["label"]} - {""})
        own = [canonical(one, known) for name in parts for one in sources[name].names]
        table.attrs["label_names"] = {"label": [*dict.fromkeys([*(one for one in own if one in there), *there])]}
    ids, feature, problems = encode_labels(
        table, "label", known=known, label_order=args.order, names=reading.names or None
    )
    if ids is None:
        raise UserError(f"{sources[parts[0]].source}: no clip has a label; it may be a hidden test set")
    frame.loc[rows, "labels"] = ids
    for at, (reason, problem) in problems.items():
        frame.loc[rows[at], ["reason", "problem"]] = reason, problem or ""
    return feature


def check_texts(frame: pd.DataFrame, sources: Mapping[str, Clips]) -> None:
    """Takes rows with an empty transcript out."""
    parts = _with_truth("text", frame, sources)
    mark(frame, frame["part"].isin(parts) & (frame["text"] == ""), "empty transcript", "the transcript is empty")


def measure(frame: pd.DataFrame, reading: Reading) -> None:
    """Adds `seconds` by the headers of the clips; takes out bad ones, and those that are not as long as asked for."""
    for name in ("start", "end", "seconds"):
        frame[name] = frame[name].astype(float) if name in frame else np.nan
    frame["start"] = frame["start"].fillna(0.0)
    if not reading.audio:
        return

    def header(path: str) -> float | BadAudio:
        try:
            return seconds_of(stored(path), path)
        except BadAudio as problem:
            return problem

    distinct = frame["path"][frame["reason"] == ""].unique()
    with ThreadPoolExecutor(THREADS) as threads:
        found = frame["path"].map(dict(zip(distinct, threads.map(header, distinct))))
    reasons = found.map(lambda one: getattr(one, "reason", ""))
    problems = [str(one).removeprefix(f"{where}: ") for one, where in zip(found, frame["where"])]
    mark(frame, reasons != "", reasons, problems)
    lengths = pd.to_numeric(found.where(reasons == ""), errors="coerce")
    beyond = (frame["start"] >= lengths) | (frame["end"] > lengths + ROUNDING)
    problems = [f"its part ends after the clip, at {length:.2f} s" for length in lengths]
    mark(frame, beyond, "part beyond the end", problems)
    frame["seconds"] = np.fmin(frame["end"], lengths) - frame["start"]
    if reading.kind == "text":
        longest = reading.args.max_seconds or np.inf
        wrong = (frame["seconds"] < reading.args.min_seconds) | (frame["seconds"] > longest)
        mark(frame, wrong, "shorter or longer than asked for")


def without_bad(frame: pd.DataFrame, source: str, args) -> tuple[pd.DataFrame, dict[str, int]]:
    """The good rows, and reason -> how many were left out.

    Raises:
        UserError: for the first one with a problem, unless such are skipped; or no row is left.
    """
    bad = frame[frame["reason"] != ""]
    broken = bad[bad["problem"] != ""]
    if len(broken) and args.on_bad_example == "stop":
        counts = ", ".join(f"{count:,} {reason}" for reason, count in broken["reason"].value_counts().items())
        more = f" ({len(broken):,} clips are unusable: {counts})" if len(broken) > 1 else ""
        sentence = f"{broken['where'].iloc[0]}: {broken['problem'].iloc[0]}{more}"
        raise UserError(f"{sentence}; mend it or pass --on_bad_example skip")
    skipped = bad["reason"].value_counts(sort=False).to_dict()
    if len(bad) == len(frame):
        raise UserError(f"{source}: no usable recording ({skipped})")
    return frame[frame["reason"] == ""], skipped
