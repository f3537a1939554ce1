"""Single texts with classes, from any table, and as inputs of an encoder.

Not for pairs of texts (`common.pairs`, `common.pair_inputs`), nor for what classes are called (`common.class_names`).
"""

from collections import Counter
from dataclasses import dataclass, replace

import numpy as np

from common.class_names import NUMBER, classes_of_labels, listed
from common.data import choose, fingerprint, is_unicode, overlap, read_rows, require_columns
from common.errors import UserError
from common.hub import load_rows

HELD_OUT = 0.1  # share of the training texts that validate where nothing else is given for it


@dataclass
class Texts:
    """N texts.

    Attributes:
        ids: N strings, the number of each text's row, from 1.
        texts: N strings.
        labels: name of each text's class; None: unknown.
        names: the classes, in label order.
        source: where they come from, for messages and results.
        skipped: reason -> how many were left out.
    """

    ids: list[str]
    texts: list[str]
    labels: list[str] | None
    names: tuple[str, ...]
    source: str
    skipped: dict[str, int]

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, indices: np.ndarray) -> "Texts":
        """The texts at `indices`."""
        ids, texts = ([values[i] for i in indices] for values in (self.ids, self.texts))
        return replace(self, ids=ids, texts=texts, labels=self.labels and [self.labels[i] for i in indices])

    def relabelled(self, names: tuple[str, ...]) -> "Texts":
        """The same texts with the classes in the order of `names`; `UserError` for a class that is not there."""
        if missing := sorted({*self.labels or ()} - {*names}):
            raise UserError(f"{self.source}: the classes {listed(missing)} are not among {listed(names)}")
        return replace(self, names=tuple(names))

    def targets(self) -> np.ndarray | None:
        """int64 [N], index into `names`; None where the classes are unknown."""
        index = {name: i for i, name in enumerate(self.names)}
        return None if self.labels is None else np.array([index[label] for label in self.labels], dtype=np.int64)

    def describe(self, available: int, selection: str) -> dict:
        """What results.json says of a split; `available` and `selection`: of how many, and how, they were chosen."""
        labels = [None] * len(self) if self.labels is None else self.labels
        described = {
            "source": self.source,
            "examples": len(self),
            "available": available,
            "selection": selection,
            "fingerprint": fingerprint(zip(self.ids, self.texts, labels)),
            "skipped": self.skipped,
        }
        counts = Counter(labels)
        return described | ({} if self.labels is None else {"label_counts": {n: counts[n] for n in self.names}})


def describe_splits(splits: dict[str, Texts], selection: dict[str, tuple[int, str]]) -> dict:
    """results.json's `data`: every split (`selection`: see `Texts.describe`), and the texts that splits share."""
    return {
        "splits": {name: part.describe(*selection[name]) for name, part in splits.items()},
        "overlaps": overlap({name: part.texts for name, part in splits.items()}, "text"),
    }


def texts_from_rows(
    rows: list[dict],
    source: str,
    *,
    text: str,
    label: str,
    truth: bool | None,
    skip_bad: bool,
    label_order: tuple[str, ...] | None = None,
    names: tuple[str, ...] | None = None,
) -> Texts:
    """Texts of rows with the columns `text` and, maybe, `label`.

    Args:
        truth: True: labels are needed; None: taken where there are any.
        skip_bad: bad rows are counted and left out; otherwise the first one is an error.
        label_order: the names that the labels 0, 1, 2, ... stand for.
        names: the classes, in order, that there may be: those of the training data. None: those that are found.

    Raises:
        UserError: a missing column, a bad row, or numbers that nobody has explained.
    """
    require_columns(dict.fromkeys(name for row in rows for name in row), [text, label] if truth else [text], source)
    labels = [_label(row.get(label)) for row in rows]
    known = bool(truth) or any(labels)
    names, index = classes_of_labels(labels, source, {}, label_order, names) if known else (names or (), {})
    kept, skipped = [], Counter()
    for i, row in enumerate(rows):
        cell = row.get(text)
        if not isinstance(cell, str) or not cell.strip() or not is_unicode(cell):
            reason, sentence = "no text", f"{cell!r:.60} in the column {text!r} is no text"
        elif known and labels[i] not in index:
            reason, sentence = "no such class", f"the label {labels[i]!r:.60} is not among the classes {listed(names)}"
        else:
            kept.append(i)
            continue
        if not skip_bad:
            raise UserError(f"{source}: row {i + 1}: {sentence}; mend it or pass --on_bad_example skip")
        skipped[reason] += 1
    if not kept:
        raise UserError(f"{source}: no usable text")
    ids, texts = [str(i + 1) for i in kept], [rows[i][text] for i in kept]
    return Texts(ids, texts, [names[index[labels[i]]] for i in kept] if known else None, names, source, dict(skipped))


def _label(value: object) -> str | None:
    """A label as text; None for an empty cell. A number is written without what is behind its point (1.0 is 1)."""
    written = "" if value is None or value != value else str(value).strip()
    return (str(int(float(written))) if NUMBER.fullmatch(written) else written) or None


def load_texts(
    data, training, model_args, *, explicit: set[str], **reading
) -> tuple[dict[str, Texts], dict[str, tuple[int, str]]]:
    """The splits that the run needs, from files or the hub, and of each how many texts there were and how its own were
    chosen. Where there is no file for validation, a tenth of the training texts, drawn at random, is held out for it.

    Args:
        explicit: names of the arguments that were given; files without a test file are enough if nobody asked for one.
        reading: `text`, `label` and `label_order` for `texts_from_rows`.
    """
    files = {"train": data.train_file, "validation": data.validation_file, "test": data.test_file}
    needed = {"train": training.do_train, "validation": training.do_eval, "test": training.do_predict}
    limits = {"train": data.max_train_samples, "validation": data.max_eval_samples, "test": data.max_predict_samples}
    if any(files.values()) and files["test"] is None and "do_predict" not in explicit:
        needed["test"] = False
    found: dict[str, Texts] = {}
    for name in (n for n in files if needed[n]):
        if name == "validation" and files[name] is None and "train" in found:
            held, words = choose(len(found["train"]), int(HELD_OUT * len(found["train"])) or 1, data.sample_seed)
            others = np.delete(np.arange(len(found["train"])), held)
            source = f"{found['train'].source}: held out of training, {words}"
            found |= {"train": found["train"].take(others), name: replace(found["train"].take(held), source=source)}
        elif any(files.values()) and files[name] is None:
            raise UserError(f"there is no {name} data: give --{name}_file")
        else:
            rows, source = (read_rows(files[name]), str(files[name])) if files[name] else load_rows(data, model_args, name)
            truth, names = None if name == "test" else True, found["train"].names if "train" in found else None
            settings = {"truth": truth, "skip_bad": data.on_bad_example == "skip", "names": names}
            found[name] = texts_from_rows(rows, source, **reading, **settings)
    if "train" in found and len(found["train"].names) < 2:
        raise UserError(f"{found['train'].source}: all texts are of one class; there must be two or more")
    chosen = {name: choose(len(texts), limits[name], data.sample_seed) for name, texts in found.items()}
    splits = {name: texts.take(chosen[name][0]) for name, texts in found.items()}
    return splits, {name: (len(texts), chosen[name][1]) for name, texts in found.items()}


class TextInputs(list):
    """N texts as a data set for `common.trainer.FinetuneTrainer` and transformers' `DataCollatorWithPadding`: of each a
    dictionary of what the model takes, `row` and, where it is known, `targets`.

    Attributes:
        examples: the texts.
        targets: int64 [N]; None where the classes are unknown.
        lengths: int64 [N], tokens of each text with special tokens, at most `max_length`.
    """

    def __init__(self, texts: Texts, tokenizer, max_length: int):
        encoded = tokenizer(texts.texts, truncation=True, max_length=min(max_length, tokenizer.model_max_length))
        self.examples, self.targets = texts, texts.targets()
        self.lengths = np.array([len(ids) for ids in encoded["input_ids"]])
        columns = {**encoded, "row": range(len(texts))} | ({} if self.targets is None else {"targets": self.targets})
        super().__init__(dict(zip(columns, values)) for values in zip(*columns.values()))
