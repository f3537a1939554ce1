"""Windows against the tokenizer's own pair encoding, token for token, and labels against their definition."""

import json
import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from datasets import Dataset

from common.data import Splits
from common.text.layers import fit_to_model
from common.text.squad import to_questions
from common.text.windows import LABELS, column, cut_batch, cut_splits, right_padding
from tests.conftest import ARCHITECTURES, TEXTS
from tests.helpers import message

FAMILIES = (*ARCHITECTURES, "minilm")
# Pieces that tokenizers stumble over: special tokens written out, joined emoji, marks that normalisation moves, breaks.
ODDITIES = ["[SEP]", "</s>", "<mask>", "👩‍👩‍👧", "e\u0301\u0323", "ﬁne ½ ①", "İstanbul", "مي‌روم كتاب", "x" * 130]
ODDITIES += ["北京東京", "\u200f۱۲۳٫۴", "...", "U.S.A.'s", "\u00a0", "\u2028", "\x00\x07", "�", "한국어"]  # noqa: RUF001
BREAKS = [" "] * 12 + ["  ", "\n", "\r\n", "\t", "", "-", "\u200c", "\u00ad"]
NONE = {"text": [], "answer_start": []}


def random_text(draw: random.Random, words: int) -> str:
    """Known words, odd ones and plain nonsense."""
    known, made = " ".join(TEXTS).split(), ""
    for _ in range(words):
        kind = draw.random()
        if kind < 0.8:
            made += draw.choice(known if kind < 0.6 else ODDITIES)
        else:
            made += "".join(chr(draw.choice([draw.randrange(32, 0x250), draw.randrange(0x600, 0x700)])) for _ in "ab")
        made += draw.choice(BREAKS)
    return made


def random_batch(seed: int, tokenizer, room: int, contexts: int = 12, questions: int = 16) -> dict[str, list]:
    """Questions of fewer than `room` tokens, contexts (two with hardly a token), answers of every length and place."""
    draw = random.Random(seed)
    texts = ["a", "  b \n", *(random_text(draw, draw.choice([1, 3, 20, 60, 200])) for _ in range(contexts - 2))]
    batch = {"example": list(range(questions)), "question": [], "context": [], "answers": []}
    for _ in range(questions):
        question, context = random_text(draw, draw.randrange(1, 12)), draw.choice(texts)
        while len(tokenizer(question, add_special_tokens=False)["input_ids"]) >= room:
            question = question[: len(question) // 2]
        start = draw.choice([0, draw.randrange(len(context)), draw.randrange(len(context))])
        end = draw.choice([start + 1, start + draw.randrange(1, 15), start + draw.randrange(1, 200), len(context)])
        answer = {"text": [context[start:end]], "answer_start": [start]}
        batch["question"].append(question)
        batch["context"].append(context)
        batch["answers"].append(NONE if draw.random() < 0.15 else answer)
    return batch


@pytest.fixture
def load(tiny_tokenizer, minilm):
    """family -> a freshly loaded tokenizer."""

    def load(family, **settings):
        from transformers import AutoTokenizer

        real = family == "minilm"
        return AutoTokenizer.from_pretrained(minilm, **settings) if real else tiny_tokenizer(family, **settings)

    return load


def assert_windows_are_the_tokenizers_own(tokenizer, batch, max_length, stride, types_of=None) -> int:
    """Every column against the encoding of the official example; returns how many answers are whole in a window.

    `types_of` gives the token types of a row where those of the encoding are not to be trusted.
    """
    windows = cut_batch(batch, tokenizer, max_length, stride, keep_characters=True).to_pydict()
    right = tokenizer.padding_side == "right"
    sides = [batch["question"], batch["context"]] if right else [batch["context"], batch["question"]]
    settings = {"max_length": max_length, "stride": stride, "return_overflowing_tokens": True}
    encoding = tokenizer(
        *sides, truncation="only_second" if right else "only_first", return_offsets_mapping=True, **settings
    )
    assert windows["input_ids"] == encoding["input_ids"]
    assert windows["example"] == encoding["overflow_to_sample_mapping"]
    assert windows["length"] == [len(ids) for ids in encoding["input_ids"]]
    assert ("token_type_ids" in windows) == ("token_type_ids" in encoding)
    whole = [len(ids) for ids in tokenizer(*sides, verbose=False)["input_ids"]]
    assert windows["pair_length"] == [whole[i] for i in windows["example"]]
    context_offsets = tokenizer(batch["context"], add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    found = 0
    for row, ids in enumerate(encoding["input_ids"]):
        i = windows["example"][row]
        if "token_type_ids" in encoding:
            types = types_of(encoding.sequence_ids(row)) if types_of else encoding["token_type_ids"][row]
            assert windows["token_type_ids"][row] == types
        at = [p for p, part in enumerate(encoding.sequence_ids(row)) if part == (1 if right else 0)]
        begin, end = windows["context_begin"][row], windows["context_end"][row]
        assert list(range(begin, end)) == at
        offsets = [encoding["offset_mapping"][row][p] for p in at]
        assert list(zip(windows["first_characters"][row], windows["last_characters"][row])) == offsets
        null = ids.index(tokenizer.cls_token_id) if tokenizer.cls_token_id in ids else 0
        assert windows["null_at"][row] == null
        # The tokens of an answer are those that share a character with it; all of them must be in the window.
        expected = [null, null]
        if batch["answers"][i]["text"]:
            start = batch["answers"][i]["answer_start"][0]
            span = start, start + len(batch["answers"][i]["text"][0])
            here, everywhere = (
                [p for p, (first, last) in enumerate(o) if first < span[1] and last > span[0]]
                for o in (offsets, context_offsets["offset_mapping"][i])
            )
            if everywhere and len(here) == len(everywhere):
                expected, found = [at[here[0]], at[here[-1]]], found + 1
        assert [windows[name][row] for name in LABELS] == expected
    return found


@pytest.mark.parametrize(
    "family, side", [*((f, "right") for f in FAMILIES), ("minilm", "left"), ("roberta-base", "left")]
)
def test_windows_and_labels_are_the_tokenizers_own(load, family, side):
    tokenizer, whole = load(family, padding_side=side), 0
    specials = tokenizer.num_special_tokens_to_add(pair=True)
    for seed, (max_length, stride) in enumerate([(48, 16), (64, 0), (33, 20), (384, 128)]):
        batch = random_batch(seed, tokenizer, max_length - specials - stride)
        whole += assert_windows_are_the_tokenizers_own(tokenizer, batch, max_length, stride)
    assert whole > 40  # the case that matters is there


@pytest.mark.parametrize("name", ["squad_v2_dev.json", "pquad_validation.json"])
@pytest.mark.parametrize("family", FAMILIES)
def test_windows_and_labels_on_real_texts(load, shared_data, family, name):
    articles = json.loads((shared_data / "squad_v2" / name).read_bytes())["data"]
    rows = [(q["question"], p["context"], q["answers"]) for a in articles for p in a["paragraphs"] for q in p["qas"]]
    asked = random.Random(5).sample(rows, 40)
    answers = [{key: [one[key] for one in golds[:1]] for key in ("text", "answer_start")} for _, _, golds in asked]
    batch = {"example": list(range(40)), "question": [q for q, _, _ in asked], "context": [c for _, c, _ in asked]}
    whole = assert_windows_are_the_tokenizers_own(load(family), batch | {"answers": answers}, 384, 64)
    answerable = sum(bool(golds) for *_, golds in asked)
    assert whole >= answerable > 10  # none is longer than what windows share, so each is whole somewhere


def test_an_answer_that_ends_with_the_window_is_whole(load):
    """The official example labels it as absent: it walks one token too far."""
    tokenizer, context, room = load("bert-base-uncased"), "Anna Berg was in Kassel when it was closed in 1921", 5
    offsets = tokenizer(context, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    question = tokenizer("who", add_special_tokens=False)["input_ids"]
    for token, (first, last) in enumerate(offsets):
        answer = {"text": [context[first:last]], "answer_start": [first]}
        batch = {"example": [0], "question": ["who"], "context": [context], "answers": [answer]}
        windows = cut_batch(batch, tokenizer, room + 3 + len(question), 0, keep_characters=False).to_pydict()
        at = 2 + len(question) + token % room
        expected = [at if window == token // room else 0 for window in range(len(windows["example"]))]
        assert windows["start_positions"] == windows["end_positions"] == expected


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize(
    "single, pair",
    [
        ("$A:0 [SEP]:0 [CLS]:2", "$A:0 [SEP]:0 $B:1 [SEP]:1 [CLS]:2"),
        ("$A [CLS] [SEP] [SEP]", "$A:0 [MASK]:3 $B:1 [CLS]:4 [SEP]:4 [SEP]:4"),
        ("[MASK] [CLS] $A", "[MASK]:5 [CLS]:5 $A:1 $B:2"),
        ("[SEP] $A", "[SEP]:1 $A:0 [SEP]:0 $B:2 [SEP]:3"),  # no class token: the first one stands for it
    ],
)
def test_special_tokens_wherever_a_tokenizer_puts_them(load, single, pair, side):
    from tokenizers.processors import TemplateProcessing

    tokenizer, special = load("bert-base-uncased", padding_side=side), ("[SEP]", "[CLS]", "[MASK]")
    ids = [(name, tokenizer.convert_tokens_to_ids(name)) for name in special]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single=single, pair=pair, special_tokens=ids)
    parts = [(name, int(kind or 0)) for name, _, kind in (word.partition(":") for word in pair.split())]
    texts = {name: kind for name, kind in parts if name in ("$A", "$B")}

    def types_of(sequence):
        """From the template: the library gives windows after the first one the types 0 and 1, whatever it says."""
        between = iter([kind for name, kind in parts if name in special])
        return [next(between) if n is None else texts["$A" if n == 0 else "$B"] for n in sequence]

    specials = sum(name in special for name, _ in parts)
    batch = random_batch(9, tokenizer, 30 - specials)
    for name in ("question", "context"):  # no special token written out, so that the first [CLS] is the template's
        batch[name] = [text.replace("[SEP]", "(SEP)") for text in batch[name]]
    assert assert_windows_are_the_tokenizers_own(tokenizer, batch, 40, 10, types_of)


def test_a_context_without_any_token_and_questions_without_truth(load):
    tokenizer = load("bert-base-uncased")
    batch = {"example": [0, 1], "question": ["who", "what"], "context": ["\u200b", "it was"]}
    windows = cut_batch(batch, tokenizer, 30, 5, keep_characters=True).to_pydict()
    assert windows["input_ids"][0] == tokenizer("who", "\u200b")["input_ids"]
    assert windows["context_begin"][0] == windows["context_end"][0] and not len(windows["first_characters"][0])
    assert not set(LABELS) & set(windows)


# Splits


def arguments(tmp_path, **settings) -> SimpleNamespace:
    given = {"stride": 6, "cache_dir": str(tmp_path), "overwrite_cache": False, "on_bad_example": "stop"}
    given |= {"max_answer_length": 30, "training_args": SimpleNamespace(world_size=1, process_index=0)}
    return SimpleNamespace(**given | settings)


def splits_of(questions: list[str], context: str, golds: list[str]) -> Splits:
    answers = [{"text": [gold], "answer_start": [context.index(gold)]} if gold else NONE for gold in golds]
    columns = {"id": [f"q{i}" for i in range(len(questions))], "question": questions, "answers": answers}
    split = Dataset.from_dict({**columns, "context": [context] * len(questions)}, split="validation")
    splits = Splits(validation=split)
    facts = {"source": "dev.json", "examples": len(split), "fingerprint": "", "skipped": {"no id": 1}, "statistics": {}}
    splits.facts["validation"] = facts
    return splits


@pytest.mark.parametrize("family", ["distilbert-base-uncased", "roberta-base"])
@pytest.mark.parametrize("side", ["right", "left"])
def test_questions_too_long_are_those_for_which_the_tokenizer_gives_up(load, tmp_path, family, side):
    tokenizer, context, warned = load(family, padding_side=side), TEXTS[0] * 3, []
    questions, max_length, fitting = ["who " * n for n in range(1, 24)], 24, []
    for question in questions:
        sides = (question, context) if side == "right" else (context, question)
        only = "only_second" if side == "right" else "only_first"
        try:
            cut = tokenizer(*sides, truncation=only, max_length=max_length, stride=6, return_overflowing_tokens=True)
            fitting += [question] * all(len(ids) <= max_length for ids in cut["input_ids"])
        except BaseException as error:  # the tokenizer's own panic is no Exception
            assert "stride" in str(error).lower() or "length" in str(error).lower(), error
    assert 0 < len(fitting) < len(questions)
    run = SimpleNamespace(warn=warned.append)
    splits = splits_of(questions, context, [""] * len(questions))
    windows = cut_splits(splits, tokenizer, arguments(tmp_path, on_bad_example="skip"), max_length, run)
    facts = splits.facts["validation"]
    assert splits["validation"]["question"][:] == fitting and facts["examples"] == len(fitting)
    assert facts["skipped"] == {"no id": 1, "question too long": len(questions) - len(fitting)}
    assert facts["statistics"]["windows"] == len(windows["validation"]) and len(facts["fingerprint"]) == 64
    assert set(column(windows["validation"], "example").tolist()) == set(range(len(fitting))) and not warned
    assert (column(windows["validation"], "length") > 0).all()

    splits = splits_of(questions, context, [""] * len(questions))
    sentence = message(cut_splits, splits, tokenizer, arguments(tmp_path), max_length, run)
    assert sentence.startswith("dev.json: question 'q22'") and "--stride 6" in sentence
    needed = int(sentence.split("--max_length ")[1].split(",")[0])
    cut_splits(splits, tokenizer, arguments(tmp_path), needed, run)
    assert "--max_length" in message(cut_splits, splits, tokenizer, arguments(tmp_path), needed - 1, run)


def test_answers_that_no_prediction_can_be_are_counted(load, tmp_path):
    tokenizer, warned = load("bert-base-uncased"), []
    context = " ".join(f"the museum was closed in {year}." for year in range(1900, 1920))
    golds = ["1900", context[:40], context[:200], context[:400], ""]
    splits = splits_of(["when?"] * 5, context, golds)
    cut_splits(splits, tokenizer, arguments(tmp_path, stride=10), 48, SimpleNamespace(warn=warned.append))
    tokens = [len(tokenizer(gold, add_special_tokens=False)["input_ids"]) for gold in golds]
    assert tokens[1] < 30 < tokens[2] and len(warned) == 1
    assert warned[0].startswith("validation: 2 of 4 answers (50.0 %)") and "--max_answer_length 30" in warned[0]
    cut_splits(
        splits, tokenizer, arguments(tmp_path, stride=10, max_answer_length=400), 511, SimpleNamespace(warn=pytest.fail)
    )


def test_rows_have_what_a_batch_needs_and_batches_are_padded_on_the_right(load, tmp_path):
    import pandas as pd
    from transformers import DataCollatorWithPadding

    tokenizer = load("bert-base-uncased", padding_side="left")
    rows = [{"id": i, "question": "who?", "context": TEXTS[i % 2] * i, "answers": NONE} for i in range(1, 9)]
    frame = pd.DataFrame(rows)
    frame.index = pd.MultiIndex.from_product([["rows"], range(8)])
    frame.attrs["source"] = "rows"
    splits = Splits(train=to_questions(frame, "train", False)[0])
    splits.facts["train"] = {"source": "rows", "statistics": {}}
    windows = cut_splits(splits, tokenizer, arguments(tmp_path), 40, SimpleNamespace(warn=pytest.fail))["train"]
    assert str(windows.split) == "train" and "first_characters" not in windows.column_names
    batch = DataCollatorWithPadding(right_padding(tokenizer), pad_to_multiple_of=8)([windows[i] for i in (0, 5, 3)])
    assert tokenizer.padding_side == "left" and batch["input_ids"].shape[1] % 8 == 0
    assert (np.diff(batch["attention_mask"], axis=1) <= 0).all()
    assert (
        batch["attention_mask"].sum(axis=1).tolist()
        == batch["length"].tolist()
        == [windows[i]["length"] for i in (0, 5, 3)]
    )


# The model that inputs are for


def model_of(architecture: str, folder, **config):
    from transformers import AutoConfig, AutoModel

    return AutoModel.from_config(AutoConfig.from_pretrained(folder, **config))


def test_inputs_are_no_longer_than_the_position_table(load, tiny_folder):
    for family, taken in (("bert-base-uncased", 40), ("roberta-base", 39)):  # RoBERTa's begin behind the padding, 0
        tokenizer, warned = load(family, model_max_length=int(1e30)), []
        model = model_of(family, tiny_folder(family), max_position_embeddings=40)
        assert fit_to_model(tokenizer, model, 32, pytest.fail) == 32
        assert fit_to_model(tokenizer, model, 512, warned.append) == taken
        (warning,) = warned
        assert f"{taken} tokens" in warning and "--max_length 512" in warning
        tokenizer.model_max_length = 20
        assert fit_to_model(tokenizer, model, 512, warned.append) == 20
        model(**tokenizer("a " * taken, return_tensors="pt", truncation=True, max_length=taken))


@pytest.mark.parametrize("family", ["bart", "gpt2", "roformer", "opt", "ibert"])
def test_the_position_table_is_found_in_every_family(load, family):
    from transformers import AutoConfig, AutoModel

    sizes = {"vocab_size": 90, "hidden_size": 32, "max_position_embeddings": 40, "num_hidden_layers": 1}
    sizes |= {"d_model": 32, "ffn_dim": 32, "encoder_layers": 1, "decoder_layers": 1, "num_attention_heads": 4}
    most = 38 if family == "ibert" else 40  # as RoBERTa's, positions begin behind the padding
    model, warned = AutoModel.from_config(AutoConfig.for_model(family, **sizes)), []
    assert fit_to_model(load("roberta-base", model_max_length=int(1e30)), model, 512, warned.append) == most
    assert f"{most} tokens" in warned[0]
    model(input_ids=torch.full((1, most), 5))
    with pytest.raises((IndexError, RuntimeError)):
        model(input_ids=torch.full((1, most + 1), 5))


def test_token_types_that_a_model_lacks_are_left_out(load, tiny_folder):
    tokenizer, warned = load("bert-base-uncased"), []
    assert fit_to_model(tokenizer, model_of("bert", tiny_folder("bert-base-uncased")), 64, pytest.fail) == 64
    model = model_of("bert", tiny_folder("bert-base-uncased"), type_vocab_size=1)
    fit_to_model(tokenizer, model, 64, warned.append)
    assert "token types" in warned[0] and "token_type_ids" not in tokenizer("who?", "It was.")
    model(**tokenizer("who?", "It was.", return_tensors="pt"))


def test_a_tokenizer_that_loses_letters_is_refused(load, tmp_path):
    """As RobBERT's: a blank is put before the text, and the first letter is taken for it."""
    from tokenizers import pre_tokenizers, processors

    tokenizer, splits = load("roberta-base"), splits_of(["who?"], "It was.", [""])
    run = SimpleNamespace(warn=pytest.fail)
    cut_splits(splits, tokenizer, arguments(tmp_path), 64, run)
    backend = tokenizer.backend_tokenizer
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    backend.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    sentence = message(cut_splits, splits, tokenizer, arguments(tmp_path), 64, run)
    assert "loses" in sentence and "--tokenizer_name" in sentence
