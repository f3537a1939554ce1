"""What tables, and hub data sets, say of each of their clips: one clip, or a part of one, a row."""

import functools
import itertools
import os
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath

import datasets
import pandas as pd
import pyarrow.compute

from common.errors import UserError
from common.files import read_files, require_columns, where
from common.hub import class_names, frame_of, numbered
from common.speech.corpora import Reading, add_splits, clips_frame, is_audio, mark, read_lines, split_of, stem

# Where the parts of a row are found by themselves, the first name that is there; compared without case.
COLUMNS = {
    "path": ("audio", "path", "file", "file_name", "filename", "wav", "audio_path", "audio_filepath", "audio_file"),
    "label": ("label", "class", "emotion", "keyword", "label_text", "labels", "category"),
    "text": ("normalized_text", "text", "sentence", "transcript", "transcription", "wrd"),
    "speaker": ("speaker", "speaker_id", "client_id", "speaker_code", "spk_id"),
    "gender": ("gender", "sex"),
    "split": ("split", "subset", "set"),
    "id": ("id", "utterance_id", "utt_id", "uid", "name"),
    "start": ("start", "begin", "start_time", "begin_time", "tmin", "xmin", "onset", "offset"),
    "end": ("end", "end_time", "tmax", "xmax", "offset"),  # the last beside an onset, else it is a start
    "duration": ("duration",),  # of a part, where its start is there, too; otherwise it only repeats the header
}
COLUMNS["path"] += ("filepath", "wav_filename")  # of MInDS-14 and DeepSpeech
UNITS = ("", "_s", "_sec", "_seconds", "_ms")  # that names of times end with
COLUMNS |= {part: tuple(n + unit for unit in UNITS for n in COLUMNS[part]) for part in ("start", "end", "duration")}
FLAGS = {"path": "audio_column", "label": "label_column", "text": "text_column", "speaker": "speaker_column"}
# Where relative paths are looked for, from the table's folder.
CLIP_FOLDERS = ("", "clips", "wavs", "wav", "audio", "audios", "..", "../clips", "../wavs", "../wav", "../audio")
# Tables in folders, the first kind that is there: of audio folders and LJ Speech; the best that Common Voice has.
OF_FOLDERS = "metadata.csv metadata.jsonl metadata.parquet", "train.tsv dev.tsv test.tsv", "validated.tsv", "other.tsv"


def read_table(paths: Sequence[str], args) -> pd.DataFrame:
    """`files.read_files`; also LJ Speech's `id|text|normalised text`, without quoting: the latter where it is."""
    path = Path(paths[0])
    if path.suffix.lower() == ".csv" and path.is_file():
        with path.open(encoding="utf-8-sig", errors="replace") as file:
            first, bar, _ = file.readline().partition("|")
        named = first.casefold() in {*itertools.chain(*COLUMNS.values())} - {*COLUMNS["id"]}
        if bar and not named and not re.search(r"[\s,;\"]", first):
            rows = [[cell.strip() for cell in line.split("|")] for line in read_lines(paths[0]) if line.strip()]
            rows = rows[first.casefold() in COLUMNS["id"] :]
            texts = [next(filter(None, cells[:0:-1]), "") for cells in rows]
            columns = {"path": [cells[0] for cells in rows], "id": [stem(cells[0]) for cells in rows], "text": texts}
            table = numbered(pd.DataFrame(columns), paths[0])
            if paths[1:]:  # a folder for each speaker, as M-AILABS has
                table = pd.concat([table, read_table(paths[1:], args)])
            table.attrs["source"] = ", ".join(paths)
            return table
    return read_files(paths, args)


def tables_in(files: Mapping[str, str], reading: Reading) -> pd.DataFrame | None:
    """The clips of a folder by its tables, if it has any; the tables, or their folders, may be called by split."""
    for names in OF_FOLDERS:
        if chosen := {place: path for path, place in files.items() if PurePosixPath(path).name in names.split()}:
            table = read_table([*chosen], reading.args)
            clips = table_clips(table, reading)
            places, used = {place: path for path, place in files.items()}, {*clips["path"]}
            above = [places.get(place, "").split("/")[:-1] for place in clips["path"]]
            words = [re.split("[/.]", chosen[file]) + one for (file, _), one in zip(table.index, above)]
            splits = [next(filter(None, map(split_of, one)), "") for one in words]
            said = all(split or place not in places for split, place in zip(splits, clips["path"]))
            if "split" not in clips and any(splits) and said:
                clips["split"] = splits
            if unused := [path for path, place in files.items() if is_audio(path) and place not in used]:
                sentence = f"{clips.attrs['source']}: {len(unused):,} clips beside it have no row"
                reading.run.warn(f"{sentence}, the first {unused[0]}; not used")
            return clips
    return None


def table_clips(table: pd.DataFrame, reading: Reading, paths: list[str] | None = None) -> pd.DataFrame:
    """The clips of a table of `common.files.read_files`; `paths`: where they are, instead of a column of files."""
    source, count, kind = table.attrs["source"], len(table), reading.kind
    found = _found(table, reading.args)
    if paths is None and found["path"] is None:
        raise UserError(f"{source}: {_no_column('path', table)}")
    for part in ("path", kind):
        for row, cell in enumerate(table[found[part]] if found[part] else ()):
            if isinstance(cell, list | dict | bytes):
                raise UserError(f"{where(table, row)}: the {part} must be one text, not {cell!r:.60}")
    cells = {part: [*map(text_of, table[column])] for part, column in found.items() if column is not None}
    own = cells.pop("id", None)
    named = cells.pop("path", None) or own or [source] * count
    # The data's own ids where all differ, else the paths as the table has them, with numbers where these repeat.
    ids = next((one for one in (own, named) if one and all(one) and len({*one}) == count), None)
    ids = ids or [f"{name}#{i}" for i, name in enumerate(named, start=1)]
    frame = clips_frame(ids, paths or located(named, [Path(file).parent for file, _ in table.index]))
    frame["where"] = [f"{file}, row {row}" for file, row in table.index]
    mark(frame, frame["path"] == "", "no audio", "no file is named")
    _add_parts(frame, cells, found)
    add_splits(frame, cells.pop("split", []))
    frame = frame.assign(**cells)
    frame.attrs = {"source": source, "numbered": found["label"] not in table.attrs.get("label_names", {})}
    frame.attrs["remedy"] = f"no row has a {kind}" if found[kind] else _no_column(kind, table)
    return frame


def hub_clips(dataset: datasets.Dataset, source: str, reading: Reading) -> pd.DataFrame:
    """The clips of a data set of a hub, or of parquet files; their sound stays in its memory-mapped files."""
    kinds = dataset.features.items()
    sounds = [n for n, f in kinds if isinstance(f, datasets.Audio) or (isinstance(f, dict) and "bytes" in f)]
    names, table = class_names(dataset.features), dataset.remove_columns(sounds).with_format("arrow")[:]
    table = frame_of(table, names) if table.column_names else pd.DataFrame(index=range(len(dataset)))
    column = reading.args.audio_column or (sounds or [None])[0]
    if column not in sounds:
        return table_clips(numbered(table, source), reading)
    places = [f"{file}#{column}#{row}" for file, row in _rows_of(dataset.data)]
    clips, sound = table_clips(numbered(table, source), reading, places), dataset.data.column(column)
    if sound.type.get_field_index("path") >= 0:
        clips["name"] = [name or "" for name in pyarrow.compute.struct_field(sound, "path").to_pylist()]
    return clips


def _rows_of(table: datasets.table.Table) -> Iterator[tuple[str, int]]:
    """File, and row there, of each row of a data set, which may be slices of several files (train[:10%])."""
    for block, *_ in getattr(table, "blocks", [[table]]):
        first = sum(arguments[0] for name, arguments, _ in block.replays or () if name == "slice")
        yield from ((block.path, first + row) for row in range(len(block)))


def located(paths: Sequence[str], folders: Sequence[Path]) -> list[str]:
    """The file of each cell: beside its table, in clips/ there, or from here; with \\ for /, or another ending."""

    def key(name: str) -> str:  # macOS composes letters otherwise, Windows knows no case
        return unicodedata.normalize("NFC", stem(name)).casefold()

    @functools.cache
    def listed(folder: Path) -> dict[str, str]:
        names = sorted(filter(is_audio, os.listdir(folder)), reverse=True) if os.path.isdir(folder) else []
        return {key(name): str(folder / name) for name in names}

    def file_of(path: str, folder: Path) -> str:
        places = [place / path.replace("\\", "/") for place in (*map(folder.joinpath, CLIP_FOLDERS), Path())]
        whole = (str(place) for place in places if os.path.isfile(place))
        others = (listed(place.parent).get(key(place.name)) for place in places)
        return path and next(filter(None, itertools.chain(whole, others)), str(places[0]))

    return [*map(file_of, paths, folders)]


def text_of(value: object) -> str:
    """A cell as text: nothing for null and NaN, numbers without an empty fraction."""
    if value is None or value != value:
        return ""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value).strip()


def _found(table: pd.DataFrame, args) -> dict[str, str | None]:
    """Every part of a row -> its column, or None."""
    given = {part: getattr(args, flag, None) for part, flag in FLAGS.items()}
    require_columns(table.columns, [name for name in given.values() if name], table.attrs["source"])
    folded = {name.casefold(): name for name in reversed(table.columns)}
    first = {part: next((folded[n] for n in names if n in folded), None) for part, names in COLUMNS.items()}
    found = {part: given.get(part) or name for part, name in first.items()}
    return found | ({"end": None} if found["end"] == found["start"] else {})


def _no_column(part: str, table: pd.DataFrame) -> str:
    there, searched = ", ".join(map(str, table.columns)), ", ".join(COLUMNS[part])
    return f"no column for the {part}; it has {there}, and is searched for {searched}; name yours with --{FLAGS[part]}"


def _add_parts(frame: pd.DataFrame, cells: dict[str, list[str]], found: dict[str, str | None]) -> None:
    """Start (nothing: 0) and end in seconds, where the table has parts of clips."""
    parts, times, bad = {"start", "end"} & {*cells}, {}, pd.Series(False, frame.index)
    for part in ("start", "end", "duration"):
        words = pd.Series(cells.pop(part, ""), frame.index, dtype=object)
        numbers = pd.to_numeric(words, errors="coerce").astype(float)
        bad |= numbers.isna() & (words != "")
        times[part] = numbers / (1000 if str(found[part]).lower().endswith("_ms") else 1)
    if parts:
        frame["start"] = start = times["start"].fillna(0.0)
        frame["end"] = end = times["end"].fillna(start + times["duration"])
        bad |= (start < 0) | (end <= start)
        mark(frame, bad, "part without numbers", "start and end must be seconds of the clip, the end after the start")
