"""common/allocator.py: what the system is asked for again, counted by the page faults of a process of its own."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from common.legacy.allocator import USERS

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = """
import resource, sys, torch
from common.legacy.allocator import keep_freed_memory
kept = sys.argv[1] == "keep" and keep_freed_memory()
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for step in range(30):  # small blocks get in between at first
    if step == 20:
        before = faults()
    torch.ones(10_000_000)
print(kept, faults() - before)
"""

glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")


def run(argument: str, **variables: str) -> tuple[bool, int]:
    environment = {name: value for name, value in os.environ.items() if name not in USERS} | variables
    command = [sys.executable, "-c", PROGRAM, argument]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    kept, faults = done.stdout.split()
    return kept == "True", int(faults)


@glibc
def test_freed_blocks_are_used_again_instead_of_asking_the_system():
    (_, stock), (kept, ours) = run("stock"), run("keep")
    assert kept and ours < 100 < stock  # 10 blocks of 40 MB: at least 20 pages of 2 MB each


@glibc
def test_the_users_own_setting_stays():
    assert not run("keep", MALLOC_TRIM_THRESHOLD_="131072")[0]


def test_without_glibc_nothing_happens(monkeypatch):
    from common.legacy import allocator

    for name in USERS:
        monkeypatch.delenv(name, raising=False)
    for library in (object(), None):  # musl, macOS; Windows

        def load(_, library=library):
            if library is None:
                raise TypeError
            return library

        monkeypatch.setattr(allocator.ctypes, "CDLL", load)
        assert allocator.keep_freed_memory() is False
