"""Clips are what soundfile and soxr make of them, whole, in part, in every form; bad ones give one sentence each."""

import dataclasses
import hashlib
import io
import itertools
import math
import os
import pickle
import signal
import struct
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr

from common.legacy import audio as audio_module
from common.legacy import examining
from common.legacy.audio import MINIMUM_SAMPLES, RATE, BadAudio, decode, seconds_of
from common.legacy.examining import examine

ROOT = Path(__file__).resolve().parents[2]
FORMS = {  # name -> format, subtype, largest error of a sample
    "wav": ("WAV", "PCM_16", 4e-5),
    "wav 8 bit": ("WAV", "PCM_U8", 1e-2),
    "wav 24 bit": ("WAV", "PCM_24", 1e-6),
    "wav 32 bit": ("WAV", "PCM_32", 1e-6),
    "wav float": ("WAV", "FLOAT", 0),
    "wav double": ("WAV", "DOUBLE", 1e-7),
    "aiff": ("AIFF", "PCM_16", 4e-5),
    "flac": ("FLAC", "PCM_16", 4e-5),
    "ogg": ("OGG", "VORBIS", 0.2),
    "opus": ("OGG", "OPUS", 0.2),
    "mp3": ("MP3", "MPEG_LAYER_III", 0.2),
}


def sound(seconds: float, rate: int, channels: int = 1, seed: int = 0) -> np.ndarray:
    """Changing tones and some noise, float32 [samples, channels] or, of one channel, [samples]."""
    time = np.arange(round(seconds * rate))[:, None] / rate
    pitch = 300 + 100 * np.arange(channels) + 50 * np.sin(2 * np.pi * 3 * time)
    noise = np.random.default_rng(seed).standard_normal((len(time), channels))
    samples = (0.3 * np.sin(2 * np.pi * pitch * time) + 0.01 * noise).astype(np.float32)
    return samples[:, 0] if channels == 1 else samples


def encoded(samples: np.ndarray, rate: int, kind: str = "wav", **settings) -> bytes:
    buffer = io.BytesIO()
    container, subtype, _ = FORMS[kind]
    shape = {"samplerate": rate, "channels": 1 if samples.ndim == 1 else samples.shape[1]}
    with soundfile.SoundFile(buffer, "w", **shape, format=container, subtype=subtype, **settings) as file:
        for begin in range(
            0, len(samples), rate
        ):  # ogg in one piece of a minute is more than the library's stack takes
            file.write(samples[begin : begin + rate])
    return buffer.getvalue()


def bad(audio, **part) -> BadAudio:
    """What `decode` refuses, with one sentence that begins with the name."""
    with pytest.raises(BadAudio) as caught:
        decode(audio, "the clip", **part)
    assert str(caught.value).startswith("the clip: ") and "\n" not in str(caught.value)
    return caught.value


def examined(audio, root, names=None, workers=2):
    return examine(audio, names or [str(i) for i in range(len(audio))], root, workers=workers, progress=None)


@pytest.mark.parametrize("kind", FORMS)
@pytest.mark.parametrize(("rate", "channels"), [(16000, 1), (48000, 2), (8000, 1)])
def test_every_format_is_what_the_libraries_make_of_it(kind, rate, channels, tmp_path):
    samples = sound(1.3, rate, channels)
    path = tmp_path / "clip.audio"  # what it is, its content says
    path.write_bytes(encoded(samples, rate, kind))
    reference = soundfile.read(io.BytesIO(path.read_bytes()), dtype="float32", always_2d=True)[0].mean(axis=1)
    if rate != RATE:
        reference = soxr.resample(reference, rate, RATE, "HQ")
    for item in (path, str(path), {"bytes": path.read_bytes(), "path": "gone.wav"}, {"bytes": None, "path": str(path)}):
        found = decode(item, "clip")
        assert found.dtype == np.float32 and found.ndim == 1 and found.flags.c_contiguous
        np.testing.assert_allclose(found, reference, atol=1e-6)
        assert seconds_of(item, "clip") == 1.3
    at_home = decode(path, "clip", rate=rate)
    mean = samples if channels == 1 else samples.mean(axis=1)
    assert np.abs(at_home - mean).max() <= FORMS[kind][2]


@pytest.mark.parametrize(("rate", "channels"), [(96000, 6), (44100, 2), (11025, 1), (22050, 3)])
def test_any_rate_and_any_number_of_channels(rate, channels):
    samples = sound(0.7, rate, channels)
    found = decode({"bytes": encoded(samples, rate, "wav float")}, "clip")
    mean = samples if channels == 1 else samples.mean(axis=1)
    np.testing.assert_allclose(found, soxr.resample(mean, rate, RATE), atol=1e-6)
    assert len(found) == round(len(samples) * RATE / rate)
    array = decode({"array": samples.tolist(), "sampling_rate": rate, "path": None}, "clip")
    np.testing.assert_array_equal(array, found)


@pytest.mark.parametrize("kind", ["wav", "flac", "ogg", "opus", "mp3"])
@pytest.mark.parametrize("rate", [16000, 48000])
def test_a_part_is_the_same_part_of_the_whole(kind, rate):
    # A loud beginning and a quiet end make frames and pages of very different size: jumps into them are least exact.
    samples = np.concatenate([3 * sound(2, rate, seed=1), 0.02 * sound(4, rate, seed=2)])
    settings = {"bitrate_mode": "VARIABLE", "compression_level": 0.3} if kind == "mp3" else {}
    item = {"bytes": encoded(samples, rate, kind, **settings)}
    whole = decode(item, "clip", rate=rate)
    assert len(whole) == len(samples)
    for begin, end in ((0, 0.5), (1.23456, 1.9), (1.9, 2.2), (3, 4.03125), (4.7, 5.2), (5.5, 6), (5.93, None)):
        part = decode(item, "clip", begin=begin, end=end, rate=rate)
        there = whole[round(begin * rate) : None if end is None else round(end * rate)]
        assert len(part) == len(there)
        error = np.abs(part - there).max() / np.abs(there).max()
        assert error < (0.05 if kind == "opus" else 1e-5)  # opus never quite forgets what it has decoded before
    np.testing.assert_array_equal(decode(item, "clip", begin=5, end=99, rate=rate).shape, [rate])


def test_parts_of_long_clips_where_libsndfile_jumps_to_the_wrong_place():
    length, random = 24 * RATE, np.random.default_rng(0)
    noise = np.convolve(random.standard_normal(length), np.ones(8) / 8, "same")
    bursts = np.repeat(random.uniform(0, 1, 80) ** 6, length // 80)  # frames of very different size
    fading = np.where(np.arange(length) < length // 6, 1, 0.005)  # a last page of many quiet seconds
    jumped = {"mp3": 0, "ogg": 0}
    for kind, envelope in (("mp3", bursts), ("ogg", fading)):
        settings = (
            {"bitrate_mode": "VARIABLE", "compression_level": 0.3} if kind == "mp3" else {"compression_level": 0.9}
        )
        content = encoded((0.4 * noise * envelope).astype(np.float32), RATE, kind, **settings)
        whole = decode({"bytes": content}, "clip")
        for begin in [*random.integers(RATE, length - RATE, 40), *(length - np.arange(1, 12) * 2000)]:
            there = whole[begin : begin + 2000]
            part = decode({"bytes": content}, "clip", begin=begin / RATE, end=(begin + 2000) / RATE)
            np.testing.assert_allclose(part, there, atol=1e-4 * np.abs(whole).max())
            with soundfile.SoundFile(io.BytesIO(content)) as file:
                file.seek(int(begin))
                jumped[kind] += not np.allclose(
                    file.read(2000, dtype="float32"), there, atol=1e-4 * np.abs(whole).max()
                )
    assert jumped["mp3"] and jumped["ogg"]  # else the case would prove nothing


def test_consecutive_parts_join_without_gap_or_overlap():
    samples = sound(1.7, 11025)
    item, bounds = {"array": samples, "sampling_rate": 11025}, [0, 0.30001, 0.6, 0.77777, 1.2, None]
    parts = [decode(item, "clip", begin=a, end=b, rate=11025) for a, b in itertools.pairwise(bounds)]
    np.testing.assert_array_equal(np.concatenate(parts), samples)


def test_a_part_is_converted_alone():
    samples = sound(2, 8000)
    part = decode({"array": samples, "sampling_rate": 8000}, "clip", begin=0.5, end=1.25)
    np.testing.assert_array_equal(part, soxr.resample(samples[4000:10000], 8000, RATE))


def test_more_than_one_block(monkeypatch):
    item = {"bytes": encoded(sound(1.1, 48000, 2), 48000, "flac")}
    whole = decode(item, "clip"), decode(item, "clip", begin=0.21, end=1)
    monkeypatch.setattr(audio_module, "BLOCK", 1000)
    np.testing.assert_array_equal(decode(item, "clip"), whole[0])
    np.testing.assert_array_equal(decode(item, "clip", begin=0.21, end=1), whole[1])
    mp3 = {"bytes": encoded(sound(1.1, 16000), 16000, "mp3")}
    monkeypatch.undo()
    reference = decode(mp3, "clip", begin=0.5)
    monkeypatch.setattr(audio_module, "BLOCK", 1000)
    np.testing.assert_allclose(decode(mp3, "clip", begin=0.5), reference, atol=1e-6)


def test_telephone_speech_that_cannot_be_searched(tmp_path):
    soundfile.write(tmp_path / "gsm.wav", sound(1, 8000), 8000, subtype="GSM610")
    with soundfile.SoundFile(tmp_path / "gsm.wav") as file:
        assert not file.seekable()
        whole = file.read(file.frames, dtype="float32")
    np.testing.assert_array_equal(decode(tmp_path / "gsm.wav", "clip", rate=8000), whole)
    part = decode(tmp_path / "gsm.wav", "clip", rate=8000, begin=0.25, end=0.75)
    np.testing.assert_array_equal(part, whole[2000:6000])


def test_arrays():
    samples = sound(0.5, 16000)
    for array in (samples, samples.astype(np.float64), samples.tolist(), np.round(samples * 2**15).astype(np.int16)):
        item = {"array": array, "sampling_rate": 16000}
        found = decode(item, "clip")
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, samples, atol=2e-5)
        assert seconds_of(item, "clip") == 0.5
    stereo = sound(0.5, 16000, 2)
    np.testing.assert_allclose(decode({"array": stereo, "sampling_rate": 16000}, "clip"), stereo.mean(1), atol=1e-7)
    assert "[samples, channels], not [2, 8000]" in str(bad({"array": stereo.T, "sampling_rate": 16000}))
    assert "int64" in str(bad({"array": [0, 1, 2] * 1000, "sampling_rate": 16000}))
    assert bad({"array": samples}).reason == "strange sampling rate"
    assert bad({"array": [[1.0], [1.0, 2.0]], "sampling_rate": 16000}).reason == "cannot be decoded"
    assert bad({"array": [], "sampling_rate": 16000}).reason == "no samples"


def test_real_clips_of_every_kind(shared_data, tmp_path):
    import tarfile
    import zipfile

    clips = []
    for archive, count in (("asr/ljspeech_excerpt.zip", 4), ("emotion/urdu_emotion_400.zip", 12)):
        with zipfile.ZipFile(shared_data / archive) as zipped:
            names = [name for name in zipped.namelist() if name.endswith((".flac", ".ogg"))][:count]
            clips += [zipped.read(name) for name in names]
    with tarfile.open(shared_data / "keywords/fsdd_recordings.tar.xz") as tar:
        while len(clips) < 30:
            member = tar.next()
            clips += [tar.extractfile(member).read()] if member.isfile() else []
    for content in clips:
        samples, rate = soundfile.read(io.BytesIO(content), dtype="float32")
        reference = samples if rate == RATE else soxr.resample(samples, rate, RATE)
        np.testing.assert_array_equal(decode({"bytes": content}, "clip"), reference)
        assert seconds_of({"bytes": content}, "clip") == len(samples) / rate
    found = examined([{"bytes": content} for content in clips], tmp_path)
    assert not [e.problem for e in found if e.problem] and min(e.peak for e in found) > 0.01


# What cannot be used


def test_the_content_decides_not_the_name(tmp_path):
    mp3, text = encoded(sound(1, 16000), 16000, "mp3"), b"This is no sound, but it could be played.\n" * 400
    for ending in ("wav", "flac", "raw", "vox", "au", "gsm", "snd", "mp3", "txt"):
        path = tmp_path / f"clip.{ending}"
        path.write_bytes(mp3)
        assert seconds_of(path, "clip") == 1 and len(decode(path, "clip")) == RATE
        path.write_bytes(text)
        problem = bad(path)
        assert problem.reason == "cannot be decoded" and "must be wav, flac, ogg, opus or mp3" in str(problem)


def test_nothing_there(tmp_path):
    (tmp_path / "empty.wav").touch()
    (tmp_path / "folder.wav").mkdir()
    header = encoded(np.zeros(0, np.float32), 16000)
    kinds = {
        "no such file": [tmp_path / "gone.wav", "a\0b.wav", {"bytes": None, "path": str(tmp_path / "gone.wav")}],
        "cannot be opened": [tmp_path / "folder.wav", tmp_path / "empty.wav" / "clip.wav", tmp_path / ("a" * 300)],
        "no samples": [tmp_path / "empty.wav", {"bytes": b""}, {"bytes": header}, {"bytes": header[:44]}],
        "no audio": [None, {}, {"bytes": None, "path": None}, 7],
    }
    kinds["no samples"].append({"bytes": encoded(sound(1, 16000), 16000)[:44]})
    kinds["no samples"].append({"bytes": encoded(np.zeros(0, np.float32), 16000, "flac")})
    for reason, items in kinds.items():
        for item in items:
            assert bad(item).reason == reason
            with pytest.raises(BadAudio) as caught:
                seconds_of(item, "the clip")
            assert caught.value.reason == reason
            [found] = examined([item], tmp_path / "cache", ["the clip"])
            assert found.problem.reason == reason and found.seconds == 0 and math.isnan(found.peak)


@pytest.mark.parametrize("kind", FORMS)
@pytest.mark.parametrize("share", [0.9, 0.5, 0.1])
def test_cut_off(kind, share):
    content = encoded(sound(3, 16000), 16000, kind)
    problem = bad({"bytes": content[: int(share * len(content))]})
    assert problem.reason == "truncated" or (problem.reason == "cannot be decoded" and share == 0.1)


@pytest.mark.parametrize("kind", ["wav", "flac", "ogg", "opus", "mp3"])
def test_every_cut_is_found_or_does_no_harm(kind):
    whole = encoded(sound(2, 16000), 16000, kind)
    found = 0
    for size in np.random.default_rng(0).integers(len(whole) // 20, len(whole), 60):
        try:
            assert len(decode({"bytes": whole[:size]}, "clip")) >= 2 * RATE - 0.05 * RATE
        except BadAudio as problem:
            assert problem.reason in ("truncated", "cannot be decoded")
            found += 1
    assert found > 50


@pytest.mark.parametrize("kind", ["flac", "ogg", "opus"])
def test_damage_anywhere_is_found_where_the_format_has_checksums(kind):
    content = encoded(sound(3, 16000), 16000, kind)
    for place in np.random.default_rng(0).integers(300, len(content) - 1, 40):
        damaged = content[:place] + bytes([content[place] ^ 0x55]) + content[place + 1 :]
        assert bad({"bytes": damaged}).reason in ("truncated", "cannot be decoded")


def test_damage_in_the_middle_of_an_mp3():
    content = bytearray(encoded(sound(3, 16000), 16000, "mp3"))
    begin, end = int(0.55 * len(content)), int(0.7 * len(content))
    content[begin:end] = np.random.default_rng(0).bytes(end - begin)
    assert bad({"bytes": bytes(content)}).reason == "truncated"


def test_long_ogg_and_what_may_follow_it(monkeypatch):
    monkeypatch.setattr(audio_module, "OGG_TAIL", 20_000)
    content = encoded(sound(9, 48000, 2), 48000, "ogg")
    assert len(content) > 2 * audio_module.OGG_TAIL
    assert seconds_of({"bytes": content}, "clip") == 9
    assert seconds_of({"bytes": content + b"TAG" + bytes(125)}, "clip") == 9
    assert bad({"bytes": content[:-1]}).reason == "truncated"
    assert bad({"bytes": content[: len(content) // 2]}).reason == "truncated"


def with_length(content: bytes, length: int) -> dict:
    """A wav whose header says that its samples have `length` bytes."""
    place = content.index(b"data") + 4
    return {"bytes": content[:place] + struct.pack("<I", length) + content[place + 4 :]}


def test_a_wav_from_a_pipe_has_no_length_and_is_whole():
    content = encoded(sound(1, 16000), 16000)
    for unknown in (0xFFFFFFFF, 0xFFFFFFFF - 36, 0x80000000, 0x7FFFFFFF, 0x7FFFFFFF - 36, 0x7FFFF000):
        assert len(decode(with_length(content, unknown), "clip")) == RATE
    for almost in (32000 + 44, 32001):  # some writers count the header as well
        assert len(decode(with_length(content, almost), "clip")) == RATE
    assert "promises 1.00 s more" in str(bad(with_length(content, 64000)))
    assert bad(with_length(content, 0)).reason == "no samples"
    assert len(decode({"bytes": content + b"LIST\4\0\0\0more"}, "clip")) == RATE


def test_a_flac_from_a_pipe_says_so():
    content = bytearray(encoded(sound(1, 16000), 16000, "flac"))
    content[21] &= 0xF0  # the 36 bits of the number of samples
    content[22:26] = bytes(4)
    assert bad({"bytes": bytes(content)}).reason == "length unknown"
    content[21] |= 0x0F
    content[22:26] = b"\xff" * 4  # 68 thousand million: nothing of that size is ever asked for
    assert bad({"bytes": bytes(content)}).reason == "truncated"


def test_a_rate_that_cannot_be_right():
    content = encoded(sound(1, 16000), 16000)
    place = content.index(b"fmt ") + 12
    for rate in (1, 999, 2_000_000_000):
        item = {"bytes": content[:place] + struct.pack("<I", rate) + content[place + 4 :]}
        assert bad(item).reason == "strange sampling rate" and f"{rate:,} Hz" in str(bad(item))


def test_not_finite(tmp_path):
    for value in (np.nan, np.inf, -np.inf):
        samples = sound(1, 16000, 2)
        samples[7000, 1] = value
        for item in ({"bytes": encoded(samples, 16000, "wav float")}, {"array": samples, "sampling_rate": 16000}):
            assert bad(item).reason == "not finite"
            assert examined([item], tmp_path)[0].problem.reason == "not finite"
            assert len(decode(item, "clip", begin=0.5)) == RATE // 2


def test_too_short(tmp_path):
    for count in (1, 2, MINIMUM_SAMPLES - 1):
        for kind in ("wav", "flac"):
            item = {"bytes": encoded(sound(1, 16000)[:count], 16000, kind)}
            assert bad(item).reason == "too short"
            assert examined([item], tmp_path)[0].problem.reason == "too short"
            assert seconds_of(item, "clip") == count / RATE
    assert len(decode({"bytes": encoded(sound(1, 16000)[:MINIMUM_SAMPLES], 16000)}, "clip")) == MINIMUM_SAMPLES
    assert len(decode({"bytes": encoded(sound(1, 8000)[: MINIMUM_SAMPLES // 2], 8000)}, "clip")) == MINIMUM_SAMPLES
    second = {"bytes": encoded(sound(1, 16000), 16000)}
    assert bad(second, begin=0.5, end=0.51).reason == "too short"
    assert bad(second, begin=1).reason == bad(second, begin=3, end=4).reason == "no samples"


def test_a_problem_survives_the_way_out_of_another_process():
    problem = bad({"bytes": b""})
    again = pickle.loads(pickle.dumps(problem))
    assert (str(again), again.reason) == (str(problem), problem.reason)
    assert type(problem)("Caught BadAudio in DataLoader worker process 0.").reason


# Examining


@pytest.fixture
def clips(tmp_path) -> list[Path]:
    """Thirty clips of a few kinds in two folders, one of them no sound, one missing, one silent."""
    paths = []
    for i in range(30):
        path = tmp_path / "clips" / "ab"[i % 2] / f"{i}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        kind = ("wav", "flac", "ogg", "mp3")[i % 4]
        path.write_bytes(encoded(sound(0.1 + i / 100, 16000, seed=i) * (i + 1) / 40, 16000, kind))
        paths.append(path)
    paths[3].write_text("no sound")
    paths[4].unlink()
    paths[5].write_bytes(encoded(np.zeros(1600, np.float32), 16000))
    return paths


def counting(monkeypatch) -> list[str]:
    """The names of the clips that are decoded from now on."""
    names, decoded = [], examining.examined
    monkeypatch.setattr(examining, "examined", lambda item, name: (names.append(name), decoded(item, name))[1])
    return names


def same(found, expected) -> bool:
    def values(e):
        return e.seconds, repr(e.peak), e.digest, str(e.problem), getattr(e.problem, "reason", None)

    return [values(e) for e in found] == [values(e) for e in expected]


@pytest.mark.parametrize("workers", [1, 3, None])
def test_examined_in_order(clips, tmp_path, workers):
    names = [f"clip {i}" for i in range(30)]
    found = examine(clips, names, tmp_path / "cache", workers=workers, progress=None)
    for i, (path, e) in enumerate(zip(clips, found, strict=True)):
        if i in (3, 4):
            assert e.problem.reason == ("cannot be decoded" if i == 3 else "no such file")
            assert str(e.problem).startswith(f"clip {i}: ")
            assert e.digest == (hashlib.sha256(b"no sound").hexdigest() if i == 3 else "")
            continue
        samples, rate = soundfile.read(io.BytesIO(path.read_bytes()), dtype="float32")
        assert e.problem is None and e.seconds == len(samples) / rate
        assert e.peak == pytest.approx(np.abs(samples).max(), abs=1e-6)
        assert e.digest == hashlib.sha256(path.read_bytes()).hexdigest()
    assert found[5].peak == 0


def test_the_peak_is_that_of_the_mean_of_the_channels(tmp_path):
    left = sound(0.5, 16000)
    against = np.stack([left, -left], axis=1)
    one = np.stack([left, np.zeros_like(left)], axis=1)
    found = examined([{"array": a, "sampling_rate": 16000} for a in (against, one, -left)], tmp_path)
    peak = float(np.abs(left).max())
    assert [e.peak for e in found] == pytest.approx([0, peak / 2, peak])


def test_files_are_remembered_whoever_asks(clips, tmp_path, monkeypatch):
    names, root = [str(p) for p in clips], tmp_path / "cache"
    first = examine(clips, names, root, workers=2, progress=None)
    decoded = counting(monkeypatch)
    assert same(examine(clips, names, root, workers=2, progress=None), first)
    assert decoded == [names[4]]  # what could not be read is looked for again
    decoded.clear()
    subset = [20, 3, 7, 7]
    monkeypatch.chdir(clips[0].parent.parent)
    relative = [os.path.relpath(clips[i]) for i in subset]
    found = examine(relative, ["x"] * 4, root, workers=1, progress=None)
    expected = [first[i] for i in subset]
    expected[1] = dataclasses.replace(
        expected[1], problem=BadAudio(f"x: {_said(first[3], names[3])}", "cannot be decoded")
    )
    assert same(found, expected) and not decoded
    rows = [{"bytes": None, "path": str(clips[i])} for i in subset]
    assert same(examine(rows, ["x"] * 4, root, workers=1, progress=None), expected) and not decoded


def _said(examined, name: str) -> str:
    return str(examined.problem).removeprefix(f"{name}: ")


def test_a_changed_file_is_examined_again(clips, tmp_path, monkeypatch):
    names, root = [str(p) for p in clips], tmp_path / "cache"
    examine(clips, names, root, workers=2, progress=None)
    content = clips[8].read_bytes()
    clips[8].write_bytes(content)
    os.utime(clips[8], ns=(1, 1))  # the same size at another time
    before = clips[9].stat().st_mtime_ns
    clips[9].write_bytes(clips[9].read_bytes() + b"\0")
    os.utime(clips[9], ns=(before, before))  # another size at the same time
    clips[4].write_bytes(content)
    decoded = counting(monkeypatch)
    found = examine(clips, names, root, workers=1, progress=None)
    assert decoded == [names[4], names[8], names[9]]
    assert found[4].problem is None and found[4].digest == found[8].digest
    decoded.clear()
    examine(clips, names, root, workers=1, progress=None)
    assert not decoded


def test_what_is_in_memory_is_examined_each_time(tmp_path, monkeypatch):
    content = encoded(sound(1, 16000), 16000)
    (tmp_path / "clip.wav").write_bytes(encoded(sound(2, 16000), 16000))
    items = [{"bytes": content, "path": str(tmp_path / "clip.wav")}, {"array": sound(1, 16000), "sampling_rate": 16000}]
    decoded = counting(monkeypatch)
    for _ in range(2):
        found = examined(items, tmp_path / "cache")
        assert [e.seconds for e in found] == [1, 1] and found[0].digest == hashlib.sha256(content).hexdigest()
    assert len(decoded) == 4 and not list((tmp_path / "cache").rglob("*.json"))
    other = examined([{"array": sound(1, 16000), "sampling_rate": 8000}], tmp_path / "cache")
    assert other[0].digest != found[1].digest


@pytest.mark.parametrize("spoilt", ["nothing may be written", "not json"])
def test_a_cache_that_cannot_be_used_is_no_error(clips, tmp_path, spoilt):
    root, names = tmp_path / "cache", [str(p) for p in clips]
    expected = examine(clips, names, root, workers=2, progress=None)
    if spoilt == "not json":
        for path in root.rglob("*.json"):
            path.write_text("{half")
    else:
        (tmp_path / "file").touch()
        root = tmp_path / "file" / "cache"
    assert same(examine(clips, names, root, workers=2, progress=None), expected)


def test_progress_is_shown_only_if_wished(clips, tmp_path, capsys):
    examine(clips, ["x"] * 30, tmp_path / "cache", workers=2, progress=None)
    assert capsys.readouterr().err == ""
    examine(clips, ["x"] * 30, tmp_path / "cache", workers=2, progress="decoding train")
    assert "decoding train: 100%" in capsys.readouterr().err
    assert examine([], [], tmp_path / "cache", workers=None, progress=None) == []


def test_an_interrupt_ends_it_and_keeps_what_was_done(tmp_path):
    for i in range(400):
        (tmp_path / f"{i}.flac").write_bytes(encoded(sound(0.1, 16000), 16000, "flac"))
    script = f"""
        import signal, sys, time
        sys.path.insert(0, {str(ROOT)!r})
        from pathlib import Path
        from common.legacy import examining
        signal.signal(signal.SIGINT, signal.default_int_handler)  # who runs the tests in the background ignores it
        decoded = examining.examined
        def slowly(item, name):
            if name == "0":
                print("begun", flush=True)
            time.sleep(0.02)
            return decoded(item, name)
        examining.examined = slowly
        folder = Path({str(tmp_path)!r})
        paths = [folder / f"{{i}}.flac" for i in range(400)]
        try:
            examining.examine(paths, [str(i) for i in range(400)], folder / "cache", workers=2, progress=None)
        except KeyboardInterrupt:
            print("interrupted", flush=True)
    """
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(script)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "begun\n"
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=60)[0] == "interrupted\n"
    [kept] = (tmp_path / "cache").rglob("*.json")
    assert 1 <= kept.read_text().count(".flac") < 200
