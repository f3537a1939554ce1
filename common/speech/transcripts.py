"""Transcripts as a recogniser of characters learns them: made alike, a vocabulary, labels, and whether these fit.

No language's own rules are here, such as writing out numbers.
"""

import itertools
import re
import tempfile
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np

from common.errors import UserError, write_json
from common.speech.audio import RATE

DELIMITER, BLANK, UNKNOWN = "|", "[PAD]", "[UNK]"
JOINERS = "\u200c\u200d"  # they decide how a Persian or an Indic word is written; all other invisible characters go
# What stands where an apostrophe should; quotation marks among them, which stay only inside a word.
APOSTROPHES = dict.fromkeys(map(ord, "\u2019\u2018\u02bc\u02bb\uff07\u00b4`"), "'")
OUTER_APOSTROPHE = re.compile(r"(?<!\S)'+|'+(?!\S)|'{2,}")


@dataclass(frozen=True)
class Normalization:
    """How transcripts are made alike, references and training texts in the same way.

    Attributes:
        case: upper as in LibriSpeech, lower, or as it is written.
        punctuation: removed or kept; that is what Unicode calls punctuation or symbols. What is removed leaves a space
            ("picture-books" are two words), but apostrophes inside words stay, all of them as '.
        digits: "refuse" makes an example with a digit in it a bad one: it is spoken as words that are not written.
        ignore: characters that are dropped, with nothing in their place: diacritics, the tatweel.
    """

    case: Literal["upper", "lower", "keep"] = "upper"
    punctuation: Literal["remove", "keep"] = "remove"
    digits: Literal["keep", "refuse"] = "keep"
    ignore: str = ""


def normalize(text: str, rules: Normalization) -> str:
    """`text` after `rules`: words with one space between them; "" if nothing is left. Twice is the same as once.

    Variants of letters (ligatures, full width, Arabic presentation forms) become these; "|" becomes a space, because it
    is the tokenizer's sign for one.
    """
    bare = rules.punctuation == "remove"
    text = unicodedata.normalize("NFKC", text.translate(APOSTROPHES) if bare else text)
    text = {"upper": str.upper, "lower": str.lower, "keep": str}[rules.case](text)
    text = "".join("" if character in rules.ignore else _kept(character, bare) for character in text)
    text = OUTER_APOSTROPHE.sub(" ", text) if bare else text
    return unicodedata.normalize("NFKC", " ".join(text.split()))


@cache
def _kept(character: str, bare: bool) -> str:
    category = unicodedata.category(character)
    if character.isspace() or character == DELIMITER or (bare and category[0] in "PS" and character != "'"):
        return " "
    invisible = category in ("Cc", "Cf", "Cs", "Co") and character not in JOINERS  # or broken, or private
    return "" if invisible else character


def has_digits(text: str) -> bool:
    """Whether a number stands in figures, of whatever script."""
    return any(unicodedata.category(character)[0] == "N" for character in text)


def normalized(dataset, rules: Normalization, *, skip_bad: bool) -> tuple:
    """(The data set with normalised `text`, {reason: how many were skipped}): empty ones, or with digits, are bad.

    The first bad one raises `UserError`, unless they are skipped. A data set without `text` comes back as it is.
    """
    if "text" not in dataset.column_names:
        return dataset, {}
    texts, bad = [normalize(text, rules) for text in dataset["text"][:]], {}
    for row, text in enumerate(texts):
        if not text:
            bad[row] = "empty transcript", "the transcript is empty: nothing in it is spoken"
        elif rules.digits == "refuse" and has_digits(text):
            number = next(word for word in text.split() if has_digits(word))
            sentence = f"the transcript has digits ({number}), which say nothing of sounds"
            bad[row] = "digits in the transcript", sentence
    return without(dataset.remove_columns("text").add_column("text", texts), bad, skip_bad)


def without(dataset, bad: dict[int, tuple[str, str]], skip_bad: bool) -> tuple:
    """(The data set without the rows of `bad` (row -> reason, sentence), {reason: how many}); raises `UserError`."""
    import pandas as pd

    from common.speech.sources import without_bad

    found = [bad.get(row, ("", "")) for row in range(len(dataset))]
    frame = pd.DataFrame(found, columns=["reason", "problem"]).assign(where=dataset["id"][:])
    good, skipped = without_bad(frame, "the transcripts", skip_bad)
    return dataset.select(good.index), skipped


# Vocabulary


def make_processor(texts: Iterable[str], extractor, *, blank=BLANK, unknown=UNKNOWN, delimiter=DELIMITER):
    """A `Wav2Vec2Processor` of the feature extractor and a tokenizer of the characters of normalised texts.

    The blank is 0, as in a stock configuration, then come the unknown character and the space between words.
    """
    from transformers import Wav2Vec2BertProcessor, Wav2Vec2CTCTokenizer, Wav2Vec2Processor

    tokens = [blank, unknown, delimiter]
    characters = {character for text in texts for character in text} - {" "}
    if len({*tokens}) < 3 or characters & {*tokens}:
        raise UserError("--pad_token, --unk_token, --word_delimiter_token: give three that are in no transcript")
    tokens += sorted(characters)
    with tempfile.TemporaryDirectory() as folder:
        path = write_json(Path(folder) / "vocab.json", {token: number for number, token in enumerate(tokens)})
        special = {"unk_token": unknown, "pad_token": blank, "word_delimiter_token": delimiter}
        # Otherwise they are added behind the vocabulary, where the head has no output.
        tokenizer = Wav2Vec2CTCTokenizer(str(path), **special, bos_token=None, eos_token=None)
    kind = Wav2Vec2Processor if extractor.model_input_names[0] == "input_values" else Wav2Vec2BertProcessor
    return kind(feature_extractor=extractor, tokenizer=tokenizer)


def case_of(tokenizer) -> Literal["upper", "lower", "keep"]:
    """The `Normalization.case` that a checkpoint's own vocabulary has; "keep" where it has both, or no case at all."""
    letters = "".join(token for token in tokenizer.get_vocab() if len(token) == 1)
    if tokenizer.do_lower_case or letters.islower():  # with the former, upper case inside, lower case outside
        return "lower"
    return "upper" if letters.isupper() else "keep"


def _numbers(tokenizer) -> dict[str, int]:
    """Character -> label."""
    numbers = {token: number for token, number in tokenizer.get_vocab().items() if len(token) == 1}
    numbers[" "] = tokenizer.word_delimiter_token_id
    lower = tokenizer.do_lower_case
    return numbers | {token.lower(): number for token, number in numbers.items() if lower and len(token.lower()) == 1}


def encode(tokenizer, texts: Iterable[str]) -> list[list[int]]:
    """The labels of each normalised text, as the tokenizer gives them but many times faster.

    Characters that the vocabulary lacks get the label of the unknown one.
    """
    numbers, unknown = _numbers(tokenizer), tokenizer.unk_token_id
    return [[numbers.get(character, unknown) for character in text] for text in texts]


def unknown_characters(tokenizer, texts: Sequence[str]) -> tuple[dict[str, int], str | None]:
    """What a vocabulary lacks of normalised texts: (statistics of a split, a warning or None)."""
    known = set(_numbers(tokenizer))
    counts = Counter(character for text in texts for character in text if character not in known)
    lacking = sum(not known.issuperset(text) for text in texts)
    statistics = {"unknown characters": counts.total(), "transcripts with unknown characters": lacking}
    if not lacking:
        return statistics, None
    shown = ", ".join(f"{one!r} (U+{ord(one):04X}) {count:,}" for one, count in counts.most_common(10))
    return statistics, (
        f"{counts.total():,} characters in {lacking:,} of {len(texts):,} transcripts cannot be written with the "
        f"vocabulary and always count as errors, most often {shown}"
    )


# Labels and frames


def frames_needed(labels: Sequence[int]) -> int:
    """The fewest frames that an alignment takes: one a label, and a blank between two equal neighbours.

    Source: Graves et al., Connectionist Temporal Classification (ICML 2006).
    """
    return len(labels) + sum(one == other for one, other in itertools.pairwise(labels))


def too_long(labels: Sequence[Sequence[int]], frames: np.ndarray) -> dict[int, tuple[str, str]]:
    """Row -> (reason, sentence) of those whose labels do not fit into their frames: their loss would be infinite."""
    bad = {}
    for row, (one, there) in enumerate(zip(labels, frames.tolist())):
        if (needed := frames_needed(one)) > there:
            sentence = f"the transcript of {len(one):,} characters needs {needed:,} frames, but the audio has {there:,}"
            bad[row] = "transcript longer than the audio", f"{sentence}: is one of them wrong, or cut off?"
    return bad


# Splits


def check_transcripts(splits, processor, args, run) -> tuple:
    """What does not fit into its audio is left out of training (or refused), and counted elsewhere, in place.

    Returns (the processor: the model's, or else one of the training data's characters; statistics of each split).
    """
    from common.models import load_config, load_feature_extractor
    from common.speech.encoders import frame_counts

    if processor is None:
        if "train" not in splits:
            raise UserError(f"{args.model}: has no vocabulary of characters; train it with --do_train")
        tokens = {"blank": args.pad_token, "unknown": args.unk_token, "delimiter": args.word_delimiter_token}
        processor = make_processor(splits["train"]["text"][:], load_feature_extractor(args), **tokens)
    statistics, config = {}, load_config(args)
    for name, clips in splits.items():
        if "text" not in clips.column_names:
            continue
        statistics[name], sentence = unknown_characters(processor.tokenizer, clips["text"][:])
        samples = np.round(np.array(clips["seconds"][:]) * RATE).astype(np.int64)
        impossible = too_long(encode(processor.tokenizer, clips["text"][:]), frame_counts(config, samples))
        if name == "train":
            splits[name], skipped = without(clips, impossible, args.on_bad_example == "skip")
            splits.facts[name]["skipped"] |= skipped
        elif impossible:
            run.warn(f"{name}: {len(impossible):,} transcripts have more characters than their audio has frames")
            statistics[name]["impossible transcripts"] = len(impossible)
        if sentence:
            run.warn(f"{name}: {sentence}")
    return processor, statistics


def with_labels(clips, tokenizer):
    """The clips with the labels of their transcripts, where they have any."""
    return clips.add_column("labels", encode(tokenizer, clips["text"][:])) if "text" in clips.column_names else clips
