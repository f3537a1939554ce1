"""Tiny models for `--demo`: the real architectures, with heads and names as the Auto classes know them."""

import json

import pytest

from common.legacy.errors import UserError
from common.legacy.tiny_models import HEADS, tiny_model, twin_of

TEXTS = ["Who founded the museum?", "The museum was founded by Anna Berg in 1921. It has 40 rooms."] * 20
ARCHITECTURES = {
    "distilbert-base-uncased": ("distilbert", "DistilBertTokenizer", "[CLS] q [SEP] c [SEP]"),
    "HooshvareLab/bert-base-parsbert-uncased": ("bert", "BertTokenizer", "[CLS] q [SEP] c [SEP]"),
    "roberta-base": ("roberta", "RobertaTokenizer", "<s> q </s></s> c </s>"),
    "xlm-roberta-base": ("xlm-roberta", "XLMRobertaTokenizer", "<s> q </s></s> c </s>"),
}


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


@pytest.mark.parametrize("architecture, layers", [*zip(ARCHITECTURES, (2, 3, 4, 2))])
def test_a_classifier_has_its_names_and_layers_and_works_in_a_pipeline(architecture, layers, tmp_path):
    from transformers import AutoModelForSequenceClassification, pipeline

    from common.legacy.encoders import Encoder

    labels = ("yes", "no", "perhaps", "unknown")
    folder = tiny_model(architecture, TEXTS, tmp_path / "tiny", "sequence-classification", labels=labels, layers=layers)
    model, report = AutoModelForSequenceClassification.from_pretrained(folder, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    assert (model.config.num_labels, model.config.id2label) == (4, dict(enumerate(labels)))
    assert model.config.label2id == {"yes": 0, "no": 1, "perhaps": 2, "unknown": 3}
    assert len(Encoder.of(model).layers) == layers
    classify = pipeline("text-classification", model=str(folder), device="cpu", top_k=None)
    scores = classify({"text": TEXTS[0], "text_pair": TEXTS[1]})
    assert {entry["label"] for entry in scores} == set(labels)
    assert sum(entry["score"] for entry in scores) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_words_of_a_tiny_classifier_look_for_the_same_words_in_the_other_text(architecture, tmp_path):
    import torch
    from transformers import AutoModel, AutoTokenizer

    def preference(head: str) -> float:
        """How much more attention the same word gets than another word of the other text, on average."""
        folder = tiny_model(architecture, TEXTS, tmp_path / head, head)
        tokenizer = AutoTokenizer.from_pretrained(folder)
        model = AutoModel.from_pretrained(folder, attn_implementation="eager")
        pair = tokenizer(
            "It was founded by Anna Berg in 1921.", "the museum has Anna Berg and rooms", return_tensors="pt"
        )
        ids, text = pair["input_ids"][0].tolist(), pair.sequence_ids(0)
        with torch.no_grad():
            weights = model(**pair, output_attentions=True).attentions[0][0].mean(0)
        pairs = [(i, j) for i in range(len(ids)) for j in range(len(ids)) if (text[i], text[j]) == (1, 0)]
        same = [weights[i, j] for i, j in pairs if ids[i] == ids[j]]
        other = [weights[i, j] for i, j in pairs if ids[i] != ids[j] and ids[i] in {ids[j] for _, j in pairs}]
        return float(sum(same) / len(same) / (sum(other) / len(other)))

    assert preference("sequence-classification") > 10 > 3 > preference("none")


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
