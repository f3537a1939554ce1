"""From the scores of a CTC model to text: greedy, or by a beam search with a language model; long files in chunks.

What is decoded is a path: a label for each frame, whose repetitions and blanks do not count. What a beam search finds
is written as one, too.

The beam search is that of `ctc-beam-decoder`, if it is installed: a C++ twin of pyctcdecode, with KenLM inside, that
installs beside numpy 2. pyctcdecode itself forbids numpy 2 and was eight times slower with the same transcripts;
flashlight-text spells words out of a fixed lexicon only.

Source: Graves et al., Connectionist Temporal Classification (ICML 2006); Hannun et al., First-Pass Large Vocabulary
Continuous Speech Recognition using Bi-Directional Recurrent DNNs (2014), for the prefix search with a language model.
"""

import gzip
import os
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import dropwhile, groupby, islice, takewhile
from pathlib import Path

import numpy as np

from common.errors import UserError
from common.speech.splits import parts_of

PACKAGE = "ctc-beam-decoder==0.2.0"
PRIVATE = 0xE000  # first of Unicode's private characters, which no normalised transcript has
KNOWN_WORDS = 0.05  # share of a language model's words below which it must be of another alphabet or case
FRAME = 0.02  # seconds from one frame to the next, in all encoders here


def texts_of(tokenizer, paths: Sequence[np.ndarray], frames: Sequence[int] | None = None) -> list[str]:
    """The text of each path, int [T]; words with one space between them.

    frames: int [B], how many of a path's labels are the clip's own; None: all.
    """
    own = paths if frames is None else [path[:count] for path, count in zip(paths, frames)]
    return [" ".join(text.split()) for text in tokenizer.batch_decode(own, skip_special_tokens=False)]


def word_times(tokenizer, path: np.ndarray) -> list[dict]:
    """The words of one clip, as transformers' pipeline gives them: [{"text", "timestamp": (begin, end) in seconds}].

    path: int [T], the best label of each of the clip's own frames. A word lasts from its first character's first frame
    to its last one's last.
    """
    found = tokenizer.decode(path, output_word_offsets=True)
    return [
        {"text": text, "timestamp": tuple(round(FRAME * int(word[f"{end}_offset"]), 2) for end in ("start", "end"))}
        for text, word in zip(found.text.split(), found.word_offsets)
    ]


# Long recordings: overlapping chunks, of which only the inner frames count, as the ends hear no context


def chunked(dataset, seconds: float, overlap: float):
    """Chunks of `seconds`, which share `overlap` seconds with the next one, of recordings longer than one chunk.

    Both are taken to the next even number of frames.
    """
    length, shared = (2 * FRAME * round(value / (2 * FRAME)) for value in (seconds, overlap))
    parts = []
    for row, (name, begin, whole) in enumerate(zip(*(dataset[column][:] for column in ("id", "start", "seconds")))):
        count = 1 + max(0, int(np.ceil((whole - length) / (length - shared))))
        for number in range(count):
            start = number * (length - shared)
            end = whole if number == count - 1 else start + length
            parts.append((row, f"{name}#{number}" if count > 1 else name, begin + start, begin + end, end - start))
    return parts_of(dataset, parts)


def joined(chunks, found: Sequence[np.ndarray], frames: Sequence[int]) -> list[np.ndarray]:
    """What was found frame by frame for each whole recording, [T] or [T, V], in the order of the recordings.

    Each of two chunks gives up half of what they share.

    Args:
        chunks: of `chunked`.
        found: [N, T] or [N, T, V], the best label, or all scores, of every frame of each chunk; padding behind its
            `frames` [N].
    """
    rows, wholes = zip(chunks["recording"][:], chunks["start"][:], chunks["seconds"][:], found, frames), []
    for _, parts in groupby(rows, key=lambda row: row[0]):
        _, starts, seconds, values, counts = zip(*parts)
        begins = np.round(np.subtract(starts, starts[0]) / FRAME).astype(int)
        seams = (begins[1:] + begins[:-1] + np.round(np.array(seconds[:-1]) / FRAME).astype(int)) // 2
        edges = [0, *seams, begins[-1] + counts[-1]]
        wholes.append(
            np.concatenate([v[max(e - b, 0) : n - b] for v, b, e, n in zip(values, begins, edges, edges[1:])])
        )
    return wholes


def transcribed(clips, found: np.ndarray, frames: np.ndarray, decoder, tokenizer, run) -> tuple[list, list]:
    """The text of each clip, or of each recording that `clips` are chunks of, and its path, int [T].

    Args:
        found: paths [N, T]; or of chunks that `decoder` is to search, their scores [N, T, V]: all processes do so
            together, each for a share of the recordings.
        frames: int [N], how many of the T are the clip's.
    """
    paths = joined(clips, found, frames)
    if found.ndim == 3:
        from accelerate.utils import gather_object

        rows = range(len(paths))[run.training_args.process_index :: run.processes]
        own = [paths[row] for row in rows]
        gathered = dict(gather_object([*zip(rows, decoder.paths(own, map(len, own)))]))
        paths = [gathered[row] for row in range(len(paths))]
    return texts_of(tokenizer, paths), paths


# Beam search


class BeamDecoder:
    """Searches for the most probable text, summed over its alignments, with the help of a language model of words.

    A text's score is its log probability + alpha * ln(its probability by the language model) + beta * its words. As in
    pyctcdecode, words that the language model lacks cost 10 more.

    Args:
        tokenizer: a `Wav2Vec2CTCTokenizer`.
        outputs: how many scores the model gives a frame; more than the vocabulary where the head was made larger.
        args: with the flags of run_asr.py. The language model is a file of KenLM (.arpa, .arpa.gz or binary) of words
            in the vocabulary's case; as many clips are searched at once as there are workers for preprocessing.

    Raises:
        UserError: where the library is missing, or the language model is, cannot be read, or has other letters.
    """

    def __init__(self, tokenizer, outputs: int, args):
        try:
            from ctc_beam_decoder import build_ctcdecoder
        except ImportError:
            raise UserError(
                f"decoding by beam search needs a package that is not installed: pip install {PACKAGE}"
            ) from None

        self.blank, self.width = tokenizer.pad_token_id, args.beam_width
        self.threads = args.preprocessing_num_workers or os.cpu_count()
        tokens = _tokens(tokenizer, outputs)
        self.labels_of = {token: number for number, token in enumerate(tokens) if token}
        words = args.language_model and _known_words(Path(args.language_model), tokens)
        weights = {"alpha": args.language_model_weight, "beta": args.word_bonus}
        try:
            self.decoder = build_ctcdecoder(tokens, args.language_model, words, **weights)
        except (ValueError, RuntimeError):
            if args.language_model is None:
                raise
            sentence = "KenLM cannot read this language model; is the file whole?"
            raise UserError(f"{args.language_model}: {sentence}") from None

    def paths(self, scores: Sequence[np.ndarray], frames: Sequence[int]) -> list[np.ndarray]:
        """A path of the best text of each clip, int32 [T], blank behind it.

        scores: logits or log probabilities, float [T, outputs] of each. frames: how many of the T are the clip's.
        """
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
    """What the library is to call each output: one character each, "" the blank and " " the space between words.

    Special tokens, and the characters that mean something to the library, become private characters.
    """
    tokens = [chr(PRIVATE + number) for number in range(outputs)]
    for token, number in tokenizer.get_vocab().items():
        if number < outputs and len(token) == 1 and token not in "_\u2047\u2581":
            tokens[number] = token
    tokens[tokenizer.word_delimiter_token_id] = " "
    tokens[tokenizer.pad_token_id] = ""
    return tokens


def _known_words(path: Path, tokens: list[str]) -> list[str] | None:
    """The words that an ARPA file knows, so that a beam is not punished for a word half said; None of a binary file.

    Raises `UserError` if it is not there, or the model's characters can hardly spell any of its words.
    """
    if not path.is_file():
        raise UserError(f"{path}: there is no such file")
    if not path.name.endswith((".arpa", ".arpa.gz")):
        return None
    try:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8") as file:
            unigrams = islice(dropwhile(lambda line: not line.startswith("\\1-grams:"), file), 1, None)
            fields = [line.rstrip("\n").split("\t") for line in takewhile(lambda line: line[0] != "\\", unigrams)]
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as text ({error})") from None
    words = [one[1] for one in fields if len(one) > 1 and not one[1].startswith("<")]  # without <s> and the like
    characters = {*tokens}
    if not words:
        raise UserError(f"{path}: not a language model in ARPA's format: it has no list of words")
    if sum(characters.issuperset(word) for word in words) < KNOWN_WORDS * len(words):
        raise UserError(
            f"{path}: the language model's words, such as {words[0]!r}, cannot be written with the model's characters; "
            "they must agree in case and script"
        )
    return words
