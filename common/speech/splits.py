"""Who is in which split: by speaker or at random; recordings cut into parts; what results.json says of splits."""

import contextlib
import itertools
from collections.abc import Mapping

import datasets
import numpy as np
from sklearn.model_selection import train_test_split

from common.data import SPLITS, Splits, describe, label_counts, overlaps
from common.errors import UserError
from common.speech.corpora import SILENCE

PART = ("id", "start", "end", "seconds")  # columns of a part of a clip; end None: to the clip's end
CONTENT = ["digest", "start", "end"]  # equal for the same part of the same file


def divided(whole: datasets.Dataset, args, source: str) -> tuple[dict[str, datasets.Dataset], str]:
    """One source as splits, and how, in words; what the data do not say is taken from their training data."""
    auto, columns = args.split == "auto", whole.column_names
    given = np.array(whole["split"][:] if auto and "split" in columns else [], dtype=str)
    evaluated = "test" if "validation" in given and "test" not in given else "validation"
    given = np.where(given == "eval", evaluated, given)
    kept = "train" in given or not args.training_args.do_train
    rows = {name: np.flatnonzero(given == name) for name in SPLITS if kept and name in given}
    how, people, words = "speaker", whole, "by speaker, none of whom is in two splits"
    if auto and not any(whole["speaker"][:]):  # parts of files
        people, words = with_columns(whole, {"speaker": whole["path"][:]}), "by file, none of which is in two splits"
    if args.split == "random" or (people is not whole and len({*whole["path"][:]}) == len(whole)):
        how, words = "random", "at random"
    absent, words = [name for name in SPLITS if name not in rows], f"{words} (split_seed {args.split_seed})"
    complete = not absent or (rows and "train" not in rows)
    idle = {"split_seed", "validation_share", "test_share"} if complete else {f"{name}_share" for name in rows}
    if idle := sorted(idle & args.explicit):
        raise UserError(f"--{idle[0]}: {source} has splits of its own; leave it out, or give --split speaker or random")
    if complete:
        return {name: whole.select(rows[name]) for name in rows}, "as the data say"
    shares = {"train": 1 - args.validation_share - args.test_share}
    shares |= {"validation": args.validation_share, "test": args.test_share}
    left, wanted = rows.get("train", np.arange(len(whole))), {name: shares[name] for name in ("train", *absent)}
    parts = split_rows(people.select(left), how, wanted, args.split_seed, source)
    words = f"as the data say; {' and '.join(absent)} taken from the training data {words}" if rows else words
    rows |= {name: left[part] for name, part in parts.items()}
    return {name: whole.select(rows[name]) for name in SPLITS}, words


def split_rows(dataset: datasets.Dataset, how: str, shares: Mapping[str, float], seed: int, source="the data") -> dict:
    """Split -> its rows, ascending, in relations as of `shares`.

    By "speaker" none is in two splits, and classes have about these shares; at "random" each has. Raises `UserError`.
    """
    labels = np.array(dataset["labels"][:]) if "labels" in dataset.column_names else np.zeros(len(dataset), dtype=int)
    shares = {name: share / sum(shares.values()) for name, share in shares.items()}
    if how == "random":
        return _at_random(dataset, labels, shares, seed, source)
    speakers, remedy = dataset["speaker"][:], "--split random, with which a speaker may be in several splits"
    if not any(speakers):
        raise UserError(f"{source}: does not say who speaks; give --speaker_column or --name_pattern, or {remedy}")
    # Whoever is not known is taken for somebody else each time.
    who = np.unique([name or f"\0{i}" for i, name in enumerate(speakers)], return_inverse=True)[1]
    if who.max() + 1 < len(shares):
        raise UserError(f"{source}: has {who.max() + 1} speakers, too few for {len(shares)} splits; give {remedy}")
    clips = np.zeros((who.max() + 1, labels.max() + 1), dtype=np.int64)
    np.add.at(clips, (who, labels), 1)
    part_of = _speakers_divided(clips[:, clips.any(0)], np.array([*shares.values()]), np.random.default_rng(seed))
    return {name: np.flatnonzero(part_of[who] == i) for i, name in enumerate(shares)}


def _speakers_divided(clips: np.ndarray, shares: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """int [speakers]: the split of each. `clips` counts them, [speakers, classes]; `shares`, [splits], are 1 in all."""
    sizes, best, least = clips.sum(1), None, np.inf
    least_part = np.arange(len(clips)) - (len(clips) - len(shares))  # so that every split gets somebody
    # Of random orders the best one has all classes in all splits, if any has, and then the most even shares.
    for _ in range(min(2_000, max(20, 1_000_000 // clips.size))):
        order = random.permutation(len(clips))
        middle = (np.cumsum(sizes[order]) - sizes[order] / 2) / sizes.sum()  # of each speaker's clips, in this order
        part_of = np.empty(len(clips), dtype=np.int64)
        part_of[order] = np.maximum(np.searchsorted(np.cumsum(shares)[:-1], middle), least_part)
        found = np.stack([clips[part_of == part].sum(0) for part in range(len(shares))])
        uneven = np.abs(found / clips.sum(0) - shares[:, None]).mean()
        uneven += np.abs(found.sum(1) / sizes.sum() - shares).max() + (found == 0).sum()
        if uneven < least:
            best, least = part_of, uneven
    return best


def _at_random(dataset: datasets.Dataset, labels: np.ndarray, shares: Mapping[str, float], seed: int, source: str):
    left, rows, counts = np.arange(len(dataset)), {}, np.bincount(labels)
    rarest = int(np.where(counts, counts, len(labels) + 1).argmin())
    if counts[rarest] >= len(shares):
        with contextlib.suppress(ValueError):
            for name in [*shares][1:]:
                size = max(round(shares[name] * len(dataset)), np.count_nonzero(counts))
                left, rows[name] = train_test_split(left, test_size=size, stratify=labels[left], random_state=seed)
            return {name: np.sort(rows.get(name, left)) for name in shares}
    remedy = ""
    if "labels" in dataset.features:
        label = dataset.features["labels"].names[rarest]
        remedy = f"; the class {label!r} has {counts[rarest]}: --drop_labels {label} leaves it out"
    raise UserError(f"{source}: {len(dataset):,} clips are too few for {len(shares)} splits{remedy}")


def cut_segments(dataset: datasets.Dataset, seconds: float) -> datasets.Dataset:
    """Segments of so many seconds of each row, called ID#1, ID#2; a rest of less than one belongs to the one before."""
    parts = []
    for row, (name, start, end, length) in enumerate(zip(*(dataset[c][:] for c in PART))):
        cuts = [0.0, *np.arange(seconds, length - 1 + 1e-9, seconds).tolist(), length]
        for number, (begin, stop) in enumerate(itertools.pairwise(cuts), start=1):
            named = f"{name}#{number}" if len(cuts) > 2 else name
            parts.append((row, named, start + begin, end if stop == length else start + stop, stop - begin))
    rows, *values = zip(*parts)
    return with_columns(dataset.select(rows), dict(zip(PART, map(list, values))))


def shorten(dataset: datasets.Dataset, seconds: float) -> datasets.Dataset:
    """Of each longer row the first so many seconds."""
    parts = [*zip(*(dataset[column][:] for column in PART))]
    ends = [start + seconds if length > seconds else end for _, start, end, length in parts]
    return with_columns(dataset, {"end": ends, "seconds": [min(length, seconds) for *_, length in parts]})


def cut_silence(clips: datasets.Dataset) -> datasets.Dataset:
    """The clips with those of silence of two seconds or more cut; of data in splits each has its part of such a one."""
    silence = [name == SILENCE for name in clips.features["labels"].names]
    long = np.array(silence)[clips["labels"][:]] & (np.array(clips["seconds"][:]) >= 2)
    if not long.any():
        return clips
    whole = clips.select(np.flatnonzero(long))
    cut, lengths = cut_segments(whole, 1.0), dict(zip(whole["recording"][:], whole["seconds"][:]))
    if "split" in cut.column_names:  # of Speech Commands' noise, 80, 10 and 10 %
        places = [start / lengths[name] for name, start in zip(cut["recording"][:], cut["start"][:])]
        splits, there = [SPLITS[(at >= 0.8) + (at >= 0.9)] for at in places], {*clips["split"][:]}
        splits = [name if name in there else "train" for name in splits]
        named = [f"{name}#{split}" for name, split in zip(cut["recording"][:], splits)]
        cut = with_columns(cut, {"split": splits, "recording": named})
    return datasets.concatenate_datasets([clips.select(np.flatnonzero(~long)), cut])


def with_columns(dataset: datasets.Dataset, columns: Mapping[str, list]) -> datasets.Dataset:
    """The data set, in memory, with other values in some columns, or further ones (of strings)."""
    features = dataset.features | {name: datasets.Value("string") for name in columns if name not in dataset.features}
    return datasets.Dataset.from_dict({**dataset[:], **columns}, features=datasets.Features(features))


def check_classes(splits: Splits, run) -> None:
    """Says which classes cannot be learned; refuses training data of one class."""
    counts = {name: label_counts(split) or {} for name, split in splits.items()}
    train = counts.pop("train", {})
    if len(there := [label for label, count in train.items() if count]) == 1:
        source = splits.facts["train"]["source"]
        raise UserError(f"{source}: all training clips are of the class {there[0]!r}; there must be two or more")
    for name, found in counts.items():
        if absent := [label for label, count in found.items() if count and not train.get(label, 1)]:
            run.warn(f"{name} has clips of {', '.join(absent)}, of which training has none: they cannot be learned")


def describe_splits(splits: Splits, run) -> None:
    """Fills the facts and overlaps of results.json, and warns of clips that are in two splits."""
    keys: dict[str, dict[str, list]] = {"speaker": {}, "utterance": {}, "clip": {}}
    for name, split in splits.items():
        speakers, seconds = split["speaker"][:], split["seconds"][:]
        parts = [*zip(*(split[key][:] for key in CONTENT))]
        keys["speaker"][name] = [who or object() for who in speakers]  # an unknown speaker is nobody else
        keys["utterance"][name], keys["clip"][name] = [*zip(split["path"][:], split["recording"][:])], parts
        statistics = {"speakers": len({*speakers} - {None})} if any(speakers) else {}
        statistics |= {"hours": round(hours(split), 4), "longest": max(seconds), "shortest": min(seconds)}
        facts = [splits.facts[name][key] for key in ("source", "available", "selection", "skipped")]
        splits.facts[name] = describe(split.remove_columns(["path", "seconds"]), *facts, **statistics)
    splits.overlaps = [shared for key, by_split in keys.items() for shared in overlaps(by_split, key)]
    for shared in (one for one in splits.overlaps if one["key"] == "clip"):
        first, second = shared["between"]
        run.warn(f"{shared['examples']:,} clips of {second} ({shared['share']:.0%}) are in {first}, too")
    run.describe(splits)


def hours(dataset: datasets.Dataset) -> float:
    """Hours of sound; overlapping parts of a clip, and copies of it, count once."""
    total, last, until = 0.0, None, 0.0
    for clip, start, seconds in sorted(zip(*(dataset[key][:] for key in ("digest", "start", "seconds")))):
        until = max(start, until if clip == last else 0.0)
        total, last, until = total + max(0.0, start + seconds - until), clip, max(until, start + seconds)
    return total / 3600


def recordings_table(splits: Splits) -> tuple[list[str], list[list]]:
    """The table of all recordings with classes: header and rows."""
    rows = []
    for name, split in splits.items():
        for row in split:
            said = split.features["labels"].names[row["labels"]] if "labels" in row else None
            place = row["id"] if ".arrow#" in row["path"] else row["path"]
            rows.append([row["gender"], row["speaker"], said, row["recording"], name, round(row["seconds"], 3), place])
    return ["gender", "speaker", "label", "utterance", "split", "seconds", "path"], rows
