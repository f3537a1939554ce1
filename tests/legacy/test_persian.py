"""Persian preprocessing on hand-written examples, against shekar's own classes, and on all of FarsTail."""

# ruff: noqa: RUF001 (Persian letters are no mistaken Latin ones)

import json
import os
import re
import subprocess
import sys

import pytest

from common.legacy.data import read_rows
from common.legacy.persian import PUBLISHED, WORD, ZWNJ, Steps, prepare
from tests.legacy.conftest import ROOT

NORMALIZE, STOP_WORDS, STEM, NO_ZWNJ = (
    Steps(**{step: True}) for step in ("normalize", "remove_stop_words", "stem", "remove_zwnj")
)
ALL = Steps(normalize=True, remove_stop_words=True, stem=True, remove_zwnj=True)
ENGLISH = [
    "The cat sat on the mat, didn't it? It did; e-mail a@b.org or see www.example.com.",
    'Prices rose by 3.5 % to 1,024 "dollars" (of 1998)...  two  spaces\nand a line',
    "Ångström's naïve café — déjà vu",
]


def one(text: str, steps: Steps) -> str:
    return prepare([text], steps)[0]


@pytest.fixture(scope="module")
def farstail(shared_data) -> list[str]:
    """Distinct texts of FarsTail's test file."""
    rows = read_rows(shared_data / "farstail" / "Test-word.csv")
    return list(dict.fromkeys(text for row in rows for text in (row["premise"], row["hypothesis"])))[::2]


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
        (PUBLISHED, "كتاب ها را در 3 روز خواندم", "کتابها ۳ روز خواندم"),
        (ALL, "كتاب ها را در 3 روز خواندم", "کتاب ۳ روز خواند"),
    ],
)
def test_hand_written_examples(steps, text, expected):
    assert one(text, steps) == expected


def test_the_published_combination_does_not_stem():
    assert Steps(normalize=True, remove_stop_words=True, remove_zwnj=True) == PUBLISHED
    assert one("دانشجویان", PUBLISHED) == "دانشجویان" != one("دانشجویان", ALL)


@pytest.mark.parametrize("steps", [Steps(), NORMALIZE, STOP_WORDS, STEM, NO_ZWNJ, PUBLISHED, ALL])
def test_english_is_left_as_it_is(steps):
    assert prepare(ENGLISH, steps) == ENGLISH
    mixed = one("نرم افزار Photoshop CS از Adobe است", steps)
    assert [word for word in mixed.split() if word.isascii()] == ["Photoshop", "CS", "Adobe"]


def test_a_text_keeps_its_form_rather_than_become_empty():
    for text in ("و", "آری.", "از این به آن", "؟!", "...", "", "  ", ZWNJ):
        for steps in (STOP_WORDS, STEM, NO_ZWNJ):
            after = one(text, steps)
            assert after == text or re.search(r"\w", after), (text, steps)
    assert one("آری.", ALL) == "آری."
    assert one(f"این{ZWNJ}", ALL) == "این", "the other steps still happen"


def test_order_and_repetition_are_kept():
    texts = ["این کتاب", "آن مداد", "این کتاب", "", "این کتاب"]
    assert prepare(texts, STOP_WORDS) == ["کتاب", "مداد", "کتاب", "", "کتاب"]
    assert prepare(texts, Steps()) == texts
    assert prepare([], ALL) == []


def test_a_text_is_processed_once(monkeypatch):
    import common.legacy.persian

    seen = []
    monkeypatch.setattr(common.legacy.persian, "_without_zwnj", lambda text: seen.append(text) or text)
    prepare(["الف", "ب", "الف"] * 5, NO_ZWNJ)
    assert seen == ["الف", "ب"]


def test_the_normaliser_is_shekars_and_changes_nothing_the_second_time(farstail, normalized):
    from shekar import Normalizer

    shekar = Normalizer()
    assert prepare(normalized, NORMALIZE) == normalized
    for text, found in zip(farstail[::5], normalized[::5]):
        assert found in (shekar(text), shekar(shekar(text)))
    assert sum(a != b for a, b in zip(farstail, normalized)) > len(farstail) / 2


def test_stop_words_are_shekars(normalized):
    from shekar.preprocessing import RemoveStopWords

    shekar = RemoveStopWords()
    # A mark above a letter is no letter to shekar, which cuts such words into pieces.
    texts = [text for text in normalized[::4] if "\u0654" not in text]
    assert len(texts) > 200
    found = prepare(texts, STOP_WORDS)
    for text, after in zip(texts, found):
        assert re.sub(r"\s", "", after) == re.sub(r"\s", "", shekar(text))
        assert after.count("  ") <= text.count("  ") and after == after.strip()
        assert not re.search(r"\s[،.؟!]", after) or re.search(r"\s[،.؟!]", text)
    assert one("دربارهٔ او", STOP_WORDS) == "دربارهٔ"


def test_stems_are_shekars_word_by_word(normalized):
    from shekar import Stemmer

    shekar, texts = Stemmer(), normalized[::10]
    for text, after in zip(texts, prepare(texts, STEM)):
        words = [shekar(word) for word in WORD.findall(text)]
        assert WORD.findall(after) == words
        assert WORD.split(after) == WORD.split(text)


@pytest.mark.parametrize("steps", [NORMALIZE, STOP_WORDS, STEM, NO_ZWNJ, PUBLISHED, ALL])
def test_nothing_in_farstail_becomes_empty(farstail, normalized, steps):
    texts = normalized if steps.normalize else farstail  # the normaliser is slow, and idempotent
    for before, after in zip(texts, prepare(texts, steps)):
        assert re.search(r"\w", after), before
        assert not (steps.remove_zwnj and ZWNJ in after), before


def test_the_same_texts_come_out_in_every_process(farstail, tmp_path):
    """Some of shekar's tables are sets, whose order changes with the process."""
    texts = [*farstail[:50], "چغندر قند"]
    (tmp_path / "texts.json").write_text(json.dumps(texts), encoding="utf-8")
    program = (
        "import json, sys; from common.legacy.persian import Steps, prepare\n"
        "texts = json.load(open(sys.argv[1], encoding='utf-8'))\n"
        "print(json.dumps(prepare(texts, Steps(True, True, True, False))))"
    )
    outputs = [
        subprocess.run(
            [sys.executable, "-c", program, str(tmp_path / "texts.json")],
            env={**os.environ, "PYTHONHASHSEED": seed},
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    ]
    assert len(set(outputs)) == 1 and len(json.loads(outputs[0])) == len(texts)
