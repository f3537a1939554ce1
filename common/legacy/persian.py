"""Persian texts made simpler before an encoder sees them: normalised, without stop words, stemmed, without ZWNJ.

Each step is a switch; shekar does the language's work, here are only the order, the borders of words and the cache. A
pre-trained model has seen raw text, so these steps can cost accuracy: the list of stop words has "not", "no" and
"without" in it, on which an inference may hang. Not for texts in other languages, which are left as they are.

The published combination (report 000: normaliser, stop words, stemming, no ZWNJ) has no stemming in effect: the report
used Porter's stemmer, an English one, which leaves Persian words untouched. `PUBLISHED` is what that procedure does.
"""

import re
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cache

from common.legacy.errors import UserError

ZWNJ = "\u200c"
# Letters and marks of the Arabic script, and the zero-width non-joiner; neither digits nor punctuation.
WORD = re.compile(r"[\u0620-\u065f\u066e-\u06d3\u06d5-\u06ef\u06fa-\u06ff\u200c]+")
SPACE_AND_WORD = re.compile(rf"([^\S\r\n]*)({WORD.pattern})")
SPACE_AT_BEGIN = re.compile(r"(?<![^\n«(\[{])[^\S\r\n]+")  # of a line, or of what stands in quotes or brackets
OTHER_SCRIPT = re.compile(r"[^\W\d_]")
MOST_PASSES = 5


@dataclass(frozen=True)
class Steps:
    """What `prepare` does, in this order.

    Attributes:
        normalize: Persian letters for Arabic ones, Persian digits and punctuation, spacing, no diacritics. Decimal
            points and thousands separators get a space behind them, which is shekar's way with punctuation.
        remove_stop_words: shekar's 301 words.
        stem: the ends of words that leave a known word behind.
        remove_zwnj: U+200C, the zero-width non-joiner, with nothing in its place; last, since stems are found by it.
    """

    normalize: bool = False
    remove_stop_words: bool = False
    stem: bool = False
    remove_zwnj: bool = False


PUBLISHED = Steps(normalize=True, remove_stop_words=True, stem=False, remove_zwnj=True)


def prepare(texts: list[str], steps: Steps) -> list[str]:
    """The texts after `steps`, each distinct text processed once.

    A step that would leave a text without any letter or digit does not happen to that text.
    """
    chosen = {
        _normalized: steps.normalize,
        _without_stop_words: steps.remove_stop_words,
        _stemmed: steps.stem,
        _without_zwnj: steps.remove_zwnj,
    }
    functions = [function for function, wanted in chosen.items() if wanted]
    prepared = {text: _through(functions, text) for text in dict.fromkeys(texts)}
    return [prepared[text] for text in texts]


def keep_steps(config, steps: Steps, model: str, *, training: bool) -> None:
    """Notes in the configuration of a model that is trained how its texts are prepared, as `persian_steps`.

    Raises:
        UserError: the model will not be trained, and it was trained on texts prepared in another way.
    """
    if training:
        config.persian_steps = asdict(steps)
        return
    noted = getattr(config, "persian_steps", asdict(steps))
    if noted != asdict(steps):
        flags = " ".join(f"--{name} {str(noted[name]).lower()}" for name in asdict(steps))
        raise UserError(f"{model}: was trained on texts prepared in another way than asked for; give {flags}")


def _through(functions: list[Callable[[str], str]], text: str) -> str:
    for function in functions:
        after = function(text)
        text = after if re.search(r"\w", after) else text
    return text


@cache
def _normalizer() -> Callable[[str], str]:
    from shekar import Normalizer

    return Normalizer()


def _normalized(text: str) -> str:
    """Normalised until nothing changes any more, which takes shekar's normaliser two passes now and then.

    Its joining of compounds depends on the order of a set where it knows two forms, and a second pass makes them one.
    """
    if not WORD.search(text) and OTHER_SCRIPT.search(text):
        return text
    for _ in range(MOST_PASSES):
        before, text = text, _normalizer()(text)
        if text == before:
            break
    return text


@cache
def _stop_words() -> set[str]:
    from shekar import data

    return data.stopwords


def _without_stop_words(text: str) -> str:
    """Stop words go with the space before them, so that no double spaces stay behind."""
    stop_words = _stop_words()
    after = SPACE_AND_WORD.sub(lambda match: "" if match[2] in stop_words else match[0], text)
    return text if after == text else SPACE_AT_BEGIN.sub("", after)


@cache
def _stem() -> Callable[[str], str]:
    from shekar import Stemmer

    return cache(Stemmer())


def _stemmed(text: str) -> str:
    stem = _stem()
    return WORD.sub(lambda match: stem(match[0]), text)


def _without_zwnj(text: str) -> str:
    return text.replace(ZWNJ, "")
