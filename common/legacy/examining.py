"""Many clips decoded once, by several threads, to see that they are whole; what was found is remembered.

How one clip is decoded is `common.legacy.audio`; what becomes of bad clips is `common.legacy.recordings`.
"""

import contextlib
import hashlib
import json
import math
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from common.legacy.audio import Audio, BadAudio, Examined, examined
from common.legacy.files import write_bytes

CLIPS_AT_ONCE = 16


def examine(
    audio: Sequence, names: Sequence[str], root: Path, *, workers: int | None, progress: str | None
) -> list[Examined]:
    """What each of N clips is like, in their order; each is decoded once to see that it is whole.

    Files are remembered by path, size and time of change, so that whoever asks again, for these or for some of them,
    has the answer at once; what is in memory is decoded each time. Decoding leaves Python's lock, so threads do it.

    Args:
        audio: N items that `decode` takes, each asked for once, from any thread.
        names: what messages call them.
        root: folder of the cache.
        workers: clips decoded at the same time; None: one for each processor.
        progress: what the progress bar is called; None: no bar.
    """
    from tqdm import tqdm

    memory = _Memory(root)
    found: list[Examined] = []

    def several(begin: int) -> list[Examined]:
        rows = range(begin, min(begin + CLIPS_AT_ONCE, len(audio)))
        return [memory.examined(audio[i], names[i]) for i in rows]

    threads = ThreadPoolExecutor(workers or os.cpu_count())
    try:
        with tqdm(total=len(audio), desc=progress, unit="clip", disable=progress is None) as bar:
            for examined in threads.map(several, range(0, len(audio), CLIPS_AT_ONCE)):
                found += examined
                bar.update(len(examined))
    finally:
        threads.shutdown(cancel_futures=True)  # when interrupted, the clips under way are the last ones
        memory.save()
    return found


class _Memory:
    """What files were like when they were examined: a json for each of their folders, written whole.

    Of two processes that examine the same folder at the same time, the later one's json stays; what it lacks is
    examined again.
    """

    def __init__(self, root: Path):
        import soundfile

        self._root = root / f"examined-1-{soundfile.__libsndfile_version__}"
        self._known: dict[str, dict[str, list]] = {}  # folder -> file -> size, time of change, what was found
        self._changed: set[str] = set()

    def examined(self, audio: Audio, name: str) -> Examined:
        """As remembered, or as it is found to be now."""
        in_memory = isinstance(audio, Mapping) and (audio.get("bytes") is not None or audio.get("array") is not None)
        path = audio.get("path") if isinstance(audio, Mapping) else audio
        if in_memory or not isinstance(path, str | Path) or not os.path.isfile(path):
            return examined(audio, name)
        status = os.stat(path)
        folder, file = os.path.split(os.path.abspath(path))
        known = self._known.get(folder)
        if known is None:  # by several threads at once, it may be; all go on with the same
            known = self._known.setdefault(folder, self._load(folder))
        size, changed, seconds, peak, digest, sentence, reason = known.get(file, [None] * 7)
        if (size, changed) == (status.st_size, status.st_mtime_ns):
            problem = BadAudio(f"{name}: {sentence}", reason) if reason else None
            return Examined(seconds, math.nan if problem else peak, digest, problem)
        found = examined(audio, name)
        if found.digest:  # else it could not even be read, which may be so only now
            sentence = str(found.problem).removeprefix(f"{name}: ") if found.problem else None
            reason, peak = (found.problem.reason, None) if found.problem else (None, found.peak)
            known[file] = [status.st_size, status.st_mtime_ns, found.seconds, peak, found.digest, sentence, reason]
            self._changed.add(folder)
        return found

    def save(self) -> None:
        """Writes what is new; a cache that cannot be written is no error."""
        with contextlib.suppress(OSError):
            self._root.mkdir(parents=True, exist_ok=True)
            for folder in self._changed:
                write_bytes(self._place(folder), json.dumps(self._known[folder]).encode())

    def _load(self, folder: str) -> dict[str, list]:
        try:
            return json.loads(self._place(folder).read_bytes())
        except (OSError, ValueError):
            return {}

    def _place(self, folder: str) -> Path:
        return self._root / f"{hashlib.sha256(os.fsencode(folder)).hexdigest()[:40]}.json"
