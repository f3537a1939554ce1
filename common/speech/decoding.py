"""From a path (a label a frame, Graves et al. 2006) to text: greedy, or by a beam search with a language model.

The search (Hannun et al. 2014) is that of `ctc-beam-decoder`, a C++ twin of pyctcdecode that takes numpy 2.
"""

import gzip
import os
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import dropwhile, islice, takewhile
from pathlib import Path

import numpy as np

from common.errors import UserError

PRIVATE = 0xE000  # first of Unicode's private characters, which no normalised transcript has
FRAME = 0.02  # seconds from one frame to the next, in all encoders here


def texts_of(tokenizer, paths: Sequence[np.ndarray], frames: Sequence[int]) -> list[str]:
    """The text of each path, int [T], of whose labels `frames` [B] are the clip's own; one space between words."""
    own = [path[:count] for path, count in zip(paths, frames)]
    return [" ".join(text.split()) for text in tokenizer.batch_decode(own, skip_special_tokens=False)]


def word_times(tokenizer, path: np.ndarray) -> list[dict]:
    """The words of a path, int [T], as transformers' pipeline gives them: [{"text", "timestamp": (begin, end)}]."""
    found = tokenizer.decode(path, output_word_offsets=True)
    return [
        {"text": text, "timestamp": tuple(round(FRAME * int(word[f"{end}_offset"]), 2) for end in ("start", "end"))}
        for text, word in zip(found.text.split(), found.word_offsets)
    ]


class BeamDecoder:
    """Searches for the most probable text, summed over its alignments, with the help of a language model of words.

    A text's score is its log probability + alpha * ln(its probability by the language model) + beta * its words. The
    model gives `outputs` scores a frame, maybe more than the vocabulary. Raises `UserError`.
    """

    def __init__(self, tokenizer, outputs: int, args):
        try:
            from ctc_beam_decoder import build_ctcdecoder
        except ImportError:
            raise UserError("--decoding beam needs one more package: pip install ctc-beam-decoder==0.2.0") from None
        self.blank, self.width = tokenizer.pad_token_id, args.beam_width
        self.threads = args.preprocessing_num_workers or os.cpu_count()
        tokens = _tokens(tokenizer, outputs)
        self.labels_of = {token: number for number, token in enumerate(tokens) if token}
        path, weights = args.language_model, {"alpha": args.language_model_weight, "beta": args.word_bonus}
        try:
            self.decoder = build_ctcdecoder(tokens, path, path and _known_words(Path(path)), **weights)
        except (ValueError, RuntimeError, OSError, EOFError, zlib.error):
            if path is None:
                raise
            raise UserError(f"{path}: KenLM cannot read this language model; is it there, and whole?") from None

    def paths(self, scores: Sequence[np.ndarray], frames: Sequence[int]) -> list[np.ndarray]:
        """A path of the best text of each clip, int32 [T]; of `scores`, float [T, outputs], `frames` are the clip's."""
        with ThreadPoolExecutor(self.threads) as pool:
            return list(pool.map(self._path, scores, frames))

    def _path(self, scores: np.ndarray, count: int) -> np.ndarray:
        path = np.full(len(scores), self.blank, dtype=np.int32)
        if not count:
            return path
        # Not its `decode`: that drops beams which share their last word, and is no sum over alignments any more.
        beams, at, before = self.decoder.decode_beams(scores[:count], beam_width=self.width), 0, None
        for character in beams[0][0] if beams else "":
            at += character == before  # a blank between
            path[at], at, before = self.labels_of[character], at + 1, character
        return path


def _tokens(tokenizer, outputs: int) -> list[str]:
    """One character for each output, "" the blank, " " between words; private ones for what the library would take."""
    tokens = [chr(PRIVATE + number) for number in range(outputs)]
    for token, number in tokenizer.get_vocab().items():
        if number < outputs and len(token) == 1 and token not in "_\u2047\u2581":
            tokens[number] = token
    tokens[tokenizer.word_delimiter_token_id] = " "
    tokens[tokenizer.pad_token_id] = ""
    return tokens


def _known_words(path: Path) -> list[str] | None:
    """The words that an ARPA file knows, so that a beam is not punished for a word half said; None of a binary file."""
    if not path.name.endswith((".arpa", ".arpa.gz")):
        return None
    with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8") as file:
        unigrams = islice(dropwhile(lambda line: not line.startswith("\\1-grams:"), file), 1, None)
        fields = [line.rstrip("\n").split("\t") for line in takewhile(lambda line: line[0] != "\\", unigrams)]
    return [one[1] for one in fields if len(one) > 1 and not one[1].startswith("<")]  # without <s> and the like
