"""The n best spans against every span there is, and the answers of questions against plain dictionaries and sorting."""

import itertools
import math
from collections import defaultdict

import numpy as np
import pytest
import torch
from datasets import Dataset, concatenate_datasets
from hypothesis import given, settings
from hypothesis import strategies as st

from common.text.spans import NO_SPAN, Answers, answers_of_questions, best_spans_of_windows
from common.text.windows import LABELS, cut_batch

# Windows


def every_span(start, end, mask, max_answer_length) -> list[tuple[float, int, int]]:
    """(score, first, last) of all spans inside the mask, best first; sums as float32, as a model's device has them."""
    places = [i for i, inside in enumerate(mask) if inside]
    spans = [
        (float(np.float32(start[a]) + np.float32(end[b])), a, b)
        for a, b in itertools.product(places, places)
        if a <= b < a + max_answer_length
    ]
    return sorted(spans, key=lambda span: -span[0])


def assert_best(start, end, mask, null_at, n_best, max_answer_length):
    """Scores are exactly those of the best spans; each span is one of them, and none is there twice."""
    scores, first, last, null = best_spans_of_windows(start, end, mask, null_at, n_best, max_answer_length)
    assert scores.shape == first.shape == last.shape == (len(start), n_best) and null.shape == (len(start),)
    assert not first.is_floating_point() and not last.is_floating_point()
    for i in range(len(start)):
        spans = every_span(start[i].numpy(), end[i].numpy(), mask[i].tolist(), max_answer_length)
        found = list(zip(scores[i].tolist(), first[i].tolist(), last[i].tolist()))
        there = min(n_best, len(spans))
        assert [score for score, _, _ in found[:there]] == [score for score, _, _ in spans[:there]]
        assert set(found[:there]) <= set(spans) and len(set(found[:there])) == there
        assert all(score <= NO_SPAN / 2 and math.isfinite(score) for score, _, _ in found[there:])
        assert null[i] == start[i, null_at[i]] + end[i, null_at[i]]


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(30))
def test_the_n_best_spans_are_those_of_a_search_through_all(seed, ties):
    random = np.random.default_rng(seed)
    batch, length = random.integers(1, 5), random.integers(2, 26)
    # With ties, scores are whole numbers from a handful.
    draw = (lambda: random.integers(-2, 3, (batch, length))) if ties else (lambda: random.normal(0, 5, (batch, length)))
    start, end = (torch.tensor(draw(), dtype=torch.float32) for _ in range(2))
    mask = torch.zeros(batch, length, dtype=torch.bool)
    for i in range(batch):
        first, last = sorted(random.integers(0, length + 1, 2))
        mask[i, first:last] = True
    null_at = torch.tensor(random.integers(0, length, batch))
    n_best = int(random.choice([1, 2, 5, 20, 400]))
    assert_best(start, end, mask, null_at, n_best, int(random.choice([1, 2, 3, 4, 7, 8, 12, 20, 30, 1000])))


@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_the_n_best_spans_of_any_scores(data):
    length = data.draw(st.integers(1, 9))
    scores = st.lists(st.floats(-1000, 1000, width=32), min_size=length, max_size=length)
    start, end = (torch.tensor([data.draw(scores)]) for _ in range(2))
    mask = torch.tensor([data.draw(st.lists(st.booleans(), min_size=length, max_size=length))])  # gaps are allowed
    null_at = torch.tensor([data.draw(st.integers(0, length - 1))])
    assert_best(start, end, mask, null_at, data.draw(st.integers(1, 12)), data.draw(st.integers(1, 12)))


def test_the_best_spans_may_all_start_or_end_at_one_token():
    start, end = torch.full((2, 12), -50.0), torch.full((2, 12), -50.0)
    start[0, 2], end[0] = 100, torch.arange(12.0)
    start[1], end[1, 9] = torch.arange(12.0), 100
    mask, null_at = torch.ones(2, 12, dtype=torch.bool), torch.tensor([0, 0])
    assert_best(start, end, mask, null_at, 6, 8)
    _, first, last, _ = best_spans_of_windows(start, end, mask, null_at, 6, 8)
    assert first[0].tolist() == [2] * 6 and last[0].tolist() == [9, 8, 7, 6, 5, 4]
    assert last[1].tolist() == [9] * 6 and first[1].tolist() == [9, 8, 7, 6, 5, 4]


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_half_precision_scores_are_added_in_single(kind):
    torch.manual_seed(0)
    start, end = (torch.randn(3, 20).mul(9).to(kind) for _ in range(2))
    mask, null_at = torch.arange(20).expand(3, 20) >= 4, torch.zeros(3, dtype=torch.long)
    half = best_spans_of_windows(start, end, mask, null_at, 8, 6)
    single = best_spans_of_windows(start.float(), end.float(), mask, null_at, 8, 6)
    assert half[0].dtype == torch.float32
    assert all(torch.equal(a, b) for a, b in zip(half, single))


# Questions


def character_windows(example, spans) -> Dataset:
    """Windows whose token t stands for the characters `spans[w][t]`; two Arrow chunks, as a cache with parts has."""
    columns = {"example": [int(i) for i in example], "context_begin": [0] * len(example)}
    columns["first_characters"] = [[a for a, _ in row] for row in spans]
    columns["last_characters"] = [[b for _, b in row] for row in spans]
    whole = Dataset.from_dict(columns)
    parts = [Dataset.from_dict(whole[part]) for part in (slice(1), slice(1, None)) if len(whole[part]["example"])]
    return concatenate_datasets(parts)


def plain_answers(example, characters, spans, n_best):
    """The same by hand: per question {characters: best score}, sorted; the lowest null."""
    scores, first, last, null = spans
    best, lowest = defaultdict(dict), {}
    for w, q in enumerate(example.tolist()):
        lowest[q] = min(lowest.get(q, math.inf), float(null[w]))
        for score, a, b in zip(scores[w].tolist(), first[w].tolist(), last[w].tolist()):
            place = characters[w][a][0], characters[w][b][1]
            if score > NO_SPAN / 2 and place[1] > place[0]:
                best[q][place] = max(best[q].get(place, -math.inf), score)
    ranked = {q: sorted(((s, *place) for place, s in best[q].items()), key=lambda x: -x[0]) for q in lowest}
    return {q: ranked[q][:n_best] for q in ranked}, best, lowest


@pytest.mark.parametrize("seed", range(30))
def test_answers_are_those_of_dictionaries_and_sorting(seed):
    random = np.random.default_rng(seed)
    questions, n_best, kept = int(random.integers(1, 6)), int(random.integers(1, 8)), int(random.integers(1, 8))
    # Windows of a question need not be neighbours.
    example = random.permutation(np.concatenate([np.arange(questions), random.integers(0, questions, 8)]))
    # Few characters: many tokens of different windows, or of one, stand for the same ones, some for none.
    spans = [
        [(int(c), int(c) + int(random.random() < 0.9)) for c in np.sort(random.integers(0, 5, 6))] for _ in example
    ]
    shape = (len(example), kept)
    scores = random.choice([random.normal(0, 4, shape), random.integers(-3, 4, shape)]).astype(np.float32)
    scores = -np.sort(-scores, axis=1)
    scores[np.arange(kept) >= random.integers(0, kept + 1, len(example))[:, None]] = NO_SPAN
    places = np.sort(random.integers(0, 6, (*shape, 2)), axis=-1).astype(np.int32)
    given = (scores, places[..., 0], places[..., 1], random.normal(0, 4, len(example)).astype(np.float32))

    found = answers_of_questions(character_windows(example, spans), given, n_best)
    ranked, best, lowest = plain_answers(example, spans, given, n_best)
    assert found.scores.shape == found.first.shape == found.last.shape == (questions, n_best)
    for q in range(questions):
        assert found.null[q] == lowest[q]
        there = len(ranked[q])
        assert found.scores[q, :there].tolist() == [score for score, _, _ in ranked[q]]
        assert (found.scores[q, there:] == NO_SPAN).all()
        characters = list(zip(found.first[q, :there].tolist(), found.last[q, :there].tolist()))
        assert len(set(characters)) == there
        assert [best[q][place] for place in characters] == found.scores[q, :there].tolist()


def test_equal_scores_stay_in_the_order_of_windows_and_ranks():
    places = list(itertools.combinations_with_replacement(range(3), 2))
    windows = character_windows([0, 0], [[(0, 1), (2, 3), (4, 5)]] * 2)
    for order in itertools.permutations(range(6)):
        first, last = (np.array([places[i][k] for i in order]).reshape(2, 3) for k in range(2))
        found = answers_of_questions(windows, (np.ones((2, 3), np.float32), first, last, np.zeros(2, np.float32)), 4)
        expected = [(2 * places[i][0], 2 * places[i][1] + 1) for i in order[:4]]
        assert list(zip(found.first[0].tolist(), found.last[0].tolist())) == expected


def test_tokens_through_windows_to_text(tiny_tokenizer):
    """From the best spans of real windows to the words: what a model marks is what is answered."""
    museum = "Anna Berg founded the museum in Kassel, in 1921; it was closed in 1945 and open again in 1950."
    asked = [("When was it closed?", museum, "1945"), ("Who?", museum, "Anna Berg"), ("How?", "naïve", "naïve")]
    asked += [("Where?", museum, "Kassel")]
    answers = [{"text": [text], "answer_start": [context.index(text)]} for _, context, text in asked]
    batch = {"example": range(4), "question": [q for q, _, _ in asked], "context": [c for _, c, _ in asked]}
    tokenizer = tiny_tokenizer("bert-base-uncased")
    windows = Dataset(cut_batch({**batch, "answers": answers}, tokenizer, 28, 8, keep_characters=True))
    assert len(windows) > len(asked) + 2  # the long context needs several windows, which see the answer or not
    random, length = np.random.default_rng(0), max(windows["length"])
    start, end = (torch.tensor(random.normal(0, 0.1, (len(windows), length)), dtype=torch.float32) for _ in range(2))
    begin, stop, null_at = (torch.tensor(windows[name][:]) for name in ("context_begin", "context_end", "null_at"))
    place = torch.arange(length)
    for row, (first, last) in enumerate(zip(*(windows[name][:] for name in LABELS))):
        start[row, first] += 5 + row / 100
        end[row, last] += 5
    kept = best_spans_of_windows(start, end, (place >= begin[:, None]) & (place < stop[:, None]), null_at, 3, 10)
    found = answers_of_questions(windows, tuple(t.numpy() for t in kept), 3)
    questions = Dataset.from_dict({"id": list("abcd"), "context": batch["context"]})
    assert found.best_texts(questions) == [text for *_, text in asked]
    for i in range(len(asked)):
        own = np.flatnonzero(np.array(windows["example"]) == i)
        assert found.null[i] == kept[3].numpy()[own].min()
        seen = [row for row in own if windows["start_positions"][row] != windows["null_at"][row]]
        assert found.scores[i, 0] == max(kept[0][row, 0].item() for row in seen)


# Probabilities


def random_answers(random, questions=50, n=6, scale=8) -> Answers:
    scores = -np.sort(-random.normal(0, scale, (questions, n)), axis=1)
    scores[np.arange(n) >= random.integers(1, n + 1, questions)[:, None]] = NO_SPAN
    null = random.normal(0, scale, questions)
    return Answers(scores, np.zeros((questions, n), int), np.ones((questions, n), int), null)


@pytest.mark.parametrize("with_null", [False, True])
@pytest.mark.parametrize("scale", [1, 8, 300, 1e6])
def test_the_n_best_are_in_the_order_of_their_scores_with_their_probabilities(scale, with_null):
    answers = random_answers(np.random.default_rng(4), scale=scale)
    questions = Dataset.from_dict({"id": [f"q{i}" for i in range(50)], "context": ["word"] * 50})
    with np.errstate(all="raise", under="ignore"):
        odds, found = answers.no_answer_probability, list(answers.n_best(questions, with_null))
    for i, (identity, entries) in enumerate(found):
        null, scores = float(answers.null[i]), [float(s) for s in answers.scores[i] if s > NO_SPAN / 2]
        expected = [("w", score, 0) for score in scores] + [("", null, None)] * with_null
        expected = sorted(expected, key=lambda entry: -entry[1])
        assert identity == f"q{i}" and [(e["text"], e["score"], e["start"]) for e in entries] == expected
        top = max(score for _, score, _ in expected)
        powers = [math.exp(max(score - top, -745)) for _, score, _ in expected]
        shares = [entry["probability"] for entry in entries]
        assert shares == pytest.approx([p / math.fsum(powers) for p in powers], rel=1e-9, abs=1e-300)
        assert {type(value) for entry in entries for value in entry.values()} <= {str, float, int, type(None)}
        assert answers.null_odds[i] == null - scores[0]
        top = max(null, scores[0])
        no, yes = math.exp(max(null - top, -745)), math.exp(max(scores[0] - top, -745))
        assert odds[i] == pytest.approx(no / (no + yes), rel=1e-9, abs=1e-300)
