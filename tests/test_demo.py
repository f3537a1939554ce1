"""The built-in data and models of `--demo`: valid, the same on every run, and what they say they are."""

import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from common.demo import HEADS, question_answering_demo, tiny_model, twin_of
from common.errors import UserError

ROOT = Path(__file__).resolve().parent.parent
TEXTS = ["Who founded the museum?", "The museum was founded by Anna Berg in 1921. It has 40 rooms."] * 20
ARCHITECTURES = {
    "distilbert-base-uncased": ("distilbert", "DistilBertTokenizer", "[CLS] q [SEP] c [SEP]"),
    "HooshvareLab/bert-base-parsbert-uncased": ("bert", "BertTokenizer", "[CLS] q [SEP] c [SEP]"),
    "roberta-base": ("roberta", "RobertaTokenizer", "<s> q </s></s> c </s>"),
    "xlm-roberta-base": ("xlm-roberta", "XLMRobertaTokenizer", "<s> q </s></s> c </s>"),
}


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    return question_answering_demo(tmp_path_factory.mktemp("demo"), "distilbert-base-uncased")


def paragraphs(path: str) -> list[dict]:
    content = json.loads(Path(path).read_text(encoding="utf-8"))
    assert content["version"] == "v2.0"
    return [paragraph for article in content["data"] for paragraph in article["paragraphs"]]


def questions(path: str) -> list[dict]:
    return [{**qa, "context": paragraph["context"]} for paragraph in paragraphs(path) for qa in paragraph["qas"]]


def digests(folder: Path) -> dict[str, str]:
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.mark.parametrize("split, share", [("train", 1 / 3), ("validation", 1 / 2)])
def test_answers_lie_where_they_say_and_shares_are_those_of_squad(demo, split, share):
    asked = questions(demo[f"{split}_file"])
    for qa in asked:
        assert bool(qa["answers"]) != qa["is_impossible"]
        assert ("plausible_answers" in qa) == qa["is_impossible"]
        for answer in [*qa["answers"], *qa.get("plausible_answers", [])]:
            start = answer["answer_start"]
            assert qa["context"][start : start + len(answer["text"])] == answer["text"] != ""
    assert sum(qa["is_impossible"] for qa in asked) / len(asked) == pytest.approx(share, abs=0.002)


def test_validation_has_several_different_gold_answers_and_training_one(demo):
    answerable = [qa for qa in questions(demo["validation_file"]) if not qa["is_impossible"]]
    assert all(len({answer["text"] for answer in qa["answers"]}) > 1 for qa in answerable)
    assert all(len(qa["answers"]) <= 1 for qa in questions(demo["train_file"]))


def test_the_test_split_gives_nothing_away(demo):
    asked = questions(demo["test_file"])
    assert len(asked) >= 20
    assert all(set(qa) == {"id", "question", "context"} for qa in asked)


def test_ids_are_unique_and_no_paragraph_is_in_two_splits(demo):
    files = [demo[f"{split}_file"] for split in ("train", "validation", "test")]
    ids = [qa["id"] for path in files for qa in questions(path)]
    contexts = [paragraph["context"] for path in files for paragraph in paragraphs(path)]
    assert len(set(ids)) == len(ids)
    assert len(set(contexts)) == len(contexts)


def test_contexts_have_the_promised_lengths_and_some_need_windows(demo):
    from transformers import AutoTokenizer

    lengths = [len(re.findall(r"[.]", paragraph["context"])) for paragraph in paragraphs(demo["train_file"])]
    assert min(lengths) >= 3
    assert 0.8 < sum(length <= 8 for length in lengths) / len(lengths) < 1
    tokenizer = AutoTokenizer.from_pretrained(demo["model"])
    asked = questions(demo["train_file"])
    encoded = tokenizer(
        [qa["question"] for qa in asked],
        [qa["context"] for qa in asked],
        truncation="only_second",
        max_length=64,
        stride=16,
        return_overflowing_tokens=True,
    )
    assert 1.1 < len(encoded["input_ids"]) / len(asked) < 2
    assert tokenizer.unk_token_id not in {token for window in encoded["input_ids"] for token in window}


def test_everything_is_the_same_in_another_process(tmp_path):
    program = (
        "import sys; from pathlib import Path; from common.demo import question_answering_demo\n"
        "for name in sys.argv[2:]: question_answering_demo(Path(sys.argv[1], name), name)"
    )
    names = ["distilbert-base-uncased", "roberta-base", "xlm-roberta-base"]
    running = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(tmp_path / hash_seed), *names],
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
        )
        for hash_seed in ("1", "2")
    ]
    assert [process.wait(timeout=300) for process in running] == [0, 0]
    first = digests(tmp_path / "1")
    assert len(first) >= 3 * 7
    assert first == digests(tmp_path / "2")


def test_another_seed_gives_other_data_and_other_weights(demo, tmp_path):
    other = question_answering_demo(tmp_path, "distilbert-base-uncased", seed=1)
    assert Path(other["train_file"]).read_bytes() != Path(demo["train_file"]).read_bytes()
    first, second = (Path(made["model"], "model.safetensors").read_bytes() for made in (demo, other))
    assert first != second


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_twin_is_the_real_architecture(architecture, tmp_path):
    import torch
    from transformers import AutoConfig, AutoModelForQuestionAnswering, AutoTokenizer

    model_type, tokenizer_class, template = ARCHITECTURES[architecture]
    state = torch.random.get_rng_state()
    folder = tiny_model(architecture, TEXTS, tmp_path / "tiny", "question-answering")
    assert torch.equal(state, torch.random.get_rng_state())

    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.is_fast
    assert json.loads((folder / "tokenizer_config.json").read_text())["tokenizer_class"] == tokenizer_class
    inputs = {"input_ids", "attention_mask"} | ({"token_type_ids"} if model_type == "bert" else set())
    assert set(tokenizer.model_input_names) == inputs
    assert tokenizer.model_max_length == 512

    encoded = tokenizer("the museum", "Anna Berg", return_offsets_mapping=True)
    assert set(encoded) == inputs | {"offset_mapping"}
    context = "anna berg" if "BERT" in tokenizer_class.upper().replace("ROBERTA", "") else "Anna Berg"
    decoded = tokenizer.decode(encoded["input_ids"], clean_up_tokenization_spaces=False)
    expected = template.replace("q", "the museum").replace("c", context)
    assert decoded.replace(" ", "") == expected.replace(" ", "")
    ends = [offset for offset, part in zip(encoded["offset_mapping"], encoded.sequence_ids()) if part == 1]
    assert (ends[0][0], ends[-1][1]) == (0, len("Anna Berg"))
    assert tokenizer.unk_token_id not in tokenizer("zq&7 unseen words")["input_ids"]

    config = AutoConfig.from_pretrained(folder)
    roberta = "roberta" in model_type
    assert config.model_type == model_type
    assert config.max_position_embeddings == (514 if roberta else 512)
    assert (config.pad_token_id, tokenizer.pad_token_id) == ((1, 1) if roberta else (0, 0))
    assert config.vocab_size == len(tokenizer)

    model, report = AutoModelForQuestionAnswering.from_pretrained(folder, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    assert sum(parameter.numel() for parameter in model.parameters()) < 2_000_000
    longest = tokenizer(["the museum " * 400], truncation=True, return_tensors="pt")
    assert longest["input_ids"].shape == (1, 512)
    assert model(**longest).start_logits.shape == (1, 512)


def test_a_bare_encoder_has_no_head(tmp_path):
    from transformers import AutoModel

    folder = tiny_model("roberta-base", TEXTS, tmp_path, "none")
    _, report = AutoModel.from_pretrained(folder, output_loading_info=True)
    assert not report["unexpected_keys"]
    assert set(HEADS) >= {"none", "question-answering"}


@pytest.mark.parametrize(
    "name, model_type",
    [
        ("FacebookAI/xlm-roberta-base", "xlm-roberta"),
        ("roberta-large-mnli", "roberta"),
        ("distilbert/distilbert-base-cased", "distilbert"),
        ("bert-base-uncased", "bert"),
        ("models/bert_tiny/", "bert"),
    ],
)
def test_the_family_is_read_from_the_name(name, model_type):
    assert twin_of(name).model_type == model_type


@pytest.mark.parametrize("name", ["microsoft/deberta-v3-base", "albert-base-v2", "facebook/hubert-base-ls960", "gpt2"])
def test_a_name_without_a_twin_is_one_sentence(name):
    with pytest.raises(UserError, match=r"distilbert.*xlm-roberta") as caught:
        twin_of(name)
    assert name in str(caught.value) and "\n" not in str(caught.value)
