"""What tables, and hub data sets, say of each of their clips: one clip, or a part of one, a row."""

import functools
import itertools
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath

import pandas as pd

from common.errors import UserError
from common.speech.corpora import SPLITS, Clips, Files, Reading, clips_frame, is_audio, mark, read_lines, stem

# Where the parts of a row are found by themselves, the first name that is there; compared without case.
COLUMNS = {
    "path": ("audio", "path", "file", "file_name", "filename", "wav", "audio_path", "audio_filepath", "audio_file"),
    "label": ("label", "class", "emotion", "keyword", "label_text", "labels", "category"),
    "text": ("normalized_text", "text", "sentence", "transcript", "transcription"),
    "speaker": ("speaker", "speaker_id", "client_id", "speaker_code"),
    "gender": ("gender", "sex"),
    "split": ("split", "subset"),
    "id": ("id", "utterance_id", "utt_id", "uid", "name"),
    "start": ("start", "begin", "start_time", "offset"),
    "end": ("end", "end_time"),
    "duration": ("duration",),  # of a part, where its start is there, too; otherwise it only repeats the file's header
}
FLAGS = {"path": "audio_column", "label": "label_column", "text": "text_column", "speaker": "speaker_column"}
CLIP_FOLDERS = ("", "clips", "wavs", "audio")  # where relative paths are looked for, beside the table
GROUPS, LONGEST_GROUP = 50, 40  # a further column is kept when it has so few distinct values, of so few characters
RESERVED = ("name", "part", "recording", "seconds", "labels", "digest")  # columns of our own, further on


def table_clips(table: pd.DataFrame, reading: Reading, paths: list[str] | None = None) -> Clips:
    """The clips of a table as `common.data.read_files` gives it.

    Args:
        paths: where the clips are; None: a column has files.
    """
    source, count = table.attrs["source"], len(table)
    found = _found([*table.columns], reading.args, source)
    if paths is None and found["path"] is None and reading.audio:
        raise UserError(f"{source}: {_no_column('path', table.columns)}")
    cells = {part: [*map(text_of, table[column])] for part, column in found.items() if column is not None}
    own, named = cells.pop("id", [""] * count), cells.pop("path", None)
    named = paths or named or own
    # The data's own ids where all differ, else the paths as the table has them, with numbers where these repeat.
    base = [source] * count if paths else named
    ids = next((one for one in (own, base) if all(one) and len({*one}) == count), None)
    ids = ids or [f"{name}#{i}" for i, name in enumerate(base, start=1)]
    if paths is None and reading.audio:
        named = located(named, [Path(file).parent for file in table.index.get_level_values(0)])
    frame = clips_frame(ids, named, where=[f"{file}, row {row}" for file, row in table.index])
    mark(frame, frame["path"] == "", "no audio", "no file is named")
    _add_parts(frame, cells)
    given = cells.pop("split", [])
    splits = [SPLITS.get(re.split(r"[-_. ]", value.lower())[0], "") for value in given]
    if any(splits):  # else it is a column of that name about something else
        frame["split"] = splits
        words = [f"the split {value!r} is none of {', '.join(SPLITS)}" for value in given]
        mark(frame, frame["split"] == "", "unknown split", words)
    for part, values in cells.items():
        frame[part] = values
    for name in [name for name in table.columns if name not in (*found.values(), *frame, *RESERVED)]:
        values = table[name].map(text_of).astype(str)
        if 1 < values.nunique() <= min(GROUPS, count - 1) and values.str.len().max() <= LONGEST_GROUP:
            frame[name] = values.tolist()
    names = table.attrs.get("label_names", {}).get(found["label"], ())
    part = "label" if reading.kind == "label" else "text"
    remedy = _no_column(part, table.columns) if found[part] is None else f"no row has a {part}"
    return Clips(frame, source, names=tuple(names), numbered=not names, remedy=remedy)


def hub_clips(dataset, source: str, reading: Reading) -> Clips:
    """The clips of a `datasets.Dataset` of a hub, or of parquet files; their sound stays in its memory-mapped files."""
    import datasets

    from common.hub import frame_of, numbered

    kinds = dataset.features.items()
    sounds = [n for n, f in kinds if isinstance(f, datasets.Audio) or (isinstance(f, dict) and "bytes" in f)]
    names = {n: f.names for n, f in kinds if isinstance(f, datasets.ClassLabel)}
    table = dataset.remove_columns(sounds).with_format("arrow")[:]
    frame = frame_of(table, names) if table.column_names else pd.DataFrame(index=range(len(dataset)))
    frame.attrs.setdefault("label_names", {})
    column = reading.args.audio_column or (sounds or [None])[0]
    if column not in sounds:
        return table_clips(numbered(frame, source), reading)
    files = [one["filename"] for one in dataset.cache_files]
    rows = [(file, row) for file in files for row in range(len(datasets.Dataset.from_file(file)))]
    clips = table_clips(numbered(frame, source), reading, [f"{file}#{column}#{row}" for file, row in rows])
    chunks = [chunk.field("path").to_pylist() for chunk in dataset.data.column(column).chunks]
    clips.frame["name"] = [name or "" for name in itertools.chain(*chunks)]
    return clips


def named_facts(path: Path) -> pd.DataFrame | None:
    """A json object (also .json.gz) of name -> what is known of that clip as a table; None for anything else."""
    from common.data import read_json
    from common.hub import numbered

    try:
        content = read_json(path) if path.name.lower().endswith((".json", ".json.gz")) else None
    except UserError:  # a row a line, or broken: `read_files` says so
        return None
    if not isinstance(content, dict) or not content or not all(isinstance(facts, dict) for facts in content.values()):
        return None
    return numbered(pd.DataFrame([{"id": name, **facts} for name, facts in content.items()]), str(path))


def tables_of_folder(splits: Mapping[str, str | None], files: Files, source: str, reading: Reading) -> Clips:
    """The clips of a folder by its tables: file -> its split, where it is called by one."""
    from common.data import read_files

    table = read_files([*splits])
    table.attrs["source"] = source
    clips = table_clips(table, reading)
    if "split" not in clips.frame and all(splits.values()):
        clips.frame["split"] = [splits[file] for file in table.index.get_level_values(0)]
    clips.warnings += _without_rows(files, clips)
    return clips


def common_voice(files: Files, source: str, reading: Reading) -> Clips:
    """Common Voice as published: train, dev and test.tsv beside clips/; without train.tsv: validated or other.tsv."""
    names = {path: PurePosixPath(path).name for path in files}
    choices = ("train.tsv", "dev.tsv", "test.tsv"), ("validated.tsv",), ("other.tsv",)
    chosen = next((one for one in choices if one[0] in names.values()), None)
    if chosen is None:
        sentence = f"{source}: has clips/, but neither train.tsv nor validated.tsv"
        raise UserError(f"{sentence}; name a table with --train_file")
    splits = {files[path]: SPLITS.get(name[:-4]) for path, name in names.items() if name in chosen}
    return tables_of_folder(splits, files, f"{source} ({', '.join(chosen)})", reading)


def is_ljspeech(path: Path) -> bool:
    """Whether a file is LJ Speech's table: `id|transcription|normalised transcription`, with a header or without."""
    with path.open(encoding="utf-8", errors="replace") as file:
        identity, bar, _ = file.readline().partition("|")
    return bool(bar) and not re.search(r"[\s,;\"]", identity)


def ljspeech(path: Path, files: Files, reading: Reading) -> Clips:
    """LJ Speech's form: `metadata.csv` and the clips under wavs/. The normalised text is taken where there is one."""
    from common.hub import numbered

    rows = [[cell.strip() for cell in line.split("|")] for line in read_lines(str(path)) if line.strip()]
    texts = [next(filter(None, cells[:0:-1]), "") for cells in rows]
    columns = {"path": [cells[0] for cells in rows], "id": [stem(cells[0]) for cells in rows], "text": texts}
    clips = table_clips(numbered(pd.DataFrame(columns), str(path)), reading)
    if [os.path.isfile(place) for place in clips.frame["path"][:2]] == [False, True]:  # a header
        clips.frame = clips.frame[1:].reset_index(drop=True)
    clips.warnings += _without_rows(files, clips)
    return clips


def _without_rows(files: Files, clips: Clips) -> list[str]:
    used = {*clips.frame["path"]}
    unused = [path for path, place in files.items() if is_audio(path) and place not in used]
    sentence = f"{clips.source}: {len(unused):,} clips beside it have no row"
    return [f"{sentence}, the first {unused[0]}; not used"] if unused else []


def located(paths: Sequence[str], folders: Sequence[Path]) -> list[str]:
    """The file that each cell means: beside its table, or in its clips/ or wavs/; also with \\ for /, or no ending."""

    @functools.cache
    def listed(folder: Path) -> dict[str, str]:
        names = [name for name in sorted(os.listdir(folder)) if is_audio(name)] if folder.is_dir() else []
        keys = [*((stem(name), name) for name in reversed(names)), *((name, name) for name in names)]
        return {key.casefold(): str(folder / name) for key, name in keys}

    def file_of(path: str, folder: Path) -> str:
        if not path or (folder / path).is_file():
            return path and str(folder / path)
        places = [folder / below / path.replace("\\", "/") for below in CLIP_FOLDERS]
        hits = (listed(place.parent).get(place.name.casefold()) for place in places)
        return next(filter(None, hits), str(places[0]))

    return [*map(file_of, paths, folders)]


def text_of(value: object) -> str:
    """A cell as text: nothing for null and NaN, numbers without an empty fraction."""
    if value is None or value != value:
        return ""
    if isinstance(value, dict):  # of sound, as `datasets` writes it
        return str(value.get("path") or "")
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value).strip()


def _found(there: list[str], args, source: str) -> dict[str, str | None]:
    """Every part of a row -> its column, or None."""
    from common.data import require_columns

    given = {part: getattr(args, flag, None) for part, flag in FLAGS.items()}
    require_columns(there, [name for name in given.values() if name], source)
    folded = {name.casefold(): name for name in reversed(there)}
    return {
        part: given.get(part) or next((folded[name] for name in known if name in folded), None)
        for part, known in COLUMNS.items()
    }


def _no_column(part: str, there: Iterable[str]) -> str:
    searched, named = ", ".join(COLUMNS[part]), ", ".join(map(str, there))
    return f"no column for the {part}; it has {named}, and is searched for {searched}; name yours with --{FLAGS[part]}"


def _add_parts(frame: pd.DataFrame, cells: dict[str, list[str]]) -> None:
    """Start and end in seconds, where the table has parts of clips."""
    parts = "start" in cells
    start, end, lasting = (
        pd.to_numeric(pd.Series(cells.pop(part, None), frame.index, dtype=object), errors="coerce")
        for part in ("start", "end", "duration")
    )
    if parts:
        frame["start"], frame["end"] = start, end = start, end.fillna(start + lasting)
        bad = start.isna() | (start < 0) | (end <= start)
        mark(frame, bad, "part without numbers", "start and end must be seconds of the clip, the end after the start")
