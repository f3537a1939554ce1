"""Labelled pairs of texts (premise, hypothesis): read from any table, turned into tokens, and shown.

A split has the columns id, premise, hypothesis, `labels` (a ClassLabel; not without truth), and those of `GROUPS` that
are there. Classes are known by name, never by position.
"""

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset, Features, Value
from sklearn.decomposition import PCA
from transformers import AutoModelForSequenceClassification, DataCollatorWithPadding

from common.cache import shared_map
from common.classification import Predictions, score_predictions, write_classes
from common.data import load_splits
from common.errors import UserError
from common.files import all_different, listed, require_columns, without_bad
from common.labels import align_with_checkpoint, all_canonical, class_names_of, encode_labels, in_order
from common.models import check_vocabulary, evaluating, load_model
from common.report import plots
from common.results import published as reference
from common.text.arguments import PairArguments
from common.text.layers import fit_to_model
from common.text.pruning import load_pruned

# Where the parts of a pair are found by themselves, GLUE's too: the first name that is there, compared without case.
COLUMNS = {
    "id": ("id", "pairid", "pair_id", "uid", "guid", "idx", "index"),
    "premise": ("premise", "sentence1", "sentence_a", "text_a", "text1", "question1", "question", "#1 string"),
    "hypothesis": ("hypothesis", "sentence2", "sentence_b", "text_b", "text2", "question2", "sentence", "#2 string"),
    "label": ("gold_label", "label_text", "label", "labels", "entailment_label", "class", "is_duplicate", "quality"),
}
# Columns by whose values accuracy is reported; FarsTail's say with 1 where the hypothesis or the overlap misleads.
GROUPS = {
    "genre": {},
    "hard(hypothesis)": {"0": "easy", "1": "hard"},
    "hard(overlap)": {"0": "easy", "1": "hard"},
}
# No control character, and none that Unicode lets programs ignore (Default_Ignorable_Code_Point) or draw as a blank.
VISIBLE = re.compile(
    r"[^\s\x00-\x1f\x7f-\x9f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f"
    r"\u2800\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufff8\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)
METRICS = ("accuracy", "f1", "f1_weighted", "precision", "recall", "mcc")
USAGE = """\
from transformers import pipeline

classifier = pipeline("text-classification", model="{model}")
pair = {{"text": {first!r}, "text_pair": {second!r}}}
print(classifier(pair, truncation=True, top_k=None))  # every label with its probability
"""


def preparation_of(args: PairArguments, names: Sequence[str], saved: dict | None) -> dict:
    """How texts are prepared (values of the flags `names`): as the user says, else as it is `saved` with the model."""
    if saved:
        args.set(f"remembered with {args.model}", **{name: saved[name] for name in names if name in saved})
    elif not args.training_args.do_train:
        args.set("nothing is trained, and the model does not say how", lower_case=False)
    return {name: getattr(args, name) for name in names}


# Reading


def load_pairs(args: PairArguments, known: Mapping[str, Sequence[str]], hub_splits: Mapping[str, str]):
    """The splits that the run needs, as `common.data.Splits`; test pairs may come without classes.

    Pairs without a gold label (`-`, -1) are left out and counted, always. Ids that are not all different become the
    numbers of the rows, from 1. `known`: the task's classes, in the order of their ids -> other spellings.

    Raises:
        UserError: a missing column, a bad pair, an unknown label, numbers that nobody has explained, or one class only.
    """
    names = None  # the classes of the training data; the other splits may have no others

    def to_dataset(frame, split: str) -> tuple:
        nonlocal names
        source, columns = frame.attrs["source"], _columns(frame, args, label_needed=split != "test")
        table = frame[[columns["premise"], columns["hypothesis"]]].set_axis(["premise", "hypothesis"], axis=1)
        table["id"] = [str(number) for number in range(1, len(table) + 1)]
        if "id" in columns and (ids := frame[columns["id"]].astype(str)).is_unique and not ids.hasnans:
            table["id"] = ids
        for group, meanings in GROUPS.items():
            if group in frame:
                table[group] = [meanings.get(str(value), str(value)) for value in frame[group]]
        features, problems = Features(dict.fromkeys(table, Value("string"))), {}
        for part in ("hypothesis", "premise"):
            problems |= {i: bad for i, text in enumerate(table[part]) if (bad := text_problem(part, text))}
        if "label" in columns:
            settings = {"known": known, "label_order": args.order, "names": names}
            ids, feature, bad = encode_labels(frame, columns["label"], **settings)
            problems |= {i: problem for i, problem in bad.items() if i not in problems or problem[1] is None}
            if ids is not None:
                table["labels"], features["labels"] = ids, feature
                if args.order and not set(feature.names) <= set(in_order(args.order, known)):
                    raise UserError(f"{source}: has the classes {listed(feature.names)}, not those of --label_order")
        if split != "test" and "labels" not in table:
            raise UserError(f"{source}: no row has a label; it may be a hidden test set")
        if split == "train":
            names = feature.names
            if len(names) < 2:
                raise UserError(f"{source}: all pairs are of the class {names[0]!r}; there must be two or more")
        table, skipped = without_bad(table, problems, args.on_bad_example)
        return Dataset.from_pandas(table, features=features, preserve_index=False), skipped

    shared = {"premise": ["premise"], "example": ["premise", "hypothesis"]}
    return load_splits(args, to_dataset, hub_splits=hub_splits, columns=shared)


def _columns(frame, args, *, label_needed: bool) -> dict[str, str]:
    """Premise, hypothesis, perhaps label and id -> the name of the column."""
    names, found = [name.strip().casefold() for name in frame], {}
    for part, known in COLUMNS.items():
        given = getattr(args, f"{part}_column", None)
        if not given:
            all_different([name for name in names if name in known], frame.attrs["source"], "column")
        if column := given or next((frame.columns[names.index(name)] for name in known if name in names), None):
            found[part] = column
        elif part != "id" and (part != "label" or label_needed):
            raise UserError(
                f"{frame.attrs['source']}: no column for the {part}; it has {listed(frame)} and is searched for "
                f"{listed(known)}; name yours with --{part}_column"
            )
    require_columns(frame, list(found.values()), frame.attrs["source"])
    if len({*found.values()}) < len(found):
        raise UserError(f"{frame.attrs['source']}: one column is taken for two parts of a pair, {found}; name others")
    return found


def text_problem(name: str, text: object) -> tuple[str, str] | None:
    """The reason (to count) and the sentence (to say) of what is wrong with the text called `name`, or None."""
    if text is None or text != text or (isinstance(text, str) and not VISIBLE.search(text)):
        return f"empty {name}", f"the {name} is empty"
    if not isinstance(text, str):
        return f"{name} of a wrong type", f"the {name} must be text, not {text!r:.60}"
    return None


def with_classes_of(splits, trained_for: Mapping[int, str] | None, checkpoint: str, args, known, run) -> tuple:
    """(the splits with labels counted as the checkpoint counts them, names of the classes in the order of the logits).

    `trained_for`: the checkpoint's classes; None: it is no trained classifier, which is refused later where it is not
    trained. Raises `UserError` where nobody says what they are, or they are not the data's and nothing is trained.
    """
    training, settings = args.training_args.do_train, {"known": known, "label_order": args.order}
    splits = align_with_checkpoint(splits, trained_for, checkpoint, training=training, **settings)
    labelled = (split.features["labels"].names for split in splits.values() if "labels" in split.features)
    names = next(labelled, None) or class_names_of(trained_for or {0: "unknown"}, checkpoint, [], **settings)
    own = all_canonical((trained_for or {}).values(), known)
    if own and not own[0].startswith("LABEL_") and not {*names} <= {*own}:
        run.warn(f"{checkpoint} was trained for the classes {listed(own)}; it is trained on for {listed(names)}")
    return splits, names


# Tokens


def tokenize(splits, tokenizer, encode: Callable, preparation: dict, args, run) -> tuple:
    """The splits as data sets of tokens, and the collator of their batches; by all processes, each its share.

    `encode`: the script's call of the tokenizer, (batch, **how to cut); `preparation` says the same, for the cache.
    Returns (split -> what the model takes, `length` and `labels`; collator; split -> lengths before cutting, int [N]).
    """
    max_length, specials = args.max_length, tokenizer.num_special_tokens_to_add(True)
    if max_length < specials + 2:
        raise UserError(f"--max_length {max_length} leaves no room for two texts beside {specials} special tokens")

    def cut(batch: dict) -> dict:
        tokens = encode(batch, verbose=False)
        whole = [len(ids) for ids in tokens["input_ids"]]
        if max(whole, default=0) > max_length:
            tokens = encode(batch, truncation=True, max_length=max_length)
        return {**tokens, "length": [len(ids) for ids in tokens["input_ids"]], "whole_length": whole}

    key = {"tokenizer": tokenizer.backend_tokenizer.to_str(), "max_length": max_length, "preparation": preparation}
    key["encode"] = inspect.getsource(encode)  # of a script, which its reader may change
    inputs, whole_lengths = {}, {}
    for name, split in splits.items():
        labels = split.features.get("labels")
        found = shared_map(
            split.select_columns(["premise", "hypothesis", *(["labels"] if labels else [])]),
            cut,
            key=key | {"texts": run.data["splits"][name]["fingerprint"], "classes": labels and labels.names},
            args=args,
            run=run,
            batched=True,
            remove_columns=["premise", "hypothesis"],
            desc=f"tokens, {name}",
        )
        length, whole = (np.array(found[column][:]) for column in ("length", "whole_length"))
        facts = {"tokens": length.sum(), "pairs cut": (length < whole).sum(), "tokens cut off": (whole - length).sum()}
        run.data["splits"][name]["statistics"] |= {what: int(count) for what, count in facts.items()}
        if (share := (length < whole).mean()) > 0.5:
            run.warn(f"{share:.0%} of the {name} pairs are longer than --max_length {max_length} and were cut")
        inputs[name], whole_lengths[name] = found.remove_columns("whole_length"), whole
    padding = {"padding": "max_length", "max_length": max_length} if args.pad_to_max_length else {}
    multiple = 8 if args.training_args.fp16 or args.training_args.bf16 else None
    return inputs, DataCollatorWithPadding(tokenizer, pad_to_multiple_of=multiple, **padding), whole_lengths


def load_classifier(run, classes: Sequence[str], tokenizer, preparation: dict, training: bool):
    """The model of `--model`, perhaps pruned, for these classes, with its `preparation`; may limit `--max_length`."""
    settings = {"configured": {"preparation": preparation, "pad_token_id": tokenizer.pad_token_id}}
    settings |= {"head": "classification", "training": training, "classes": classes, "loader": load_pruned}
    model = load_model(AutoModelForSequenceClassification, run, **settings)
    check_vocabulary(model, tokenizer, run.args)
    run.args.max_length = fit_to_model(tokenizer, model, run.args.max_length, run.warn)
    return model


# Results


def finish(
    run,
    trainer,
    splits,
    classes: Sequence[str],
    whole_lengths: Mapping,
    outputs: Mapping,
    *,
    prepare: Callable[[list[str]], list[str]],
    known: Sequence[str],
    vectors: Mapping[str, np.ndarray],
    published: Sequence,
    epochs: Mapping[str, Mapping],
    usage: str,
    model: str | Path,
    tables: Sequence[dict],
    write_more: Callable[[], dict] = dict,
) -> dict:
    """Scores what the trainer predicted, and finishes the run; returns what results.json holds.

    Args:
        whole_lengths, outputs: split -> tokens of each pair, what the trainer predicted.
        published: report and perhaps setting, accuracy, macro F1, and the string that `class_table` takes; they stand
            beside what was trained on the data of the recipe.
        epochs: "accuracy", "loss" -> {epoch: published value}.
        usage: a format string, of {model} (the argument), {classes} and the two sentences {first} and {second}.
        write_more: writes what else there is, and returns facts for results.json's `extra`.
    """
    predictions = {
        name: Predictions(
            labels=list(classes),
            logits=output.predictions,
            targets=output.label_ids,
            ids=splits[name]["id"][:],
            columns={part: splits[name][part][:] for part in ("premise", "hypothesis")},
            groups={column: splits[name][column][:] for column in GROUPS if column in splits[name].features},
        )
        for name, output in outputs.items()
    }
    train = np.array(splits["train"]["labels"][:]) if "train" in splits else None
    scores = score_predictions(predictions, trainer.losses, headline_metric="accuracy", train_targets=train)

    def write(results: dict) -> tuple:
        dashed = {name: {"published": points} for name, points in epochs.items()} if rows else {}
        files, *cards = write_classes(results, predictions, run.output_dir, references=dashed)
        results["extra"] |= write_more()
        return files | draw_pairs(splits.get("validation"), whole_lengths, run, vectors), *cards

    pair = next(iter(splits.values()))[0]
    first, second = prepare([pair["premise"], pair["hypothesis"]])
    if (first, second) != (pair["premise"], pair["hypothesis"]):
        usage += "# texts must be prepared as in training (see the arguments above); these are\n"
    rows, tables, (report, *row) = [], [rows_table(splits, prepare), *tables], published
    own = not run.training_args.do_train or run.args.demo or {"train_file", "dataset"} & run.args.explicit
    if row and not own:
        setting, accuracy, f1, by_class = row
        rows = [reference(report, setting, {"accuracy": accuracy, "f1": f1})]
        tables.append(class_table(scores["per_class"].get("test", {}), known, setting, by_class))
    usage = usage.format(model=model, first=first, second=second, classes=classes)
    return run.finish(trainer, scores, write=write, published=rows, usage=usage, tables=tables)


def class_table(per_class: Mapping, known: Sequence[str], setting: str, published: str) -> dict:
    """Precision, recall and F1 by class, and their averages, ours and the published, for results.json's `tables`.

    published: the three of each class in the order of `known`, their macro and their weighted averages, in percent.
    """
    *by_class, macro, weighted = (numbers.split() for numbers in published.split(" / "))
    theirs = {**dict(zip(known, zip(*by_class))), "macro avg": macro, "weighted avg": weighted}
    rows = []
    for name, row in per_class.items():
        ours = (f"{100 * (row[score] or 0):.1f}" for score in ("precision", "recall", "f1"))
        rows.append([name, *ours, *theirs.get(name, ("",) * 3)])
    head = ["class", "precision", "recall", "F1", "published precision", "recall", "F1"]
    return {"title": f"By class, in percent; published: {setting}", "head": head, "rows": rows}


def rows_table(splits, prepare: Callable[[list[str]], list[str]]) -> dict:
    """The first and the last five pairs, raw and as the model gets them, for results.json's `tables`."""
    name, split = next(iter(splits.items()))
    rows = split.select(sorted({*range(len(split))[:5], *range(len(split))[-5:]}))
    columns = {name: rows[name][:] for name in ("id", "premise", "hypothesis")}
    if "labels" in rows.features:
        columns["class"] = rows.features["labels"].int2str(rows["labels"][:])
    ready = {f"prepared {part}": prepare(columns[part]) for part in ("premise", "hypothesis")}
    columns |= ready if [*ready.values()] != [columns["premise"], columns["hypothesis"]] else {}
    return {"title": f"First and last pairs ({name})", "head": [*columns], "rows": [*map(list, zip(*columns.values()))]}


def draw_pairs(validation, whole_lengths: Mapping, run, vectors: Mapping[str, np.ndarray]) -> dict:
    """Token lengths with the cut-off, and projections of the pairs' `vectors`; files for results.json."""
    folder, (name, lengths) = run.output_dir / "plots", next(iter(whole_lengths.items()))
    words = {"title": f"Both texts together ({name})", "xlabel": "tokens", "cutoff_label": "cut here"}
    drawn = [plots.histogram(lengths, folder / "token_lengths", cutoff=run.args.max_length, **words)]
    for when, found in vectors.items():
        points, labels = PCA(2, random_state=0).fit_transform(found), np.array(validation["labels"][: len(found)])
        groups = {name: points[labels == i] for i, name in enumerate(validation.features["labels"].names)}
        words = {"title": f"Pairs {when} training (validation)", "xlabel": "first component", "ylabel": "second"}
        drawn.append(plots.scatter(groups, folder / f"vectors_{when}", **words))
    return {path.stem: str(path.relative_to(run.output_dir)) for path in drawn}


def pooled_vectors(when: str, model, inputs, collator, run) -> dict[str, np.ndarray]:
    """`when` -> float32 [n, H]: the mean of the last states over the tokens of each of the first validation pairs.

    {} without such pairs, or where the model is divided among processes.
    """
    if len(inputs.get("validation", ())) < 3 or run.training_args.fsdp:
        return {}
    rows = inputs["validation"].remove_columns(["length", "labels"])
    base, found = getattr(model, "get_base_model", lambda: model)().base_model, []
    base = base.get_encoder() if model.config.is_encoder_decoder else base
    with torch.no_grad(), evaluating(base):
        for at in range(0, min(320, len(rows)), 32):
            batch = collator([rows[i] for i in range(len(rows))[at : at + 32]]).to(model.device)
            states, mask = base(**batch).last_hidden_state.float(), batch["attention_mask"].unsqueeze(-1)
            found.append(((states * mask).sum(1) / mask.sum(1)).cpu().numpy())
    return {when: np.concatenate(found)}
