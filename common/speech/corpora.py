"""What folders and corpora of known form say of their clips: no clip is opened here.

Read are Speech Commands, LibriSpeech, Common Voice, LJ Speech, IEMOCAP, folders with a metadata table, and folders by
class; of corpora of emotions the names of the files say it all (`CORPORA`). Not for single tables (`tables`).
"""

import hashlib
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Literal

import numpy as np

from common.cache import is_archive, unpacked
from common.errors import UserError
from common.speech.audio import AUDIO_ENDINGS, FFMPEG_ENDINGS, BadAudio, seconds_of

if TYPE_CHECKING:
    import pandas as pd

SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev", "devel", "development", "eval"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}
# Class -> other spellings of it.
EMOTIONS = {
    "anger": ("angry", "ang"),
    "boredom": ("bored",),
    "calm": ("calmness",),
    "disgust": ("disgusted", "dis"),
    "excitement": ("excited", "exc"),
    "fear": ("fearful", "fea"),
    "frustration": ("frustrated", "fru"),
    "happiness": ("happy", "hap", "joy"),
    "neutral": ("neu",),
    "sadness": ("sad",),
    "surprise": ("surprised", "sur", "ps", "pleasant_surprise", "pleasant_surprised"),
}
SILENCE, UNKNOWN = "_silence_", "_unknown_"
NOISE = "_background_noise_/"
LISTS = {"validation": "validation_list.txt", "test": "testing_list.txt"}
HASHES, SHARE = 2**27, 10.0  # percent of the speakers in each of validation and test
NOHASH = re.compile(r"(?:.*_)?([^_]+)_nohash_.*")

Files = Mapping[str, str]  # path below the folder, with slashes -> where the file is


def _codes(words: str) -> dict[str, str]:
    return dict(zip(words.split()[::2], words.split()[1::2]))


@dataclass(frozen=True)
class Corpus:
    """A corpus of emotions by its names: `pattern` has the groups speaker and label; `labels`: code -> class."""

    pattern: str
    labels: Mapping[str, str] = field(default_factory=dict)  # where codes are no spelling in `EMOTIONS`
    gender: Callable[[str], str] | None = None  # of a speaker, where the name does not say it


CORPORA = {
    "shemo": Corpus(  # Mohamad Nezami et al. 2019, Persian
        r"(?P<speaker>(?P<gender>[MF])\d{2})(?P<label>[AFHNSW])(?P<utterance>\d{2,})",
        _codes("A anger F fear H happiness N neutral S sadness W surprise"),
    ),
    "emodb": Corpus(  # Burkhardt et al. 2005, German: W is Wut, A is Angst
        r"(?P<speaker>\d{2})(?P<sentence>[ab]\d{2})(?P<label>[WLEAFTN])[a-z]",
        _codes("W anger L boredom E disgust A fear F happiness T sadness N neutral"),
        lambda speaker: "male" if speaker in ("03", "10", "11", "12", "15") else "female",
    ),
    "ravdess": Corpus(  # Livingstone and Russo 2018, English
        r"0[1-3]-(?P<channel>0[12])-(?P<label>0[1-8])-(?P<intensity>0[12])-(?P<sentence>0[12])-0[12]-(?P<speaker>\d{2})",
        _codes("01 neutral 02 calm 03 happiness 04 sadness 05 anger 06 fear 07 disgust 08 surprise"),
        lambda speaker: "male" if int(speaker) % 2 else "female",
    ),
    "cremad": Corpus(  # Cao et al. 2014, English
        r"(?P<speaker>1\d{3})_(?P<sentence>[A-Z]{3})_(?P<label>ANG|DIS|FEA|HAP|NEU|SAD)_(?P<intensity>LO|MD|HI|XX?)"
    ),
    "savee": Corpus(  # Haq and Jackson 2009, English: DC/a01.wav or DC_a01.wav
        r"(?:.*/)?(?P<speaker>DC|JE|JK|KL)[/_](?P<label>sa|su|[adfhn])(?P<sentence>\d{2})",
        _codes("a anger d disgust f fear h happiness n neutral sa sadness su surprise"),
        lambda speaker: "male",
    ),
    "tess": Corpus(  # Pichora-Fuller and Dupuis 2020, English; some files of OAF say OA
        r"(?P<speaker>OA|YA)F?_(?P<word>\w+?)_(?P<label>angry|disgust|fear|happy|neutral|ps|sad)",
        gender=lambda speaker: "female",
    ),
    "urdu": Corpus(  # Latif et al. 2018
        r"(?P<speaker>S(?P<gender>[MF])\d+)_F\d+_(?P<label>[AHNS])\d+",
        _codes("A anger H happiness N neutral S sadness"),
    ),
    # Busso et al. 2008, English; the classes stand in its evaluation files, see `iemocap`
    "iemocap": Corpus(r"(?P<speaker>Ses\d{2}(?=[FM]_(?:.*_)?[FM]\d)[FM])_.*"),
}


@dataclass(frozen=True)
class Reading:
    """How sources are read; see `common.speech.recordings.load_recordings`."""

    args: object
    kind: Literal["label", "text"]
    classes: Mapping[str, Sequence[str]]
    names: Sequence[str]
    corpora: bool
    whole_noise: bool
    audio: bool


@dataclass
class Clips:
    """What a source says of N clips.

    Attributes:
        frame: a row a clip; columns path, id, where (for messages), reason and problem (see `mark`), and what
            of label, text, speaker, gender, split, start and end the source says; others are kept as they are.
        source: for messages and results.
        warnings: sentences to say beside the headline.
        doubts: the same, unless the names of the files say the class.
        names: the classes in order, where the source has one.
        numbered: labels that are numbers count classes; otherwise they are names (the folders of spoken digits).
        remedy: why the source has no labels or texts, and what to do.
    """

    frame: "pd.DataFrame"
    source: str
    warnings: list[str] = field(default_factory=list)
    doubts: list[str] = field(default_factory=list)
    names: tuple[str, ...] = ()
    numbered: bool = False
    remedy: str = "it has neither classes nor transcripts"


def clips_frame(ids: Sequence[str], paths: Sequence[str], **columns: Sequence) -> "pd.DataFrame":
    """The frame of `Clips`; without a column `where`, messages say the path."""
    import pandas as pd

    return pd.DataFrame(
        {"path": paths, "id": ids, "where": paths, "reason": "", "problem": "", **columns}, dtype=object
    )


def mark(frame: "pd.DataFrame", rows, reason: str | Sequence[str], problem: str | Sequence[str] = "") -> None:
    """Takes rows that are still good out, for a reason to count; with a problem, the first one may stop the run."""
    rows = np.array(rows, dtype=bool) & (frame["reason"] == "").to_numpy()
    for column, words in (("reason", reason), ("problem", problem)):  # one for all rows, or one each
        frame.loc[rows, column] = np.broadcast_to(np.array(words, dtype=object), len(frame))[rows]


def is_audio(path: str) -> bool:
    """Whether the name of a file has an ending of sound."""
    return path.lower().endswith(AUDIO_ENDINGS + FFMPEG_ENDINGS)


def stem(path: str) -> str:
    """A file's name without folder and ending; what looks like an ending but is none of sound stays."""
    name = PurePosixPath(path.replace("\\", "/")).name
    return name.rpartition(".")[0] if is_audio(name) else name


def spelled(label: str, classes: Mapping[str, Sequence[str]]) -> str:
    """The known name of a class, in whatever spelling; one that is not known as it is."""
    from common.labels import canonical

    return canonical(label, classes)


# Names of files


def name_pattern(text: str) -> str:
    """The regular expression of `--name_pattern`: {label}_{speaker}_{index}, or one with named groups already."""
    pattern = text if "(?P<" in text else re.sub(r"\\\{(\w+)\\\}", r"(?P<\1>[^/]+?)", re.escape(text))
    try:
        named = re.compile(pattern).groupindex
    except re.error:
        named = {}
    if not named:
        how = "write it like {label}_{speaker}_{index}, or as a regular expression with groups like (?P<label>...)"
        raise UserError(f"--name_pattern {text}: is no pattern that names a part; {how}")
    return pattern


def said_by_names(clips: Clips, pattern: str) -> list[dict[str, str]]:
    """The pattern's groups in each name, with as many folders before it as the pattern has slashes; {}: no match."""
    folders, expression = pattern.replace("[^/]", "").count("/"), re.compile(pattern)
    parts = [path.replace("\\", "/").split("/") for path in clips.frame.get("name", clips.frame["path"])]
    names = ("/".join([*one[-1 - folders : -1], stem(one[-1])]) for one in parts)
    return [found.groupdict("") if (found := expression.fullmatch(name)) else {} for name in names]


def said_by_corpus(clips: Clips, name: str) -> tuple[list[dict[str, str]], list[str]]:
    """What a corpus' names say, as `said_by_names`; and the class of each clip that its folder says instead, or ""."""
    corpus, frame = CORPORA[name], clips.frame
    said = said_by_names(clips, corpus.pattern)
    for one in filter(None, said):
        if "label" in one:
            one["label"] = corpus.labels.get(one["label"]) or spelled(one["label"], EMOTIONS)
        if corpus.gender:
            one["gender"] = corpus.gender(one["speaker"])
    given = frame["label"].fillna("") if "label" in frame else [""] * len(frame)
    given = [spelled(corpus.labels.get(label, label), EMOTIONS) for label in given]
    pairs = [*zip(given, said)]
    return said, [label if label in EMOTIONS and label != one.get("label", label) else "" for label, one in pairs]


def corpus_of(clips: Clips) -> str | None:
    """The corpus of emotions whose pattern alone all names match, and whose folders do not say otherwise."""
    matching = [name for name, corpus in CORPORA.items() if all(said_by_names(clips, corpus.pattern))]
    return matching[0] if len(matching) == 1 and not any(said_by_corpus(clips, matching[0])[1]) else None


def apply_corpus(clips: Clips, name: str) -> None:
    """Labels, speakers and genders of a corpus of emotions, by the names of the files."""
    said, others = said_by_corpus(clips, name)
    add_names(clips, said, f"--corpus {name}")
    words = [f"its name says {one.get('label')!r}, its folder or table {label!r}" for one, label in zip(said, others)]
    mark(clips.frame, [label != "" for label in others], "name and label disagree", words)


def add_names(clips: Clips, said: list[dict[str, str]], flag: str) -> None:
    """Adds what the files' names say; of what the source says, too, only class, gender and split are theirs."""
    import pandas as pd

    frame, names = clips.frame, [stem(path) for path in clips.frame.get("name", clips.frame["path"])]
    if not any(said):
        raise UserError(f"{clips.source}: no name matches {flag}; the first is {names[0]!r}")
    columns = pd.DataFrame(said, index=frame.index).fillna("")
    for name in columns:
        if name in ("label", "gender", "split") or name not in frame or not frame[name].fillna("").any():
            frame[name] = columns[name]
    unmatched = [f"the name {name!r} does not match {flag}" for name in names]
    mark(frame, [not one for one in said], "name does not match", unmatched)
    if "label" in columns:
        clips.numbered, clips.doubts = False, []


# Trees


def list_files(folder: Path, args) -> dict[str, str]:
    """The files below `folder`, without folders that only wrap others; of a folder without sound, its archives' files.

    Links are followed; hidden files and what macOS adds to archives are left aside.
    """
    files: dict[str, str] = {}
    for place, folders, names in os.walk(folder, followlinks=True):
        above = Path(place).resolve()
        folders[:] = sorted(
            name
            for name in folders  # none that is hidden, or a link to one that it is in
            if not name.startswith((".", "__MACOSX")) and not above.is_relative_to(Path(place, name).resolve())
        )
        paths = [Path(place, name) for name in sorted(names) if not name.startswith(".")]
        files |= {path.relative_to(folder).as_posix(): str(path) for path in paths}
    while files and all("/" in path for path in files) and len({path.partition("/")[0] for path in files}) == 1:
        files = {path.partition("/")[2]: place for path, place in files.items()}
    if not any(map(is_audio, files)):
        for path in [path for path in files if "/" not in path and is_archive(path)]:
            inner = list_files(unpacked(files.pop(path), args), args)
            files |= {f"{path.partition('.')[0]}/{name}": place for name, place in inner.items()}
    return files


def class_folders(files: Files, source: str, reading: Reading) -> Clips:
    """Clips in folders by class, also below folders by split or by speaker; or all in one folder, with no class."""
    paths = [path for path in files if is_audio(path)]
    if not paths and not reading.audio:
        paths = [*{PurePosixPath(path).stem: path for path in files}.values()]
    folders = [path.split("/")[:-1] for path in paths]
    while folders and all(parts and parts[0] == folders[0][0] for parts in folders):
        folders = [parts[1:] for parts in folders]  # one that all are in tells nothing
    splits, columns = [SPLITS.get(parts[0].lower(), "") if parts else "" for parts in folders], {}
    if splits and all(splits):
        folders, columns["split"] = [parts[1:] for parts in folders], splits
    labels, speakers, doubt = _levels(folders, reading)
    if not any(speakers):  # as the names of Speech Commands say
        speakers = [match[1] if match else "" for match in map(NOHASH.fullmatch, map(stem, paths))]
    columns |= {"label": labels} if any(labels) else {}
    columns |= {"speaker": speakers} if any(speakers) else {}
    remedy = (
        "clips alone have no transcripts; give a table with paths and texts"
        if reading.kind == "text"
        else "the clips are not in folders by class; put them in such folders, or give --name_pattern or --corpus"
    )
    frame = clips_frame(paths, [files[path] for path in paths], **columns)
    return Clips(frame, source, doubts=[f"{source}: {doubt}"] if doubt else [], remedy=remedy)


def _levels(folders: list[list[str]], reading: Reading) -> tuple[list[str], list[str], str]:
    """Class and speaker of each clip by the folders it is in, and a sentence to say.

    The class is the innermost folder that is called like a known one. Otherwise, of two levels of folders, the one
    whose names look like codes (s01, Actor_07) has the speakers; where both look alike, the inner one has the classes.
    """
    known = {*reading.classes, *reading.names}
    meant = {part: spelled(part, reading.classes) in known for parts in folders for part in parts}
    if any(meant.values()):
        labels = [next((p for p in reversed(parts) if meant[p]), (parts or [""])[-1]) for parts in folders]
        return labels, [next((p for p in parts if not meant[p] and _is_code(p)), "") for parts in folders], ""
    inner, outer = ([parts[-at] if len(parts) >= at else "" for parts in folders] for at in (1, 2))
    inner_codes, outer_codes = all(map(_is_code, inner)), all(map(_is_code, outer))
    if outer_codes and not inner_codes:
        return inner, outer, ""
    swapped = inner_codes and all(outer) and not outer_codes
    labels, others = (outer, inner) if swapped else (inner, outer)
    doubtful = any(outer) or (inner_codes and len({*inner}) > 1)
    rest = f", and {_some(others)} are not" if any(outer) else ", but look like speakers"
    doubt = f"the folders {_some(labels)} are taken for classes{rest}; --name_pattern says what they are, such as "
    return labels, inner if swapped else [], doubt + "{speaker}/{label}/{index}" if doubtful else ""


def _is_code(name: str) -> bool:
    return len(name) > 1 and any(map(str.isdigit, name))


def _some(names: Iterable[str]) -> str:
    distinct = sorted({*names} - {""})
    return ", ".join(distinct[:4]) + (", ..." if len(distinct) > 4 else "")


def split_of(speaker: str) -> str:
    """The split of a speaker by the rule that Speech Commands' README gives for clips that are in no list."""
    percent = int(hashlib.sha1(speaker.encode()).hexdigest(), 16) % HASHES * 100 / (HASHES - 1)
    return "validation" if percent < SHARE else "test" if percent < 2 * SHARE else "train"


def speech_commands(files: Files, source: str, whole_noise: bool) -> Clips:
    """Speech Commands (Warden 2018): the word is the class, the noise becomes clips of the class `_silence_`.

    A list says what is in its split, and what is in none is for training; without any list, the hash rule decides. Of
    each file of noise, in windows of a second, the first 80 % are for training, then come validation and test.
    """
    lists = {line: split for split, name in LISTS.items() if name in files for line in read_lines(files[name])}
    rows = []
    for path in filter(is_audio, files):
        if path.startswith(NOISE):
            rows += [(path, SILENCE, None, *window) for window in _windows(path, files[path], whole_noise)]
        elif "/" in path:
            match = NOHASH.fullmatch(stem(path))
            split = lists.get(path, "train") if lists else split_of(match[1] if match else stem(path))
            rows.append((path, path.split("/")[-2], match and match[1], path, split, 0.0, None))
    paths, labels, speakers, ids, splits, starts, ends = zip(*rows) if rows else [()] * 7
    columns = {"label": labels, "speaker": speakers, "split": splits, "start": starts, "end": ends}
    missing = [path for path in lists if path and path not in files]
    warnings = [f"{source}: {len(missing)} clips of its lists are not there, the first {missing[0]}"] if missing else []
    remedy = "Speech Commands has words as classes, and no transcripts"
    return Clips(clips_frame(ids, [files[path] for path in paths], **columns), source, warnings, remedy=remedy)


def _windows(path: str, file: str, whole: bool) -> list[tuple[str, str, float, float | None]]:
    """Id, split, start and end in seconds of the windows of a file of noise."""
    try:
        count = int(seconds_of(file))
    except BadAudio:  # whoever opens it next says what is wrong
        count = 0
    if whole or count < 3:
        return [(path, "train", 0.0, None)]
    held = max(round(count * SHARE / 100), 1)
    splits = ["train"] * (count - 2 * held) + ["validation"] * held + ["test"] * held
    return [(f"{path}#{i + 1}", split, float(i), float(i + 1)) for i, split in enumerate(splits)]


def librispeech(files: Files, source: str) -> Clips:
    """LibriSpeech: clips in SUBSET/SPEAKER/CHAPTER/, with their texts in SPEAKER-CHAPTER.trans.txt."""
    texts, folders = {}, {}
    for path in (path for path in files if path.endswith(".trans.txt")):
        lines = dict(line.partition(" ")[::2] for line in read_lines(files[path]) if line)
        texts |= {name: text.strip() for name, text in lines.items()}
        folders |= dict.fromkeys(lines, path)
    frame = _matched(files, {stem(path): path for path in files if is_audio(path)}, texts, "text")
    frame["speaker"] = [name.partition("-")[0] for name in frame["id"]]
    parts = [(folders.get(name) or place).split("/") for name, place in zip(frame["id"], frame["path"])]
    frame["subset"] = [next((p for p in one if p.split("-")[0] in ("train", "dev", "test")), "") for one in parts]
    if frame["subset"].all():
        frame["split"] = [SPLITS[subset.split("-")[0]] for subset in frame["subset"]]
    return Clips(frame, source, remedy="LibriSpeech has transcripts, and no classes")


def iemocap(files: Files, source: str) -> Clips:
    """IEMOCAP: sentences as clips, their emotions in SESSION/dialog/EmoEvaluation/DIALOG.txt (xxx: no agreement)."""
    line, labels = re.compile(r"\[[\d.]+ - [\d.]+\]\t(\S+)\t(\w+)\t"), {}
    for path in (p for p in files if re.search(r"EmoEvaluation/[^/]+\.txt$", p)):
        labels |= dict(found.groups() for found in map(line.match, read_lines(files[path])) if found)
    clips = {stem(path): path for path in files if is_audio(path) and "/sentences/" in f"/{path}"}
    frame = _matched(files, clips, labels, "label")
    mark(frame, frame["label"].isin(["xxx", "oth"]), "no label")
    frame["label"] = [spelled(code, EMOTIONS) for code in frame["label"]]
    people = [name.rpartition("_")[2][:1] for name in frame["id"]]
    frame["session"] = [name[:5] for name in frame["id"]]
    frame["speaker"], frame["gender"] = frame["session"] + people, people
    return Clips(frame, source, remedy="IEMOCAP is read for its emotions alone")


def _matched(files: Files, clips: Files, truths: Mapping[str, str], column: str) -> "pd.DataFrame":
    """A row for each name that has a clip (name -> path) or a truth; those without one of both are marked."""
    names, what = sorted({*clips, *truths}), "transcript" if column == "text" else "label"
    paths, said = [files.get(clips.get(name), name) for name in names], [truths.get(name, "") for name in names]
    frame = clips_frame(names, paths, **{column: said})
    mark(frame, [name not in clips for name in names], "no such file", f"there is a {what}, but no clip")
    mark(frame, [name not in truths for name in names], f"no {what}", f"there is a clip, but no {what}")
    return frame


def read_lines(path: str) -> list[str]:
    """The lines of a UTF-8 file without their ends."""
    try:
        return re.split("\r?\n", Path(path).read_bytes().decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text (byte {error.start}); save it as UTF-8") from None
