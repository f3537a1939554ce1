"""One clip of sound: its length by the header, its samples at 16 kHz, and whether it is whole.

`librosa.load` decodes and resamples what libsndfile reads (wav, flac, ogg, opus, mp3, ...), and what ffmpeg reads where
that is installed (m4a, aac, mp4, amr, wma, webm). The path of a clip is that of a file, or FILE.arrow#COLUMN#ROW for
the sound in a row of a hub's data set.
"""

import contextlib
import functools
import hashlib
import io
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from common.errors import UserError

RATE = 16_000  # Hz; what speech encoders are trained on
MINIMUM_SAMPLES = 400  # at RATE, 25 ms: the receptive field of the encoders' convolutions
AUDIO_ENDINGS = (".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".mp2", ".aif", ".aiff", ".aifc", ".au", ".snd")
AUDIO_ENDINGS += (".w64", ".caf", ".sph")
FFMPEG_ENDINGS = (".m4a", ".m4b", ".aac", ".mp4", ".mov", ".amr", ".wma", ".webm", ".weba", ".3gp", ".mka", ".mkv")
FFMPEG_ENDINGS += (".ape", ".wv")
FFMPEG_REMEDY = "install ffmpeg (apt, brew, conda or winget install ffmpeg), or convert them to wav, flac, ogg or mp3"
BLOCK = 2**20  # frames decoded at once when a clip is examined: memory does not depend on what a header promises
TOLERANCE = 0.05  # seconds that a header may promise more than there is: mp3 headers count whole frames
# How files begin that ffmpeg alone reads: mp4 and its kin, amr, wma, webm, ape, wv, aac.
FFMPEG_HEADS = re.compile(rb"(?s).{4}ftyp|#!AMR|\x30\x26\xb2\x75|\x1a\x45\xdf\xa3|MAC |wvpk|\xff[\xf0\xf1\xf8\xf9]")
# libsndfile goes by what is there, and says only in its log what the header of a wav or aiff promises.
PROMISED = re.compile(r"^\s*(?:data|SSND|Data Size)\s*: (\d+) \(should be (\d+)\)", re.MULTILINE)
UNKNOWN_BYTES = 0x7FFF0000  # from here on, what writers into a pipe put where the length belongs
XING = re.compile(rb"(?:Xing|Info)\0\0\0[\3\7\x0b\x0f].{4}(.{4})", re.DOTALL)  # of mp3: counts frames, then bytes


class BadAudio(UserError):
    """A clip that cannot be used; the sentence begins with its name, `reason` is the kind of problem, to count."""

    def __init__(self, sentence: str, reason: str = "truncated"):
        super().__init__(sentence)
        self.reason = reason


def load_audio(
    path: str | Path, start: float = 0.0, end: float | None = None, *, name: str | None = None
) -> np.ndarray:
    """The samples of a clip, or of its part from `start` to `end` seconds: float32 [samples] at `RATE`, mono.

    `name` is what messages call it; default: its path. Raises `BadAudio` where it is no whole clip, or has no samples
    from `start` on.
    """
    import librosa

    name = name or str(path)
    with _opened(path, name) as sound:
        rate, first = sound.samplerate, round(start * sound.samplerate)
        last = sound.frames if end is None else min(round(end * rate), sound.frames)
        if first >= last:
            sentence = f"{name}: has no samples from {start:g} s on; it is {sound.frames / rate:g} s long"
            raise BadAudio(sentence, "no samples")
        # librosa cuts fractions of a sample off; with half a sample more it takes the nearest one.
        part = {"offset": (first + 0.5) / rate, "duration": (last - first + 0.5) / rate}
        samples, _ = librosa.load(sound, sr=RATE, mono=True, **part)
        _check_length(len(samples) / RATE, (last - first) / rate, name)
    return samples


def load_clip(row: dict) -> np.ndarray:
    """The samples of a row of a split (`common.speech.recordings`): float32 [samples] at `RATE`."""
    return load_audio(row["path"], row["start"], row["end"], name=row.get("id"))


def seconds_of(path: str | Path) -> float:
    """How long a clip is by its header; nothing is decoded. Raises `BadAudio` for what the header shows to be wrong."""
    with _opened(path, str(path)) as sound:
        return sound.frames / sound.samplerate


def examine(path: str | Path, name: str | None = None) -> dict:
    """What decoding a clip from its first sample to its last shows.

    Returns:
        `seconds`; `peak`, its largest absolute sample; `digest`, SHA-256 of the file's bytes; `reason` and `problem`,
        the kind of what is wrong with it, to count, and a sentence; both "" for a good clip.
    """
    found, frames = {"seconds": 0.0, "peak": 0.0, "digest": "", "reason": "", "problem": ""}, 0
    name = name or str(path)
    try:
        with _opened(path, name) as sound:
            found["digest"] = hashlib.sha256(_content(_stored(path))).hexdigest()
            while len(block := sound.read(BLOCK, dtype="float32")):  # `blocks` hands on rubbish behind a cut file
                if not np.isfinite(block).all():
                    raise BadAudio(f"{name}: has samples that are not finite numbers (NaN, infinite)", "not finite")
                frames, found["peak"] = frames + len(block), max(found["peak"], float(np.abs(block).max()))
            found["seconds"] = frames / sound.samplerate
            _check_length(found["seconds"], sound.frames / sound.samplerate, name)
    except BadAudio as problem:
        found |= {"reason": problem.reason, "problem": str(problem)}
    return found


def _stored(path: str | Path) -> str | io.BytesIO:
    """What a path means: a file, or the content of one in a hub's data set."""
    if ".arrow#" not in str(path):
        return str(path)
    file, column, row = str(path).rsplit("#", 2)
    clip = _table(file)[int(row)][column][0].as_py()
    return io.BytesIO(clip["bytes"]) if clip["bytes"] else clip["path"] or ""


@functools.lru_cache(256)
def _table(file: str):
    import datasets

    return datasets.Dataset.from_file(file).with_format("arrow")


def _content(source: str | io.BytesIO) -> bytes:
    return Path(source).read_bytes() if isinstance(source, str) else source.getvalue()


@contextlib.contextmanager
def _opened(path: str | Path, name: str) -> Iterator:
    """A `soundfile.SoundFile` whose header was checked; of what ffmpeg alone reads, the sound that it makes of it."""
    import soundfile

    source = _stored(path)
    head = _checked_head(source, name)
    try:
        sound = soundfile.SoundFile(source)
        if not _complete(sound, source):
            sound = soundfile.SoundFile(_converted(_content(source), name))
    except soundfile.LibsndfileError:
        if not FFMPEG_HEADS.match(head):
            needed = f"it must be wav, flac, ogg, opus or mp3, and whole; it begins with {head[:16]!r}"
            raise BadAudio(f"{name}: cannot be decoded; {needed}", "cannot be decoded") from None
        sound = soundfile.SoundFile(_converted(_content(source), name))
    with sound:
        rate, frames = sound.samplerate, sound.frames
        if not frames:
            raise BadAudio(f"{name}: has no samples by its header; record or convert it again", "no samples")
        promised = None if sound.format in ("FLAC", "MP3", "OGG") else PROMISED.search(sound.extra_info)
        declared, there = map(int, promised.groups()) if promised else (0, 0)
        if declared < UNKNOWN_BYTES and (declared - there) / max(there, 1) * frames / rate > TOLERANCE:
            raise _truncated(name, "its header promises more than the file has")
        try:
            yield sound
        except soundfile.LibsndfileError as error:
            said = error.error_string.strip(" .")
            raise _truncated(name, f"it cannot be decoded to its end ({said})") from None


def _checked_head(source: str | io.BytesIO, name: str) -> bytes:
    """The first bytes of what can be a clip, and can be opened (a FIFO would hang)."""
    if isinstance(source, str) and not os.path.isfile(source):
        raise BadAudio(f"{name}: no such file", "no such file")
    with open(source, "rb") if isinstance(source, str) else io.BytesIO(source.getbuffer()) as file:
        head = file.read(64)
    if not head:
        raise BadAudio(f"{name}: has no samples: the file is empty", "no samples")
    if head.startswith(b"version https://git-lfs"):
        raise BadAudio(f"{name}: is a Git LFS pointer, not sound; fetch the file with git lfs pull", "Git LFS pointer")
    return head


def _complete(sound, source: str | io.BytesIO) -> bool:
    """Whether libsndfile reads all of it.

    Not an mp3 whose header does not count it (the length is a guess from the first frame), joined mp3 or ogg files (the
    first is read), flac from a pipe (without a length), GSM (which cannot be searched).
    """
    if sound.format not in ("MP3", "OGG"):
        return sound.seekable() and sound.frames < 2**60
    content = _content(source)
    if sound.format == "OGG":
        return content.count(b"OggS\0\2") == 1  # beginnings
    counted = XING.search(content)
    rest = len(content) - counted.start() if counted else np.inf
    return counted is not None and rest <= 1.01 * int.from_bytes(counted[1], "big") + 512  # tags are behind it


def _converted(content: bytes, name: str) -> io.BytesIO:
    """A wav file of what ffmpeg alone reads to its end."""
    if not shutil.which("ffmpeg"):
        raise BadAudio(f"{name}: is of a kind that ffmpeg alone reads; {FFMPEG_REMEDY}", "needs ffmpeg")
    with tempfile.TemporaryDirectory() as folder:  # not pipes: mp4 is searched, and wav needs its length
        file, wav = Path(folder) / "clip", Path(folder) / "clip.wav"
        file.write_bytes(content)
        command = ["ffmpeg", "-nostdin", "-v", "error", "-i", str(file), "-map", "a:0", str(wav)]
        done = subprocess.run(command, capture_output=True, text=True, errors="replace")
        if done.returncode or done.stderr:
            said = (done.stderr.strip().splitlines() or ["no sound"])[0].rpartition("] ")[2]
            raise _truncated(name, f"ffmpeg says {said.strip(' .')}")
        return io.BytesIO(wav.read_bytes())


def _check_length(seconds: float, promised: float, name: str) -> None:
    if promised - seconds > TOLERANCE:
        raise _truncated(name, f"it can be decoded up to {seconds:.2f} of {promised:.2f} s")
    if round(seconds * RATE) < MINIMUM_SAMPLES:
        needed = 1000 * MINIMUM_SAMPLES / RATE
        raise BadAudio(f"{name}: is too short: {1000 * seconds:.3g} ms; encoders need {needed:g} ms", "too short")


def _truncated(name: str, what: str) -> BadAudio:
    return BadAudio(f"{name}: is truncated or damaged: {what}; fetch it again")
