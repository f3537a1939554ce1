"""What a source says of each of its clips, as it says it: folders, and corpora of known form.

Not for tables (`common.legacy.recording_tables`), nor for what is then checked and kept (`common.legacy.recordings`) or heard
(`common.legacy.audio`): no clip is opened.
"""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np

from common.legacy.archives import extracted, is_archive
from common.legacy.class_names import canonical
from common.legacy.errors import UserError

AUDIO_ENDINGS = (".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".au", ".w64", ".caf", ".sph")
SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev", "devel", "development", "eval"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}
FIELD = re.compile(r"\{(\w+)\}")
TRANSCRIPTS, SUBSET = ".trans.txt", re.compile("(train|dev|test)(-|$)")
MISSING_FILE = "missing file"

Files = Mapping[str, str]  # path below the folder, with slashes -> where the file is


@dataclass(frozen=True)
class Reading:
    """How a source is read.

    Attributes:
        classes: name -> its other spellings, of the classes that are known ({"anger": ("A", "angry")}); their order is
            that of the labels. Empty: whatever there is, in alphabetical order.
        label_order: the names that the labels 0, 1, 2, ... of a table stand for.
        names: the classes, in order, that there may be: those of the training data. None: those that are found.
        truth: True: needed; False: ignored; None: taken where it is there.
        kind: what the truth is: a class or a transcript.
        columns: "audio", "label", "text", "speaker" and "split" -> a table's column, where it is not to be found.
        name_pattern: what a file's name without its ending says: "{label}_{speaker}_{index}", or a regular expression
            with named groups; `label`, `speaker` and `text` are what they say, every other group becomes a column.
        skip_bad: bad clips are counted and left out; otherwise the first one is an error.
        audio_needed: False: names without sound will do, and their seconds are unknown.
    """

    classes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    label_order: tuple[str, ...] | None = None
    names: tuple[str, ...] | None = None
    truth: bool | None = True
    kind: Literal["label", "text"] = "label"
    columns: Mapping[str, str | None] = field(default_factory=dict)
    name_pattern: str | None = None
    skip_bad: bool = False
    audio_needed: bool = True


@dataclass
class Entries:
    """N clips as their source describes them; lists have N items, and None where nothing is said.

    Attributes:
        places: where each is, for messages: a path, or a table and its row.
        stems: the file names without folder and ending, for `Reading.name_pattern`.
        audio: what `common.legacy.audio.decode` takes.
        begins, ends: the part of the file in seconds; NaN: its begin, its end.
        order: the classes' own order, where the source has one.
        numbered: labels that are numbers count classes; otherwise they are names (the folders of spoken digits).
        bad: item -> (reason to count, sentence to say).
        remedies: "label", "text" -> why the source has none, and what to do.
    """

    source: str
    ids: list[str]
    places: list[str]
    stems: list[str]
    audio: Sequence
    labels: list[str] | None = None
    texts: list[str] | None = None
    speakers: list[str] | None = None
    splits: list[str] | None = None
    begins: np.ndarray | None = None
    ends: np.ndarray | None = None
    columns: dict[str, list[str]] = field(default_factory=dict)
    order: tuple[str, ...] = ()
    numbered: bool = False
    bad: dict[int, tuple[str, str]] = field(default_factory=dict)
    remedies: dict[str, str] = field(default_factory=dict)


def is_audio(path: str) -> bool:
    """Whether the name of a file has an ending of sound."""
    return path.lower().endswith(AUDIO_ENDINGS)


def stem(path: str) -> str:
    """A file's name without folder and ending; what looks like an ending but is none of sound stays."""
    name = PurePosixPath(path).name
    return name.rpartition(".")[0] if is_audio(name) else name


# Names


def name_pattern(text: str) -> re.Pattern:
    """The regular expression of `Reading.name_pattern`; raises `UserError` for one that says nothing or is broken."""
    expression = text
    if "(?P<" not in text:
        literal = [re.escape(part) if i % 2 == 0 else f"(?P<{part}>.+?)" for i, part in enumerate(FIELD.split(text))]
        expression = "".join(literal)
    try:
        pattern = re.compile(expression)
    except re.error as error:
        raise UserError(f"--name_pattern {text}: not a pattern: {error}") from None
    if not pattern.groupindex:
        raise UserError(
            f"--name_pattern {text}: names no part; write it like {{label}}_{{speaker}}_{{index}}, or as a regular "
            "expression with groups like (?P<label>...)"
        )
    return pattern


def read_names(entries: Entries, reading: Reading) -> None:
    """Adds what the files' names say to what the source says; where both say a class, they must agree.

    A folder that is called like no class at all, or like another part of the name (F: of a woman), is left aside.
    """
    pattern = name_pattern(reading.name_pattern)
    matches = [pattern.fullmatch(name) for name in entries.stems]
    for i, match in enumerate(matches):
        if match is None:
            sentence = f"the name {entries.stems[i]!r} does not match --name_pattern {reading.name_pattern}"
            entries.bad.setdefault(i, ("name does not match", sentence))
    if entries.stems and not any(matches):
        sentence = f"no name matches --name_pattern {reading.name_pattern}; the first is {entries.stems[0]!r}"
        entries.remedies = {**entries.remedies, "label": sentence, "text": sentence}
    said = {group: ["" if m is None else m[group] or "" for m in matches] for group in pattern.groupindex}
    if "label" in said:
        # With no classes given, those that the names speak of are the ones that a folder may be called like.
        known = dict(reading.classes) or dict.fromkeys(said["label"], ())
        for i, (folder, label) in enumerate(zip(entries.labels or (), said["label"])):
            meant = canonical(folder or "", known)
            elsewhere = any(folder == values[i] for group, values in said.items() if group != "label")
            if label and not elsewhere and meant in known and meant != canonical(label, known):
                sentence = f"its name says the class {label!r}, the data say {folder!r}"
                entries.bad.setdefault(i, ("name and label disagree", sentence))
        entries.labels, entries.numbered = said.pop("label"), False
    entries.texts = entries.texts or said.pop("text", None)
    entries.speakers = entries.speakers or said.pop("speaker", None)
    entries.columns = {**{k: v for k, v in said.items() if k not in ("text", "speaker")}, **entries.columns}


# Trees


def list_files(folder: Path, root: Path) -> Files:
    """The files below `folder`, without folders that only wrap others; of a folder without sound, its archives' files.

    Hidden files and what macOS adds to archives are left aside.
    """
    files = _walk(folder)
    if not any(is_audio(path) for path in files):
        for path in [path for path in files if "/" not in path and is_archive(files[path])]:
            name = re.sub(r"\.(zip|tgz|tar(\.\w+)?)$", "", path)
            inner = _walk(extracted(files.pop(path), root))
            files |= {f"{name}/{path}": place for path, place in inner.items()}
    return files


def _walk(folder: Path) -> dict[str, str]:
    found = {}
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name != "__MACOSX")
        below = os.path.relpath(place, folder).replace(os.sep, "/")
        prefix = "" if below == "." else f"{below}/"
        found |= {f"{prefix}{name}": os.path.join(place, name) for name in sorted(names) if not name.startswith(".")}
    while len({path.partition("/")[0] for path in found}) == 1 and all("/" in path for path in found):
        found = {path.partition("/")[2]: place for path, place in found.items()}
    return found


def class_folders(files: Files, source: str, reading: Reading) -> Entries:
    """Clips in folders by class, also below folders by split; or all in one folder, with no class.

    The class is the innermost folder that is called like a known one, or else the folder that the clip is in.
    """
    paths = [path for path in files if is_audio(path)]
    if not paths and not reading.audio_needed:
        paths = list({PurePosixPath(path).stem: path for path in reversed(files)}.values())[::-1]
    folders = [path.split("/")[:-1] for path in paths]
    while folders and all(parts and parts[0] == folders[0][0] for parts in folders):
        folders = [parts[1:] for parts in folders]  # one that all are in tells nothing
    splits = [SPLITS.get(parts[0].lower(), "") if parts else "" for parts in folders]
    if all(splits):
        folders = [parts[1:] for parts in folders]
    known = {*reading.classes, *(reading.names or ())}
    meant = {part: canonical(part, reading.classes) in known for part in {p for parts in folders for p in parts}}
    labels = [next((p for p in reversed(parts) if meant[p]), parts[-1] if parts else "") for parts in folders]
    return Entries(
        source,
        ids=paths,
        places=[files[path] for path in paths],
        stems=[PurePosixPath(path).stem for path in paths],
        audio=[files[path] if is_audio(path) or reading.audio_needed else None for path in paths],
        labels=labels if any(labels) else None,
        splits=splits if all(splits) else None,
        remedies={
            "label": "the clips are not in folders by class; put them in such folders, or give --name_pattern",
            "text": "clips alone have no transcripts; give a table with paths and texts, or --test_file to hear them",
        },
    )


def librispeech(files: Files, source: str) -> Entries:
    """The tree of LibriSpeech: clips in SUBSET/SPEAKER/CHAPTER/, with their texts in SPEAKER-CHAPTER.trans.txt."""
    clips = {path.rpartition(".")[0]: path for path in files if is_audio(path)}
    texts, lists = {}, {}
    for path in (path for path in files if path.endswith(TRANSCRIPTS)):
        for line in filter(None, read_lines(files[path])):
            name, _, text = line.partition(" ")
            key = f"{path.rpartition('/')[0]}/{name}".lstrip("/")
            texts[key], lists[key] = text.strip(), files[path]
    keys = sorted({**clips, **texts})
    ids = [PurePosixPath(key).name for key in keys]
    subsets = [next((part for part in key.split("/") if SUBSET.match(part)), "") for key in keys]
    entries = Entries(
        source,
        ids=ids,
        places=[files[clips[key]] if key in clips else f"{lists[key]}: {name}" for key, name in zip(keys, ids)],
        stems=ids,
        audio=[files[clips[key]] if key in clips else None for key in keys],
        texts=[texts.get(key, "") for key in keys],
        speakers=[name.partition("-")[0] for name in ids],
        splits=[SPLITS[subset.partition("-")[0]] for subset in subsets] if all(subsets) else None,
        columns={"subset": subsets} if len(set(subsets)) > 1 else {},
        remedies={"label": "LibriSpeech has transcripts, and no classes"},
    )
    for i, key in enumerate(keys):
        if key not in clips:
            entries.bad[i] = MISSING_FILE, "there is a transcript, but no clip beside it"
    return entries


def is_lj(path: Path) -> bool:
    """Whether a file is LJ Speech's table: `id|transcription|normalised transcription`, without a header."""
    with path.open(encoding="utf-8", errors="replace") as file:
        identity, bar, _ = file.readline().partition("|")
    return bool(bar) and not re.search(r"[\s,;\"]", identity)


def ljspeech(table: Path, source: str) -> Entries:
    """LJ Speech's form: `metadata.csv` and the clips under wavs/. The normalised text is taken where there is one."""
    clips = {stem(path): place for path, place in _walk(table.parent).items() if is_audio(path)}
    rows = [(i, line.split("|")) for i, line in enumerate(read_lines(str(table)), start=1) if line.strip()]
    ids = [stem(cells[0].strip()) for _, cells in rows]
    entries = Entries(
        source,
        ids=ids,
        places=[f"{table}: row {number}" for number, _ in rows],
        stems=ids,
        audio=[clips.get(name) for name in ids],
        texts=[next((cell.strip() for cell in cells[:0:-1] if cell.strip()), "") for _, cells in rows],
        remedies={"label": "a table of the form id|text has transcripts, and no classes"},
    )
    for i, name in enumerate(ids):
        if name not in clips:
            where = table.parent / "wavs" / name
            entries.bad[i] = MISSING_FILE, f"there is no clip {where}, with any of the endings of sound"
    return entries


def read_lines(path: str) -> list[str]:
    """The lines of a UTF-8 file without their ends."""
    try:
        return re.split("\r?\n", Path(path).read_bytes().decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text (byte {error.start}); save it as UTF-8") from None
