"""Transcripts made alike, vocabularies that stock transformers loads, labels like the tokenizer's, frames they need."""

# ruff: noqa: RUF001 (typographic signs are what is normalised)

import itertools
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.speech.transcripts import (
    Normalization,
    case_of,
    encode,
    frames_needed,
    has_digits,
    make_processor,
    normalize,
    normalized,
    too_long,
    unknown_characters,
    without,
)
from tests.helpers import message

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
    assert [has_digits(t) for t in ("a", "1", "۱۲", "x²", "Ⅷ", "½", "", "一")] == [0, 1, 1, 1, 1, 1, 0, 0]


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


def clips(texts):
    import datasets

    return datasets.Dataset.from_dict({"id": [f"clip {i}" for i in range(len(texts))], "text": texts})


def test_bad_transcripts_end_the_run():
    rules = Normalization(digits="refuse")
    assert normalized(clips(["a.", "b"]), rules, skip_bad=False)[0]["text"][:] == ["A", "B"]
    sentence = message(normalized, clips(["a", " \n", "?"]), rules, skip_bad=False)
    end = "nothing in it is spoken (2 clips are unusable: 2 empty transcript); mend it or pass --on_bad_example skip"
    assert sentence == f"clip 1: the transcript is empty: {end}"
    assert "clip 1: the transcript has digits (2ND)" in message(
        normalized, clips(["a", "the 2nd"]), rules, skip_bad=False
    )
    assert normalized(clips(["the 2nd"]), Normalization(), skip_bad=False)[0]["text"][:] == ["THE 2ND"]
    sentence = message(normalized, clips(["", "3"]), rules, skip_bad=True)
    assert "no usable recording ({'empty transcript': 1, 'digits in the transcript': 1})" in sentence
    blind = clips(["a"]).remove_columns("text")
    assert normalized(blind, rules, skip_bad=False) == (blind, {})


def test_bad_transcripts_are_left_out_and_counted():
    kept, skipped = normalized(clips(["x y", "", "3", "z", "!"]), Normalization(digits="refuse"), skip_bad=True)
    assert (kept["id"][:], kept["text"][:]) == (["clip 0", "clip 3"], ["X Y", "Z"])
    assert skipped == {"empty transcript": 2, "digits in the transcript": 1}


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
    other = make_processor(["A B"], extractor, blank="<pad>", unknown="<unk>", delimiter="_").tokenizer
    assert other.get_vocab() == {"<pad>": 0, "<unk>": 1, "_": 2, "A": 3, "B": 4}
    assert encode(other, ["B A"]) == [[4, 2, 3]] == [other("B A").input_ids]
    for tokens in ({"delimiter": "A"}, {"blank": "[UNK]"}):
        assert "give three that are in no transcript" in message(make_processor, ["B A"], extractor, **tokens)


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


def test_unknown_characters_are_counted(tokenizer):
    statistics, sentence = unknown_characters(tokenizer, ["ABC", "ÉA É", "Ü\u200cÉ", "CAB IT'S"])
    assert statistics == {"unknown characters": 5, "transcripts with unknown characters": 2}
    assert sentence == (
        "5 characters in 2 of 4 transcripts cannot be written with the vocabulary and always count as errors, most "
        "often 'É' (U+00C9) 3, 'Ü' (U+00DC) 1, '\\u200c' (U+200C) 1"
    )
    assert unknown_characters(tokenizer, ["ABC IT'S", ""])[1] is None
    many = unknown_characters(tokenizer, ["abcdefghijklm"])[1]
    assert many.startswith("13 characters in 1 of 1") and many.endswith("'j' (U+006A) 1")


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
    ours = texts_of(tokenizer, ids)
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

    labels = [[1, 1, 2], [1, 2, 1], [2, 2, 2], [1]]
    for count in range(1, 7):
        finite = [
            bool(
                torch.nn.functional.ctc_loss(
                    torch.zeros(count, 1, 3).log_softmax(-1), torch.tensor(one)[None], [count], [len(one)]
                ).isfinite()
            )
            for one in labels
        ]
        assert [row not in too_long(labels, np.full(4, count)) for row in range(4)] == finite


def test_too_long_transcripts():
    rows, labels, frames = clips(["ab", "aaa", "c"]), [[3, 4], [3, 3, 3], [5]], np.array([2, 4, 9])
    assert message(without, rows, too_long(labels, frames), False) == (
        "clip 1: the transcript of 3 characters needs 5 frames, but the audio has 4: is one of them wrong, or cut "
        "off?; mend it or pass --on_bad_example skip"
    )
    kept, skipped = without(rows, too_long(labels, frames), True)
    assert kept["id"][:] == ["clip 0", "clip 2"] and skipped == {"transcript longer than the audio": 1}
    assert too_long(labels, np.array([2, 5, 1])) == {}


def test_lj_speech(shared_data, extractor):
    """The real transcripts: their alphabet, and that nothing of them is lost on the way to labels and back."""
    import zipfile

    with zipfile.ZipFile(shared_data / "asr" / "ljspeech_excerpt.zip") as archive:
        name = next(name for name in archive.namelist() if name.endswith("metadata.csv"))
        lines = archive.read(name).decode().splitlines()
    texts = [normalize(line.split("|")[2], Normalization(digits="refuse")) for line in lines]
    assert len(texts) == 115 and not any(map(has_digits, texts))
    tokenizer = make_processor(texts, extractor).tokenizer
    characters = {token for token in tokenizer.get_vocab() if len(token) == 1}
    assert characters <= set("|'ABCDEFGHIJKLMNOPQRSTUVWXYZ") and len(characters) > 20
    labels = encode(tokenizer, texts)
    assert tokenizer.batch_decode(labels, group_tokens=False) == texts
    assert unknown_characters(tokenizer, texts)[1] is None
