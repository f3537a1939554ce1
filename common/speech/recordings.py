"""Recordings of speech with their classes or transcripts, from any source, as splits: a row a clip, never samples.

What every split goes through. What sources say of their clips is in `sources`, who
comes into which split in `splits`, sound in `audio`.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import datasets
import numpy as np
import pandas as pd

from common.data import LIMITS, PHASES, SPLITS, Splits, select
from common.errors import UserError
from common.speech.corpora import Reading, mark
from common.speech.sources import check_texts, encode_classes, examined, measure, read_sources, to_dataset, without_bad
from common.speech.splits import CONTENT, check_classes, describe_splits, divided, with_columns


def load_recordings(
    args,
    run,
    *,
    kind: Literal["label", "text"],
    classes: Mapping[str, Sequence[str]] = {},
    names: Sequence[str] = (),
    corpora: bool = False,
    hub_folder: str | None = None,
    prepare: Callable[[datasets.Dataset], tuple[datasets.Dataset, dict[str, int]]] | None = None,
    audio: bool = True,
) -> Splits:
    """The splits that the run needs, from the files that are given, else from `--data_dir`, else from the hub.

    Rows have the columns id, recording (the id of the whole; the same until something is cut), path (see `audio`),
    start and end in seconds (end None: to the clip's end), seconds, speaker, gender (None where unknown), labels (a
    ClassLabel) or text (neither in test data without truth), and columns of few values by which results can be grouped.
    Nothing is decoded: see `check_clips`. Raises `UserError` naming file, row and remedy for whatever is wrong.

    Args:
        run: its `warn` and `note` get sentences.
        classes: known classes -> other spellings.
        names: the classes of a model that is only used.
        corpora: corpora of emotions are told by the names of their files.
        hub_folder: of `--dataset`, see `hub.load_split`.
        prepare: what is done with all rows of a source before it is split: (rows) -> (rows, reason -> left out).
        audio: False: names without sound will do; `seconds` is None then.
    """
    reading = Reading(args, run, kind, classes, names or (), corpora, audio)
    needed = [name for name in SPLITS if getattr(args.training_args, PHASES[name])]
    sources = read_sources(needed, reading, hub_folder)
    frame = pd.concat([clips.assign(part=name) for name, clips in sources.items()], ignore_index=True)
    measure(frame, reading)
    feature = encode_classes(frame, sources, reading) if kind == "label" else check_texts(frame, sources)
    splits = Splits()
    for name, clips in sources.items():
        source = clips.attrs["source"]
        dataset, skipped = to_dataset(frame[frame["part"] == name].copy(), source, args, feature)
        if prepare:
            dataset, left_out = prepare(dataset)
            skipped = dict(Counter(skipped) + Counter(left_out))
        parts = {name: dataset}
        if name == "all":
            parts, words = divided(dataset, args, source)
            run.note(f"split {words}")
        for part in (part for part in needed if len(parts.get(part, ()))):
            rows = parts[part].remove_columns([column for column in ("split",) if column in dataset.column_names])
            splits[part], selection = select(rows, getattr(args, LIMITS[part]), args.sample_seed)
            facts = {"source": source, "available": len(rows), "selection": selection, "skipped": skipped}
            splits.facts[part], skipped = facts, {}
    if absent := [name for name in needed if name not in splits and name != "test"]:
        raise UserError(f"{source}: no recording is left for {absent[0]}")
    if kind == "label":
        check_classes(splits, run)
    if len(splits) > 1 and not all(any(split["speaker"][:]) for split in splits.values()):
        run.warn("speakers are not known: the same one may be in several splits, which makes scores too good")
    if not audio:
        describe_splits(splits)
    return splits


def check_clips(splits: Splits, args, run, silent_ok: Sequence[str] = ()) -> Splits:
    """The splits without clips that are not whole, with a column `digest` (SHA-256 of the file) and true `seconds`.

    Every clip is decoded once, divided over the processes, and remembered. To be called by all processes together.

    Args:
        silent_ok: classes whose clips may be all zeros; those of unknown class may then, too.

    Raises:
        UserError: a bad clip, unless these are skipped.
    """
    checked = []
    for name, split in splits.items():
        facts, frame = splits.facts[name], split.select_columns(["id", "path", "start", "end"]).to_pandas()
        frame["truth"] = next((split[column][:] for column in ("labels", "text") if column in split.features), None)
        frame = frame.join(examined([*frame["path"].unique()], args, run), on="path")
        inside = frame["path"].str.contains(".arrow#", regex=False)
        frame["where"] = (facts["source"] + ", " + frame["id"]).where(inside, frame["path"])
        names = split.features["labels"].names if "labels" in split.features else []
        may_be_silent = [number for number, label in enumerate(names) if label in silent_ok]
        silent = (frame["peak"] == 0) & ~frame["truth"].isin(may_be_silent) & bool(names or not silent_ok)
        mark(frame, silent, "silent", "is silent: all samples are 0")
        good, skipped = without_bad(frame, facts["source"], args.on_bad_example == "skip")
        facts["skipped"] = dict(Counter(facts["skipped"]) + Counter(skipped))
        seconds = np.fmin(good["end"].astype(float), good["seconds"]) - good["start"]
        columns = {"seconds": seconds.tolist(), "digest": good["digest"].tolist()}
        splits[name] = with_columns(split.select(good.index), columns)
        checked.append(good)
    describe_splits(splits)
    for shared in splits.overlaps:
        if shared["key"] == "clip":
            first, second = shared["between"]
            run.warn(f"{shared['examples']:,} clips of {second} ({shared['share']:.0%}) are in {first}, too")
    rows = pd.concat(checked)
    rows = rows[rows.groupby(CONTENT, dropna=False)["truth"].transform("nunique") > 1]
    if len(rows):
        sentence = f"{len(rows.drop_duplicates(CONTENT)):,} clips are there more than once, with different labels or"
        run.warn(f"{sentence} transcripts, such as {rows['where'].iloc[0]}")
    return splits
