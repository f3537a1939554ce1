"""common/text/pairs.py on hand-written tables and on the real FarsTail and MultiNLI."""

import gzip
import json
from types import SimpleNamespace

import pytest
from datasets import ClassLabel, Dataset, Features, Value

from common.text import pairs
from common.text.arguments import PairArguments
from common.text.pairs import load_pairs, tokenize, with_classes_of
from tests.helpers import message

CLASSES = {"neutral": ("n",), "entailment": ("e",), "contradiction": ("c",)}
ROW = {"premise": "A man sleeps.", "hypothesis": "He is awake.", "label": "contradiction"}
ROWS = [
    ROW,
    {**ROW, "hypothesis": "He sleeps.", "label": "entailment"},
    {**ROW, "hypothesis": "It rains.", "label": "n"},
]


def settings(**given) -> tuple:
    """(args, run) as the scripts have them; which phases are done follows from the files."""
    args = PairArguments(**{"max_length": 32, **given})
    phases = {"do_train": args.train_file, "do_eval": args.validation_file, "do_predict": args.test_file}
    training = {"world_size": 1, "process_index": 0, "bf16": False, "fp16": False}
    args.training_args = SimpleNamespace(**{name: bool(file) for name, file in phases.items()}, **training)
    args.explicit, args.record = set(), {}
    run = SimpleNamespace(warnings=[], training_args=args.training_args, args=args)
    run.warn = run.warnings.append
    return args, run


@pytest.fixture
def write(tmp_path):
    def write_rows(rows: list[dict], name: str = "rows.jsonl") -> str:
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return str(tmp_path / name)

    return write_rows


@pytest.fixture
def load(write):
    """The splits of rows given by split."""

    def load_rows(known=CLASSES, given=(), **splits):
        files = {f"{name}_file": [write(rows, f"{name}.jsonl")] for name, rows in splits.items()}
        return load_pairs(settings(**files, **dict(given))[0], known, {})

    return load_rows


def names(split) -> list[str]:
    return [split.features["labels"].names[i] for i in split["labels"]]


# Reading


def test_farstail_is_what_its_readme_counts(shared_data):
    folder = shared_data / "farstail"
    files = {"train": "Train", "validation": "Val", "test": "Test"}
    args, _ = settings(**{f"{name}_file": [str(folder / f"{file}-word.csv")] for name, file in files.items()})
    splits = load_pairs(args, CLASSES, {})
    counts = {"train": (2448, 2429, 2389), "validation": (523, 515, 499), "test": (535, 519, 510)}
    for name, split in splits.items():
        assert tuple(splits.facts[name]["label_counts"].values()) == counts[name]
        assert split.features["labels"].names == ["neutral", "entailment", "contradiction"]
        assert splits.facts[name]["skipped"] == {}
    assert set(splits["test"]["hard(overlap)"]) == {"easy", "hard"}


def test_mnli_in_two_layouts(shared_data):
    folder = shared_data / "mnli"
    args, _ = settings(
        train_file=[str(folder / "mnli_train_9999.jsonl")], validation_file=[str(folder / "mnli_train_genre_480.tsv")]
    )
    splits = load_pairs(args, {"entailment": (), "neutral": (), "contradiction": ()}, {})
    assert list(splits.facts["train"]["label_counts"].values()) == [3408, 3313, 3278]
    assert list(splits.facts["validation"]["label_counts"].values()) == [160, 160, 160]
    assert len(set(splits["validation"]["id"])) == 480 and len(set(splits["validation"]["genre"])) == 5
    shared = {one["key"]: one["examples"] for one in splits.overlaps}
    assert shared["example"] == 8, "the README of the data says so"


@pytest.mark.parametrize(
    "columns",
    [
        ("sentence1", "sentence2", "label"),
        ("Sentence1", "Sentence2", "gold_label"),
        ("text_a", "text_b", "labels"),
        ("question", "sentence", "label"),  # QNLI
        ("question1", "question2", "is_duplicate"),  # QQP
        ("#1 String", "#2 String", "Quality"),  # MRPC
        (" premise", "hypothesis ", " label"),
    ],
)
def test_well_known_columns_are_found(load, columns):
    rows = [dict(zip(columns, row.values())) for row in ROWS]
    split = load(train=rows)["train"]
    assert split["hypothesis"][:] == [row["hypothesis"] for row in ROWS]
    assert names(split) == ["contradiction", "entailment", "neutral"] and split["id"][:] == ["1", "2", "3"]


def test_wrong_columns_name_what_is_there_and_what_is_wanted(load):
    rows = [{"premise": "a", "claim": "b", "label": "e"}]
    sentence = message(load, train=rows)
    assert "no column for the hypothesis" in sentence and "'claim'" in sentence and "--hypothesis_column" in sentence
    assert load(given={"hypothesis_column": "claim"}, train=[*rows, {**rows[0], "label": "n"}])
    assert "no column 'nix'" in message(load, given={"hypothesis_column": "nix"}, train=rows)
    assert "no column for the label" in message(load, train=[{"premise": "a", "hypothesis": "b"}])


def test_columns_that_differ_in_case_alone_are_not_chosen_from(load):
    rows = [{**row, "Label": "neutral"} for row in ROWS]
    assert "the column 'label' is there twice" in message(load, train=rows)
    assert len({*names(load(given={"label_column": "label"}, train=rows)["train"])}) == 3


def test_a_column_is_one_part_only(load):
    assert "taken for two parts" in message(load, given={"premise_column": "hypothesis"}, train=ROWS)


def test_ids_where_all_are_different(load):
    assert load(train=[{**row, "pairID": f"x{i}"} for i, row in enumerate(ROWS)])["train"]["id"][:] == [
        "x0",
        "x1",
        "x2",
    ]
    for ids in (("same", "same", "same"), ("a", None, "b")):
        assert load(train=[{**row, "id": i} for row, i in zip(ROWS, ids)])["train"]["id"][:] == ["1", "2", "3"]
    assert load(test=[ROW])["test"]["id"][:] == ["1"]


@pytest.mark.parametrize(
    "change, words",
    [
        ({"premise": ""}, "the premise is empty"),
        ({"premise": "\u200b \u200c\ufeff"}, "the premise is empty"),
        ({"premise": "\x01\u2063\u202b\u2066\u180e\u2800\u3164\ufe0f\ufff0\U0001d173"}, "the premise is empty"),
        ({"hypothesis": None}, "the hypothesis is empty"),
        ({"hypothesis": 7}, "the hypothesis must be text, not 7"),
        ({"label": ""}, "the label is empty"),
        ({"label": "entailed"}, "the label 'entailed' is not among the classes"),
        ({"label": 0.2}, "the label 0.2 is a score, not a class"),
        ({"label": 1}, "--label_order"),
    ],
)
def test_a_bad_pair_is_one_sentence_or_counted(load, change, words):
    rows = [*ROWS, {**ROW, **change}]
    sentence = message(load, train=rows)
    assert "train.jsonl, row 4" in sentence and words in sentence
    if "label" not in change or isinstance(change["label"], str):
        splits = load(given={"on_bad_example": "skip"}, train=rows)
        assert len(splits["train"]) == 3 and list(splits.facts["train"]["skipped"].values()) == [1]


def test_no_gold_label_is_left_out_and_counted(load):
    splits = load(train=[*ROWS, {**ROW, "label": "-", "premise": ""}], test=[{**ROW, "label": -1}] * 2)
    assert splits.facts["train"]["skipped"] == {"no gold label": 1}
    assert len(splits["test"]) == 2 and "labels" not in splits["test"].features, "a hidden test set"


def test_classes_of_the_training_data_hold_for_the_others(load):
    own = [{**row, "label": label} for row, label in zip(ROWS, ("yes", "no", "maybe"))]
    splits = load(train=own, validation=own[:1])
    assert splits["validation"].features["labels"].names == ["maybe", "no", "yes"] and names(splits["validation"]) == [
        "yes"
    ]
    assert "is not among the classes" in message(load, train=own[:2], validation=own)
    assert "all pairs are of the class" in message(load, train=[ROW, ROW])
    assert "no row has a label" in message(load, train=ROWS, validation=[{**ROW, "label": ""}])


def test_numbers_by_an_order_or_by_the_schema(load, tmp_path):
    rows = [{**row, "label": i} for i, row in enumerate(ROWS)]
    given = {"label_order": "contradiction,entailment,neutral"}
    assert names(load(given=given, train=rows)["train"]) == ["contradiction", "entailment", "neutral"]
    assert "not those of --label_order" in message(load, given={"label_order": "a,b,c"}, train=ROWS)
    features = Features(
        {"premise": Value("string"), "hypothesis": Value("string"), "label": ClassLabel(names=["e", "n", "c"])}
    )
    Dataset.from_list(rows, features=features).to_parquet(tmp_path / "hub.parquet")
    split = load_pairs(settings(train_file=[str(tmp_path / "hub.parquet")])[0], CLASSES, {})["train"]
    assert names(split) == ["entailment", "neutral", "contradiction"]
    assert split.features["labels"].names == ["neutral", "entailment", "contradiction"]


def test_files_that_people_have(tmp_path):
    text = "premise, hypothesis, label\n" + "".join(
        f'"{r["premise"]}", "{r["hypothesis"]}", {r["label"]}\n' for r in ROWS
    )
    (tmp_path / "spaces.csv").write_text(text)
    with gzip.open(tmp_path / "a.csv.gz", "wt") as file:
        file.write(text.replace(", ", ","))
    (tmp_path / "lines.json").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    for name in ("spaces.csv", "a.csv.gz", "lines.json"):
        split = load_pairs(settings(train_file=[str(tmp_path / name)])[0], CLASSES, {})["train"]
        assert split["hypothesis"][:] == [row["hypothesis"] for row in ROWS] and len(set(names(split))) == 3
    twice = text.replace("hypothesis, label", "label, label")
    (tmp_path / "twice.csv").write_text(twice)
    args, _ = settings(train_file=[str(tmp_path / "twice.csv")])
    assert "the column 'label' is there twice" in message(load_pairs, args, CLASSES, {})


# Classes of a checkpoint


def aligned(load, trained_for: dict | None, training: bool = False, **given):
    args, run = settings(**given)
    args.training_args.do_train = training
    splits = load(train=ROWS)
    return (*with_classes_of(splits, trained_for, "some/model", args, CLASSES, run), run)


def test_labels_are_counted_as_the_checkpoint_counts_them(load):
    splits, classes, _ = aligned(load, {0: "CONTRADICTION", 1: "Neutral", 2: "e"})
    assert classes == ["contradiction", "neutral", "entailment"] == splits["train"].features["labels"].names
    assert splits["train"]["labels"][:] == [0, 2, 1]
    assert aligned(load, None)[1] == ["neutral", "entailment", "contradiction"]


def test_a_checkpoint_is_never_scored_by_position(load):
    generic = {i: f"LABEL_{i}" for i in range(3)}
    sentence = message(aligned, load, generic)
    assert "some/model" in sentence and "--label_order" in sentence
    splits, classes, _ = aligned(load, generic, label_order="contradiction,neutral,entailment")
    assert classes == ["contradiction", "neutral", "entailment"] and splits["train"]["labels"][:] == [0, 2, 1]
    assert "2 classes" in message(aligned, load, {0: "LABEL_0", 1: "LABEL_1"}, label_order="a,b,c")
    assert "was trained for 3 classes" in message(aligned, load, {0: "joy", 1: "anger", 2: "fear"})


def test_a_base_with_other_classes_is_trained_on(load):
    for other in ({0: "joy", 1: "anger", 2: "fear"}, {0: "a", 1: "b"}):
        _, classes, run = aligned(load, other, training=True)
        assert classes == ["neutral", "entailment", "contradiction"]
        assert len(run.warnings) == 1 and "was trained for the classes" in run.warnings[0]


# Preparation


def test_how_texts_were_prepared_is_remembered():
    args, _ = settings()
    args.record = {name: {"value": None, "source": "recipe"} for name in ("lower_case", "max_length")}
    found = pairs.preparation_of(args, ("max_length", "lower_case"), {"max_length": 12, "lower_case": True})
    assert found == {"max_length": 12, "lower_case": True}
    args, _ = settings(lower_case=True, train_file=["x"])
    assert pairs.preparation_of(args, ("lower_case",), None) == {"lower_case": True}


# Tokens


@pytest.mark.parametrize("architecture", ["bert-base-uncased", "roberta-base", "xlm-roberta-base"])
def test_tokens_are_the_tokenizers(load, tiny_tokenizer, tmp_path, architecture):
    tokenizer = tiny_tokenizer(architecture)
    args, run = settings(max_length=14, cache_dir=str(tmp_path / "cache"))
    splits = load(train=[*ROWS, {**ROW, "premise": "A man sleeps. " * 9}], test=[{"premise": "a", "hypothesis": "b"}])
    run.data = {"splits": splits.facts}

    def encode(batch, **cut):
        return tokenizer(*([text.upper() for text in batch[part]] for part in ("premise", "hypothesis")), **cut)

    def other(batch, **cut):
        return tokenizer(batch["hypothesis"], batch["premise"], **cut)

    before = tokenize(splits, tokenizer, other, {"upper": True}, args, run)[0]["train"][0]["input_ids"]
    assert before == tokenizer(ROW["hypothesis"], ROW["premise"], truncation=True, max_length=14)["input_ids"]
    tokenizer("")  # no truncation is set, as when a run begins
    # The script's own step was changed since: what is in the cache is not its.
    inputs, collator, whole = tokenize(splits, tokenizer, encode, {"upper": True}, args, run)
    for row, pair in zip(inputs["train"], splits["train"]):
        expected = tokenizer(pair["premise"].upper(), pair["hypothesis"].upper(), truncation=True, max_length=14)
        assert {name: row[name] for name in expected} == dict(expected)
        assert row["length"] == len(expected["input_ids"]) <= 14 and row["labels"] == pair["labels"]
    uncut = [len(tokenizer(p["premise"].upper(), p["hypothesis"].upper())["input_ids"]) for p in splits["train"]]
    assert whole["train"].tolist() == uncut
    statistics = splits.facts["train"]["statistics"]
    assert statistics["pairs cut"] == sum(n > 14 for n in uncut) > 0
    assert statistics["tokens cut off"] == sum(max(n - 14, 0) for n in uncut)
    assert any("were cut" in warning for warning in run.warnings) == (statistics["pairs cut"] > 2)
    assert "labels" not in inputs["test"].features
    batch = collator([inputs["train"][i] for i in range(3)])
    assert batch["input_ids"].shape == batch["attention_mask"].shape == (3, batch["length"].max())
    assert "leaves no room" in message(
        tokenize, splits, tokenizer, encode, {}, settings(max_length=3, cache_dir=str(tmp_path))[0], run
    )


def test_first_and_last_rows_raw_and_prepared(load):
    splits = load(train=[{**ROW, "premise": f"P{i}", "label": "en"[i % 2]} for i in range(14)])
    table = pairs.rows_table(splits, lambda texts: [text.lower() for text in texts])
    assert [row[0] for row in table["rows"]] == ["1", "2", "3", "4", "5", "10", "11", "12", "13", "14"]
    assert table["rows"][0] == ["1", "P0", "He is awake.", "entailment", "p0", "he is awake."]
    assert pairs.rows_table(splits, list)["head"] == ["id", "premise", "hypothesis", "class"]
