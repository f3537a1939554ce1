"""One clip of sound: its length from the header, its samples at one rate, and whether it is whole.

Files are decoded by libsndfile (wav, flac, ogg, opus, mp3 and what else it knows), by their content, whatever their
names end in; rates are converted by soxr. Not for what a clip says or who speaks (`common.legacy.recordings`), nor for
batches (`common.legacy.waveforms`).
"""

import contextlib
import functools
import hashlib
import io
import math
import os
import re
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from common.legacy.errors import UserError

RATE = 16_000  # Hz; what speech encoders are trained on
MINIMUM_SAMPLES = 400  # at RATE, 25 ms: the receptive field of the encoders' convolutions
RATES = 1_000, 1_000_000  # Hz; outside of these a header is damaged, and converting would make 16,000 samples of one
BLOCK = 2**20  # frames decoded at once: memory does not depend on what a header promises
# Seconds that a header may promise more than there is: mp3 headers count whole frames, and some writers of wav count
# the header as well.
TOLERANCE = 0.05
UNKNOWN_BYTES = 0x7FFF0000  # from here on, what writers into a pipe put where the length belongs
UNKNOWN_FRAMES = 2**60
# libsndfile goes by what is there, and says only in its log what the header promises.
PROMISED = re.compile(r"^\s*(?:data|SSND|Data Size)\s*: (\d+) \(should be (\d+)\)", re.MULTILINE)
OGG_TAIL = 2**18  # bytes: most clips, a minute of speech
REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
# After a jump an mp3 decoder lacks the bits that earlier frames hold for later ones, and libsndfile mistakes the place
# within the last page of ogg; seconds that are decoded before what is wanted, and before the end.
RUN_IN, LAST_PAGE = 1, 10

Audio = str | Path | Mapping


class BadAudio(UserError):
    """A clip that cannot be used; the sentence begins with its name.

    Attributes:
        reason: the kind, to count: "no such file", "no audio", "no samples", "too short", "cannot be opened", "cannot
            be decoded", "truncated", "length unknown", "strange sampling rate" or "not finite".
    """

    def __init__(self, sentence: str, reason: str = "bad audio"):  # one argument is how a loader's worker passes it on
        super().__init__(sentence)
        self.reason = reason


@dataclass(frozen=True)
class Examined:
    """What decoding a clip has shown.

    Attributes:
        seconds: how long it is, 0 with a problem.
        peak: largest absolute sample of all channels' mean; 0: all silent, NaN with a problem.
        digest: SHA-256 of the file's bytes, or of an array's type, shape, rate and samples; "" if it cannot be read.
        problem: why it cannot be used; silence is none.
    """

    seconds: float
    peak: float
    digest: str
    problem: BadAudio | None


class _Clip(NamedTuple):
    """An opened clip; `read(first, last)` gives its frames in blocks, float32 [samples], the mean of all channels."""

    rate: int
    frames: int
    read: Callable[[int, int], Iterator[np.ndarray]]


def seconds_of(audio: Audio, name: str) -> float:
    """How long a clip is, by its header: nothing is decoded. Raises `BadAudio` for what the header shows to be wrong.

    An mp3 without a header of its own (Xing, Info) has the length that its size and its first frame make likely.
    """
    with _opened(audio, name) as clip:
        return clip.frames / clip.rate


def decode(audio: Audio, name: str, *, begin: float = 0.0, end: float | None = None, rate: int = RATE) -> np.ndarray:
    """The samples of a clip, or of a part of it: float32 [samples], the mean of all channels, at `rate`.

    Only the part is decoded, so the converter sees silence on both sides of it. Samples of whole numbers are scaled
    to -1..1; those of floats stay as they are, and conversion may overshoot: nothing is clipped.

    Args:
        audio: a file; {"bytes": a file's content} or {"path": a file}, as hub rows have it; or {"array": [samples] or
            [samples, channels], "sampling_rate": Hz}.
        name: what messages call it.
        begin, end: seconds; each is rounded to the nearest frame, and an end beyond the clip's is the clip's.

    Raises:
        BadAudio: whatever is wrong with it, but for silence.
    """
    with _opened(audio, name) as clip:
        first = round(begin * clip.rate)
        last = clip.frames if end is None else min(round(end * clip.rate), clip.frames)
        if first >= last:
            raise BadAudio(
                f"{name}: has no samples from {begin:g} s on; it is {clip.frames / clip.rate:g} s long", "no samples"
            )
        blocks = list(clip.read(first, last))
    samples = blocks[0] if len(blocks) == 1 else np.concatenate([np.zeros(0, np.float32), *blocks])
    _check_length(len(samples) / clip.rate, name)
    if clip.rate != rate:
        import soxr

        samples = soxr.resample(samples, clip.rate, rate)
    return samples


def examined(audio: Audio, name: str) -> Examined:
    """What decoding a clip shows, from its first sample to its last."""
    digest = ""
    try:
        digest = _digest(audio, name)
        with _opened(audio, name) as clip:
            peak, frames = 0.0, 0
            for block in clip.read(0, clip.frames):
                peak, frames = max(peak, float(block.max()), -float(block.min())), frames + len(block)
        _check_length(frames / clip.rate, name)
    except BadAudio as problem:
        return Examined(0.0, math.nan, digest, problem)
    return Examined(frames / clip.rate, peak, digest, None)


@contextlib.contextmanager
def _opened(audio: Audio, name: str) -> Iterator[_Clip]:
    """A clip whose header has been checked."""
    if isinstance(audio, Mapping) and audio.get("array") is not None:
        samples, rate = _array(audio, name)
        _check_header(len(samples), rate, name)

        def read(first: int, last: int) -> Iterator[np.ndarray]:
            block = _mono(samples[first:last])
            _check_finite(block, name)
            yield block

        yield _Clip(rate, len(samples), read)
        return
    import soundfile

    with _stream(audio, name) as stream:
        in_memory = isinstance(stream, io.BytesIO)
        try:
            # By its number, not its name: libsndfile takes any text for sound if it is named .au or .vox.
            file = soundfile.SoundFile(stream if in_memory else stream.fileno(), closefd=False)
        except soundfile.LibsndfileError as error:
            if not stream.seek(0, os.SEEK_END):
                raise BadAudio(f"{name}: has no samples: the file is empty", "no samples") from None
            raise BadAudio(
                f"{name}: cannot be decoded ({error.error_string.strip(' .')}); it must be wav, flac, ogg, opus or mp3",
                "cannot be decoded",
            ) from None
        with file:
            kind, rate, frames = file.format, file.samplerate, file.frames
            if kind == "OGG" and not _pages_are_whole(stream.getvalue() if in_memory else stream.fileno()):
                raise _truncated(name, "a page of it is not as its checksum wants it")
            _check_header(frames, rate, name)
            promised = None if kind in ("FLAC", "MP3", "OGG") else PROMISED.search(file.extra_info)
            if promised:
                declared, there = map(int, promised.groups())
                missing = (declared - there) / max(there, 1) * frames / rate
                if declared < UNKNOWN_BYTES and missing > TOLERANCE:
                    raise _truncated(name, f"its header promises {missing:.2f} s more than the file has")
            yield _Clip(rate, frames, functools.partial(_decoded, file, name))


def _stream(audio: Audio, name: str) -> io.RawIOBase | io.BytesIO:
    """A clip's file, or its bytes, to read from."""
    if isinstance(audio, Mapping) and audio.get("bytes") is not None:
        return io.BytesIO(audio["bytes"])
    path = audio.get("path") if isinstance(audio, Mapping) else audio
    if not isinstance(path, str | Path):
        raise BadAudio(f"{name}: has no audio: neither a file, nor its bytes, nor an array of samples", "no audio")
    try:
        return open(path, "rb", buffering=0)
    except (FileNotFoundError, ValueError):  # a path with a NUL in it is the latter
        raise BadAudio(f"{name}: no such file", "no such file") from None
    except IsADirectoryError:
        raise BadAudio(f"{name}: is a folder, not a file", "cannot be opened") from None
    except OSError as error:
        raise BadAudio(f"{name}: cannot be opened: {error.strerror}", "cannot be opened") from None


def _pages_are_whole(content: bytes | int) -> bool:
    """Whether all pages near the end of an ogg file (RFC 3533) are there, as their checksums want them.

    Of a file in use by its number, so the place to which it has been read stays.
    """
    if isinstance(content, int):
        tail = os.pread(content, OGG_TAIL, max(0, os.fstat(content).st_size - OGG_TAIL))
    else:
        tail = content[-OGG_TAIL:]
    at, ended = max(0, tail.find(b"OggS")), False
    while at < len(tail):
        header = tail[at : at + 27 + 255]
        if not header.startswith(b"OggS"):
            return ended  # by a page that calls itself the last one; what follows is a tag of another format
        size = 27 + header[26] + sum(header[27 : 27 + header[26]]) if len(header) > 26 else 27
        page = tail[at : at + size]
        # The polynomial of zlib.crc32, but with bits in the opposite order, and beginning at zero.
        bare = (page[:22] + bytes(4) + page[26:]).translate(REVERSED)
        checksum = f"{zlib.crc32(bare, 0xFFFFFFFF) ^ 0xFFFFFFFF:032b}"[::-1]
        if len(page) < size or int(checksum, 2) != int.from_bytes(page[22:26], "little"):
            return False
        at, ended = at + size, bool(page[5] & 4)
    return True


def _array(audio: Mapping, name: str) -> tuple[np.ndarray, int]:
    """The samples [samples] or [samples, channels] in float32, and their rate."""
    try:
        samples, rate = np.asarray(audio["array"]), int(audio.get("sampling_rate") or 0)
    except (TypeError, ValueError) as error:
        raise BadAudio(f"{name}: cannot be decoded ({error})", "cannot be decoded") from None
    if samples.ndim not in (1, 2) or (samples.ndim == 2 and samples.shape[1] > len(samples)):
        sentence = f"{name}: an array of samples must be [samples] or [samples, channels], not {list(samples.shape)}"
        raise BadAudio(sentence, "cannot be decoded")
    if samples.dtype == np.int16:
        samples = samples / np.float32(2**15)
    elif samples.dtype.kind != "f" and samples.size:
        sentence = f"{name}: an array of samples must be of floats in -1..1 or of int16, not of {samples.dtype}"
        raise BadAudio(sentence, "cannot be decoded")
    return samples.astype(np.float32, copy=False), rate


def _check_header(frames: int, rate: int, name: str) -> None:
    if not RATES[0] <= rate <= RATES[1]:
        raise BadAudio(f"{name}: a sampling rate of {rate:,} Hz cannot be right", "strange sampling rate")
    if not frames:
        raise BadAudio(f"{name}: has no samples", "no samples")
    if frames >= UNKNOWN_FRAMES:
        raise BadAudio(f"{name}: its header does not say how long it is; write it as a file anew", "length unknown")


def _check_length(seconds: float, name: str) -> None:
    if round(seconds * RATE) < MINIMUM_SAMPLES:
        needed = 1000 * MINIMUM_SAMPLES / RATE
        raise BadAudio(f"{name}: is too short: {1000 * seconds:.3g} ms; encoders need {needed:g} ms", "too short")


def _truncated(name: str, what: str) -> BadAudio:
    return BadAudio(f"{name}: is truncated or damaged: {what}", "truncated")


def _decoded(file, name: str, first: int, last: int) -> Iterator[np.ndarray]:
    """Frames of a `soundfile.SoundFile`, as `_Clip.read` gives them."""
    import soundfile

    at, floats = first, file.subtype in ("FLOAT", "DOUBLE")
    if first and file.format in ("MP3", "OGG"):
        at = max(0, min(first - RUN_IN * file.samplerate, file.frames - LAST_PAGE * file.samplerate))
    elif first and not file.seekable():  # GSM
        at = 0
    try:
        if at:
            file.seek(at)
        while at < last:
            block = np.empty((min(BLOCK, last - at), file.channels), np.float32)
            count = file.buffer_read_into(block, "float32")  # quicker than `read` for what is as short as a word
            if not count:
                break
            start, at = at, at + count
            if at > first:
                block = _mono(block[max(0, first - start) : count])
                if floats:
                    _check_finite(block, name)
                yield block
    except soundfile.LibsndfileError as error:
        raise _truncated(name, f"it cannot be decoded to its end ({error.error_string.strip(' .')})") from None
    if last - at > TOLERANCE * file.samplerate:
        there, promised = at / file.samplerate, file.frames / file.samplerate
        raise _truncated(name, f"it can be decoded up to {there:.2f} of {promised:.2f} s")


def _mono(block: np.ndarray) -> np.ndarray:
    """The mean of the channels, float32 [samples]."""
    if block.ndim == 1 or block.shape[1] == 1:
        return block.reshape(-1)
    return functools.reduce(np.add, block.T) / np.float32(block.shape[1])  # `mean` over so short an axis is slow


def _check_finite(block: np.ndarray, name: str) -> None:
    if not np.isfinite(block).all():
        raise BadAudio(f"{name}: has samples that are not finite numbers (NaN or infinite)", "not finite")


def _digest(audio: Audio, name: str) -> str:
    if isinstance(audio, Mapping) and audio.get("array") is not None:
        samples, rate = _array(audio, name)
        return hashlib.sha256(f"{samples.shape} {rate}".encode() + samples.tobytes()).hexdigest()
    with _stream(audio, name) as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
