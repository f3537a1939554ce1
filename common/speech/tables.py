"""What tables, and hub data sets, say of each of their clips: one clip, or a part of one, a row."""

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath

import pandas as pd

from common.errors import UserError
from common.speech.corpora import SPLITS, Clips, Files, Reading, is_audio, mark, read_lines, stem, without_rows

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
PUBLISHED = {"train.tsv": "train", "dev.tsv": "validation", "test.tsv": "test"}


def table_clips(table: pd.DataFrame, reading: Reading, paths: list[str] | None = None) -> Clips:
    """The clips of a table as `common.data.read_files` gives it.

    Args:
        paths: where the clips are; None: a column has files.
    """
    source, cells = table.attrs["source"], {}
    found = _found([*table.columns], reading.args, source)
    if paths is None and found["path"] is None and reading.audio:
        raise UserError(f"{source}: {_no_column('path', table.columns)}")
    for part, column in found.items():
        if column is not None:
            cells[part] = [text_of(value) for value in table[column]]
    count, files = len(table), table.index.get_level_values(0)
    named = paths or cells.get("path") or cells.get("id") or [""] * count
    ids = _ids(cells.pop("id", None), [] if paths else named, "start" in cells)
    cells.pop("path", None)
    if paths is None and reading.audio:
        listings: dict[str, dict[str, str]] = {}
        named = [located(path, Path(file).parent, listings) for path, file in zip(named, files)]
    where = [f"{file}, row {row}" for file, row in table.index]
    frame = pd.DataFrame({"path": named, "where": where, "reason": "", "problem": ""}, dtype=object)
    frame["id"] = ids or [f"{source}: {row}" for _, row in table.index]
    _add_parts(frame, cells)
    if "split" in cells:
        _add_splits(frame, cells.pop("split"))
    for part, values in cells.items():
        frame[part] = values
    mark(frame, frame["path"] == "", "no audio", "no file is named")
    for name in [name for name in table.columns if name not in found.values()]:
        if (values := _group([*table[name]])) is not None and name not in frame:
            frame[name] = values
    names = table.attrs.get("label_names", {}).get(found["label"], ())
    part = "label" if reading.kind == "label" else "text"
    remedy = _no_column(part, table.columns) if found[part] is None else f"no row has a {part}"
    return Clips(frame, source, names=tuple(names), numbered=not names, remedy=remedy)


def hub_clips(dataset, source: str, reading: Reading) -> Clips:
    """The clips of a `datasets.Dataset` of a hub, or of parquet files; their sound stays in its memory-mapped files."""
    import datasets

    from common.hub import frame_of, numbered

    sounds = []
    for name, feature in dataset.features.items():
        if isinstance(feature, datasets.Audio):
            dataset = dataset.cast_column(name, datasets.Audio(decode=False))
        if isinstance(feature, datasets.Audio) or (isinstance(feature, dict) and "bytes" in feature):
            sounds.append(name)
    names = {n: f.names for n, f in dataset.features.items() if isinstance(f, datasets.ClassLabel)}
    table = dataset.remove_columns(sounds).with_format("arrow")[:]
    frame = frame_of(table, names) if table.column_names else pd.DataFrame(index=range(len(dataset)))
    frame.attrs.setdefault("label_names", {})
    column = reading.args.audio_column or (sounds or [None])[0]
    if column in sounds:
        files = [one["filename"] for one in dataset.cache_files]
        rows = [(file, row) for file in files for row in range(len(datasets.Dataset.from_file(file)))]
        paths = [f"{file}#{column}#{row}" for file, row in rows]
        clips = table_clips(numbered(frame, source), reading, paths)
        sound = dataset.select_columns([column]).flatten()
        clips.frame["name"] = [name or "" for name in sound[f"{column}.path"][:]]
        return clips
    return table_clips(numbered(frame, source), reading)


def named_facts(path: Path) -> pd.DataFrame | None:
    """A json object (also .json.gz) of name -> what is known of that clip as a table; None for anything else."""
    from common.data import read_json
    from common.hub import numbered

    if not path.name.lower().endswith((".json", ".json.gz")) or not path.is_file():
        return None
    try:
        content = read_json(path)
    except UserError:  # a row a line, or broken: `read_files` says so
        return None
    if not isinstance(content, dict) or not content or not all(isinstance(facts, dict) for facts in content.values()):
        return None
    return numbered(pd.DataFrame([{"id": name, **facts} for name, facts in content.items()]), str(path))


def audio_folder(tables: Mapping[str, str], files: Files, source: str, reading: Reading) -> Clips:
    """A folder in the form of the library `datasets`: a table, or one for each split, with a column file_name."""
    from common.data import read_files

    table = read_files(list(tables.values()))
    table.attrs["source"] = source
    clips = table_clips(table, reading)
    folders = {place: SPLITS.get(path.split("/")[0].lower()) if "/" in path else None for path, place in tables.items()}
    if "split" not in clips.frame and all(folders.values()):
        clips.frame["split"] = [folders[file] for file in table.index.get_level_values(0)]
    clips.warnings += without_rows(files, set(clips.frame["path"]), source)
    return clips


def common_voice(files: Files, source: str, reading: Reading) -> Clips:
    """Common Voice as published: train, dev and test.tsv beside clips/; without train.tsv: validated or other.tsv."""
    from common.data import read_files

    by_name: dict[str, list[str]] = {}
    for path in files:
        by_name.setdefault(PurePosixPath(path).name, []).append(files[path])
    chosen = [name for name in PUBLISHED if name in by_name] if "train.tsv" in by_name else []
    chosen = chosen or [name for name in ("validated.tsv", "other.tsv") if name in by_name][:1]
    if not chosen:
        raise UserError(
            f"{source}: has clips/, but neither train.tsv nor validated.tsv; name a table with --train_file"
        )
    table = read_files([place for name in chosen for place in by_name[name]])
    table.attrs["source"] = f"{source} ({', '.join(chosen)})"
    clips = table_clips(table, reading)
    if len(chosen) > 1:
        clips.frame["split"] = [PUBLISHED[os.path.basename(file)] for file in table.index.get_level_values(0)]
    others = [
        line.split("\t") for name in by_name if name.endswith(".tsv") for p in by_name[name] for line in read_lines(p)
    ]
    known = {stem(cell) for cells in others for cell in cells[:2]}
    rest = {path: place for path, place in files.items() if stem(path) not in known}
    clips.warnings += without_rows(rest, set(), source)
    return clips


def is_ljspeech(path: Path) -> bool:
    """Whether a file is LJ Speech's table: `id|transcription|normalised transcription`, with a header or without."""
    with path.open(encoding="utf-8", errors="replace") as file:
        identity, bar, _ = file.readline().partition("|")
    return bool(bar) and not re.search(r"[\s,;\"]", identity)


def ljspeech(table: Path, source: str, files: Files) -> Clips:
    """LJ Speech's form: `metadata.csv` and the clips under wavs/. The normalised text is taken where there is one."""
    rows = [(i, line.split("|")) for i, line in enumerate(read_lines(str(table)), start=1) if line.strip()]
    listings: dict[str, dict[str, str]] = {}
    places = [located(cells[0].strip(), table.parent, listings) for _, cells in rows]
    if len(rows) > 1 and not os.path.isfile(places[0]) and os.path.isfile(places[1]):  # a header
        rows, places = rows[1:], places[1:]
    texts = [next((cell.strip() for cell in cells[:0:-1] if cell.strip()), "") for _, cells in rows]
    where, ids = [f"{table}, row {number}" for number, _ in rows], [stem(cells[0].strip()) for _, cells in rows]
    columns = {"path": places, "id": ids, "where": where, "reason": "", "problem": "", "text": texts}
    remedy = "a table of the form id|text has transcripts, and no classes"
    return Clips(
        pd.DataFrame(columns, dtype=object), source, without_rows(files, set(places), str(table)), remedy=remedy
    )


def located(path: str, folder: Path, listings: dict[str, dict[str, str]]) -> str:
    """The file that a cell means: beside the table, below its clips/ or wavs/, with \\ for /, without its ending.

    Args:
        listings: of folders that were looked into: name or stem in lower case -> file.
    """
    if not path or (folder / path).is_file():
        return str(folder / path) if path else ""
    name = path.replace("\\", "/")
    for below in CLIP_FOLDERS:
        place = folder / below / name
        if place.is_file():
            return str(place)
        parent = str(place.parent)
        if parent not in listings:
            there = sorted(os.listdir(parent)) if os.path.isdir(parent) else []
            listings[parent] = {stem(n).casefold(): os.path.join(parent, n) for n in reversed(there) if is_audio(n)}
            listings[parent] |= {n.casefold(): os.path.join(parent, n) for n in there}
        if hit := listings[parent].get(place.name.casefold()):
            return hit
    places = (folder / below / name for below in (*CLIP_FOLDERS[1:], ""))
    return str(next((place for place in places if place.parent.is_dir()), folder / name))


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


def _ids(given: list[str] | None, paths: list[str], parts: bool) -> list[str]:
    """The data's own ids where all differ, else the paths as the table has them, with numbers where these repeat."""
    for ids in (given or [], [] if parts else paths):
        if ids and all(ids) and len(set(ids)) == len(ids):
            return ids
    return [f"{path}#{i}" for i, path in enumerate(paths, start=1)]


def _group(values: list) -> list[str] | None:
    """The values of a column by which clips can be grouped: more than one, but few, and short; else None."""
    if any(isinstance(value, dict | list | bytes) for value in values[:100]):
        return None
    texts = [text_of(value) for value in values]
    distinct = set(texts)
    few = 1 < len(distinct) <= GROUPS and len(distinct) < len(texts)
    return texts if few and max(map(len, distinct)) <= LONGEST_GROUP else None


def _add_splits(frame: pd.DataFrame, values: list[str]) -> None:
    splits = [SPLITS.get(re.split(r"[-_. ]", value.lower())[0], "") for value in values]
    if not any(splits):
        return  # a column of that name about something else
    frame["split"] = splits
    words = [f"the split {value!r} is none of {', '.join(SPLITS)}" for value in values]
    mark(frame, frame["split"] == "", "unknown split", words)


def _add_parts(frame: pd.DataFrame, cells: dict[str, list[str]]) -> None:
    """Start and end in seconds, where the table has parts of clips."""
    duration = cells.pop("duration", None)
    if "start" not in cells:
        cells.pop("end", None)
        return
    start = pd.to_numeric(pd.Series(cells.pop("start")), errors="coerce")
    ends = pd.to_numeric(pd.Series(cells.pop("end", None) or [""] * len(frame)), errors="coerce")
    lasting = pd.to_numeric(pd.Series(duration or [""] * len(frame)), errors="coerce")
    ends = ends.fillna(start + lasting)
    frame["start"], frame["end"] = start, ends
    bad = start.isna() | (start < 0) | (ends <= start)
    mark(frame, bad, "part without numbers", "start and end must be seconds of the clip, the end after the start")
