"""Transcripts as a recogniser of characters learns them: made alike, a vocabulary, labels, and whether these fit.

Not for scoring (`common.legacy.metrics.wer`) nor for turning a model's output into text (`common.legacy.decoding`); no language's own
rules are here, such as writing out numbers.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np

from common.legacy.errors import UserError
from common.legacy.files import write_json

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
        if character in self.ignored:
            found = None
        elif character.isspace() or character == DELIMITER:
            found = " "
        elif category in ("Cc", "Cf", "Cs", "Co") and character not in JOINERS:  # invisible, broken or private
            found = None
        elif category[0] in self.removed and character != "'":
            found = " "
        else:
            found = character
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


def prepare(recordings, rules: Normalization, *, skip_bad: bool):
    """`recordings` with normalised transcripts, without those that say nothing or, as `rules` wants, have digits.

    The first bad one raises `UserError`, or (`skip_bad`) all of them are left out, counted and listed.
    """
    texts = [normalize(text, rules) for text in recordings.texts]
    bad = {}
    for row, text in enumerate(texts):
        if not text:
            written = recordings.texts[row].strip()
            what = f"{written!r} has nothing that is spoken" if written else "there is no text"
            bad[row] = ("empty transcript", f"the transcript is empty: {what}")
        elif rules.digits == "refuse" and has_digits(text):
            number = next(word for word in text.split() if has_digits(word))
            bad[row] = (
                "digits in the transcript",
                f"the transcript has digits ({number}), which say nothing of sounds",
            )
    return _without(replace(recordings, texts=texts), bad, skip_bad)[0]


def _without(recordings, bad: dict[int, tuple[str, str]], skip_bad: bool) -> tuple:
    """`recordings` without the rows of `bad` (row -> reason, sentence), and the rows that stay, int64."""
    if bad and not skip_bad:
        row, (_, sentence) = next(iter(bad.items()))
        where = f"{recordings.source}: {recordings.ids[row]}"
        raise UserError(f"{where}: {sentence}; mend it or pass --on_bad_example skip")
    if len(bad) == len(recordings):
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in Counter(r for r, _ in bad.values()).items())
        raise UserError(f"{recordings.source}: no example is left ({reasons})")
    rows = np.setdiff1d(np.arange(len(recordings)), list(bad))
    left_out = [(recordings.ids[row], sentence) for row, (_, sentence) in bad.items()]
    skipped = Counter(recordings.skipped)
    skipped.update(reason for reason, _ in bad.values())
    kept = recordings.take(rows) if bad else recordings
    return replace(kept, skipped=dict(skipped), left_out=[*recordings.left_out, *left_out]), rows


# Vocabulary


def characters_of(texts: Iterable[str]) -> list[str]:
    """The characters of normalised texts, sorted, without the space; the texts are read one by one."""
    found: set[str] = set()
    for text in texts:
        found.update(text)
    return sorted(found - {" "})


def make_processor(characters: Sequence[str], extractor, folder: Path):
    """A `Wav2Vec2Processor` of the feature extractor and a tokenizer of these characters; writes folder/vocab.json.

    The blank is 0, as in a stock configuration, then come the unknown character and the space between words ("|").
    """
    from transformers import Wav2Vec2CTCTokenizer, Wav2Vec2Processor

    tokens = [BLANK, UNKNOWN, DELIMITER, *characters]
    folder.mkdir(parents=True, exist_ok=True)
    path = write_json(folder / "vocab.json", {token: number for number, token in enumerate(tokens)})
    tokenizer = Wav2Vec2CTCTokenizer(
        str(path),
        unk_token=UNKNOWN,
        pad_token=BLANK,
        word_delimiter_token=DELIMITER,
        # Otherwise they are added behind the vocabulary, where the head has no output.
        bos_token=None,
        eos_token=None,
    )
    return Wav2Vec2Processor(feature_extractor=extractor, tokenizer=tokenizer)


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


def encode(tokenizer, texts: Iterable[str]) -> list[np.ndarray]:
    """The labels of each normalised text, int64, as the tokenizer gives them but many times faster.

    Characters that the vocabulary lacks get the label of the unknown one.
    """
    numbers, unknown = _numbers(tokenizer), tokenizer.unk_token_id
    return [np.array([numbers.get(character, unknown) for character in text], dtype=np.int64) for text in texts]


@dataclass(frozen=True)
class Unknown:
    """What a vocabulary lacks: character -> how often it occurs; and how many of how many transcripts have any."""

    counts: dict[str, int]
    transcripts: int
    of: int

    def statistics(self) -> dict[str, int]:
        """For `statistics` of a split in results.json; nothing of a split without transcripts."""
        if not self.of:
            return {}
        return {
            "unknown characters": sum(self.counts.values()),
            "transcripts with unknown characters": self.transcripts,
        }

    def sentence(self, split: str) -> str | None:
        """A warning; None where nothing is unknown."""
        if not self.counts:
            return None
        total, kinds = sum(self.counts.values()), len(self.counts)
        plural = "s" if total > 1 else ""
        shown = ", ".join(f"{_shown(character)} {count:,}" for character, count in list(self.counts.items())[:10])
        return (
            f"{split}: {total:,} character{plural} in {self.transcripts:,} of {self.of:,} transcripts "
            f"cannot be written with the vocabulary and always count as errors: {shown}"
            + (f" and {kinds - 10:,} more" if kinds > 10 else "")
        )


def _shown(character: str) -> str:
    code = f"U+{ord(character):04X}"
    invisible = unicodedata.category(character)[0] in "CMZ"
    return code if invisible else f"{character} ({code})"


def unknown_characters(tokenizer, texts: Iterable[str]) -> Unknown:
    """Counts the characters of normalised texts that the tokenizer's vocabulary lacks, the most frequent first."""
    known = set(_numbers(tokenizer))
    counts: Counter[str] = Counter()
    of = transcripts = 0
    for text in texts:
        lacking = [character for character in text if character not in known]
        counts.update(lacking)
        transcripts, of = transcripts + bool(lacking), of + 1
    return Unknown(dict(counts.most_common()), transcripts, of)


# Labels and frames


def frames_needed(labels: Sequence[np.ndarray]) -> np.ndarray:
    """int64 [N]: the fewest frames that an alignment takes: one a label, and a blank between two equal neighbours.

    Source: Graves et al., Connectionist Temporal Classification (ICML 2006).
    """
    return np.array([len(one) + np.count_nonzero(one[1:] == one[:-1]) for one in labels], dtype=np.int64)


def fits(labels: Sequence[np.ndarray], frames: np.ndarray) -> np.ndarray:
    """bool [N]: whether `frames` (int [N], see `speech_encoders.frame_counts`) are enough for the labels."""
    return frames_needed(labels) <= frames


def fitting(recordings, labels: Sequence[np.ndarray], frames: np.ndarray, *, skip_bad: bool) -> tuple:
    """`recordings` and their `labels` without those whose labels do not fit, of which the loss would be infinite.

    The first bad one raises `UserError`, or (`skip_bad`) all of them are left out, counted and listed.
    """
    needed, bad = frames_needed(labels), {}
    for row in np.flatnonzero(needed > frames).tolist():
        sentence = (
            f"the transcript has {len(labels[row]):,} characters and needs {needed[row]:,} frames, but the audio has "
            f"{frames[row]:,}: is it the wrong transcript, or is the audio cut off?"
        )
        bad[row] = ("transcript longer than the audio", sentence)
    kept, rows = _without(recordings, bad, skip_bad)
    return kept, [labels[row] for row in rows]
