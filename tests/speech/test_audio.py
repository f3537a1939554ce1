import io
import os
import shutil
import struct
import subprocess

import librosa
import numpy as np
import pytest
import soundfile

from common.speech.audio import BadAudio, examine, load_clip
from tests.speech.clips import sound, write

needs_ffmpeg = pytest.mark.skipif(not shutil.which("ffmpeg"), reason="no ffmpeg")


def load_audio(path, start: float = 0.0, end: float | None = None) -> np.ndarray:
    return load_clip({"path": str(path), "start": start, "end": end})


def problem(path) -> tuple[str, str]:
    found = examine(str(path))
    assert found["reason"] and found["problem"].startswith(f"{path}: ")
    return found["reason"], found["problem"]


@pytest.mark.parametrize("rate", [8_000, 16_000, 44_100])
@pytest.mark.parametrize(
    "ending, options",
    [
        ("wav", {}),
        ("wav", {"subtype": "ULAW"}),
        ("wav", {"subtype": "FLOAT"}),
        ("flac", {}),
        ("ogg", {}),
        ("mp3", {}),
        ("aiff", {}),
        ("au", {}),
    ],
)
def test_every_format_is_what_librosa_makes_of_it(tmp_path, rate, ending, options):
    path = tmp_path / f"a.{ending}"
    stereo = np.stack([sound(0.7, rate, 1), sound(0.7, rate, 2)], axis=1)
    soundfile.write(path, stereo, rate, **options)
    expected, _ = librosa.load(path, sr=16_000, mono=True)
    within = 1e-6 if ending == "mp3" else 0  # its decoder rounds otherwise after a jump to where it is
    samples = load_audio(path)
    assert samples.dtype == np.float32 and samples.shape == expected.shape
    assert np.abs(samples - expected).max() <= within
    found = examine(path)
    assert found["seconds"] == pytest.approx(0.7, abs=0.01) and not found["problem"] and len(found["digest"]) == 64
    assert found["peak"] == pytest.approx(np.abs(soundfile.read(path)[0].mean(axis=1)).max(), abs=1e-3)


@pytest.mark.parametrize("ending, within", [("wav", 0), ("flac", 0), ("ogg", 0), ("mp3", 1e-6), ("opus", 5e-3)])
def test_a_part_is_the_same_part_of_the_whole(tmp_path, ending, within):
    path = write(
        tmp_path / f"a.{ending}", 9.0, seed=1, **({"format": "OGG", "subtype": "OPUS"} if ending == "opus" else {})
    )
    whole = load_audio(path)
    for start, end in ((0.0, 1.0), (2.3, 4.7), (0.1 + 0.2, 8.0), (6.5, None)):
        last = len(whole) if end is None else round(end * 16_000)
        part = load_audio(path, start, end)
        assert len(part) == last - round(start * 16_000)
        assert np.abs(part - whole[round(start * 16_000) : last]).max() <= within
    assert len(load_audio(path, 8.5, 20.0)) == pytest.approx(8_000, abs=200)  # a table's end beyond the clip's


@pytest.mark.parametrize("ending", ["wav", "flac", "mp3", "aiff"])
@pytest.mark.parametrize("share", [0.5, 0.93])
def test_a_cut_file_is_refused(tmp_path, ending, share):
    content = write(tmp_path / f"a.{ending}", 7.0).read_bytes()
    cut = tmp_path / f"cut.{ending}"
    cut.write_bytes(content[: int(len(content) * share)])
    reason, sentence = problem(cut)
    assert reason in ("truncated", "no samples") and "again" in sentence


def frames(content: bytes) -> list[bytes]:
    """The frames of an mp3 of MPEG 2 layer III at 16 kHz, by hand."""
    rates, at, found = [0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160], 0, []
    while at < len(content):
        size = 72 * rates[content[at + 2] >> 4] * 1000 // 16_000 + (content[at + 2] >> 1 & 1)
        found.append(content[at : at + size])
        at += size
    return found


@needs_ffmpeg
@pytest.mark.parametrize("mode", ["VARIABLE", "CONSTANT"])
def test_an_mp3_without_a_count_of_its_frames_is_read_to_its_end(tmp_path, mode, monkeypatch):
    quiet_then_loud = sound(6.0) * np.where(np.arange(96_000) < 32_000, 0.001, 1).astype(np.float32)
    path = tmp_path / "a.mp3"
    soundfile.write(path, quiet_then_loud, 16_000, bitrate_mode=mode)
    whole = load_audio(path)
    tag, *rest = frames(path.read_bytes())
    assert b"Xing" in tag or b"Info" in tag
    bare = tmp_path / "bare.mp3"
    bare.write_bytes(b"".join(rest))
    found = load_audio(bare)
    assert abs(len(found) - len(whole)) < 0.1 * 16_000 and examine(bare)["seconds"] == pytest.approx(6.05, abs=0.05)
    shift = len(found) - len(whole)  # the tag also says how much the encoder has put before and behind
    assert max(np.corrcoef(found[i : i + len(whole)], whole)[0, 1] for i in range(0, shift)) > 0.99
    for between in (b"", b"TAG" + b" " * 125):
        joined = tmp_path / "joined.mp3"
        joined.write_bytes(path.read_bytes() + between + path.read_bytes())
        assert len(load_audio(joined)) / 16_000 == pytest.approx(12.1, abs=0.2)
        assert examine(joined)["seconds"] == pytest.approx(12.1, abs=0.2)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert problem(bare)[0] == "needs ffmpeg"
    with pytest.raises(BadAudio, match="install ffmpeg"):
        load_audio(bare)


def test_an_mp3_with_a_damaged_frame_is_refused(tmp_path):
    """Decoding goes on behind it, but only where one reads again; the samples would end before their seconds."""
    path = tmp_path / "a.mp3"
    soundfile.write(path, sound(0.5), 16_000)
    content = path.read_bytes()
    at = len(b"".join(frames(content)[: 2 * len(frames(content)) // 3]))
    path.write_bytes(content[:at] + b"\0" + content[at + 1 :])
    reason, sentence = problem(path)
    assert reason == "truncated" and "it can be decoded up to" in sentence


def test_an_id3_tag_before_the_frames(tmp_path):
    content = write(tmp_path / "a.mp3", 2.0).read_bytes()
    (tmp_path / "tagged.mp3").write_bytes(b"ID3\x04\0\0" + bytes([0, 0, 2, 0]) + b"\xff\xfb" * 128 + content)
    assert np.array_equal(load_audio(tmp_path / "tagged.mp3"), load_audio(tmp_path / "a.mp3"))


@needs_ffmpeg
@pytest.mark.parametrize("ending", ["m4a", "aac", "mp4", "wma", "webm"])
def test_what_ffmpeg_alone_reads(tmp_path, ending, monkeypatch):
    source, path = write(tmp_path / "a.wav", 2.0, seed=1), tmp_path / f"a.{ending}"
    subprocess.run(["ffmpeg", "-nostdin", "-v", "error", "-i", source, path], check=True)
    samples = load_audio(path)
    assert examine(path)["seconds"] == pytest.approx(2.0, abs=0.15)
    spectrum = np.abs(np.fft.rfft(samples[8000:24000]))
    assert spectrum.argmax() == pytest.approx(201, abs=2)  # the tone
    assert len(load_audio(path, 0.5, 1.0)) == 8_000
    (tmp_path / "cut").write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    assert problem(tmp_path / "cut")[0] == "truncated"
    monkeypatch.setattr(shutil, "which", lambda name: None)
    reason, sentence = problem(path)
    assert reason == "needs ffmpeg" and "install ffmpeg" in sentence


@needs_ffmpeg
@pytest.mark.parametrize("kind", ["flac from a pipe", "joined ogg", "gsm", "flac in ogg"])
def test_what_libsndfile_reads_in_part(tmp_path, kind):
    path = tmp_path / "a.wav"
    if kind == "gsm":
        write(path, 2.0, rate=8_000, format="WAV", subtype="GSM610")
    elif kind == "flac in ogg":
        source, path = write(path, 2.0), tmp_path / "a.oga"
        subprocess.run(["ffmpeg", "-v", "error", "-i", str(source), "-c:a", "flac", str(path)], check=True)
    else:
        joined = kind == "joined ogg"
        content = write(path, 1.0 if joined else 2.0, format="OGG" if joined else "FLAC").read_bytes()
        streamed = content[:21] + bytes([content[21] & 0xF0, 0, 0, 0, 0]) + content[26:]  # the count of samples is 0
        path.write_bytes(content * 2 if joined else streamed)
    assert examine(path)["seconds"] == pytest.approx(2.0, abs=0.1)
    assert len(load_audio(path)) == pytest.approx(32_000, abs=1_600)


def test_what_is_no_clip(tmp_path):
    (tmp_path / "pointer.wav").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    (tmp_path / "empty.wav").write_bytes(b"")
    (tmp_path / "text.wav").write_text("nothing to hear")
    (getattr(os, "mkfifo", None) or os.mkdir)(tmp_path / "fifo.wav")
    expected = {
        "pointer.wav": ("Git LFS pointer", "git lfs pull"),
        "empty.wav": ("cannot be decoded", "it begins with b''"),
        "text.wav": ("cannot be decoded", "it begins with b'nothing to hear'"),
        "fifo.wav": ("no such file", "no such file"),
        "": ("no such file", "no such file"),
        "absent.wav": ("no such file", "no such file"),
        "nul\0.wav": ("no such file", "no such file"),
    }
    for name, (reason, words) in expected.items():
        found, sentence = problem(f"{tmp_path}/{name}")
        assert found == reason and words in sentence
        with pytest.raises(BadAudio, match=reason if reason != "Git LFS pointer" else "LFS"):
            load_audio(f"{tmp_path}/{name}")


def test_the_content_decides_not_the_name(tmp_path):
    path = write(tmp_path / "a.flac")
    other = path.rename(tmp_path / "a.WAV")
    assert len(load_audio(other)) == 3_200


@pytest.mark.parametrize("value", [np.nan, -np.inf, 1e38])
def test_not_finite(value, tmp_path):
    samples = sound(1.0)
    samples[5_000] = value
    soundfile.write(tmp_path / "odd.wav", samples, 16_000, subtype="FLOAT")
    assert examine(tmp_path / "odd.wav")["reason"] == "not finite"


def test_channels_that_cancel_each_other_are_silent(tmp_path):
    samples = sound(1.0)
    soundfile.write(tmp_path / "a.wav", np.stack([samples, -samples], axis=1), 16_000, subtype="FLOAT")
    assert examine(tmp_path / "a.wav")["peak"] == 0 == np.abs(load_audio(tmp_path / "a.wav")).max()


def test_a_wav_from_a_pipe_has_no_length_and_is_whole(tmp_path):
    buffer = io.BytesIO()
    soundfile.write(buffer, sound(1.0), 16_000, format="WAV")
    content = bytearray(buffer.getvalue())
    at = content.index(b"data") + 4
    content[4:8] = content[at : at + 4] = struct.pack("<I", 0xFFFFFFFF)
    (tmp_path / "piped.wav").write_bytes(content)
    assert len(load_audio(tmp_path / "piped.wav")) == 16_000


def test_real_clips(shared_data, tmp_path):
    shutil.unpack_archive(shared_data / "asr" / "ljspeech_excerpt.zip", tmp_path)
    for path in sorted(tmp_path.rglob("*.flac"))[:10]:
        samples, rate = soundfile.read(path, dtype="float32")
        assert rate == 16_000 and np.array_equal(load_audio(path), samples)
