"""Archives are unpacked whole, once, and never beyond their folder or the disk; a bad one gives one sentence."""

import io
import json
import os
import stat
import subprocess
import sys
import tarfile
import textwrap
import time
import zipfile
from collections import namedtuple
from pathlib import Path

import pytest

from common.legacy import archives
from common.legacy.archives import extracted, is_archive
from tests.legacy.helpers import message

ROOT = Path(__file__).resolve().parents[2]
FILES = {
    "a/one.wav": b"RIFF" + bytes(range(256)) * 40,
    "a/b/صدا دو.txt": "متن".encode(),
    "empty.csv": b"",
    "three.bin": os.urandom(70_000),
}
TARS = {".tar": "w", ".tar.gz": "w:gz", ".tgz": "w:gz", ".tar.bz2": "w:bz2", ".tar.xz": "w:xz", ".TAR.GZ": "w:gz"}


def zipped(path: Path, files: dict, method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def tarred(path: Path, files: dict, mode: str = "w", **kinds) -> Path:
    """`files` maps a name to its content, or to (type of member, link's name)."""
    with tarfile.open(path, mode) as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            if isinstance(content, tuple):
                info.type, info.linkname = content
                archive.addfile(info)
            else:
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    return path


def content(folder: Path) -> dict[str, bytes]:
    assert not [path for path in folder.rglob("*") if path.is_symlink()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refused(path: Path, root: Path) -> str:
    """The sentence that names the archive; nothing is left of what was unpacked, nor beside the cache."""
    beside = set(root.parent.rglob("*"))
    sentence = message(extracted, path, root)
    assert sentence.startswith(f"{path}: ")
    assert {p for p in root.parent.rglob("*") if p != root} == beside - {root}
    return sentence


def test_names_of_archives():
    for name in ("x.zip", "x.ZIP", "a.b.tar", "x.tar.gz", "x.tgz", "x.tar.xz", "x.txz", "x.tar.bz2", Path("y/x.tbz2")):
        assert is_archive(name)
    for name in ("x.gz", "x.json.gz", "x.wav", "zip", "tar", "x.zip.csv", "x.7z", Path("x.zip/y")):
        assert not is_archive(name)


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_zip(method, tmp_path):
    path = zipped(tmp_path / "x.zip", {"folder/": b"", **FILES}, method)
    found = extracted(path, tmp_path / "cache")
    assert content(found) == FILES and (found / "folder").is_dir()


@pytest.mark.parametrize("ending", TARS)
def test_tar(ending, tmp_path):
    path = tarred(tmp_path / f"x{ending}", {"folder": (tarfile.DIRTYPE, ""), **FILES}, TARS[ending])
    found = extracted(path, tmp_path / "cache")
    assert content(found) == FILES and (found / "folder").is_dir()


def test_content_decides_which_kind_it_is(tmp_path):
    inner = zipped(tmp_path / "inner.zip", FILES, zipfile.ZIP_STORED).read_bytes()
    tar = tarred(tmp_path / "x.tar", {"inner.zip": inner})
    assert zipfile.is_zipfile(tar)  # as it ends with one
    assert content(extracted(tar, tmp_path / "cache")) == {"inner.zip": inner}
    assert content(extracted(tarred(tmp_path / "y.zip", FILES, "w:gz"), tmp_path / "cache")) == FILES


def test_real_archives_are_what_the_libraries_make_of_them(shared_data, tmp_path):
    path = shared_data / "emotion" / "urdu_emotion_400.zip"
    with zipfile.ZipFile(path) as archive:
        assert content(extracted(path, tmp_path)) == {n: archive.read(n) for n in archive.namelist() if n[-1] != "/"}
    path = shared_data / "keywords" / "fsdd_recordings.tar.xz"
    with tarfile.open(path) as archive:
        expected = {info.name: info.size for info in archive if info.isfile()}
    found = extracted(path, tmp_path)
    assert len(expected) == 3000 and {name: (found / name).stat().st_size for name in expected} == expected


def test_extracted_once(tmp_path, monkeypatch):
    path, root = zipped(tmp_path / "x.zip", FILES), tmp_path / "cache"
    first = extracted(path, root)
    monkeypatch.setattr(archives, "_extract", lambda *_: pytest.fail("extracted again"))
    monkeypatch.chdir(tmp_path)
    assert extracted(path, root) == extracted("x.zip", root) == first
    monkeypatch.undo()
    assert json.loads((first.parent / "key.json").read_text())["archive"] == str(path)
    os.utime(path, ns=(1, 1))
    other = extracted(path, root)
    assert other != first and content(other) == content(first) == FILES
    zipped(path, {"new.txt": b"new"})
    assert content(extracted(path, root)) == {"new.txt": b"new"}


def test_what_macos_adds_is_left_out(tmp_path):
    junk = {"__MACOSX/a/._one.wav": b"x", "a/._one.wav": b"x", "a/.DS_Store": b"x", "._top": b"x", "__MACOSX/y": b"x"}
    files = {**FILES, **junk, "a/_kept.wav": b"x", "a/.kept": b"x", "MACOSX/kept": b"x"}
    kept = {name: files[name] for name in files if name not in junk}
    assert content(extracted(zipped(tmp_path / "x.zip", files), tmp_path / "cache")) == kept
    assert content(extracted(tarred(tmp_path / "x.tar", files), tmp_path / "cache")) == kept


def test_backslashes_of_windows_are_folders(tmp_path):
    path = zipped(tmp_path / "x.zip", {"aXb.wav": b"sound"})
    path.write_bytes(path.read_bytes().replace(b"aXb.wav", b"a\\b.wav"))
    assert content(extracted(path, tmp_path / "cache")) == {"a/b.wav": b"sound"}


@pytest.mark.parametrize("name", ["../out.wav", "a/../../out.wav", "a/../b.wav", "/tmp/out.wav", "..", "//out.wav"])
def test_names_that_lead_out(name, tmp_path):
    files = {"first.wav": b"1", name: b"out"}
    for path in (zipped(tmp_path / "x.zip", files), tarred(tmp_path / "x.tar.gz", files, "w:gz")):
        assert f"{name!r} has a name that leads out" in refused(path, tmp_path / "in" / "cache")


def test_backslashes_that_lead_out(tmp_path):
    path = zipped(tmp_path / "x.zip", {"XX..XX..Xout.wav": b"out"})
    path.write_bytes(path.read_bytes().replace(b"XX..XX..Xout.wav", rb"\\..\\..\out.wav"))
    assert "leads out" in refused(path, tmp_path / "in" / "cache")


def test_links_within_a_tar_become_copies(tmp_path):
    links = {"hard.wav": (tarfile.LNKTYPE, "a/one.wav"), "a/soft.wav": (tarfile.SYMTYPE, "b/../one.wav")}
    links |= {"a/again.wav": (tarfile.SYMTYPE, "../hard.wav"), "before.wav": (tarfile.SYMTYPE, "z.wav")}
    files = {"before.wav": links.pop("before.wav"), **FILES, **links, "z.wav": b"last"}
    found = content(extracted(tarred(tmp_path / "x.tar.xz", files, "w:xz"), tmp_path / "cache"))
    one = FILES["a/one.wav"]
    copies = {"hard.wav": one, "a/soft.wav": one, "a/again.wav": one, "before.wav": b"last", "z.wav": b"last"}
    assert found == FILES | copies


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE])
@pytest.mark.parametrize("target", ["/etc/passwd", "../../secret", "gone.wav", "link", "folder"])
def test_other_links(kind, target, tmp_path):
    (tmp_path / "secret").write_text("secret")
    files = {"first.wav": b"1", "folder": (tarfile.DIRTYPE, ""), "link": (kind, target)}
    sentence = refused(tarred(tmp_path / "x.tar", files), tmp_path / "in" / "cache")
    assert "'link'" in sentence and ("leads out" in sentence) == (target[0] in "./")


def test_a_file_behind_a_link_to_a_folder(tmp_path):
    (tmp_path / "outside").mkdir()
    files = {"link": (tarfile.SYMTYPE, str(tmp_path / "outside")), "link/out.wav": b"out"}
    refused(tarred(tmp_path / "x.tar", files), tmp_path / "in" / "cache")
    assert not list((tmp_path / "outside").iterdir())


@pytest.mark.parametrize("kind", [tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
def test_devices(kind, tmp_path):
    path = tarred(tmp_path / "x.tar", {"first.wav": b"1", "device": (kind, "")})
    assert "'device' is a device" in refused(path, tmp_path / "in" / "cache")


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFCHR, stat.S_IFIFO])
def test_links_and_devices_in_a_zip(kind, tmp_path):
    info = zipfile.ZipInfo("link")
    info.external_attr = (kind | 0o777) << 16
    path = zipped(tmp_path / "x.zip", {"first.wav": b"1", info: b"/etc/passwd"})
    assert "'link' is a link or a device" in refused(path, tmp_path / "in" / "cache")


def test_an_encrypted_member(tmp_path):
    path = zipped(tmp_path / "x.zip", {"first.wav": b"1", "secret.wav": b"2"})
    data = bytearray(path.read_bytes())
    data[data.rindex(b"PK\1\2") + 8] |= 1
    path.write_bytes(data)
    assert "'secret.wav' is encrypted; unpack it yourself" in refused(path, tmp_path / "in" / "cache")


def test_an_unknown_compression(tmp_path):
    path = zipped(tmp_path / "x.zip", {"strange.wav": b"1"})
    data = bytearray(path.read_bytes())
    for place in (data.index(b"PK\3\4") + 8, data.index(b"PK\1\2") + 10):
        data[place] = 97
    path.write_bytes(data)
    assert "'strange.wav' cannot be read (" in refused(path, tmp_path / "in" / "cache")


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_an_unreadable_member_of_a_zip(method, tmp_path):
    path = zipped(tmp_path / "x.zip", {"first.wav": b"1", "bad.wav": os.urandom(5000), "last.wav": b"3"}, method)
    data = bytearray(path.read_bytes())
    place = data.index(b"bad.wav") + 2000
    data[place : place + 50] = bytes(50)
    path.write_bytes(data)
    assert "'bad.wav' cannot be read (" in refused(path, tmp_path / "in" / "cache")


@pytest.mark.parametrize("ending", TARS)
def test_damage_anywhere_in_a_tar_is_found_or_does_no_harm(ending, tmp_path):
    files = {f"{i}.bin": os.urandom(3000) for i in range(5)}
    path = tarred(tmp_path / f"x{ending}", files, TARS[ending])
    data, found = path.read_bytes(), 0
    for i, place in enumerate(range(600, len(data), len(data) // 40)):
        path.write_bytes(data[:place] + bytes([data[place] ^ 0xFF]) + data[place + 1 :])
        os.utime(path, ns=(i, i))
        try:
            unpacked = content(extracted(path, tmp_path / "cache"))
        except archives.UserError as error:
            assert "cannot be read (" in str(error) or "is a device" in str(error)
            found += 1
        else:  # a plain tar has no checksums but those of its headers
            assert ending == ".tar" and [len(c) for c in unpacked.values()] == [3000] * 5
    assert found > (0 if ending == ".tar" else 38)


@pytest.mark.parametrize("ending", [".tar", ".tar.gz", ".tar.bz2", ".tar.xz", ".zip"])
def test_cut_off(ending, tmp_path):
    files = {f"{i}.bin": os.urandom(3000) for i in range(5)}
    path = tmp_path / f"x{ending}"
    data = (zipped(path, files) if ending == ".zip" else tarred(path, files, TARS[ending])).read_bytes()
    for share in (0.001, 0.1, 0.3, 0.5, 0.7):
        path.write_bytes(data[: int(share * len(data))])
        assert "cannot be read (" in refused(path, tmp_path / "in" / "cache")
    if ending == ".tar":
        path.write_bytes(data[: 2 * (512 + 3072)])  # between two members
        assert "what comes after '1.bin' cannot be read" in refused(path, tmp_path / "in" / "cache")


def test_no_archive_at_all(tmp_path):
    for name in ("x.zip", "x.tar", "x.tar.gz"):
        (tmp_path / name).write_text("this is text " * 100)
        assert "cannot be read (" in refused(tmp_path / name, tmp_path / "in" / "cache")
    (tmp_path / "empty.zip").touch()
    (tmp_path / "folder.tar").mkdir()
    for name, problem in (("empty.zip", "is empty"), ("folder.tar", "is a folder"), ("gone.zip", "no such file")):
        assert problem in refused(tmp_path / name, tmp_path / "in" / "cache")


def test_files_and_folders_of_one_name(tmp_path):
    files = {"a": b"file", "a/b.wav": b"in a file"}
    for path in (zipped(tmp_path / "x.zip", files), tarred(tmp_path / "x.tar", files)):
        assert "'a/b.wav' cannot be read (" in refused(path, tmp_path / "in" / "cache")
    path = tarred(tmp_path / "y.tar", {"x" * 300 + ".wav": b"1"})
    assert "File name too long" in refused(path, tmp_path / "in" / "cache")


def test_more_than_the_disk_takes(tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(archives.shutil, "disk_usage", lambda _: usage(10**9, 0, 10**8 + 60_000))
    bomb = {"first.wav": b"1", "bomb.wav": bytes(100_000)}
    links = {"a.wav": bytes(20_000), "b.wav": (tarfile.LNKTYPE, "a.wav"), "bomb.wav": (tarfile.LNKTYPE, "a.wav")}
    many = {f"{i:02d}": b"" for i in range(14)} | {"bomb.wav": b""}
    for path in (
        zipped(tmp_path / "x.zip", bomb),
        tarred(tmp_path / "x.tar.gz", bomb, "w:gz"),
        tarred(tmp_path / "links.tar", links),
        zipped(tmp_path / "many.zip", many),
    ):
        assert "'bomb.wav' has no place on the disk" in refused(path, tmp_path / "in" / "cache")
    monkeypatch.setattr(archives.shutil, "disk_usage", lambda _: usage(10**9, 0, 10**8 + 120_000))
    assert len(content(extracted(tmp_path / "x.zip", tmp_path / "in" / "cache"))) == 2


def test_a_zip_that_lies_about_a_size(tmp_path):
    path = zipped(tmp_path / "x.zip", {"liar.wav": bytes(100_000)})
    data = bytearray(path.read_bytes())
    for place in (data.index(b"PK\3\4") + 22, data.index(b"PK\1\2") + 24):
        data[place : place + 4] = (1000).to_bytes(4, "little")
    path.write_bytes(data)
    assert "'liar.wav' cannot be read (" in refused(path, tmp_path / "in" / "cache")


def test_a_cache_that_cannot_be_written(tmp_path):
    path = zipped(tmp_path / "x.zip", FILES)
    (tmp_path / "file").touch()
    sentence = message(extracted, path, tmp_path / "file" / "cache")
    assert sentence.startswith(f"{path}: cannot be unpacked into ") and "pass another --cache_dir" in sentence


def test_two_processes_at_once_and_one_that_is_killed(tmp_path):
    path = tarred(tmp_path / "x.tar.gz", {f"{i}/{i}.bin": os.urandom(2000) for i in range(300)}, "w:gz")
    script = f"""
        import sys, time
        sys.path.insert(0, {str(ROOT)!r})
        from pathlib import Path
        from common.legacy import archives
        write = archives._write
        def slowly(member, target):
            write(member, target)
            if member.name.startswith("20/"):
                print("begun", flush=True)
                time.sleep(float(sys.argv[1]))
        archives._write = slowly
        print(archives.extracted({str(path)!r}, Path({str(tmp_path / "cache")!r})))
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    killed = subprocess.Popen([*command, "60"], stdout=subprocess.PIPE, text=True)
    assert killed.stdout.readline() == "begun\n"
    killed.kill()
    killed.wait()
    assert list((tmp_path / "cache").glob("partial-*/files/20/20.bin"))
    both = [subprocess.Popen([*command, "0.5"], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    folders = {process.communicate(timeout=120)[0].splitlines()[-1] for process in both}
    assert [process.returncode for process in both] == [0, 0] and len(folders) == 1
    assert len(content(Path(folders.pop()))) == 300
    assert [p for p in (tmp_path / "cache").iterdir() if p.name.startswith("partial")] == []


def test_progress_of_a_large_one(tmp_path, monkeypatch, capsys):
    path = zipped(tmp_path / "x.zip", FILES)
    monkeypatch.setattr(archives, "LARGE", 100)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    extracted(path, tmp_path / "cache")
    shown = capsys.readouterr().err
    assert "x.zip: " in shown and "B/s" in shown
    monkeypatch.setattr(archives, "LARGE", 10**9)
    time.sleep(0.01)
    os.utime(path)
    extracted(path, tmp_path / "cache")
    assert capsys.readouterr().err == ""
