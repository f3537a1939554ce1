"""The n best spans against every span there is, and the answers of questions against plain dictionaries and sorting."""

import itertools
import math
from collections import defaultdict
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from common.legacy.spans import NO_SPAN, Answers, answers_of_questions, best_spans_of_windows
from common.legacy.text import Windows, tokenize

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
    scores, first, last, null = best_spans_of_windows(
        start, end, mask, null_at, n_best=n_best, max_answer_length=max_answer_length
    )
    assert scores.shape == first.shape == last.shape == (len(start), n_best) and null.shape == (len(start),)
    assert not first.is_floating_point() and not last.is_floating_point()
    for i in range(len(start)):
        spans = every_span(start[i].numpy(), end[i].numpy(), mask[i].tolist(), max_answer_length)
        found = list(zip(scores[i].tolist(), first[i].tolist(), last[i].tolist()))
        there = min(n_best, len(spans))
        assert [score for score, _, _ in found[:there]] == [score for score, _, _ in spans[:there]]
        assert set(found[:there]) <= set(spans) and len(set(found[:there])) == there
        assert all(score <= NO_SPAN / 2 and math.isfinite(score) for score, _, _ in found[there:])
        at = null_at[i]
        assert null[i] == start[i, at] + end[i, at]


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(60))
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
    max_answer_length = int(random.choice([1, 2, 3, 4, 7, 8, 12, 20, 30, 1000]))
    assert_best(start, end, mask, null_at, n_best, max_answer_length)


@settings(max_examples=150, deadline=None)
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
    mask = torch.ones(2, 12, dtype=torch.bool)
    assert_best(start, end, mask, torch.tensor([0, 0]), 6, 8)
    _, first, last, _ = best_spans_of_windows(start, end, mask, torch.tensor([0, 0]), n_best=6, max_answer_length=8)
    assert first[0].tolist() == [2] * 6 and last[0].tolist() == [9, 8, 7, 6, 5, 4]
    assert last[1].tolist() == [9] * 6 and first[1].tolist() == [9, 8, 7, 6, 5, 4]


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_half_precision_scores_are_added_in_single(kind):
    torch.manual_seed(0)
    start, end = (torch.randn(3, 20).mul(9).to(kind) for _ in range(2))
    mask = torch.ones(3, 20, dtype=torch.bool)
    mask[:, :4] = False
    settings = {"n_best": 8, "max_answer_length": 6}
    half = best_spans_of_windows(start, end, mask, torch.zeros(3, dtype=torch.long), **settings)
    single = best_spans_of_windows(start.float(), end.float(), mask, torch.zeros(3, dtype=torch.long), **settings)
    assert half[0].dtype == torch.float32
    assert all(torch.equal(a, b) for a, b in zip(half, single))


def test_positions_of_long_windows_are_not_cut_off():
    length = 40_000
    start, end = torch.zeros(1, length), torch.zeros(1, length)
    start[0, 39_990] = end[0, 39_995] = 9
    found = best_spans_of_windows(
        start, end, torch.ones(1, length, dtype=torch.bool), torch.tensor([0]), n_best=1, max_answer_length=30
    )
    assert (found[0].item(), found[1].item(), found[2].item()) == (18, 39_990, 39_995)


# Questions


class CharacterWindows:
    """Stands in for `Windows`: token t of window w covers the characters `spans[w][t]`."""

    def __init__(self, pair, questions, spans):
        self.pair, self.spans = np.array(pair), spans
        self.context_of = np.zeros(questions, np.int64)

    def characters(self, row, token):
        found = np.array([self.spans[r][t] for r, t in zip(row, token)], dtype=np.int64).reshape(-1, 2)
        return found[:, 0], found[:, 1]


def plain_answers(windows, spans, n_best):
    """The same by hand: per question {characters: best score}, sorted; the lowest null."""
    scores, first, last, null = spans
    best, lowest = defaultdict(dict), {}
    for w, q in enumerate(windows.pair.tolist()):
        lowest[q] = min(lowest.get(q, math.inf), float(null[w]))
        for score, a, b in zip(scores[w].tolist(), first[w].tolist(), last[w].tolist()):
            if score > NO_SPAN / 2:
                place = (int(windows.spans[w][a][0]), int(windows.spans[w][b][1]))
                best[q][place] = max(best[q].get(place, -math.inf), score)
    ranked = {q: sorted(((s, *place) for place, s in best[q].items()), key=lambda x: -x[0]) for q in lowest}
    return {q: ranked[q][:n_best] for q in ranked}, best, lowest


@pytest.mark.parametrize("seed", range(40))
def test_answers_are_those_of_dictionaries_and_sorting(seed):
    random = np.random.default_rng(seed)
    questions, n_best, kept = int(random.integers(1, 6)), int(random.integers(1, 8)), int(random.integers(1, 8))
    # Windows of a question need not be neighbours (a shuffled or gathered evaluation would still be right).
    pair = random.permutation(np.concatenate([np.arange(questions), random.integers(0, questions, 8)]))
    tokens = 6
    # Few characters: many tokens of different windows, or of one, stand for the same ones.
    spans = [[(int(c), int(c) + 1) for c in np.sort(random.integers(0, 5, tokens))] for _ in pair]
    windows = CharacterWindows(pair, questions, spans)
    shape = (len(pair), kept)
    scores = random.choice([random.normal(0, 4, shape), random.integers(-3, 4, shape)]).astype(np.float32)
    scores = -np.sort(-scores, axis=1)
    scores[np.arange(kept) >= random.integers(0, kept + 1, len(pair))[:, None]] = NO_SPAN
    places = np.sort(random.integers(0, tokens, (*shape, 2)), axis=-1).astype(np.int32)
    null = random.normal(0, 4, len(pair)).astype(np.float32)
    given = (scores, places[..., 0], places[..., 1], null)

    found = answers_of_questions(windows, given, n_best)
    ranked, best, lowest = plain_answers(windows, given, n_best)
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
    spans = [[(0, 1), (2, 3), (4, 5)]] * 2
    places = list(itertools.combinations_with_replacement(range(3), 2))
    for order in itertools.permutations(range(6)):
        first, last = (np.array([places[i][k] for i in order]).reshape(2, 3) for k in range(2))
        given = (np.ones((2, 3), np.float32), first, last, np.zeros(2, np.float32))
        found = answers_of_questions(CharacterWindows([0, 0], 1, spans), given, 4)
        expected = [(2 * places[i][0], 2 * places[i][1] + 1) for i in order[:4]]
        assert list(zip(found.first[0].tolist(), found.last[0].tolist())) == expected


def test_an_infinite_score_stays_with_its_question():
    spans = [[(0, 1), (2, 3)]] * 3
    scores = np.array([[2, 1], [np.inf, 3], [5, 4]], np.float32)
    places = np.tile(np.array([0, 1], np.int32), (3, 1))
    found = answers_of_questions(CharacterWindows([0, 1, 2], 3, spans), (scores, places, places, scores[:, 0]), 2)
    assert found.scores.tolist() == scores.tolist()
    assert found.first.tolist() == [[0, 2]] * 3 and found.last.tolist() == [[1, 3]] * 3


def test_tokens_through_windows_to_text(tiny_tokenizer):
    """From the best spans of real windows to the words: what a model marks is what is answered."""
    tokenizer = tiny_tokenizer("bert-base-uncased")
    contexts = [
        "Anna Berg founded the museum in Kassel, in 1921; it was closed in 1945 and open again, as a library, in 1950.",
        "naïve",
    ]
    asked = [
        ("When was it closed?", 0, "1945"),
        ("Who?", 0, "Anna Berg"),
        ("How?", 1, "naïve"),
        ("Where?", 0, "Kassel"),
    ]
    context_of = np.array([c for _, c, _ in asked])
    wanted = np.array([[contexts[c].index(a), contexts[c].index(a) + len(a)] for _, c, a in asked])
    windows = Windows(
        tokenizer,
        tokenize(tokenizer, [q for q, _, _ in asked]),
        tokenize(tokenizer, contexts),
        context_of,
        max_length=28,
        stride=8,
        answers=wanted,
    )
    assert len(windows) > len(asked) + 2  # the long context needs several windows, which see the answer or not
    length = int(windows.lengths.max())
    random = np.random.default_rng(0)
    start, end = (torch.tensor(random.normal(0, 0.1, (len(windows), length)), dtype=torch.float32) for _ in range(2))
    mask = torch.zeros(len(windows), length, dtype=torch.bool)
    for row in range(len(windows)):
        at = windows.context_at[row]
        mask[row, at : at + windows.end[row] - windows.begin[row]] = True
        start[row, windows.targets[row, 0]] += 5 + row / 100
        end[row, windows.targets[row, 1]] += 5
    kept = best_spans_of_windows(start, end, mask, torch.tensor(windows.null_at), n_best=3, max_answer_length=10)
    answers = answers_of_questions(windows, tuple(t.numpy() for t in kept), 3)
    questions = SimpleNamespace(context=lambda i: contexts[context_of[i]])
    # As the tokenizer cuts them; single characters of this tiny vocabulary would do as well.
    assert answers.texts(questions) == [a for _, _, a in asked]
    for i in range(len(asked)):
        own = np.flatnonzero(windows.pair == i)
        assert answers.null[i] == kept[3].numpy()[own].min()
        seen = [row for row in own if windows.targets[row, 0] != windows.null_at[row]]
        assert answers.scores[i, 0] == max(kept[0][row, 0].item() for row in seen)


def test_a_context_of_one_token_has_one_answer():
    windows = CharacterWindows([0, 1], 2, [[(0, 0), (0, 4)], [(0, 0), (0, 4)]])
    mask = torch.tensor([[False, True], [False, False]])
    scores = torch.tensor([[0.5, 2.0], [0.5, 2.0]])
    kept = best_spans_of_windows(scores, scores, mask, torch.tensor([0, 0]), n_best=3, max_answer_length=30)
    answers = answers_of_questions(windows, tuple(t.numpy() for t in kept), 3)
    questions = SimpleNamespace(context=lambda i: "word")
    assert answers.scores.tolist() == [[4, NO_SPAN, NO_SPAN], [NO_SPAN] * 3]
    assert answers.null.tolist() == [1, 1]
    assert answers.texts(questions) == ["word", ""]  # the second question's context has no token at all
    assert answers.texts(questions, rank=1) == answers.texts(questions, rank=2) == ["", ""]
    assert answers.null_odds.tolist() == [-3, 1 - NO_SPAN]
    assert answers.no_answer_probability[1] == 1


# Probabilities


def random_answers(random, questions=50, n=6, scale=8) -> Answers:
    scores = -np.sort(-random.normal(0, scale, (questions, n)), axis=1)
    scores[np.arange(n) >= random.integers(1, n + 1, questions)[:, None]] = NO_SPAN
    return Answers(
        scores, np.zeros((questions, n), int), np.ones((questions, n), int), random.normal(0, scale, questions)
    )


@pytest.mark.parametrize("scale", [1, 8, 300, 1e6])
def test_probabilities_are_those_of_the_scores(scale):
    answers = random_answers(np.random.default_rng(4), scale=scale)
    with np.errstate(all="raise", under="ignore"):
        odds, alone, both = answers.no_answer_probability, *(answers.probabilities(null) for null in (False, True))
    assert alone.shape == (50, 6) and both.shape == (50, 7)
    for i in range(50):
        scores = [float(s) for s in answers.scores[i]]
        null = float(answers.null[i])
        assert answers.null_odds[i] == null - scores[0]
        for found, scored in ((alone[i], scores), (both[i], [*scores, null])):
            top = max(scored)
            powers = [math.exp(max(s - top, -745)) if s > NO_SPAN / 2 else 0.0 for s in scored]
            assert found == pytest.approx([p / math.fsum(powers) for p in powers], rel=1e-9, abs=1e-300)
            assert math.fsum(found) == pytest.approx(1)
        top = max(null, scores[0])
        no, yes = math.exp(max(null - top, -745)), math.exp(max(scores[0] - top, -745))
        assert odds[i] == pytest.approx(no / (no + yes), rel=1e-9, abs=1e-300)


def test_texts_by_rank_are_cut_from_the_context_of_the_question():
    contexts = ["the old mill", "ein Fluß"]
    answers = Answers(
        scores=np.array([[3.0, 1.0], [2.0, NO_SPAN]]),
        first=np.array([[4, 0], [4, 0]]),
        last=np.array([[7, 12], [8, 5]]),
        null=np.zeros(2),
    )
    questions = SimpleNamespace(context=lambda i: contexts[i])
    assert answers.texts(questions) == ["old", "Fluß"]
    assert answers.texts(questions, rank=1) == ["the old mill", ""]


@pytest.mark.parametrize("with_null", [False, True])
def test_the_n_best_are_in_the_order_of_their_scores(with_null):
    answers, context = random_answers(np.random.default_rng(5)), "word"
    found = answers.n_best(SimpleNamespace(context=lambda i: context), with_null=with_null)
    shares = answers.probabilities(with_null)
    for i, entries in enumerate(found):
        expected = [
            {"text": "w", "probability": shares[i, rank], "score": score, "start": 0}
            for rank, score in enumerate(answers.scores[i])
            if score > NO_SPAN / 2
        ]
        if with_null:
            expected.append({"text": "", "probability": shares[i, -1], "score": answers.null[i], "start": None})
        assert entries == sorted(expected, key=lambda entry: -entry["score"])
        assert {type(value) for entry in entries for value in entry.values()} <= {str, float, int, type(None)}
