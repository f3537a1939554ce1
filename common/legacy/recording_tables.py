"""What a table, or a hub, says of each of its clips: one clip, or one part of a clip, a row.

Not for folders (`common.legacy.recording_readers`), nor for what is then checked and kept (`common.legacy.recordings`).
"""

import gzip
import json
import os
import re
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from common.legacy.class_names import NUMBER, listed
from common.legacy.data import existing_file, read_json, read_rows, require_columns
from common.legacy.errors import UserError
from common.legacy.recording_readers import MISSING_FILE, SPLITS, Entries, Files, Reading, stem

# Where the parts of a row are found by themselves, the first name that is there; compared without case.
COLUMNS = {
    "audio": ("audio", "path", "file", "file_name", "filename", "wav", "audio_path", "audio_filepath", "audio_file"),
    "label": ("label", "class", "emotion", "keyword", "label_text", "labels", "category"),
    "text": ("normalized_text", "text", "sentence", "transcript", "transcription"),
    "speaker": ("speaker", "speaker_id", "client_id", "speaker_code"),
    "split": ("split", "subset"),
    "id": ("id", "utterance_id", "utt_id", "uid", "name"),
    "begin": ("start", "begin", "start_time", "offset"),
    "end": ("end", "end_time"),
    "duration": ("duration",),  # of a part, where its begin is there, too; otherwise it only repeats the file's header
}
GROUPS, LONGEST_GROUP = 50, 40  # a further column is kept when it has so few distinct values, of so few characters


class HubAudio(Sequence):
    """The clips of an audio column of a `datasets.Dataset`, each fetched when it is asked for, none kept."""

    def __init__(self, dataset, column: str, rows: np.ndarray | None = None):
        self.dataset, self.column = dataset, column
        self.rows = np.arange(len(dataset)) if rows is None else rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> dict | None:
        return self.dataset[int(self.rows[i])][self.column]

    def take(self, indices: np.ndarray) -> "HubAudio":
        """The clips at `indices`, as lazily."""
        return HubAudio(self.dataset, self.column, self.rows[indices])


def text_of(value: object) -> str:
    """A cell as text: nothing for null and NaN, numbers without an empty fraction."""
    if value is None or value != value:
        return ""
    text = str(value).strip()
    return str(int(float(text))) if NUMBER.fullmatch(text) and "." in text else text


def table_rows(path: Path, root: Path) -> Sequence:
    """The rows of a table, or of a json object (also .json.gz) of name -> facts; of parquet with sound, lazily."""
    name = path.name.lower()
    if name.endswith((".json", ".json.gz")):
        content = read_json(path) if name.endswith(".json") else _zipped_json(path)
        if isinstance(content, dict) and content and all(isinstance(facts, dict) for facts in content.values()):
            return [{"id": name, **facts} for name, facts in content.items()]
        if name.endswith(".gz"):
            raise UserError(f"{path}: must hold a json object of names, each with an object of what is known of it")
    if name.endswith(".parquet") and _has_bytes(path):
        import datasets

        shown = datasets.is_progress_bar_enabled()
        datasets.disable_progress_bars()
        try:
            return datasets.Dataset.from_parquet(str(path), cache_dir=str(root / "parquet"))
        finally:
            if shown:
                datasets.enable_progress_bars()
    return read_rows(path)


def _zipped_json(path: Path) -> object:
    try:
        return json.loads(gzip.decompress(existing_file(path).read_bytes()))
    except (OSError, EOFError, zlib.error, ValueError) as error:
        raise UserError(f"{path}: not a readable gzip file of json: {error}") from None


def _has_bytes(path: Path) -> bool:
    import pyarrow
    import pyarrow.parquet

    try:
        schema = pyarrow.parquet.read_schema(existing_file(path))
    except (pyarrow.ArrowException, OSError):
        return False  # `read_rows` says what is wrong with it
    return any(pyarrow.types.is_struct(kind) and kind.get_field_index("bytes") >= 0 for kind in schema.types)


def table_entries(rows: Sequence, source: str, reading: Reading, folder: Path) -> Entries:
    """Rows of a table (a list of dictionaries) or of a hub (a `datasets.Dataset`), one clip, or part of one, a row.

    Args:
        folder: what relative paths are relative to.
    """
    if hasattr(rows, "features"):
        cells, sounds, orders = _hub_columns(rows)
    else:
        cells, sounds, orders = (
            {k: [row.get(k) for row in rows] for k in dict.fromkeys(n for r in rows for n in r)},
            {},
            {},
        )
    require_columns([*cells, *sounds], [name for name in reading.columns.values() if name], source)
    found = _found([*sounds, *cells], reading.columns)
    if sounds and not reading.columns.get("audio"):
        found["audio"] = next(iter(sounds))
    if reading.audio_needed and found["audio"] is None:
        raise UserError(f"{source}: {_no_column('audio', cells)}")
    texts = {part: [text_of(v) for v in cells[name]] for part, name in found.items() if name in cells}
    if found["audio"] in sounds:
        audio, paths = sounds[found["audio"]], _paths(rows, found["audio"])
    elif found["audio"]:
        paths = ["" if isinstance(v, dict) else text for v, text in zip(cells[found["audio"]], texts["audio"])]
        audio = [
            v if isinstance(v, dict) else str(folder / p) if p else None for v, p in zip(cells[found["audio"]], paths)
        ]
    else:
        audio, paths = [None] * len(rows), [""] * len(rows)
    entries = Entries(
        source,
        ids=_ids(texts.get("id"), paths, "begin" in texts),
        places=[f"{source}: row {number}" for number in range(1, len(rows) + 1)],
        stems=[stem(path) for path in (paths if any(paths) else texts.get("id", paths))],
        audio=audio,
        labels=texts.get("label"),
        texts=texts.get("text"),
        speakers=texts.get("speaker"),
        columns=_groups({name: v for name, v in cells.items() if name not in found.values()}),
        order=orders.get(found["label"], ()),
        numbered=found["label"] not in orders,
        remedies={part: _no_column(part, [*sounds, *cells]) for part in ("label", "text") if found[part] is None},
    )
    if "split" in texts:
        _add_splits(entries, texts["split"])
    if "begin" in texts or "end" in texts:
        _add_parts(entries, texts)
    if reading.audio_needed and found["audio"] not in sounds:
        for i, clip in enumerate(audio):
            if clip is None:
                entries.bad.setdefault(i, ("no audio", f"the cell {found['audio']!r} is empty"))
            elif isinstance(clip, str) and not os.path.isfile(clip):
                entries.bad.setdefault(i, (MISSING_FILE, f"there is no file {clip}"))
    return entries


def is_metadata(path: str) -> bool:
    """Whether a file, named from its folder, is the table of an audio folder: in it, or in one of its splits."""
    folder, _, name = path.rpartition("/")
    return name in ("metadata.csv", "metadata.jsonl") and (not folder or folder.lower() in SPLITS)


def audio_folder(tables: Files, source: str, reading: Reading) -> Entries:
    """A folder in the form of the library `datasets`: a table, or one for each split, with a column file_name."""
    rows, places = [], []
    for path, place in tables.items():
        folder = path.rpartition("/")[0]
        for number, row in enumerate(read_rows(place), start=1):
            require_columns(row, ["file_name"], place)
            name = text_of(row["file_name"])
            split = {"split": folder, "file_name": f"{folder}/{name}"} if folder and name else {}
            rows.append({**row, **split})
            places.append(f"{place}: row {number}")
    path, place = next(iter(tables.items()))
    entries = table_entries(rows, source, reading, Path(place).parents[path.count("/")])
    entries.places = places
    return entries


def _found(there: Iterable[str], given: Mapping[str, str | None]) -> dict[str, str | None]:
    """Every part of a row -> its column, or None."""
    folded = {name.casefold(): name for name in reversed(list(there))}
    return {
        part: given.get(part) or next((folded[name] for name in known if name in folded), None)
        for part, known in COLUMNS.items()
    }


def _no_column(part: str, there: Iterable[str]) -> str:
    return (
        f"no column for the {part}; it has {listed(there)} and is searched for {listed(COLUMNS[part])}; "
        f"name yours with --{part}_column"
    )


def _ids(ids: list[str] | None, paths: list[str], parts: bool) -> list[str]:
    """The data's own ids (of which the doubles are refused later), else the paths where all differ, else numbers."""
    if ids and all(ids):
        return ids
    if not parts and all(paths) and len(set(paths)) == len(paths):
        return paths
    return [f"{path}#{i}" if path else str(i) for i, path in enumerate(paths, start=1)]


def _groups(cells: Mapping[str, list]) -> dict[str, list[str]]:
    """Those columns by which clips can be grouped: more than one value, but few, and short."""
    groups = {}
    for name, values in cells.items():
        if not any(isinstance(value, dict | list | bytes) for value in values):
            texts = [text_of(value) for value in values]
            distinct = set(texts)
            if 1 < len(distinct) <= GROUPS and len(distinct) < len(texts) and max(map(len, distinct)) <= LONGEST_GROUP:
                groups[name] = texts
    return groups


def _add_splits(entries: Entries, values: list[str]) -> None:
    splits = [SPLITS.get(re.split(r"[-_. ]", value.lower())[0], "") for value in values]
    if not any(splits):
        return  # a column of that name about something else
    entries.splits = splits
    for i, value in enumerate(values):
        if not entries.splits[i]:
            sentence = f"the split {value!r} is none of {listed(SPLITS)}; name another column with --split_column"
            entries.bad.setdefault(i, ("unknown split", sentence))


def _add_parts(entries: Entries, texts: Mapping[str, list[str]]) -> None:
    count = len(entries.ids)
    begins, ends = np.full(count, np.nan), np.full(count, np.nan)
    for i in range(count):
        begin, end, duration = (texts[part][i] if part in texts else "" for part in ("begin", "end", "duration"))
        try:
            begins[i] = float(begin or "nan")
            ends[i] = float(end) if end else begins[i] + float(duration or "nan")
        except ValueError:
            entries.bad.setdefault(i, ("part without numbers", f"the part {begin!r} to {end!r} is not in seconds"))
        if begins[i] < 0:
            entries.bad.setdefault(i, ("part without numbers", f"the part begins at {begin} s, before its clip"))
    entries.begins, entries.ends = begins, ends


def _hub_columns(dataset) -> tuple[dict[str, list], dict[str, HubAudio], dict[str, tuple[str, ...]]]:
    """(Plain cells by column, classes by their names; columns of sound; the order of the classes of a column)."""
    import datasets

    cells, sounds, orders = {}, {}, {}
    for name, feature in dataset.features.items():
        if isinstance(feature, datasets.Audio) or (isinstance(feature, dict) and "bytes" in feature):
            raw = dataset.select_columns([name])
            raw = raw.cast_column(name, datasets.Audio(decode=False)) if isinstance(feature, datasets.Audio) else raw
            sounds[name] = HubAudio(raw, name)
        elif isinstance(feature, datasets.ClassLabel):
            orders[name] = tuple(feature.names)
            values = dataset.select_columns([name])[:][name]
            cells[name] = [None if v is None or v < 0 else feature.names[v] for v in values]
        elif isinstance(feature, datasets.Value) and "binary" not in feature.dtype:
            cells[name] = dataset.select_columns([name])[:][name]
    return cells, sounds, orders


def _paths(dataset, column: str) -> list[str]:
    """What the clips of a column of sound are called, without their bytes."""
    import datasets

    raw = dataset.select_columns([column])
    if isinstance(raw.features[column], datasets.Audio):
        raw = raw.cast_column(column, datasets.Audio(decode=False))
    return [path or "" for path in raw.flatten().select_columns([f"{column}.path"])[:][f"{column}.path"]]
