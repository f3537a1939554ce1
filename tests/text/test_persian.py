"""Persian preprocessing on hand-written examples, against shekar's own classes, and on FarsTail."""

# ruff: noqa: RUF001 (Persian letters are no mistaken Latin ones)

import re
import time

import pytest

from common.files import read_files
from common.text.persian import PUBLISHED, STEPS, WORD, ZWNJ, prepare

STOP_WORDS, STEM, NO_ZWNJ, NORMALIZE = ((step,) for step in STEPS)
ENGLISH = [
    "The cat sat on the mat, didn't it? It did; e-mail a@b.org or see www.example.com.",
    'Prices rose by 3.5 % to 1,024 "dollars" (of 1998)...  two  spaces\nand a line',
    "Ångström's naïve café — déjà vu",
]


def one(text: str, steps: tuple[str, ...]) -> str:
    return prepare([text], steps)[0]


def test_a_long_run_of_spaces_takes_no_time():
    began = time.perf_counter()
    assert one("کتاب" + " " * 50_000 + "x", STOP_WORDS) and time.perf_counter() - began < 2


@pytest.fixture(scope="module")
def farstail(shared_data) -> list[str]:
    """Distinct texts of FarsTail's test file."""
    frame = read_files(shared_data / "farstail" / "Test-word.csv")
    return list(dict.fromkeys([*frame["premise"], *frame["hypothesis"]]))[::8]


@pytest.fixture(scope="module")
def normalized(farstail) -> list[str]:
    return prepare(farstail, NORMALIZE)


@pytest.mark.parametrize(
    "steps, text, expected",
    [
        (NORMALIZE, "علي كتاب مي خواند", f"علی کتاب می{ZWNJ}خواند"),
        (NORMALIZE, "كُتُب", "کتب"),
        (NORMALIZE, "کتاب ها در سال 1398 ،چاپ شد?", f"کتاب{ZWNJ}ها در سال ۱۳۹۸، چاپ شد؟"),
        (NORMALIZE, "سیب   و  به", "سیب و به"),
        # shekar knows two forms of it, and which one a single pass takes changes from process to process.
        (NORMALIZE, "چغندر قند", "چغندرقند"),
        (STOP_WORDS, "علی و رضا به خانه رفتند.", "علی رضا خانه رفتند."),
        (STOP_WORDS, "این کتاب را خواندم", "کتاب خواندم"),
        (STOP_WORDS, "کتابخانه در تهران و، اصفهان", "کتابخانه تهران، اصفهان"),
        (STOP_WORDS, "ازدواج وبا بهار", "ازدواج وبا بهار"),  # inside of words only
        (STOP_WORDS, "کتاب  سبز\nمداد", "کتاب  سبز\nمداد"),  # nothing removed, nothing else touched
        (STOP_WORDS, "و خواند\nو «این کتاب» (از او)", "خواند\n«کتاب» ()"),
        (STEM, f"کتاب{ZWNJ}ها دانشجویان رفتم", "کتاب دانشجو رفت"),
        (STEM, f"جنگ{ZWNJ}های، صلیبی", "جنگ، صلیب"),
        (NO_ZWNJ, f"می{ZWNJ}رود کتاب{ZWNJ}ها", "میرود کتابها"),
        (STEPS, f"کتاب{ZWNJ}ها را در 3 روز خواندم", "کتاب ۳ روز خواند"),
    ],
)
def test_hand_written_examples(steps, text, expected):
    assert one(text, steps) == expected


def test_the_published_order_normalises_last_and_does_not_stem():
    text = f"كتاب{ZWNJ}ها را و دانشجویان در 3 روز"
    alone = text
    for step in ("remove_stop_words", "remove_zwnj", "normalize"):
        alone = one(alone, (step,))
    assert one(text, PUBLISHED) == alone and "۳" in alone and "دانشجویان" in alone
    assert one(text, PUBLISHED) == one(text, PUBLISHED[::-1]), "the order is that of the steps, however they are named"


@pytest.mark.parametrize("steps", [(), NORMALIZE, STOP_WORDS, STEM, NO_ZWNJ, PUBLISHED, STEPS])
def test_english_is_left_as_it_is(steps):
    assert prepare(ENGLISH, steps) == ENGLISH
    mixed = one("نرم افزار Photoshop CS از Adobe است", steps)
    assert [word for word in mixed.split() if word.isascii()] == ["Photoshop", "CS", "Adobe"]


def test_a_text_keeps_its_form_rather_than_become_empty():
    for text in ("و", "آری.", "از این به آن", "؟!", "...", "", "  ", ZWNJ):
        for steps in (STOP_WORDS, STEM, NO_ZWNJ):
            after = one(text, steps)
            assert after == text or re.search(r"\w", after), (text, steps)
    assert one(f"این{ZWNJ}", STEPS) == "این", "the other steps still happen"


def test_order_and_repetition_are_kept():
    texts = ["این کتاب", "آن مداد", "این کتاب", "", "این کتاب"]
    assert prepare(texts, STOP_WORDS) == ["کتاب", "مداد", "کتاب", "", "کتاب"]
    assert prepare(texts, ()) == texts
    assert prepare([], STEPS) == []


def test_the_normaliser_is_shekars_and_changes_nothing_the_second_time(farstail, normalized):
    from shekar import Normalizer

    shekar = Normalizer()
    assert prepare(normalized[::4], NORMALIZE) == normalized[::4]
    for text, found in zip(farstail[::10], normalized[::10]):
        assert found in (shekar(text), shekar(shekar(text)))
    assert sum(a != b for a, b in zip(farstail, normalized)) > len(farstail) / 2


def test_stop_words_and_stems_are_shekars(normalized):
    from shekar import Stemmer
    from shekar.preprocessing import RemoveStopWords

    words, stem = RemoveStopWords(), Stemmer()
    # A mark above a letter is no letter to shekar, which cuts such words into pieces.
    texts = [text for text in normalized if "\u0654" not in text]
    assert len(texts) > 100
    for text, after in zip(texts, prepare(texts, STOP_WORDS)):
        assert re.sub(r"\s", "", after) == re.sub(r"\s", "", words(text))
        assert after.count("  ") <= text.count("  ") and after == after.strip()
    for text, after in zip(texts, prepare(texts, STEM)):
        assert WORD.findall(after) == [stem(word) for word in WORD.findall(text)]
        assert WORD.split(after) == WORD.split(text)


@pytest.mark.parametrize("steps", [STOP_WORDS, STEM, NO_ZWNJ])
def test_nothing_in_farstail_becomes_empty(farstail, steps):
    for before, after in zip(farstail, prepare(farstail, steps)):
        assert re.search(r"\w", after), before
        assert not (steps == NO_ZWNJ and ZWNJ in after), before
