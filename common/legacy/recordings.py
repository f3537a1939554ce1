"""Recordings of speech with their classes or transcripts, from any source: read, checked, counted and described.

Not for what single sources look like (`common.legacy.recording_readers`, `common.legacy.recording_tables`), for sound itself
(`common.legacy.audio`), nor for who is in which split (`common.legacy.splitting`).
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from common.legacy.archives import extracted, is_archive
from common.legacy.audio import MINIMUM_SAMPLES, RATE, BadAudio, seconds_of
from common.legacy.data import TABLE_FORMATS, existing_file, overlap
from common.legacy.errors import UserError
from common.legacy.examining import examine
from common.legacy.examples import Examples
from common.legacy.recording_readers import (
    AUDIO_ENDINGS,
    TRANSCRIPTS,
    Entries,
    Reading,
    class_folders,
    is_audio,
    is_lj,
    librispeech,
    list_files,
    ljspeech,
    read_names,
)
from common.legacy.recording_tables import HubAudio, audio_folder, is_metadata, table_entries, table_rows
from common.legacy.recording_truth import labels_of, transcripts_of
from common.legacy.speech_commands import is_speech_commands, speakers_of, speech_commands

THREADS, HEADERS = 8, 64  # reading headers is mostly waiting for the disk; each thread takes so many at once
TOLERANCE = 0.01  # seconds by which a part may end after its clip: tables round


@dataclass
class Recordings(Examples):
    """N examples of speech, each a clip or a part of one.

    Attributes:
        source: where they come from, for messages and results.
        ids: N strings, all different (but for the copies that `take` is asked for): the data's own, or paths.
        audio: N items that `common.legacy.audio.decode` takes, maybe fetched only when asked for; None without sound.
        begins, ends: float64 [N], the part of the clip in seconds; the ends are NaN without sound.
        utterances: N ids of the whole utterance that each is (a part of); equal to `ids` before cutting.
        names: the classes, in label order.
        labels: int64 [N], index into `names`; None: unknown, or no classes.
        texts: N transcripts; None: unknown.
        speakers: N strings, "" where unknown; None: unknown of all.
        columns: what else is known -> N values ("gender", ...), by which results are grouped.
        splits: N of "train", "validation" and "test", where the data themselves say so; else None.
        digests: N hashes of the clips' content, once they are `checked`.
        skipped: reason -> how many were left out.
        left_out: (id, sentence) of each bad clip that was left out.
    """

    what = "clips"
    source: str
    ids: list[str]
    audio: Sequence
    begins: np.ndarray
    ends: np.ndarray
    utterances: list[str]
    names: tuple[str, ...] = ()
    labels: np.ndarray | None = None
    texts: list[str] | None = None
    speakers: list[str] | None = None
    columns: dict[str, list[str]] = field(default_factory=dict)
    splits: list[str] | None = None
    digests: list[str] | None = None
    skipped: dict[str, int] = field(default_factory=dict)
    left_out: list[tuple[str, str]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def seconds(self) -> np.ndarray:
        """float64 [N]: how long each is."""
        return self.ends - self.begins

    def take(self, indices: np.ndarray) -> "Recordings":
        """The recordings at `indices`, which may name one twice; nothing is fetched."""

        def taken(values):
            return None if values is None else [values[i] for i in indices]

        return replace(
            self,
            ids=taken(self.ids),
            audio=self.audio.take(indices) if isinstance(self.audio, HubAudio) else taken(self.audio),
            begins=self.begins[indices],
            ends=self.ends[indices],
            utterances=taken(self.utterances),
            labels=None if self.labels is None else self.labels[indices],
            texts=taken(self.texts),
            speakers=taken(self.speakers),
            columns={name: taken(values) for name, values in self.columns.items()},
            splits=taken(self.splits),
            digests=taken(self.digests),
        )

    def checked(
        self, root: Path, *, skip_bad: bool, workers: int | None, progress: str | None, silent_ok: Sequence[str] = ()
    ) -> "Recordings":
        """The recordings whose sound is whole, with `digests`; every clip is decoded once, and remembered in `root`.

        Args:
            skip_bad: bad clips are left out and counted; otherwise the first one is an error.
            workers, progress: as for `audio.examine`.
            silent_ok: classes whose clips may be all zeros; clips of unknown class then may, too.

        Raises:
            UserError: a clip that cannot be decoded, is too short or silent, or ends before the example does.
        """
        first, clip_of = self._clips()
        clips, places = self.take(first), self._places()
        found = examine(clips.audio, [places[i] for i in first], root, workers=workers, progress=progress)
        known = self.labels is not None
        may_be_silent = np.isin(self.names, silent_ok)[self.labels] if known else np.full(len(self), len(silent_ok) > 0)
        bad = {}
        for i, (clip, may) in enumerate(zip(clip_of, may_be_silent)):
            if found[clip].problem is not None:
                bad[i] = found[clip].problem.reason, str(found[clip].problem)
            elif found[clip].peak == 0 and not may:
                bad[i] = "silent", f"{places[i]}: is silent: all samples are 0"
        ends = np.fmin(self.ends, [found[clip].seconds for clip in clip_of])
        digests = [found[clip].digest for clip in clip_of]
        return replace(self, ends=ends, digests=digests)._without(bad, skip_bad)._long_enough(skip_bad)

    def _clips(self) -> tuple[np.ndarray, np.ndarray]:
        """(The first example of each of M clips, int [M]; which clip each example is of, int [N])."""
        lazy, number_of = isinstance(self.audio, HubAudio), {}
        keys = self.audio.rows.tolist() if lazy else [c if isinstance(c, str) else i for i, c in enumerate(self.audio)]
        clip_of = np.array([number_of.setdefault(key, len(number_of)) for key in keys], dtype=np.int64)
        return np.unique(clip_of, return_index=True)[1], clip_of

    def _places(self) -> list[str]:
        """What the clips are called in messages: their path, or the source and the id."""
        paths = [None] * len(self) if isinstance(self.audio, HubAudio) else self.audio
        return [p if isinstance(p, str) else f"{self.source}: {name}" for p, name in zip(paths, self.ids)]

    def _timed(self, skip_bad: bool) -> "Recordings":
        """With the ends that are not given, from the headers of the clips."""
        first, clip_of = self._clips()
        clips, places = self.take(first), self._places()

        def read(clip: int) -> float | BadAudio:
            try:
                return seconds_of(clips.audio[clip], places[first[clip]])
            except BadAudio as error:
                return error

        def several(begin: int) -> list[float | BadAudio]:
            return [read(clip) for clip in range(begin, min(begin + HEADERS, len(first)))]

        with ThreadPoolExecutor(THREADS) as threads:
            found = [length for some in threads.map(several, range(0, len(first), HEADERS)) for length in some]
        seconds, bad = np.zeros(len(self)), {}
        for i, length in enumerate(found[clip] for clip in clip_of):
            if isinstance(length, BadAudio):
                bad[i] = length.reason, str(length)
            else:
                seconds[i] = length
                if self.ends[i] > length + TOLERANCE:
                    sentence = f"{places[i]}: the part ends at {self.ends[i]:g} s, but the clip at {length:g} s"
                    bad[i] = "part beyond the end", sentence
        return replace(self, ends=np.fmin(self.ends, seconds))._without(bad, skip_bad)._long_enough(skip_bad)

    def _long_enough(self, skip_bad: bool) -> "Recordings":
        """Without those of which too little is left for the encoders."""
        places, bad = self._places(), {}
        for i in np.flatnonzero(np.round(self.seconds * RATE) < MINIMUM_SAMPLES):
            sentence = (
                f"is too short: {1000 * self.seconds[i]:.3g} ms; encoders need {1000 * MINIMUM_SAMPLES / RATE:g} ms"
            )
            bad[int(i)] = "too short", f"{places[i]}: {sentence}"
        return self._without(bad, skip_bad)

    def _without(self, bad: Mapping[int, tuple[str, str]], skip_bad: bool) -> "Recordings":
        """Without the bad ones (row -> reason to count, sentence to say), or `UserError` for the first of them."""
        if not bad:
            return self
        if not skip_bad:
            raise UserError(f"{bad[min(bad)][1]}; mend it or pass --on_bad_example skip")
        skipped = Counter(self.skipped) + Counter(reason for reason, _ in bad.values())
        left_out = [*self.left_out, *((self.ids[i], bad[i][1]) for i in sorted(bad))]
        kept = np.array([i for i in range(len(self)) if i not in bad], dtype=np.int64)
        if not len(kept):
            raise UserError(f"{self.source}: no usable recording ({dict(skipped)}); the first: {left_out[0][1]}")
        return replace(self.take(kept), skipped=dict(skipped), left_out=left_out)

    def rows(self) -> Iterator[tuple]:
        """(id, begin, end, class or None, transcript or None, speaker or None, digest or None) for fingerprints."""
        nothing = [None] * len(self)
        labels = nothing if self.labels is None else [self.names[i] for i in self.labels]
        parts = (self.begins.tolist(), self.ends.tolist())
        return zip(self.ids, *parts, labels, *(v or nothing for v in (self.texts, self.speakers, self.digests)))

    def statistics(self) -> dict[str, float]:
        """How many speakers there are, and how long they speak, in hours and (single clips) seconds."""
        known = {} if self.speakers is None else {"speakers": len({*self.speakers} - {""})}
        if len(self) and not np.isnan(self.seconds).any():
            lengths = self.seconds
            known |= {"hours": round(lengths.sum() / 3600, 4), "longest": lengths.max(), "shortest": lengths.min()}
        return known


def describe_splits(splits: dict[str, Recordings], selection: dict[str, tuple[int, str]], statistics: dict) -> dict:
    """results.json's `data`: every split, and what splits share: speakers, utterances, and clips of the same content.

    `selection` and `statistics` have, by split, what `Recordings.describe` takes.
    """
    speakers, utterances, contents = {}, {}, {}
    for name, split in splits.items():
        # An unknown speaker, a new object each, is nobody else.
        speakers[name] = [who or object() for who in split.speakers or [""] * len(split)]
        utterances[name] = split.utterances
        contents[name] = zip(split.digests or map(id, speakers[name]), split.begins.tolist(), split.ends.tolist())
    return {
        "splits": {name: split.describe(*selection[name], **statistics[name]) for name, split in splits.items()},
        "overlaps": overlap(speakers, "speaker") + overlap(utterances, "utterance") + overlap(contents, "clip"),
    }


# Reading


def read_recordings(path: str | Path, reading: Reading, root: Path) -> Recordings:
    """The recordings of a folder, an archive, a table or one audio file.

    Known by what is in them: the trees of Speech Commands and LibriSpeech, LJ Speech's metadata.csv, folders with a
    metadata.csv or .jsonl that has a column file_name, and folders by class, also below train, validation and test.

    Args:
        root: folder of the cache, into which archives are extracted.

    Raises:
        UserError: naming file and row for whatever is wrong.
    """
    path = Path(path)
    name = path.name.lower()
    if path.is_dir() or (path.exists() and is_archive(path)):
        files = list_files(path if path.is_dir() else extracted(path, root), root)
        entries = _tree(files, str(path), reading)
    elif name.endswith((*TABLE_FORMATS, ".json.gz")):
        existing_file(path)
        if name.endswith(".csv") and is_lj(path):
            entries = ljspeech(path, str(path))
        else:
            entries = table_entries(table_rows(path, root), str(path), reading, path.parent)
    elif is_audio(name) or not path.exists():
        entries = class_folders({path.name: str(existing_file(path))}, str(path), reading)
    else:
        endings = ", ".join((*AUDIO_ENDINGS, *TABLE_FORMATS))
        raise UserError(f"{path}: cannot read '{path.suffix or name}'; use a folder, a zip, a tar, or one of {endings}")
    return _collected(entries, reading)


def recordings_of_rows(rows: Sequence, source: str, reading: Reading) -> Recordings:
    """The recordings of rows of a hub (a `datasets.Dataset`; its sound stays where it is) or of any dictionaries.

    The classes of a `ClassLabel` column are known by their names. Raises as `read_recordings`.
    """
    return _collected(table_entries(rows, source, reading, Path()), reading)


def _tree(files: Mapping[str, str], source: str, reading: Reading) -> Entries:
    if is_speech_commands(files):
        return speech_commands(files, source)
    if any(path.endswith(TRANSCRIPTS) for path in files):
        return librispeech(files, source)
    tables = [path for path in files if is_metadata(path)]
    if not tables:
        return class_folders(files, source, reading)
    if is_lj(Path(files[tables[0]])):
        return ljspeech(Path(files[tables[0]]), source)
    return audio_folder({path: files[path] for path in tables}, source, reading)


def _collected(entries: Entries, reading: Reading) -> Recordings:
    """Checks what is said of the clips, and opens the headers of those that are kept."""
    if not entries.ids:
        raise UserError(f"{entries.source}: has no clip; sound ends with one of {', '.join(AUDIO_ENDINGS)}")
    if reading.name_pattern:
        read_names(entries, reading)
    count, first = len(entries.ids), {}
    for i, name in enumerate(entries.ids):
        if first.setdefault(name, i) != i:
            sentence = f"the id {name!r} is that of {entries.places[first[name]]}, too"
            entries.bad.setdefault(i, ("id is there twice", sentence))
    labels, names = labels_of(entries, reading)
    texts = transcripts_of(entries, reading)
    begins, ends = (np.full(count, np.nan) if part is None else part for part in (entries.begins, entries.ends))
    heard = reading.audio_needed or _all_there(entries.audio)
    everything = Recordings(
        source=entries.source,
        ids=entries.ids,
        audio=entries.audio if heard else [None] * count,
        begins=np.nan_to_num(begins),
        ends=ends,
        utterances=entries.ids,
        names=names,
        labels=labels,
        texts=texts,
        speakers=(entries.speakers if any(entries.speakers or ()) else None) or speakers_of(entries.stems),
        columns=entries.columns,
        # Without training data there is nothing to divide: what its file is for is then said by who names it.
        splits=entries.splits if entries.splits and "train" in entries.splits else None,
    )
    bad = {i: (reason, f"{entries.places[i]}: {sentence}") for i, (reason, sentence) in entries.bad.items()}
    kept = everything._without(bad, reading.skip_bad)
    return kept._timed(reading.skip_bad) if heard else kept


def _all_there(audio: Sequence) -> bool:
    return isinstance(audio, HubAudio) or all(isinstance(clip, Mapping) or Path(clip or "").is_file() for clip in audio)
