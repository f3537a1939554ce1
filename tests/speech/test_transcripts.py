"""Transcripts made alike, vocabularies that stock transformers loads, labels like the tokenizer's, frames they need."""

# ruff: noqa: RUF001 (typographic signs are what is normalised)

import itertools
import json
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.speech.transcripts import (
    Normalization,
    case_of,
    check_transcripts,
    encode,
    frames_needed,
    make_processor,
    normalize,
)
from tests.helpers import message
from tests.speech.clips import run

KEPT = Normalization(case="keep", punctuation="keep")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Now, as all books (not 'picture-books') …", "NOW AS ALL BOOKS NOT PICTURE BOOKS"),
        ("Don’t say 'tis the boys' rock 'n' roll", "DON'T SAY TIS THE BOYS ROCK N ROLL"),
        ("O‘Neill, L´Aquila, it''s «a»—b|c", "O'NEILL L'AQUILA IT S A B C"),
        ("$5 + 3 % = 1/2?", "5 3 1 2"),
        ("cafe\u0301 ﬁne ＡＢ １２ ß", "CAFÉ FINE AB 12 SS"),
        ("\ufeffzero\u200bwidth\u00ad \u202bbidi\u202c a\u00a0b\u3000c\td\r\n", "ZEROWIDTH BIDI A B C D"),
        ("می‌خواهم؛ «کتاب» را، بله؟", "می‌خواهم کتاب را بله"),
        ("'' — ! …", ""),
        ("\u200c \u200d", ""),
        ("می\u200c رود", "می رود"),
        ("\u0149 ｀a｀", "N A"),
        ("", ""),
    ],
)
def test_normalised_by_hand(text, expected):
    assert normalize(text, Normalization()) == expected


def test_switches():
    text = "“Ça” va-t-il?  Don’t ﬁx ｘ|y"
    assert normalize(text, KEPT) == "“Ça” va-t-il? Don’t fix x y"
    assert normalize(text, Normalization(case="lower")) == "ça va t il don't fix x y"
    dropped = Normalization(case="lower", ignore="-'")
    assert normalize(text, dropped) == "ça vatil dont fix x y"
    assert normalize("كِتَابـــ", Normalization(ignore="ـ\u064e\u0650")) == "كتاب"


RULES = st.builds(
    Normalization,
    case=st.sampled_from(["upper", "lower", "keep"]),
    punctuation=st.sampled_from(["remove", "keep"]),
    ignore=st.sampled_from(["", "'", "é\u0301", "-x"]),
)


@settings(deadline=None, max_examples=200)
@given(st.text(st.characters(exclude_categories=["Cn"]) | st.sampled_from("ab'’-|\u0301\u200cßİ "), max_size=20), RULES)
def test_twice_is_the_same_as_once(text, rules):
    once = normalize(text, rules)
    assert normalize(once, rules) == once
    assert (
        once == " ".join(once.split()) and "|" not in once and all(c.isprintable() or c in "\u200c\u200d" for c in once)
    )


def clips(texts, seconds: float = 1.0):
    import datasets

    count = len(texts)
    return datasets.Dataset.from_dict(
        {"id": [f"clip {i}" for i in range(count)], "text": texts, "seconds": [seconds] * count}
    )


# Vocabulary


@pytest.fixture(scope="module")
def extractor():
    from transformers import Wav2Vec2FeatureExtractor

    return Wav2Vec2FeatureExtractor(return_attention_mask=True)


@pytest.fixture(scope="module")
def tokenizer(extractor):
    return make_processor(["ABC IT'S", "کتاب"], extractor).tokenizer


def test_the_vocabulary(extractor):
    processor = make_processor(["BA", "é A"], extractor)
    tokenizer = processor.tokenizer
    assert tokenizer.get_vocab() == {"[PAD]": 0, "[UNK]": 1, "|": 2, "A": 3, "B": 4, "é": 5}
    assert len(tokenizer) == tokenizer.vocab_size == 6  # nothing behind what the head has outputs for
    assert (tokenizer.pad_token_id, tokenizer.unk_token_id, tokenizer.word_delimiter_token_id) == (0, 1, 2)
    assert processor.feature_extractor is extractor
    other = make_processor(["A B"], extractor, ("<pad>", "<unk>", "_")).tokenizer
    assert other.get_vocab() == {"<pad>": 0, "<unk>": 1, "_": 2, "A": 3, "B": 4}
    assert encode(other, ["B A"]) == [[4, 2, 3]] == [other("B A").input_ids]
    for tokens in (("[PAD]", "[UNK]", "A"), ("[UNK]", "[UNK]", "|")):
        assert "give three that are in no transcript" in message(make_processor, ["B A"], extractor, tokens)
    for text, token in (("SAY [UNK] AGAIN", "[UNK]"), ("THE END", "THE")):  # which would be taken for the token
        assert "in no transcript" in message(make_processor, [text], extractor, ("[PAD]", token, "|"))


def own_vocabulary(folder, tokens, **settings):
    """A tokenizer as published checkpoints have them."""
    from transformers import Wav2Vec2CTCTokenizer

    path = folder / "vocab.json"
    path.write_text(json.dumps({token: number for number, token in enumerate(tokens)}))
    return Wav2Vec2CTCTokenizer(str(path), **settings)


def test_labels_are_the_tokenizers(tokenizer, tmp_path):
    texts = ["ABC IT'S", "", "کتاب A", "XA Ü", "AA  B"]
    found = encode(tokenizer, texts)
    assert found == [tokenizer(text).input_ids for text in texts]
    assert found[3][0] == tokenizer.unk_token_id
    letters = ["<pad>", "<s>", "</s>", "<unk>", "|", "E", "T", "A", "'"]
    for settings_ in ({}, {"do_lower_case": True}):
        own = own_vocabulary(tmp_path, letters, **settings_)
        for text in ("TEA E'T", "tea ü"):
            assert encode(own, [text])[0] == own(text).input_ids
    assert encode(own, ["tea"])[0] == [6, 5, 7]  # do_lower_case: upper case inside


def test_labels_come_back_as_text(tokenizer):
    texts = ["ABC IT'S", "کتاب AA B"]
    assert tokenizer.batch_decode(encode(tokenizer, texts), group_tokens=False) == texts


def test_the_case_of_a_vocabulary(tmp_path, tokenizer):
    special = ["<pad>", "<unk>", "|"]
    cases = {("A", "B"): "upper", ("a", "'"): "lower", ("a", "B"): "keep", ("ک", "ت"): "keep", ("A", "ک"): "upper"}
    for letters, case in cases.items():
        assert case_of(own_vocabulary(tmp_path, [*special, *letters])) == case
    assert case_of(own_vocabulary(tmp_path, [*special, "A"], do_lower_case=True)) == "lower"


def test_stock_transformers_loads_and_transcribes(extractor, tmp_path):
    """AutoProcessor and the pipeline, from what is saved, and with what the labels say."""
    import torch
    from transformers import AutoProcessor, HubertConfig, HubertForCTC, pipeline

    from common.speech.decoding import texts_of

    processor = make_processor(["ABC IT'S", "é"], extractor)
    tokenizer = processor.tokenizer
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    convolution = {"conv_dim": (8, 8), "conv_kernel": (10, 4), "conv_stride": (160, 2), "num_feat_extract_layers": 2}
    model = HubertForCTC(
        HubertConfig(vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id, **sizes, **convolution)
    ).eval()
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    loaded = AutoProcessor.from_pretrained(tmp_path / "model")
    assert loaded.tokenizer.get_vocab() == tokenizer.get_vocab() and len(loaded.tokenizer) == len(tokenizer)
    assert loaded(text="IT'S é").input_ids == encode(tokenizer, ["IT'S é"])[0]

    audio = np.random.default_rng(0).normal(size=16_000).astype(np.float32)
    said = pipeline("automatic-speech-recognition", str(tmp_path / "model"))({"raw": audio, "sampling_rate": 16_000})
    with torch.no_grad():
        ids = model(extractor(audio, sampling_rate=16_000, return_tensors="pt").input_values).logits.argmax(-1).numpy()
    ours = texts_of(tokenizer, ids, [ids.shape[1]])
    assert ours == [" ".join(said["text"].split())] and ours[0]


# Labels and frames


def collapsed(path):
    return [label for label, _ in itertools.groupby(path) if label]


def test_frames_needed_are_the_shortest_path():
    labels = [(), (1,), (1, 1), (1, 2), (1, 1, 1), (1, 2, 2, 1)]
    shortest = [
        next(n for n in range(9) if any(collapsed(p) == list(one) for p in itertools.product(range(3), repeat=n)))
        for one in labels
    ]
    assert [frames_needed(one) for one in labels] == shortest == [0, 1, 3, 2, 5, 5]


def test_what_fits_has_a_finite_loss():
    import torch

    for count, labels in itertools.product(range(1, 7), ([1, 1, 2], [1, 2, 1], [2, 2, 2], [1])):
        scores = torch.zeros(count, 1, 3).log_softmax(-1)
        loss = torch.nn.functional.ctc_loss(scores, torch.tensor(labels)[None], [count], [len(labels)])
        assert loss.isfinite() == (frames_needed(labels) <= count)


class Whole(dict):
    """Splits with facts."""

    def __init__(self, **splits):
        super().__init__(splits)
        self.facts = {name: {"skipped": {}} for name in splits}


def checked(tokenizer, on_bad_example: str, monkeypatch, **splits):
    from transformers import HubertConfig

    monkeypatch.setattr("common.speech.transcripts.load_config", lambda args: HubertConfig())
    args, heard, splits = SimpleNamespace(on_bad_example=on_bad_example), run(), Whole(**splits)
    processor = SimpleNamespace(tokenizer=tokenizer)
    assert check_transcripts(splits, processor, args, heard) is processor
    return splits, heard.warnings


def test_transcripts_that_do_not_fit_and_unknown_characters(tokenizer, monkeypatch):
    texts = ["AB", "ABC" * 20, "CÉ É"]  # a second has 49 frames
    sentence = message(checked, tokenizer, "stop", monkeypatch, train=clips(texts))
    assert sentence == (
        "clip 1: the transcript has more characters than its audio has frames: one of them is wrong, or cut off; "
        "mend it or pass --on_bad_example skip"
    )
    splits, said = checked(tokenizer, "skip", monkeypatch, train=clips(texts), validation=clips(texts))
    assert splits["train"]["id"][:] == ["clip 0", "clip 2"] and len(splits["validation"]) == 3
    assert splits.facts["train"]["skipped"] == {"transcript longer than the audio": 1}
    assert said[2] == "validation: 1 transcripts have more characters than their audio has frames" and len(said) == 3
    lacking = "2 characters cannot be written with the vocabulary and always count as errors, most often 'É' (U+00C9) 2"
    assert said[:2] == [f"train: {lacking}", f"validation: {lacking}"]
    many = checked(tokenizer, "skip", monkeypatch, test=clips(["abcdefghijklm"]))[1]
    assert many[0].startswith("test: 13 characters") and many[0].endswith("'j' (U+006A) 1")


def test_lj_speech(shared_data, extractor):
    """The real transcripts: their alphabet, and that nothing of them is lost on the way to labels and back."""
    import zipfile

    with zipfile.ZipFile(shared_data / "asr" / "ljspeech_excerpt.zip") as archive:
        name = next(name for name in archive.namelist() if name.endswith("metadata.csv"))
        lines = archive.read(name).decode().splitlines()
    texts = [normalize(line.split("|")[2], Normalization()) for line in lines]
    assert len(texts) == 115
    tokenizer = make_processor(texts, extractor).tokenizer
    characters = {token for token in tokenizer.get_vocab() if len(token) == 1}
    assert characters <= set("|'ABCDEFGHIJKLMNOPQRSTUVWXYZ") and len(characters) > 20
    labels = encode(tokenizer, texts)
    assert tokenizer.batch_decode(labels, group_tokens=False) == texts
