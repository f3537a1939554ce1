"""Transcripts as a recogniser of characters learns them: made alike, a vocabulary, labels, and whether these fit."""

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
import pandas as pd
from transformers import Wav2Vec2CTCTokenizer, Wav2Vec2Processor

from common.errors import UserError, write_json
from common.models import load_config, load_feature_extractor
from common.speech.audio import RATE
from common.speech.corpora import mark, without_bad
from common.speech.encoders import frame_counts

DELIMITER = "|"
JOINERS = "\u200c\u200d"  # they decide how a Persian or an Indic word is written; all other invisible characters go
# What stands where an apostrophe should; quotation marks among them, which stay only inside a word.
APOSTROPHES = dict.fromkeys(map(ord, "\u2019\u2018\u02bc\u02bb\uff07\u00b4`"), "'")
OUTER_APOSTROPHE = re.compile(r"(?<!\S)'+|'+(?!\S)|'{2,}")


@dataclass(frozen=True)
class Normalization:
    """How transcripts are made alike: removed punctuation and symbols leave a space, apostrophes inside words stay."""

    case: Literal["upper", "lower", "keep"] = "upper"
    punctuation: Literal["remove", "keep"] = "remove"
    ignore: str = ""  # characters that are dropped, with nothing in their place: diacritics, the tatweel


def normalize(text: str, rules: Normalization) -> str:
    """`text` after `rules`: words with one space between them; "" if nothing is left. Twice is the same as once.

    Variants of letters (ligatures, full width, Arabic presentation forms) become these; "|" becomes a space.
    """
    bare = rules.punctuation == "remove"
    text = unicodedata.normalize("NFKC", text.translate(APOSTROPHES) if bare else text)
    text = {"upper": str.upper, "lower": str.lower, "keep": str}[rules.case](text)
    text = "".join("" if character in rules.ignore else _kept(character, bare) for character in text)
    text = OUTER_APOSTROPHE.sub(" ", text.translate(APOSTROPHES)) if bare else text  # NFKC makes more of them
    words = [word.strip("\u200c") for word in text.split() if word.strip(JOINERS)]  # it joins nothing at an end
    return unicodedata.normalize("NFKC", " ".join(words))


@cache
def _kept(character: str, bare: bool) -> str:
    category = unicodedata.category(character)
    if character.isspace() or character == DELIMITER or (bare and category[0] in "PS" and character != "'"):
        return " "
    invisible = category in ("Cc", "Cf", "Cs", "Co") and character not in JOINERS  # or broken, or private
    return "" if invisible else character


def make_processor(texts: Sequence[str], extractor, special: Sequence[str] = ("[PAD]", "[UNK]", "|")):
    """A `Wav2Vec2Processor` of the characters of normalised texts; `special`: blank (0), unknown, between words."""
    characters = {character for text in texts for character in text} - {" "}
    if len({*special}) < 3 or any(token in text.replace(" ", "") for token in special for text in texts):
        raise UserError("--pad_token, --unk_token, --word_delimiter_token: give three that are in no transcript")
    vocabulary = {token: number for number, token in enumerate([*special, *sorted(characters)])}
    tokens = dict(zip(("pad_token", "unk_token", "word_delimiter_token"), special))
    with tempfile.TemporaryDirectory() as folder:
        path = write_json(Path(folder) / "vocab.json", vocabulary)
        # Otherwise the other two are added behind the vocabulary, where the head has no output.
        tokenizer = Wav2Vec2CTCTokenizer(str(path), **tokens, bos_token=None, eos_token=None)
    return Wav2Vec2Processor(feature_extractor=extractor, tokenizer=tokenizer)


def case_of(tokenizer) -> Literal["upper", "lower", "keep"]:
    """The `Normalization.case` that a checkpoint's own vocabulary has; "keep" where it has both, or no case at all."""
    letters = "".join(token for token in tokenizer.get_vocab() if len(token) == 1)
    if tokenizer.do_lower_case or letters.islower():  # with the former, upper case inside, lower case outside
        return "lower"
    return "upper" if letters.isupper() else "keep"


def encode(tokenizer, texts: Iterable[str]) -> list[list[int]]:
    """The labels of each normalised text; characters that the vocabulary lacks get the label of the unknown one."""
    return [tokenizer.convert_tokens_to_ids(tokenizer.tokenize(text)) for text in texts]


def frames_needed(labels: Sequence[int]) -> int:
    """The fewest frames that an alignment takes: one a label, and a blank between two equal neighbours."""
    return len(labels) + sum(one == other for one, other in itertools.pairwise(labels))


def check_transcripts(splits, processor, args, run):
    """The processor, or a new one for None; takes what does not fit its audio out of training, else warns of it."""
    if processor is None:
        if "train" not in splits:
            raise UserError(f"{args.model}: has no vocabulary of characters; train it with --do_train")
        special = args.pad_token, args.unk_token, args.word_delimiter_token
        processor = make_processor(splits["train"]["text"][:], load_feature_extractor(args), special)
    tokenizer, config = processor.tokenizer, load_config(args)
    for name, clips in splits.items():
        if "text" not in clips.column_names:
            continue
        texts, counts = clips["text"][:], Counter("".join(clips["text"][:]))
        lacking = Counter({c: n for c, n in counts.items() if encode(tokenizer, [c]) == [[tokenizer.unk_token_id]]})
        if lacking:
            shown = ", ".join(f"{one!r} (U+{ord(one):04X}) {count:,}" for one, count in lacking.most_common(10))
            sentence = "characters cannot be written with the vocabulary and always count as errors, most often"
            run.warn(f"{name}: {lacking.total():,} {sentence} {shown}")
        needed = np.array([*map(frames_needed, encode(tokenizer, texts))])
        there = frame_counts(config, np.round(np.array(clips["seconds"][:]) * RATE).astype(np.int64))
        if name == "train":
            frame = pd.DataFrame({"where": clips["id"][:], "reason": "", "problem": ""})
            longer = "the transcript has more characters than its audio has frames: one of them is wrong, or cut off"
            mark(frame, there < needed, "transcript longer than the audio", longer)
            good, skipped = without_bad(frame, "the transcripts", args.on_bad_example == "skip")
            splits[name] = clips.select(good.index)
            splits.facts[name]["skipped"] |= skipped
        elif count := int((there < needed).sum()):
            run.warn(f"{name}: {count:,} transcripts have more characters than their audio has frames")
    return processor


def with_labels(clips, tokenizer):
    """The clips with the labels of their transcripts, where they have any."""
    return clips.add_column("labels", encode(tokenizer, clips["text"][:])) if "text" in clips.column_names else clips
