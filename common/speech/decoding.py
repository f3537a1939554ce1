"""From the scores of a CTC model to text: greedy, or by a beam search with a language model; long files in chunks.

The beam search is that of `ctc-beam-decoder`, if it is installed: a C++ twin of pyctcdecode with KenLM inside. Of the
libraries tried it alone installs with one plain command beside numpy 2 and brings KenLM; pyctcdecode has had no release
since 2023, forbids numpy 2, needs KenLM compiled, and gave the same transcripts eight times slower; flashlight-text
spells words out of a fixed lexicon only. It is optional and not among the requirements.

Source: Graves et al., Connectionist Temporal Classification (ICML 2006); Hannun et al., First-Pass Large Vocabulary
Continuous Speech Recognition using Bi-Directional Recurrent DNNs (2014), for the prefix search with a language model.
"""

import gzip
import os
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from common.errors import UserError

PADDING = -100
PACKAGE = "ctc-beam-decoder==0.2.0"
PRIVATE = 0xE000  # first of Unicode's private characters, which no normalised transcript has
KNOWN_WORDS = 0.05  # share of a language model's words below which it must be of another alphabet or case
FRAME = 0.02  # seconds from one frame to the next, in all encoders here
OPEN_END = np.iinfo(np.int32).max


def greedy(ids: np.ndarray, frames: np.ndarray, blank: int) -> list[list[int]]:
    """The labels of each clip: its best label frame by frame, repetitions collapsed, blanks removed.

    ids: int [B, T], the argmax of the scores. frames: int [B], how many of the T belong to the clip.
    """
    ids = np.asarray(ids)
    kept = (ids != blank) & (np.arange(ids.shape[1]) < np.asarray(frames)[:, None])
    kept[:, 1:] &= ids[:, 1:] != ids[:, :-1]
    return [labels.tolist() for labels in np.split(ids[kept], np.cumsum(kept.sum(axis=1))[:-1])]


def to_texts(tokenizer, labels: Sequence[Sequence[int]]) -> list[str]:
    """The text of each clip's labels, without blanks and repetitions collapsed; words with one space between them."""
    texts = tokenizer.batch_decode(labels, group_tokens=False, skip_special_tokens=False)
    return [" ".join(text.split()) for text in texts]


def word_times(tokenizer, ids: np.ndarray) -> list[dict]:
    """The words of one clip, as transformers' pipeline gives them: [{"text", "timestamp": (begin, end) in seconds}].

    ids: int [T], the best label of each of the clip's own frames. A word lasts from its first character's first frame
    to its last one's last.
    """
    spoken = (ids != tokenizer.pad_token_id) & (ids != tokenizer.word_delimiter_token_id)
    number = np.cumsum(ids == tokenizer.word_delimiter_token_id)  # of the word that each frame belongs to
    words = []
    for word in np.unique(number[spoken]):
        at = np.flatnonzero(spoken & (number == word))
        labels = greedy(ids[None, at[0] : at[-1] + 1], [at[-1] + 1 - at[0]], tokenizer.pad_token_id)
        times = round(float(FRAME * at[0]), 2), round(float(FRAME * (at[-1] + 1)), 2)
        words.append({"text": to_texts(tokenizer, labels)[0], "timestamp": times})
    return words


# Long recordings: overlapping chunks, of which only the inner frames count, as the ends hear no context


def chunked(dataset, seconds: float, overlap: float):
    """Chunks of `seconds`, which share `overlap` seconds with the next one, of recordings longer than one chunk.

    Both are taken to the next even number of frames. New columns `first` and `last`: the chunk's frames that count,
    from the first to before the last one; the last chunk's end is open.
    """
    length, shared = (2 * FRAME * round(value / (2 * FRAME)) for value in (seconds, overlap))
    half = round(shared / 2 / FRAME)
    columns: dict[str, list] = {name: [] for name in ("row", "id", "start", "end", "seconds", "first", "last")}
    for row, (name, begin, whole) in enumerate(zip(*(dataset[column][:] for column in ("id", "start", "seconds")))):
        count = 1 if whole <= length else 1 + int(np.ceil((whole - length) / (length - shared)))
        for number in range(count):
            start, last = number * (length - shared), number == count - 1
            end = whole if last else start + length
            frames = (half if number else 0, OPEN_END if last else round(length / FRAME) - half)
            values = (row, name if count == 1 else f"{name}@{start:.2f}", begin + start, begin + end, end - start)
            for column, value in zip(columns.values(), (*values, *frames)):
                column.append(value)
    chunks = dataset.select(columns.pop("row"))
    chunks = chunks.remove_columns([name for name in columns if name in chunks.column_names])
    for name, values in columns.items():
        chunks = chunks.add_column(name, values)
    return chunks


def joined(chunks, found: np.ndarray, frames: np.ndarray) -> list[np.ndarray]:
    """What was found frame by frame for each whole recording, [T] or [T, V], in the order of the recordings.

    Args:
        chunks: of `chunked`.
        found: [N, T] or [N, T, V], the best label, or all scores, of every frame of each chunk; padding behind its
            `frames` [N].
    """
    parts: dict[str, list[np.ndarray]] = {}
    for name, first, last, values, count in zip(
        *(chunks[column][:] for column in ("recording", "first", "last")), found, frames
    ):
        parts.setdefault(name, []).append(values[first : min(last, count)])
    return [np.concatenate(values) for values in parts.values()]


def transcribed(clips, found: np.ndarray, frames: np.ndarray, decoder, tokenizer, run) -> tuple[list, list]:
    """The text of each clip, or of each recording that `clips` are chunks of, and its best labels, int [T].

    Args:
        found, frames: of each clip; with a `decoder` the chunks' scores, which are searched by all processes, each a
            share of the recordings.
    """
    blank = tokenizer.pad_token_id
    if "first" not in clips.column_names:
        paths = [path[:count] for path, count in zip(found, frames)]
        return to_texts(tokenizer, greedy(found, frames, blank)), paths
    paths = joined(clips, found, frames)
    if decoder is None:
        return to_texts(tokenizer, [greedy(path[None], [len(path)], blank)[0] for path in paths]), paths
    from accelerate.utils import gather_object

    rows = range(run.training_args.process_index, len(paths), run.processes)
    labels = dict(gather_object([(row, decoder.labels(paths[row][None], [len(paths[row])])[0]) for row in rows]))
    return to_texts(tokenizer, [labels[row] for row in range(len(paths))]), paths


# Beam search


class BeamDecoder:
    """Searches for the most probable text, summed over its alignments, with the help of a language model of words.

    A text's score is its log probability + alpha * ln(its probability by the language model) + beta * its words. As in
    pyctcdecode, words that the language model lacks cost 10 more.
    """

    def __init__(
        self,
        tokenizer,
        outputs: int,
        *,
        width: int = 100,
        language_model: str | Path | None = None,
        alpha: float = 0.5,
        beta: float = 1.5,
        threads: int = 1,
    ):
        """Loads the library and the language model.

        Args:
            tokenizer: a `Wav2Vec2CTCTokenizer`.
            outputs: how many scores the model gives a frame; more than the vocabulary where the head was made larger.
            width: beams kept from frame to frame.
            language_model: a file of KenLM: .arpa, .arpa.gz or binary, of words in the vocabulary's case.
            threads: clips searched at once.

        Raises:
            UserError: where the library is missing, or the language model is, cannot be read, or has other letters.
        """
        try:
            from ctc_beam_decoder import build_ctcdecoder
        except ImportError:
            raise UserError(
                f"decoding by beam search needs a package that is not installed: pip install {PACKAGE}"
            ) from None

        self.blank, self.width, self.threads = tokenizer.pad_token_id, width, threads
        self.tokens = _tokens(tokenizer, outputs)
        self.labels_of = {token: number for number, token in enumerate(self.tokens) if token}
        settings = {}
        if language_model is not None:
            if not Path(language_model).is_file():
                raise UserError(f"{language_model}: there is no such file")
            words = _known_words(Path(language_model), self.tokens)
            settings = {"kenlm_model_path": str(language_model), "unigrams": words, "alpha": alpha, "beta": beta}
        try:
            self.decoder = build_ctcdecoder(self.tokens, **settings)
        except (ValueError, RuntimeError):
            if language_model is None:
                raise
            raise UserError(f"{language_model}: KenLM cannot read this language model; is the file whole?") from None

    def labels(self, scores: np.ndarray, frames: np.ndarray) -> list[list[int]]:
        """The labels of the best text of each clip, which `to_texts` takes; none for a clip without frames.

        scores: logits or log probabilities, float [B, T, outputs]. frames: int [B], how many of the T are the clip's.
        """
        clips = (np.asarray(one[:count], dtype=np.float32) for one, count in zip(scores, frames))
        with ThreadPoolExecutor(self.threads) as pool:
            return list(pool.map(self._best, clips))

    def paths(self, scores: np.ndarray, frames: np.ndarray) -> np.ndarray:
        """The same as int32 [B, T] in the place of an argmax: a path with these labels, padded with -100.

        So what is kept of a batch has one form, however it is decoded, and is small.
        """
        paths = np.full(scores.shape[:2], PADDING, dtype=np.int32)
        for path, labels, count in zip(paths, self.labels(scores, frames), frames):
            path[:count], at, before = self.blank, 0, None
            for label in labels:
                at += label == before  # a blank between
                path[at] = label
                at, before = at + 1, label
        return paths

    def _best(self, scores: np.ndarray) -> list[int]:
        if not len(scores):
            return []
        # Normalised here: the library takes scores that happen to sum to 1 for probabilities. Not its `decode`: that
        # drops beams which share their last word, and then is no sum over alignments any more.
        scores = scores - scores.max(axis=1, keepdims=True)
        scores -= np.log(np.exp(scores).sum(axis=1, keepdims=True))
        beams = self.decoder.decode_beams(scores, beam_width=self.width)
        return [self.labels_of[character] for character in beams[0][0]] if beams else []


def beam_decoder(args, tokenizer, outputs: int) -> BeamDecoder | None:
    """The search that the flags of run_asr.py ask for, if one."""
    if args.decoding != "beam":
        return None
    settings = {"width": args.beam_width, "threads": args.preprocessing_num_workers or os.cpu_count() or 1}
    settings |= {"language_model": args.language_model, "alpha": args.language_model_weight, "beta": args.word_bonus}
    return BeamDecoder(tokenizer, outputs, **settings)


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

    Raises `UserError` if the model's characters can hardly spell any of them.
    """
    if not path.name.endswith((".arpa", ".arpa.gz")):
        return None
    words, characters = list(_words_of_arpa(path)), set(tokens)
    if not words:
        raise UserError(f"{path}: not a language model in ARPA's format: it has no list of words")
    if sum(characters.issuperset(word) for word in words) < KNOWN_WORDS * len(words):
        raise UserError(
            f"{path}: the language model's words, such as {words[0]!r}, cannot be written with the model's characters; "
            "they must agree in case and script"
        )
    return words


def _words_of_arpa(path: Path) -> Iterator[str]:
    """Yields the words of an ARPA file, without tags such as those that stand for a sentence's ends."""
    try:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8") as file:
            for line in file:
                if line.startswith("\\1-grams:"):
                    break
            for line in file:
                if line.startswith("\\"):
                    break
                word = line.rstrip("\n").split("\t")[1:2]
                if word and not word[0].startswith("<"):
                    yield word[0]
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as text ({error})") from None
