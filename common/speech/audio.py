"""One clip of sound: its samples at 16 kHz, and whether it is whole.

The path of a clip is that of a file, or FILE.arrow#COLUMN#ROW for the sound in a row of a hub's data set.
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

import datasets
import librosa
import numpy as np
import soundfile

from common.errors import UserError

RATE = 16_000  # Hz; what speech encoders are trained on
MINIMUM = 0.025  # seconds: the receptive field of the encoders' convolutions
AUDIO_ENDINGS = (".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".au", ".sph", ".caf", ".w64")
FFMPEG_ENDINGS = (".m4a", ".aac", ".mp4", ".amr", ".wma", ".webm")
FFMPEG_HEADS = re.compile(rb"(?s).{4}ftyp|OggS|#!AMR|\x30\x26\xb2\x75|\x1a\x45\xdf\xa3|\xff[\xf0\xf1\xf8\xf9]")
FFMPEG_REMEDY = "install ffmpeg (apt, brew, conda or winget install ffmpeg), or convert them to wav, flac, ogg or mp3"
BLOCK = 2**20  # frames decoded at once when a clip is examined: memory does not depend on what a header promises
LOUDEST = 1e12  # of samples, where full scale is 1 or 32,768: squares of larger ones are infinite
TOLERANCE = 0.05  # seconds that a header may promise more than there is: mp3 headers count whole frames
# libsndfile goes by what is there, and says only in its log what the header of a wav or aiff promises.
PROMISED = re.compile(r"^\s*(?:data|SSND|Data Size)\s*: (\d+) \(should be (\d+)\)", re.MULTILINE)
UNKNOWN_BYTES = 0x7FFF0000  # from here on, what writers into a pipe put where the length belongs
XING = re.compile(rb"(?:Xing|Info)\0\0\0[\3\7\x0b\x0f].{4}(.{4})", re.DOTALL)  # of mp3: counts frames, then bytes


class BadAudio(UserError):
    """A clip that cannot be used; the sentence begins with its name, `reason` is the kind of problem, to count."""

    def __init__(self, sentence: str, reason: str = "truncated"):
        super().__init__(sentence)
        self.reason = reason


def load_clip(row: dict) -> np.ndarray:
    """The samples of a row of a split (`common.speech.recordings`): float32 [samples] at `RATE`, mono."""
    with _opened(row["path"]) as sound:
        rate = sound.samplerate
        first, last = (at if at is None else round(at * rate) for at in (row["start"], row["end"]))
        sound.seek(first)
        samples = sound.read(-1 if last is None else last - first, dtype="float32", always_2d=True).mean(axis=1)
    return librosa.resample(samples, orig_sr=rate, target_sr=RATE)


def examine(path: str) -> dict:
    """What decoding shows: seconds, peak of the mono sound, digest (SHA-256 of the file); reason and problem, or ""."""
    found, frames = {"seconds": 0.0, "peak": 0.0, "digest": "", "reason": "", "problem": ""}, 0
    try:
        with _opened(path) as sound:
            found["digest"] = hashlib.sha256(_content(_stored(path))).hexdigest()
            # A block that is not full is the last: behind a damaged frame further reads find more, but not `load_clip`.
            while frames % BLOCK == 0 and len(block := sound.read(BLOCK, dtype="float32", always_2d=True)):
                if not (np.abs(block) < LOUDEST).all():
                    raise BadAudio(f"{path}: has samples that are not finite, or beyond {LOUDEST:g}", "not finite")
                frames, found["peak"] = frames + len(block), max(found["peak"], float(np.abs(block.mean(axis=1)).max()))
            seconds, promised = frames / sound.samplerate, sound.frames / sound.samplerate
        if promised - seconds > TOLERANCE:
            raise _truncated(path, f"it can be decoded up to {seconds:.2f} of {promised:.2f} s")
        found["seconds"] = seconds
    except BadAudio as problem:
        found |= {"reason": problem.reason, "problem": str(problem)}
    return found


def _stored(path: str) -> str | io.BytesIO:
    """What a path means: a file, or the content of one in a hub's data set."""
    file = str(path)
    if row := re.fullmatch(r"(.+\.arrow)#(.+)#(\d+)", file):
        clip = _table(row[1])[int(row[3])][row[2]][0].as_py() or {}
        if clip.get("bytes"):
            return io.BytesIO(clip["bytes"])
        if not (file := clip.get("path")):
            raise BadAudio(f"{path}: its row has no sound", "no audio")
    if not os.path.isfile(file):  # a FIFO would hang
        fetch = "; fetch it first: only tables may be at addresses" * bool(re.search("https?:/", file))
        raise BadAudio(f"{file}: no such file{fetch}", "no such file")
    return file


@functools.lru_cache(256)
def _table(file: str):
    return datasets.Dataset.from_file(file).with_format("arrow")


def _content(source: str | io.BytesIO, size: int = -1) -> bytes:
    with open(source, "rb") if isinstance(source, str) else io.BytesIO(source.getbuffer()) as file:
        return file.read(size)


@contextlib.contextmanager
def _opened(path: str) -> Iterator:
    """A `soundfile.SoundFile` whose header was checked; of what ffmpeg alone reads, the sound that it makes of it."""
    source = _stored(path)
    head = _content(source, 64)
    if head.startswith(b"version https://git-lfs"):
        raise BadAudio(f"{path}: is a Git LFS pointer, not sound; fetch the file with git lfs pull", "Git LFS pointer")
    try:
        sound = soundfile.SoundFile(source)
        whole = _complete(sound, source)
    except soundfile.LibsndfileError:
        whole = False
        if not FFMPEG_HEADS.match(head):
            needed = f"it must be wav, flac, ogg, opus or mp3, and whole; it begins with {head[:16]!r}"
            raise BadAudio(f"{path}: cannot be decoded; {needed}", "cannot be decoded") from None
    sound = sound if whole else soundfile.SoundFile(_converted(_content(source), path))
    with sound:
        if not sound.frames:
            raise BadAudio(f"{path}: has no samples by its header; record or convert it again", "no samples")
        promised = PROMISED.search(sound.extra_info)
        declared, there = map(int, promised.groups()) if promised else (0, 0)
        missing = (declared - there) / max(there, 1) * sound.frames / sound.samplerate  # seconds
        if declared < UNKNOWN_BYTES and missing > TOLERANCE:
            raise _truncated(path, "its header promises more than the file has")
        try:
            yield sound
        except soundfile.LibsndfileError as error:
            said = error.error_string.strip(" .")
            raise _truncated(path, f"it cannot be decoded to its end ({said})") from None


def _complete(sound, source: str | io.BytesIO) -> bool:
    """Whether libsndfile reads all of it: not of joined mp3 or ogg, an mp3 without its count, flac of a pipe."""
    if sound.format == "OGG":
        return _content(source).count(b"OggS\0\2") == 1  # beginnings
    if sound.format != "MP3":
        return sound.seekable() and sound.frames < 2**60
    content = _content(source)
    counted = XING.search(content)
    rest = len(content) - counted.start() if counted else np.inf
    return counted is not None and rest <= 1.01 * int.from_bytes(counted[1], "big") + 512  # tags are behind it


def _converted(content: bytes, path: str) -> io.BytesIO:
    """A wav file of what ffmpeg alone reads to its end."""
    if not shutil.which("ffmpeg"):
        raise BadAudio(f"{path}: is of a kind that ffmpeg alone reads; {FFMPEG_REMEDY}", "needs ffmpeg")
    with tempfile.TemporaryDirectory() as folder:  # not pipes: mp4 is searched, and wav needs its length
        file, wav = Path(folder) / "clip", Path(folder) / "clip.wav"
        file.write_bytes(content)
        command = ["ffmpeg", "-nostdin", "-v", "error", "-i", str(file), "-map", "a:0", str(wav)]
        done = subprocess.run(command, capture_output=True, text=True, errors="replace")
        if done.returncode or done.stderr:
            said = (done.stderr.strip().splitlines() or ["no sound"])[0].rpartition("] ")[2]
            raise _truncated(path, f"ffmpeg says {said.strip(' .')}")
        return io.BytesIO(wav.read_bytes())


def _truncated(path: str, what: str) -> BadAudio:
    return BadAudio(f"{path}: is truncated or damaged: {what}; fetch it again")
