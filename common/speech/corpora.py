"""What folders and corpora of known form say of their clips, as a table: a row a clip (`clips_frame`).

Read are Speech Commands, LibriSpeech, IEMOCAP, and folders by class; of corpora of emotions the names of the files say
it all (`CORPORA`). Tables, those in folders too, are in `tables`.
"""

import mimetypes
import os
import posixpath
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np
import pandas as pd

from common.cache import is_archive, unpacked
from common.errors import UserError
from common.labels import canonical
from common.speech.audio import AUDIO_ENDINGS, FFMPEG_ENDINGS

SPLITS = dict.fromkeys(("train", "training"), "train") | dict.fromkeys(("test", "testing"), "test")
SPLITS |= dict.fromkeys(("validation", "valid", "val", "dev", "devel", "development", "eval"), "validation")
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
NOISE = "_background_noise_"
LISTS = {"validation": "validation_list.txt", "test": "testing_list.txt"}
# Of LibriSpeech and IEMOCAP: files whose lines say the text or class of a clip -> which, and name and truth in a line.
TRUTHS = {
    r"\.trans\.txt$": ("text", re.compile(r"(\S+) (.*)")),
    r"EmoEvaluation/[^/]+\.txt$": ("label", re.compile(r"\[[\d.]+ - [\d.]+\]\t(\S+)\t(\w+)\t.*")),
}
NO_AGREEMENT = ("xxx", "oth")  # IEMOCAP's
NOHASH = re.compile(r"(?:.*_)?([^_]+)_nohash_.*")

Files = Mapping[str, str]  # path below the folder, with slashes -> where the file is


@dataclass(frozen=True)
class Corpus:
    """What the names of files say: `pattern` has groups such as speaker and label."""

    pattern: str
    labels: Mapping[str, str] = field(default_factory=dict)  # code -> class, where codes are no spelling in `EMOTIONS`
    male: str | None = None  # which speakers are, where the name does not say it


def _codes(words: str) -> dict[str, str]:
    return dict(zip(words.split()[::2], words.split()[1::2]))


CORPORA = {
    "shemo": Corpus(  # Mohamad Nezami et al. 2019, Persian
        r"(?P<speaker>(?P<gender>[MF])\d{2})(?P<label>[AFHNSW])(?P<utterance>\d{2,})",
        _codes("A anger F fear H happiness N neutral S sadness W surprise"),
    ),
    "emodb": Corpus(  # Burkhardt et al. 2005, German: W is Wut, A is Angst
        r"(?P<speaker>\d{2})(?P<sentence>[ab]\d{2})(?P<label>[WLEAFTN])[a-z]",
        _codes("W anger L boredom E disgust A fear F happiness T sadness N neutral"),
        male="03|10|11|12|15",
    ),
    "ravdess": Corpus(  # Livingstone and Russo 2018, English
        r"0[1-3]-(?P<channel>0[12])-(?P<label>0[1-8])-(?P<intensity>0[12])-(?P<sentence>0[12])-0[12]-(?P<speaker>\d{2})",
        _codes("01 neutral 02 calm 03 happiness 04 sadness 05 anger 06 fear 07 disgust 08 surprise"),
        male=r"\d[13579]",
    ),
    "cremad": Corpus(  # Cao et al. 2014, English
        r"(?P<speaker>1\d{3})_(?P<sentence>[A-Z]{3})_(?P<label>ANG|DIS|FEA|HAP|NEU|SAD)_(?P<intensity>LO|MD|HI|XX?)"
    ),
    "savee": Corpus(  # Haq and Jackson 2009, English: DC/a01.wav or DC_a01.wav
        r"(?:.*/)?(?P<speaker>DC|JE|JK|KL)[/_](?P<label>sa|su|[adfhn])(?P<sentence>\d{2})",
        _codes("a anger d disgust f fear h happiness n neutral sa sadness su surprise"),
        male=".*",
    ),
    "tess": Corpus(  # Pichora-Fuller and Dupuis 2020, English; some files of OAF say OA
        r"(?P<speaker>OA|YA)F?_(?P<word>\w+?)_(?P<label>angry|disgust|fear|happy|neutral|ps|sad)", male="nobody"
    ),
    "urdu": Corpus(  # Latif et al. 2018
        r"(?P<speaker>S(?P<gender>[MF])\d+)_F\d+_(?P<label>[AHNS])\d+",
        _codes("A anger H happiness N neutral S sadness"),
    ),
    # Busso et al. 2008, English; the classes stand in its evaluation files
    "iemocap": Corpus(r"(?P<session>Ses\d{2})[FM]_(?:.*_)?(?P<gender>[FM])\d+"),
}


@dataclass(frozen=True)
class Reading:
    """How sources are read; see `common.speech.recordings.load_recordings`."""

    args: object
    run: object
    kind: Literal["label", "text"]
    classes: Mapping[str, Sequence[str]]
    names: Sequence[str]
    corpora: bool
    audio: bool


def clips_frame(ids: Sequence[str], paths: Sequence[str], **columns: Sequence) -> pd.DataFrame:
    """The table of N clips.

    Columns: path; id; name, from which patterns read; where, for messages; reason and problem, see `mark`; and what of
    label, text, speaker, gender, split, start, end (seconds) and others the source says. Attrs, where there are any:
    source; numbered, whether numbers as labels count classes; doubt, a sentence to say unless names of files say the
    class; remedy, why there are no labels or texts.
    """
    own = {"path": paths, "id": ids, "name": paths, "where": paths, "reason": "", "problem": ""}
    return pd.DataFrame({**own, **columns}, dtype=object)


def mark(frame: pd.DataFrame, rows, reason: str | Sequence[str], problem: str | Sequence[str] = "") -> None:
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


def said_by_names(frame: pd.DataFrame, corpus: Corpus) -> list[dict[str, str]]:
    """The pattern's groups in each name, with as many folders before it as the pattern has slashes; {}: no match."""
    folders, said = corpus.pattern.replace("[^/]", "").count("/"), []
    for path in frame["name"]:
        *above, name = path.replace("\\", "/").split("/")
        match = re.fullmatch(corpus.pattern, "/".join([*above[len(above) - folders :], stem(name)]))
        said.append(one := match.groupdict("") if match else {})
        if "session" in one:  # of two people
            one["speaker"] = one["session"] + one["gender"]
        if one and corpus.male:
            one["gender"] = "male" if re.fullmatch(corpus.male, one["speaker"]) else "female"
        if "label" in one:
            one["label"] = corpus.labels.get(one["label"], one["label"])
    return said


def add_names(frame: pd.DataFrame, reading: Reading) -> None:
    """Adds what the files' names say by `--name_pattern`, `--corpus`, or the corpora, of which each matches one.

    Of what folders and tables say, too, gender and split are those of the names, and so is the class, unless a corpus
    is in folders that are called by emotions.
    """
    args, source, columns = reading.args, frame.attrs["source"], ["gender", "split", "label"]
    if args.corpus and args.corpus not in CORPORA:
        raise UserError(f"--corpus {args.corpus}: choose one of {', '.join(CORPORA)}")
    if args.name_pattern:
        flag = f"--name_pattern {args.name_pattern}"
        said = said_by_names(frame, Corpus(name_pattern(args.name_pattern)))
    else:
        tried = [args.corpus] if args.corpus else CORPORA if reading.corpora else []
        by_row = zip(*([(name, one) for one in said_by_names(frame, CORPORA[name])] for name in tried))
        found = [[(name, one) for name, one in row if one] for row in by_row]
        corpora = sorted({name for row in found for name, _ in row})
        if not args.corpus and not (corpora and all(len(row) == 1 for row in found)):
            return
        flag, said = f"--corpus {args.corpus}", [row[0][1] if row else {} for row in found]
        if len(corpora) > 1:  # whose speakers may be called alike
            said = [one | {"speaker": f"{name} {one['speaker']}"} for ((name, one),) in found]
        frame.attrs["source"] = f"{source} ({', '.join(corpora)})"
        if "label" in frame and frame["label"].map(lambda label: canonical(label, EMOTIONS)).isin(EMOTIONS).all():
            columns.remove("label")
    names = frame["name"].map(stem)
    if not any(said):
        raise UserError(f"{source}: no name matches {flag}; the first is {names.iloc[0]!r}")
    found = pd.DataFrame(said, index=frame.index).fillna("")
    for column in found:
        if column in columns or column not in frame or not frame[column].fillna("").any():
            frame[column] = found[column]
    unmatched = [f"the name {name!r} does not match {flag}" for name in names]
    mark(frame, [not one for one in said], "name does not match", unmatched)
    if "label" in found:
        frame.attrs |= {"numbered": False, "doubt": ""}


# Trees


def list_files(folder: Path, args) -> dict[str, str]:
    """The files below `folder`, from the innermost folder that all sound is in; of archives alone, what is in them.

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
    if not any(map(is_audio, files)):
        for path in [path for path in files if is_archive(path)]:
            inner = list_files(unpacked(files.pop(path), args), args)
            files |= {f"{path.partition('.')[0]}/{name}": place for name, place in inner.items()}
    sounds = [posixpath.dirname(path) for path in filter(is_audio, files)] or [*map(posixpath.dirname, files)]
    top = f"{posixpath.commonpath(sounds)}/" if sounds else ""
    return {path.removeprefix(top): place for path, place in files.items()}


def class_folders(files: Files, reading: Reading) -> pd.DataFrame:
    """Clips in folders by class, also below folders by split or by speaker; or all in one folder, with no class.

    Of Speech Commands (Warden 2018) lists say what is in their split, and what is in none is for training; the noise is
    of the class `_silence_`.
    """
    paths = [path for path in files if is_audio(path)]
    if not paths and not reading.audio:
        paths = [*{PurePosixPath(path).stem: path for path in files}.values()]
    folders, columns = [path.split("/")[:-1] for path in paths], {}
    named = [[part.lower() in SPLITS for part in parts] for parts in folders]
    if all(map(any, named)):
        columns["split"] = [SPLITS[parts.pop(at.index(True)).lower()] for parts, at in zip(folders, named)]
    lists, bare = {}, [posixpath.splitext(path)[0] for path in paths]
    for split, name in LISTS.items():  # whose clips may have been converted since
        for place in (files[path] for path in files if posixpath.basename(path) == name):
            lines = (posixpath.normpath(line.replace("\\", "/")) for line in read_lines(place) if line)
            lists |= {posixpath.splitext(line)[0]: split for line in lines}
    if missing := lists.keys() - {*bare}:
        reading.run.warn(f"{len(missing):,} clips of the lists are not there, the first {min(missing)}")
    if len(missing) < len(lists):
        columns["split"] = [lists.get(path, "train") for path in bare]
    if reading.audio and (unread := [path for path in files if _may_be_sound(path)]):
        endings = ", ".join(sorted({PurePosixPath(path).suffix for path in unread}))
        reading.run.warn(f"{len(unread):,} files that end with {endings} are not read, the first {unread[0]}")
    labels, speakers, doubt = _levels(folders, reading)
    labels = [SILENCE if label.lower() == NOISE else label for label in labels]
    if not any(speakers):  # as the names of Speech Commands say
        speakers = [match[1] if match else "" for match in map(NOHASH.fullmatch, map(stem, paths))]
    frame = clips_frame(paths, [files[path] for path in paths], label=labels, speaker=speakers, **columns)
    frame.attrs["doubt"] = doubt
    return frame


def _may_be_sound(path: str) -> bool:
    """Whether a file that is not taken for sound may have some: an archive, or of a kind that is not known."""
    kind = mimetypes.guess_type(path)[0] or "audio"
    known = is_audio(path) or not PurePosixPath(path).suffix
    return is_archive(path) or (not known and kind.startswith(("audio", "video")))


def _levels(folders: list[list[str]], reading: Reading) -> tuple[list[str], list[str], str]:
    """Class and speaker of each clip by the folders it is in, and a sentence to say.

    The class is the innermost folder that is called like a known one. Otherwise, of two levels of folders, the one
    whose names look like codes (s01, Actor_07) has the speakers; where both look alike, the inner one has the classes.
    """
    known = {*reading.classes, *reading.names}
    meant = {part: canonical(part, reading.classes) in known for parts in folders for part in parts}
    if any(meant.values()):
        labels = [next((p for p in reversed(parts) if meant[p]), (parts or [""])[-1]) for parts in folders]
        return labels, [next((p for p in parts if not meant[p] and _is_code(p)), "") for parts in folders], ""
    inner, outer = ([parts[-at] if len(parts) >= at else "" for parts in folders] for at in (1, 2))
    inner_codes, outer_codes = all(map(_is_code, inner)), all(map(_is_code, outer))
    if outer_codes and not inner_codes:
        return inner, outer, ""
    swapped = inner_codes and all(outer) and not outer_codes
    labels, others = (outer, inner) if swapped else (inner, outer)
    shown, rest = (", ".join(sorted({*level} - {""})[:4]) for level in (labels, others))
    rest = f", and {rest} are not" if rest else ", but look like speakers"
    doubt = f"the folders {shown} are taken for classes{rest}; --name_pattern says what they are, such as "
    doubtful = any(outer) or (inner_codes and len({*inner}) > 1)
    return labels, inner if swapped else [], doubt + "{speaker}/{label}/{index}" if doubtful else ""


def _is_code(name: str) -> bool:
    return len(name) > 1 and any(map(str.isdigit, name))


def with_truths(files: Files) -> pd.DataFrame | None:
    """LibriSpeech or IEMOCAP: a row for each name that has a clip or a truth; marked where one of both is missing."""
    kinds = ((*kind, [path for path in files if re.search(ending, path)]) for ending, kind in TRUTHS.items())
    column, line, lists = next((kind for kind in kinds if kind[2]), (None, None, []))
    if column is None:
        return None
    clips = {stem(path): path for path in files if is_audio(path) and "dialog/" not in path}
    truths, places = {}, dict(clips)
    for path in lists:
        said = dict(match.groups() for match in map(line.fullmatch, read_lines(files[path])) if match)
        truths, places = truths | said, places | dict.fromkeys(said, path)
    names, what = sorted({*clips, *truths}), "transcript" if column == "text" else "label"
    paths, said = [files.get(clips.get(name), name) for name in names], [truths.get(name, "") for name in names]
    frame = clips_frame(names, paths, **{column: said})
    mark(frame, [name not in clips for name in names], "no such file", f"there is a {what}, but no clip")
    mark(frame, [name not in truths for name in names], f"no {what}", f"there is a clip, but no {what}")
    if column == "label":
        mark(frame, frame["label"].isin(NO_AGREEMENT), "no label")
        return frame
    frame["speaker"] = [name.partition("-")[0] for name in names]
    parts = [places[name].split("/") for name in names]
    frame["subset"] = [next((part for part in one if part.split("-")[0] in SPLITS), "") for one in parts]
    if frame["subset"].all():
        frame["split"] = [SPLITS[subset.split("-")[0]] for subset in frame["subset"]]
    return frame


def read_lines(path: str) -> list[str]:
    """The lines of a UTF-8 file without their ends."""
    try:
        return re.split("\r?\n", Path(path).read_bytes().decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text (byte {error.start}); save it as UTF-8") from None
