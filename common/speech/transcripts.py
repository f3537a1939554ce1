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
            ("picture-books" are two words), but apostrophes inside words stay, all of them as '. In any case "|" is a
            space, because it is the tokenizer's sign for one.
        digits: kept or refused. "Refused" makes an example with a digit in it a bad one: it is spoken as words which
            the transcript does not have.
        form: of Unicode: NFC composes letters and marks; NFKC takes variants (ligatures, full width, Arabic
            presentation forms) for their letters, too.
        ignore: characters that are dropped, with nothing in their place: diacritics, the tatweel.
    """

    case: Literal["upper", "lower", "keep"] = "upper"
    punctuation: Literal["remove", "keep"] = "remove"
    digits: Literal["keep", "refuse"] = "keep"
    form: Literal["NFC", "NFKC"] = "NFKC"
    ignore: str = ""


class _Characters(dict):
    """`str.translate` table: each character is looked up in Unicode's tables once."""

    def __init__(self, rules: Normalization):
        super().__init__()
        self.removed = ("P", "S") if rules.punctuation == "remove" else ()
        self.ignored = rules.ignore

    def __missing__(self, code: int) -> str | None:
        character = chr(code)
        category = unicodedata.category(character)
        invisible = category in ("Cc", "Cf", "Cs", "Co") and character not in JOINERS  # or broken, or private
        if character in self.ignored:
            found = None
        elif character.isspace() or character == DELIMITER:
            found = " "
        elif invisible:
            found = None
        else:
            found = " " if category[0] in self.removed and character != "'" else character
        self[code] = found
        return found


@cache
def _characters(rules: Normalization) -> _Characters:
    return _Characters(rules)


def normalize(text: str, rules: Normalization) -> str:
    """`text` after `rules`: words with one space between them; "" if nothing is left. Twice is the same as once."""
    if rules.punctuation == "remove":
        text = text.translate(APOSTROPHES)
    text = unicodedata.normalize(rules.form, text)
    text = {"upper": str.upper, "lower": str.lower, "keep": str}[rules.case](text)
    text = text.translate(_characters(rules))
    if rules.punctuation == "remove":
        text = OUTER_APOSTROPHE.sub(" ", text)
    return unicodedata.normalize(rules.form, " ".join(text.split()))


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
    if not bad:
        return dataset, {}
    reasons = dict(Counter(reason for reason, _ in bad.values()))
    if not skip_bad:
        row, (_, sentence) = next(iter(bad.items()))
        raise UserError(f"{dataset['id'][row]}: {sentence}; mend it or pass --on_bad_example skip")
    if len(bad) == len(dataset):
        raise UserError(f"no example is left ({', '.join(f'{count:,} {why}' for why, count in reasons.items())})")
    return dataset.select([row for row in range(len(dataset)) if row not in bad]), reasons


# Vocabulary


def make_processor(texts: Iterable[str], extractor, *, blank=BLANK, unknown=UNKNOWN, delimiter=DELIMITER):
    """A `Wav2Vec2Processor` of the feature extractor and a tokenizer of the characters of normalised texts.

    The blank is 0, as in a stock configuration, then come the unknown character and the space between words.
    """
    from transformers import Wav2Vec2BertProcessor, Wav2Vec2CTCTokenizer, Wav2Vec2Processor

    characters: set[str] = set()
    for text in texts:
        characters.update(text)
    tokens = [blank, unknown, delimiter, *sorted(characters - {" ", blank, unknown, delimiter})]
    with tempfile.TemporaryDirectory() as folder:
        path = write_json(Path(folder) / "vocab.json", {token: number for number, token in enumerate(tokens)})
        special = {"unk_token": unknown, "pad_token": blank, "word_delimiter_token": delimiter}
        # Otherwise they are added behind the vocabulary, where the head has no output.
        tokenizer = Wav2Vec2CTCTokenizer(str(path), **special, bos_token=None, eos_token=None)
    kind = Wav2Vec2Processor if extractor.model_input_names[0] == "input_values" else Wav2Vec2BertProcessor
    return kind(feature_extractor=extractor, tokenizer=tokenizer)


def case_of(tokenizer) -> Literal["upper", "lower", "keep"]:
    """The `Normalization.case` that a checkpoint's own vocabulary has; "keep" where it has both, or no case at all."""
    letters = [token for token in tokenizer.get_vocab() if len(token) == 1]
    upper, lower = (any(test(letter) for letter in letters) for test in (str.isupper, str.islower))
    if tokenizer.do_lower_case:  # upper case inside, lower case outside
        return "lower"
    return "keep" if upper == lower else "upper" if upper else "lower"


def _numbers(tokenizer) -> dict[str, int]:
    """Character -> label."""
    numbers = {token: number for token, number in tokenizer.get_vocab().items() if len(token) == 1}
    numbers[" "] = tokenizer.word_delimiter_token_id
    if tokenizer.do_lower_case:
        numbers |= {token.lower(): number for token, number in numbers.items() if len(token.lower()) == 1}
    return numbers


def encode(tokenizer, texts: Iterable[str]) -> list[list[int]]:
    """The labels of each normalised text, as the tokenizer gives them but many times faster.

    Characters that the vocabulary lacks get the label of the unknown one.
    """
    numbers, unknown = _numbers(tokenizer), tokenizer.unk_token_id
    return [[numbers.get(character, unknown) for character in text] for text in texts]


def unknown_characters(tokenizer, texts: Sequence[str]) -> tuple[dict[str, int], str | None]:
    """What a vocabulary lacks of normalised texts: (statistics of a split, a warning or None)."""
    known, counts, lacking = set(_numbers(tokenizer)), Counter(), 0
    for text in texts:
        missing = [character for character in text if character not in known]
        counts.update(missing)
        lacking += bool(missing)
    statistics = {"unknown characters": counts.total(), "transcripts with unknown characters": lacking}
    if not counts:
        return statistics, None
    shown = ", ".join(f"{_shown(character)} {count:,}" for character, count in counts.most_common(10))
    more = f" and {len(counts) - 10:,} more" if len(counts) > 10 else ""
    return statistics, (
        f"{counts.total():,} character{'s' if counts.total() > 1 else ''} in {lacking:,} of {len(texts):,} transcripts "
        f"cannot be written with the vocabulary and always count as errors: {shown}{more}"
    )


def _shown(character: str) -> str:
    code = f"U+{ord(character):04X}"
    return code if unicodedata.category(character)[0] in "CMZ" else f"{character} ({code})"


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
            bad[row] = (
                "transcript longer than the audio",
                (
                    f"the transcript has {len(one):,} characters and needs {needed:,} frames, but the audio has "
                    f"{there:,}: is it the wrong transcript, or is the audio cut off?"
                ),
            )
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
        labels = encode(processor.tokenizer, clips["text"][:])
        samples = np.round(np.array(clips["seconds"][:]) * 16_000).astype(np.int64)
        impossible = too_long(labels, frame_counts(config, samples))
        if impossible and name == "train":
            splits[name], skipped = without(splits[name], impossible, args.on_bad_example == "skip")
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
