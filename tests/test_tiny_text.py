"""Tiny models for `--demo`: the real architectures, with heads and names as the Auto classes know them."""

import pytest

from common.demo.tiny_text import tiny_model, twin_of
from tests.helpers import message

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
    from transformers import AutoModelForQuestionAnswering, AutoTokenizer

    model_type, tokenizer_class, template = ARCHITECTURES[architecture]
    assert twin_of(architecture) == (model_type, tokenizer_class)
    state = torch.random.get_rng_state()
    folder = tiny_model(architecture, TEXTS, tmp_path / "tiny", "question-answering")
    assert torch.equal(state, torch.random.get_rng_state())

    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.is_fast and type(tokenizer).__name__ == tokenizer_class and tokenizer.model_max_length == 512
    inputs = {"input_ids", "attention_mask"} | ({"token_type_ids"} if model_type == "bert" else set())
    encoded = tokenizer("the museum", "Anna Berg", return_offsets_mapping=True)
    assert set(encoded) == inputs | {"offset_mapping"}
    context = "Anna Berg" if "roberta" in model_type else "anna berg"
    decoded = tokenizer.decode(encoded["input_ids"], clean_up_tokenization_spaces=False)
    expected = template.replace("q", "the museum").replace("c", context)
    assert decoded.replace(" ", "") == expected.replace(" ", "")
    ends = [offset for offset, part in zip(encoded["offset_mapping"], encoded.sequence_ids()) if part == 1]
    assert (ends[0][0], ends[-1][1]) == (0, len("Anna Berg"))
    assert tokenizer.unk_token_id not in tokenizer("zq&7 unseen words")["input_ids"]

    model, report = AutoModelForQuestionAnswering.from_pretrained(folder, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    assert (model.config.model_type, model.config.vocab_size) == (model_type, len(tokenizer))
    assert model.config.pad_token_id == tokenizer.pad_token_id
    assert sum(parameter.numel() for parameter in model.parameters()) < 2_000_000
    longest = tokenizer(["the museum " * 400], truncation=True, return_tensors="pt")
    assert model(**longest).start_logits.shape == (1, 512)


@pytest.mark.parametrize("architecture, layers", [*zip(ARCHITECTURES, (2, 3, 4, 2))])
def test_a_classifier_has_its_names_and_layers_and_looks_for_equal_words(architecture, layers, tmp_path):
    import torch
    from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer

    labels = ("yes", "no", "perhaps", "unknown")
    classifier = {"head": "sequence-classification", "labels": labels, "layers": layers}
    folder = tiny_model(architecture, TEXTS, tmp_path / "tiny", **classifier)
    model, report = AutoModelForSequenceClassification.from_pretrained(folder, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    assert (model.config.id2label, model.config.num_hidden_layers) == (dict(enumerate(labels)), layers)
    assert model.config.label2id == {"yes": 0, "no": 1, "perhaps": 2, "unknown": 3}

    def preference(folder) -> float:
        """How much more attention the same word gets than another word of the other text, on average."""
        tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder)
        model.set_attn_implementation("eager")
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

    assert preference(folder) > 10 > 3 > preference(tiny_model(architecture, TEXTS, tmp_path / "bare", "none"))


def test_the_family_is_read_from_the_name():
    names = {"FacebookAI/xlm-roberta-base": "xlm-roberta", "roberta-large-mnli": "roberta", "models/bert_tiny/": "bert"}
    assert {name: twin_of(name)[0] for name in names} == names
    for name in ("microsoft/deberta-v3-base", "albert-base-v2", "facebook/hubert-base-ls960", "gpt2"):
        sentence = message(twin_of, name)
        assert name in sentence and "distilbert" in sentence and "xlm-roberta" in sentence
