"""Greedy decoding against a plain one, beam search against the sum over all alignments, and with a language model."""

import gzip
import itertools
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from common.speech.decoding import BeamDecoder, texts_of, word_times
from common.speech.transcripts import encode, make_processor
from tests.helpers import message

BLANK = 0


def tokenizer_of(characters):
    from transformers import Wav2Vec2FeatureExtractor

    return make_processor(characters, Wav2Vec2FeatureExtractor()).tokenizer


@pytest.fixture(scope="module")
def tokenizer():
    return tokenizer_of(["A", "B"])


def decoder_of(tokenizer, outputs: int = 5, **settings) -> BeamDecoder:
    flags = {"beam_width": 100, "language_model": None, "language_model_weight": 0.5, "word_bonus": 1.5}
    return BeamDecoder(tokenizer, outputs, SimpleNamespace(**flags | {"preprocessing_num_workers": 1} | settings))


def plain(ids, frames):
    """The textbook's two steps, clip by clip."""
    return [[k for k, _ in itertools.groupby(row[:n].tolist()) if k != BLANK] for row, n in zip(ids, frames)]


def spelled(labels):
    """Of the vocabulary [PAD], [UNK], |, A, B; words with one space between them."""
    return [" ".join("".join(["", "[UNK]", " ", "A", "B"][i] for i in one).split()) for one in labels]


def test_texts_by_hand(tokenizer):
    ids = np.array([[3, 3, 0, 3, 4, 4, 2], [0, 0, 0, 0, 0, 0, 0], [4, 3, 3, -100, -100, -100, -100], [2] * 7])
    assert texts_of(tokenizer, ids, [7, 7, 3, 1]) == ["AAB", "", "BA", ""]
    assert (
        texts_of(tokenizer, ids, [0, 0, 0, 0]) == texts_of(tokenizer, np.zeros((4, 0), np.int32), [0] * 4) == [""] * 4
    )


def test_texts_are_the_plain_ones_and_those_of_stock_decoding(tokenizer):
    random = np.random.default_rng(1)
    ids = random.choice([0, 1, 2, 3, 4], size=(200, 25), p=[0.4, 0.05, 0.15, 0.2, 0.2]).astype(np.int32)
    frames = random.integers(26, size=200)
    assert texts_of(tokenizer, ids, frames) == spelled(plain(ids, frames))
    # What stands behind a clip's frames, of a longer one in its batch, does not count.
    padded = np.where(np.arange(25) < frames[:, None], ids, -100)
    assert texts_of(tokenizer, padded, frames) == spelled(plain(ids, frames))
    stock = [" ".join(text.split()) for text in tokenizer.batch_decode(ids)]
    assert texts_of(tokenizer, ids, [25] * 200) == stock
    assert any("[UNK]" in text for text in stock)  # an unknown character is shown, and so an error


def test_a_missing_package_is_named(tokenizer, monkeypatch):
    monkeypatch.setitem(sys.modules, "ctc_beam_decoder", None)
    assert message(decoder_of, tokenizer) == (
        "--decoding beam needs one more package: pip install ctc-beam-decoder==0.2.0"
    )


# Words


def test_word_times_by_hand(tokenizer):
    space, a, b = 2, 3, 4
    ids = np.array([0, a, a, 0, a, space, space, 0, b, 0, 0, space, 0])
    assert word_times(tokenizer, ids) == [
        {"text": "AA", "timestamp": (0.02, 0.1)},
        {"text": "B", "timestamp": (0.16, 0.18)},
    ]
    assert word_times(tokenizer, np.array([0, space, 0])) == word_times(tokenizer, np.array([], dtype=int)) == []


# With the package


@pytest.fixture
def package():
    return pytest.importorskip("ctc_beam_decoder")


def log_softmax(scores):
    scores = scores - scores.max(-1, keepdims=True)
    return scores - np.log(np.exp(scores).sum(-1, keepdims=True))


def text_probabilities(scores):
    """text -> log of its probability, summed over all paths that collapse to it."""
    sums = {}
    logs = log_softmax(scores.astype(np.float64))
    for path in itertools.product(range(scores.shape[1]), repeat=len(scores)):
        (text,) = spelled(plain(np.array([path]), [len(path)]))
        sums[text] = np.logaddexp(sums.get(text, -np.inf), sum(logs[at, one] for at, one in enumerate(path)))
    return sums


def test_the_best_text_is_that_of_all_alignments(package, tokenizer):
    random = np.random.default_rng(3)
    decoder = decoder_of(tokenizer, beam_width=5_000)
    otherwise = 0
    for count in (1, 2, 3, 4, 5, 5, 5, 5):
        scores = random.normal(size=(count, 5)).astype(np.float32)  # log probabilities above -5: none is pruned
        sums = text_probabilities(scores)
        best, shifted = (
            texts_of(tokenizer, decoder.paths([values], [count]), [count])[0] for values in (scores, scores - 100)
        )
        assert sums[best] == pytest.approx(max(sums.values()), abs=1e-6) and best == shifted
        otherwise += best != texts_of(tokenizer, scores.argmax(-1)[None], [count])[0]
    assert otherwise > 1  # the search had something to find


def test_a_narrow_beam_is_greedy_where_the_scores_are_peaked(package, tokenizer):
    random = np.random.default_rng(4)
    ids = random.choice([0, 1, 2, 3, 4], size=(20, 30), p=[0.4, 0.05, 0.15, 0.2, 0.2])
    frames = random.integers(0, 31, size=20)
    scores = (12 * np.eye(5)[ids] + random.normal(size=(20, 30, 5))).astype(np.float32)
    for threads in (1, 3):
        paths = decoder_of(tokenizer, beam_width=1, preprocessing_num_workers=threads).paths(scores, frames)
        assert texts_of(tokenizer, paths, frames) == texts_of(tokenizer, ids, frames)
    assert {(path.shape, path.dtype.name) for path in paths} == {((30,), "int32")}


def test_special_outputs(package):
    """Unknown, more outputs than tokens, and characters that mean something to the library."""
    tokenizer = tokenizer_of(["#", "A", "_", "\u2581"])
    (labels,) = encode(tokenizer, ["_A \u2581# A"])
    labels = [*labels, tokenizer.unk_token_id]
    scores = 12 * np.eye(9, dtype=np.float32)[labels]
    decoder = decoder_of(tokenizer, 9)
    assert texts_of(tokenizer, decoder.paths([scores], [9]), [9]) == ["_A \u2581# A[UNK]"]


ARPA = """
\\data\\
ngram 1=6
ngram 2=3

\\1-grams:
-2\t<unk>
0\t<s>\t-0.3
-1\t</s>
-1\tAB\t-0.3
-1\tBB\t-0.3
-1\tÉ\t-0.3

\\2-grams:
-0.1\t<s> BB
-0.2\tBB </s>
-0.2\tAB </s>

\\end\\
"""


@pytest.mark.parametrize("name", ["lm.arpa", "lm.arpa.gz"])
def test_a_language_model_changes_the_text(package, tokenizer, tmp_path, name):
    scores = np.log([[[0.09, 0.01, 0.1, 0.45, 0.35], [0.69, 0.01, 0.1, 0.1, 0.1], [0.09, 0.01, 0.1, 0.1, 0.7]]])
    path = tmp_path / name
    path.write_bytes(gzip.compress(ARPA.encode()) if name.endswith("gz") else ARPA.encode())
    lm = {"language_model": str(path), "word_bonus": 0.0}
    for settings, text in (
        ({}, "AB"),
        *((lm | {"language_model_weight": w}, t) for w, t in ((0.0, "AB"), (2.0, "BB"))),
    ):
        assert texts_of(tokenizer, decoder_of(tokenizer, **settings).paths(scores, [3]), [3]) == [text]


def test_bad_language_models(package, tokenizer, tmp_path):
    packed, binary = gzip.compress(bytes(10_000))[:-12], bytes(range(256)) * 20
    said = "KenLM cannot read this language model"
    assert said in message(decoder_of, tokenizer, language_model=str(tmp_path / "gone.arpa"))
    assert said in message(decoder_of, tokenizer, language_model=str(tmp_path / "gone.binary"))
    contents = {"lm.arpa": b"junk", "cut.arpa": ARPA.replace("ngram 2=3", "ngram 2=7").encode()}
    for name, content in (contents | {"lm.binary": binary, "lm.arpa.gz": packed, "x.arpa": binary}).items():
        (tmp_path / name).write_bytes(content)
        assert said in message(decoder_of, tokenizer, language_model=str(tmp_path / name))
