"""Persian texts made simpler before an encoder sees them: without stop words, stemmed, without ZWNJ, normalised.

shekar does the language's work; the order is that of report 000: words out, U+200C out, normalised last. A pre-trained
model has seen raw text, so these steps can cost accuracy: "not", "no" and "without" are stop words, on which an
inference may hang. Texts in other scripts are left as they are.
"""

import re
from collections.abc import Callable, Sequence
from functools import cache

ZWNJ = "\u200c"
STEPS = ("remove_stop_words", "stem", "remove_zwnj", "normalize")  # in this order
# What the published procedure does. Its stemmer was Porter's, an English one, which leaves Persian words untouched.
PUBLISHED = ("remove_stop_words", "remove_zwnj", "normalize")
# Letters and marks of the Arabic script, and the zero-width non-joiner; neither digits nor punctuation.
WORD = re.compile(r"[\u0620-\u065f\u066e-\u06d3\u06d5-\u06ef\u06fa-\u06ff\u200c]+")
SPACE_AND_WORD = re.compile(rf"((?<![^\S\r\n])[^\S\r\n]+)?({WORD.pattern})")  # a run of spaces is read once
SPACE_AT_BEGIN = re.compile(r"(?<![^\n«(\[{])[^\S\r\n]+")  # of a line, or of what stands in quotes or brackets
OTHER_SCRIPT = re.compile(r"[^\W\d_]")


def prepare(texts: Sequence[str], steps: Sequence[str]) -> list[str]:
    """The texts after `steps` (names from `STEPS`, done in its order), each distinct text processed once.

    A step that would leave a text without any letter or digit does not happen to that text.
    """
    prepared = {text: text for text in texts}
    for step in (step for step in STEPS if step in steps):
        for text, before in prepared.items():
            after = FUNCTIONS[step](before)
            prepared[text] = after if re.search(r"\w", after) else before
    return [prepared[text] for text in texts]


@cache
def _shekar() -> tuple[set[str], Callable[[str], str], Callable[[str], str]]:
    """Stop words (301), stemmer, normaliser."""
    from shekar import Normalizer, Stemmer, data

    return data.stopwords, cache(Stemmer()), Normalizer()


def _without_stop_words(text: str) -> str:
    stop_words, *_ = _shekar()  # each goes with the space before it, so that no double spaces stay behind
    after = SPACE_AND_WORD.sub(lambda match: "" if match[2] in stop_words else match[0], text)
    return text if after == text else SPACE_AT_BEGIN.sub("", after)


def _stemmed(text: str) -> str:
    _, stem, _ = _shekar()
    return WORD.sub(lambda match: stem(match[0]), text)


def _normalized(text: str) -> str:
    if not WORD.search(text) and OTHER_SCRIPT.search(text):
        return text
    *_, normalize = _shekar()
    return normalize(normalize(text))  # of compounds shekar takes one form or another; a second pass makes them one


FUNCTIONS = dict(zip(STEPS, (_without_stop_words, _stemmed, lambda text: text.replace(ZWNJ, ""), _normalized)))
