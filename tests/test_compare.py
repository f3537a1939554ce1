"""Are two runs different: figures, intervals and p against brute force, hand-worked cases, and what is refused."""

import json
import math
import subprocess
import sys
from pathlib import Path

import jiwer
import numpy as np
import pytest
from sklearn import metrics as reference

from benchmarks import compare
from common.classification import Predictions, score_predictions, write_predictions
from common.errors import write_csv, write_json
from tests.helpers import ROOT, message, plain, read, refused

WORDS = ("the", "cat", "sat", "on", "a", "mat", "near", "trees")
SCORES = {
    "speech-recognition": ("wer",),
    "question-answering": ("f1", "exact"),
    "keyword-spotting": ("accuracy", "f1", "precision", "recall"),
    "speech-emotion": ("unweighted_average_recall", "accuracy", "f1"),
    "card-fraud": ("auprc", *(name + at for at in ("", "_at_half") for name in ("f1", "precision", "recall"))),
}


def make_run(folder: Path, task: str, rows: list[dict], split: str = "test", **changes) -> Path:
    """A run's directory as the scripts leave it, as far as comparing needs it; `changes` are keys of results.json."""
    folder.mkdir()
    names = SCORES[task]
    results = {
        "task": task,
        "headline": {"split": split, "metric": names[0]},
        "protocol": {"name": "honest", "leaks": False, "demo": False, "notes": []},
        "metrics": {split: {name: {"value": 1.0, "unit": "percent"} for name in names}},
        "data": {"splits": {split: {"source": "here.csv", "examples": len(rows), "fingerprint": "0123456789abcdef"}}},
    }
    write_json(folder / "results.json", results | changes)
    if rows:
        name = "predictions.csv" if split == "validation" else f"{split}_predictions.csv"
        write_csv(folder / name, list(rows[0]), [list(row.values()) for row in rows])
    return folder


def compared(*folders: Path, **options) -> dict:
    return compare.compare(list(folders), **{"split": None, "metric": None, "resamples": 2000, "seed": 0} | options)


def class_rows(truth, predicted) -> list[dict]:
    return [{"id": f"clip {i}", "truth": t, "prediction": p} for i, (t, p) in enumerate(zip(truth, predicted))]


def right_or_wrong(*pattern: tuple[int, bool]) -> list[dict]:
    """Rows of two classes: so many right, so many wrong, and so on."""
    right = [one for count, one in pattern for _ in range(count)]
    return class_rows(["yes"] * len(right), ["yes" if one else "no" for one in right])


def transcript_rows(hypotheses: list[str], references: list[str]) -> list[dict]:
    rows = []
    for i, (said, heard) in enumerate(zip(references, hypotheses)):
        found = jiwer.process_words(said, heard)
        counts = {kind: getattr(found, kind) for kind in ("substitutions", "deletions", "insertions")}
        rows.append({"id": f"utterance {i}", "reference": said, "hypothesis": heard, **counts})
    return rows


def spoken(generator, count: int) -> list[str]:
    return [" ".join(generator.choice(WORDS, generator.integers(1, 12))) for _ in range(count)]


def misheard(generator, texts: list[str], share: float) -> list[str]:
    """Texts with words replaced, dropped or doubled."""

    def heard(word: str) -> str:
        return str(generator.choice(["", "dog", f"{word} {word}"])) if generator.random() < share else word

    return [" ".join(" ".join(map(heard, text.split())).split()) for text in texts]


def brute_force(figure, count: int, draws: int = 4000, seed: int = 99) -> np.ndarray:
    """`figure` of rows drawn with replacement, one drawing after the other."""
    generator = np.random.default_rng(seed)
    return np.array([figure(generator.integers(count, size=count)) for _ in range(draws)])


def assert_interval(found: dict, differences: np.ndarray, step: float = 0.0):
    """step: between two differences that are possible; the ends may be one apart."""
    low, high = np.quantile(differences, (0.025, 0.975))
    near = max(0.08 * (high - low), 1.01 * step)
    assert (found["low"], found["high"]) == (pytest.approx(low, abs=near), pytest.approx(high, abs=near))
    if found["test"] == "paired bootstrap":
        assert found["detectable"] == pytest.approx(2.8 * differences.std(), rel=0.06)


# Figures


def repeated(task: str, name: str, rows: list[dict], draws: int):
    """A measure's figures of drawings, and for each the rows that were drawn."""
    measure = compare.MEASURES.get(task, compare.CLASSES)[name]
    examples = np.array(measure.examples(rows), dtype=float)
    weights = np.random.default_rng(1).multinomial(len(rows), np.full(len(rows), 1 / len(rows)), size=draws)
    with np.errstate(invalid="ignore", divide="ignore"):
        figures = measure.figure(weights.astype(float), examples)
    return zip(figures, (np.repeat(np.arange(len(rows)), counts) for counts in weights))


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("accuracy", reference.accuracy_score),
        ("f1", lambda t, p: reference.f1_score(t, p, average="macro", zero_division=0)),
        ("precision", lambda t, p: reference.precision_score(t, p, average="macro", zero_division=0)),
        ("unweighted_average_recall", reference.balanced_accuracy_score),
    ],
)
@pytest.mark.filterwarnings("ignore:y_pred contains classes")
def test_figures_of_classes_are_those_of_scikit_learn_also_where_a_class_is_missing(name, other):
    generator = np.random.default_rng(0)
    truth = generator.choice(["a", "b", "c", "rare"], 40, p=[0.5, 0.3, 0.17, 0.03])
    predicted = np.where(generator.random(40) < 0.6, truth, generator.choice(["a", "b", "never true"], 40))
    missing = 0
    for figure, drawn in repeated("keyword-spotting", name, class_rows(truth, predicted), 200):
        assert figure == pytest.approx(100 * other(truth[drawn], predicted[drawn]))
        missing += len({*truth[drawn], *predicted[drawn]}) < len({*truth, *predicted})
    assert missing > 20  # or the test would not show what it says


def fraud_rows(probabilities, truth, threshold: float) -> list[dict]:
    called = {"prediction": probabilities >= threshold, "prediction_at_half": probabilities >= 0.5}
    columns = {"truth": truth == 1, **called}
    names = {column: np.where(values, "fraud", "legitimate") for column, values in columns.items()}
    return [
        {"id": i, **{column: values[i] for column, values in names.items()}, "probability": repr(float(p))}
        for i, p in enumerate(probabilities)
    ]


@pytest.mark.parametrize("digits", [1, 2, 12])
def test_the_area_under_precision_recall_is_scikit_learns_also_with_equal_probabilities(digits):
    generator = np.random.default_rng(digits)
    truth = (generator.random(150) < 0.08).astype(int)
    probabilities = np.clip(generator.normal(0.3 + 0.3 * truth, 0.2), 0, 1).round(digits)
    undefined = 0
    for figure, drawn in repeated("card-fraud", "auprc", fraud_rows(probabilities, truth, 0.4), 200):
        if truth[drawn].any():
            assert figure == pytest.approx(100 * reference.average_precision_score(truth[drawn], probabilities[drawn]))
        else:
            assert math.isnan(figure)
            undefined += 1
    assert undefined < 5


def test_frauds_are_scored_at_both_thresholds(tmp_path):
    generator = np.random.default_rng(5)
    truth = (generator.random(300) < 0.1).astype(np.int8)
    found, folders = {}, []
    for run, skill in (("a", 0.1), ("b", 0.4)):
        found[run] = np.clip(generator.normal(0.3 + skill * truth, 0.15), 0, 1)
        folders.append(make_run(tmp_path / run, "card-fraud", fraud_rows(found[run], truth, 0.35)))
    for at, threshold in (("", 0.35), ("_at_half", 0.5)):
        for name in ("precision", "recall", "f1"):
            outcome = compared(*folders, metric=f"{name}{at}", resamples=200)
            for run, probabilities in found.items():
                expected = getattr(reference, f"{name}_score")(truth, probabilities >= threshold)
                assert outcome[run] == pytest.approx(100 * expected), (name, at)
    outcome = compared(*folders)
    assert outcome["metric"] == "auprc"
    for run, probabilities in found.items():
        assert outcome[run] == pytest.approx(100 * reference.average_precision_score(truth, probabilities))
    assert outcome["better"] == "B"
    a, b = found.values()

    def difference(drawn):
        if not truth[drawn].any():
            return math.nan
        scores = (reference.average_precision_score(truth[drawn], p[drawn]) for p in (b, a))
        return 100 * (next(scores) - next(scores))

    assert_interval(outcome, brute_force(difference, 300, draws=300))


# Intervals and p


def test_word_error_rates_are_compared_by_utterances_drawn_for_both_runs(tmp_path):
    generator = np.random.default_rng(3)
    said = spoken(generator, 80)
    heard = {"a": misheard(generator, said, 0.3), "b": misheard(generator, said, 0.2)}
    folders = [make_run(tmp_path / n, "speech-recognition", transcript_rows(h, said)) for n, h in heard.items()]
    found = compared(*folders, resamples=10_000)
    assert found["a"] == pytest.approx(100 * jiwer.wer(said, heard["a"]))
    assert found["b"] == pytest.approx(100 * jiwer.wer(said, heard["b"]))
    assert found["difference"] == pytest.approx(found["b"] - found["a"])
    counts = {
        n: np.array([jiwer.process_words(s, x).wer * len(s.split()) for s, x in zip(said, h)]) for n, h in heard.items()
    }
    words = np.array([len(text.split()) for text in said])
    differences = brute_force(lambda d: 100 * (counts["b"][d].sum() - counts["a"][d].sum()) / words[d].sum(), 80)
    assert_interval(found, differences)
    assert found["p"] == pytest.approx(2 * (differences >= 0).mean(), abs=0.01)
    assert found["better"] == "B"  # fewer errors
    assert found["sentence"].startswith(f"B is better by {-found['difference']:.2f} points [{-found['high']:.2f}, ")


def test_answers_are_compared_by_question(tmp_path):
    generator = np.random.default_rng(8)
    a, b = generator.choice([0, 0.4, 2 / 3, 1], 150), generator.choice([0, 0.5, 0.8, 1], 150)
    folders = []
    for name, scores in (("a", a), ("b", b)):
        rows = [
            {"id": i, "truth": "", "prediction": "", "exact": f"{s == 1:g}", "f1": f"{s:.4f}"}
            for i, s in enumerate(scores)
        ]
        folders.append(make_run(tmp_path / name, "question-answering", rows, "validation"))
    found = compared(*folders, resamples=10_000)
    assert (found["split"], found["metric"], found["test"]) == ("validation", "f1", "paired bootstrap")
    assert found["difference"] == pytest.approx(100 * (b - a).mean(), abs=0.01)
    differences = brute_force(lambda drawn: 100 * (b - a)[drawn].mean(), 150)
    assert_interval(found, differences)
    assert found["p"] == pytest.approx(2 * min((differences <= 0).mean(), (differences >= 0).mean()), abs=0.03)
    exact = compared(*folders, metric="exact")
    assert exact["difference"] == pytest.approx(100 * ((b == 1).mean() - (a == 1).mean()))
    assert exact["test"].startswith("McNemar")


def test_unweighted_recall_is_compared_by_example(tmp_path):
    generator = np.random.default_rng(2)
    truth = generator.choice(["anger", "joy", "fear"], 120, p=[0.6, 0.3, 0.1])
    a, b = (np.where(generator.random(120) < skill, truth, generator.choice(truth, 120)) for skill in (0.3, 0.6))
    folders = [make_run(tmp_path / n, "speech-emotion", class_rows(truth, p)) for n, p in (("a", a), ("b", b))]
    found = compared(*folders, resamples=5000)
    assert found["metric"] == "unweighted_average_recall"

    def difference(d):
        recalls = [[(p[d] == c)[truth[d] == c].mean() for c in np.unique(truth[d])] for p in (a, b)]
        return 100 * (np.mean(recalls[1]) - np.mean(recalls[0]))

    assert found["difference"] == pytest.approx(difference(np.arange(120)))
    assert_interval(found, brute_force(difference, 120, draws=3000))


def coin_p(less: int, more: int) -> float:
    """Twice the chance of at most `less` heads of a fair coin in `less` + `more` throws."""
    throws = less + more
    return min(1.0, 2 * sum(math.comb(throws, heads) for heads in range(less + 1)) / 2**throws)


@pytest.mark.parametrize(("only_a", "only_b", "better"), [(1, 9, "B"), (9, 1, "A"), (2, 9, None), (5, 5, None)])
def test_accuracies_are_compared_by_mcnemars_exact_test(tmp_path, only_a, only_b, better):
    both, neither = 60, 20
    a = right_or_wrong((both, True), (neither, False), (only_a, True), (only_b, False))
    b = right_or_wrong((both, True), (neither, False), (only_a, False), (only_b, True))
    found = compared(*(make_run(tmp_path / n, "keyword-spotting", rows) for n, rows in (("a", a), ("b", b))))
    assert found["p"] == pytest.approx(coin_p(min(only_a, only_b), max(only_a, only_b)))
    assert found["test"] == f"McNemar: right in A alone {only_a}, in B alone {only_b}"
    assert found["difference"] == pytest.approx(100 * (only_b - only_a) / len(a))
    assert found["better"] == better
    gains = np.repeat([0, -1, 1], [both + neither, only_a, only_b])
    assert_interval(found, brute_force(lambda drawn: 100 * gains[drawn].mean(), len(a)), step=100 / len(a))


def test_the_worked_example_of_one_against_nine():
    assert compare.mcnemar_p(1, 9) == pytest.approx(22 / 1024)
    assert compare.mcnemar_p(0, 0) == 1


def test_what_so_many_examples_can_show():
    """Six examples that one run alone gets right are the fewest that are no chance: 2 / 2**6 is less than 5 %."""
    assert compare.smallest_lead(0, 99) == compare.smallest_lead(4, 99) == pytest.approx(100 * 6 / 99)
    assert compare.smallest_lead(0, 5) == 100  # nothing
    for differing in (8, 25, 60):
        lead = round(compare.smallest_lead(differing, 1000) * 10)
        only_a = (differing - lead) // 2
        assert coin_p(only_a, differing - only_a) < 0.05 <= coin_p(only_a + 1, differing - only_a - 1)


def test_the_bootstraps_p_counts_both_sides_and_minds_how_few_examples_differ():
    differences = np.array([-2.0, -1.0, 0.0, *np.linspace(0.1, 5, 96)])
    assert compare.bootstrap_p(differences, 50) == compare.bootstrap_p(-differences, 50) == pytest.approx(2 * 4 / 100)
    assert compare.bootstrap_p(differences, 3) == 0.25
    assert compare.bootstrap_p(np.zeros(99), 0) == 1


def test_runs_that_differ_by_chance_are_seldom_called_different():
    generator, called = np.random.default_rng(12), 0
    for trial in range(300):
        words = generator.integers(1, 15, 60)
        a, b = (np.column_stack([generator.binomial(words, 0.2), words]) for _ in range(2))
        _, _, differences = compare.paired_bootstrap(compare.share, a, b, 400, trial)
        called += compare.bootstrap_p(differences, int((a != b).any(axis=1).sum())) < compare.CHANCE
    assert 4 <= called <= 30  # 5 % are 15


def test_exchanging_the_runs_turns_the_result_round(tmp_path):
    generator = np.random.default_rng(4)
    said = spoken(generator, 50)
    a, b = (
        make_run(tmp_path / name, "speech-recognition", transcript_rows(misheard(generator, said, share), said))
        for name, share in (("a", 0.1), ("b", 0.4))
    )
    there, back = compared(a, b, resamples=10_000), compared(b, a, resamples=10_000)
    assert there["difference"] == -back["difference"]
    assert there["low"] == pytest.approx(-back["high"], rel=0.05)
    assert (there["better"], back["better"]) == ("A", "B")
    assert compared(a, b) == compared(a, b)
    assert compared(a, b)["low"] != compared(a, b, seed=1)["low"]


def test_a_few_utterances_show_nothing_however_alike_they_speak(tmp_path):
    said = ["the cat sat", "on a mat", "near the trees"]
    a = make_run(tmp_path / "a", "speech-recognition", transcript_rows(["the cat", "on a", "near the"], said))
    b = make_run(tmp_path / "b", "speech-recognition", transcript_rows(said, said))
    found = compared(a, b)
    assert found["p"] == 0.25  # all of three coins the same side up
    assert found["better"] is None
    assert "3 examples can only show differences of 33.33 points and more" in found["sentence"]


# What is said


def test_what_is_said_of_a_difference_and_of_none(tmp_path, capsys):
    a = make_run(tmp_path / "a", "keyword-spotting", right_or_wrong((150, True), (50, False)))
    b = make_run(tmp_path / "b", "keyword-spotting", right_or_wrong((190, True), (10, False)))
    c = make_run(tmp_path / "c", "keyword-spotting", right_or_wrong((140, True), (5, False), (8, True), (47, False)))
    d = make_run(tmp_path / "d", "keyword-spotting", right_or_wrong((150, True), (50, False)))
    compare.main([str(a), str(b)])
    title, *rows, _, sentence = capsys.readouterr().out.splitlines()
    assert title == "accuracy on test, 200 examples"
    assert [row.split()[:2] for row in rows] == [["A", "75.00"], ["B", "95.00"], ["B", "-"]]
    assert rows[2].split()[3] == "+20.00"
    assert (
        sentence.startswith("B is better by 20.00 points [1") and "is unlikely to be chance (p = 1.8e-12)" in sentence
    )
    found = compared(a, c)  # 5 are right in A alone, 3 in C alone
    assert found["detectable"] == 4, "of 8 that differ all have to speak for one run"
    assert found["sentence"].startswith("no clear difference: B - A is -1.00 points [")
    assert compared(a, d)["sentence"] == "no difference: every one of the 200 examples counts alike in both runs"


def test_leaking_and_demo_runs_are_marked(tmp_path, capsys):
    leaking = {"name": "published", "leaks": True, "demo": False, "notes": ["copies"]}
    demo = {"name": "honest", "leaks": False, "demo": True, "notes": []}
    rows = right_or_wrong((8, True), (2, False))
    a = make_run(tmp_path / "a", "keyword-spotting", rows, protocol=leaking)
    b = make_run(tmp_path / "b", "keyword-spotting", rows, protocol=demo)
    found = compare.main([str(a), str(b), "--json", str(tmp_path / "new" / "found.json")])
    _, line_a, line_b, *_ = capsys.readouterr().out.splitlines()
    assert f"{a} - LEAKS: published protocol" in line_a and "DEMO" not in line_a
    assert f"{b} - DEMO: built-in synthetic data" in line_b
    assert read(tmp_path / "new" / "found.json") == json.loads(json.dumps(found))
    assert [mark.partition(":")[0] for mark in (*found["marks"]["A"], *found["marks"]["B"])] == ["LEAKS", "DEMO"]


# What is refused


def other_data(examples: int = 10) -> dict:
    return {"splits": {"test": {"source": "there.csv", "examples": examples, "fingerprint": "fedcba9876543210"}}}


def test_runs_that_cannot_be_compared_are_refused_in_one_sentence(tmp_path, capsys):
    rows = right_or_wrong((8, True), (2, False))
    a = make_run(tmp_path / "a", "keyword-spotting", rows)

    def sentence(b: Path, *options: str) -> str:
        return refused(capsys, compare.main, "compare", str(a), str(b), *options)

    def run(name: str, rows=rows, task: str = "keyword-spotting", **changes) -> Path:
        return make_run(tmp_path / name, task, rows, **changes)

    assert sentence(a / ".." / "a") == f"{a}: is compared with itself; give two runs"
    assert "no such folder" in sentence(tmp_path / "nowhere")
    unfinished = run("unfinished")
    (unfinished / "results.json").unlink()
    assert sentence(unfinished).startswith(f"{unfinished}: no results.json: the run is not finished")
    assert "truth" in sentence(run("without truth", headline=None, metrics={}))
    found = sentence(run("emotion", task="speech-emotion"))
    assert f"{a} (keyword-spotting) and {tmp_path / 'emotion'} (speech-emotion) are different tasks" in found
    found = sentence(run("other data", data=other_data(12)))
    assert f"{a} has 10 examples of here.csv (fingerprint 0123456789ab)" in found
    assert f"{tmp_path / 'other data'} has 12 examples of there.csv (fingerprint fedcba987654)" in found
    others = [row | {"id": f"other {i}"} if i == 3 else row for i, row in enumerate(rows)]
    found = sentence(run("other ids", others))
    assert found.endswith(f"row 4 is clip 3 in {a} and other 3 in {tmp_path / 'other ids'}")
    assert f"row 10 is clip 9 in {a} and missing in" in sentence(run("one less", rows[:-1]))
    assert "row 1 is" in sentence(run("other truth", [row | {"truth": "no"} for row in rows]))
    assert "no such file" in sentence(run("without predictions", []))
    b = run("b")
    assert sentence(b, "--split", "validation").startswith(f"{a}: no scores of validation")
    assert "--metric among accuracy, precision, recall, f1" in sentence(b, "--metric", "wer")
    assert "100 or more" in sentence(b, "--resamples", "0")


def test_a_metric_without_a_value_cannot_be_compared(tmp_path):
    rows = fraud_rows(np.array([0.1, 0.7]), np.array([0, 1]), 0.5)
    a, b = (make_run(tmp_path / name, "card-fraud", rows) for name in "ab")
    results = read(b / "results.json")
    results["metrics"]["test"]["auprc"]["value"] = None
    write_json(b / "results.json", results)
    assert message(compared, a, b).startswith("auprc: cannot be compared on test; choose --metric among precision")


# Real runs


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> list[Path]:
    """Two runs as the scripts on classes leave them: one that learned, one that hardly did."""
    generator, folders = np.random.default_rng(7), []
    labels, truth = ["=yes", "no", "never"], generator.integers(2, size=120)
    for name, skill in (("learned", 3), ("hardly", 0.2)):
        predictions = {}
        for split in ("validation", "test"):
            logits = generator.normal(size=(120, 3)) + skill * np.eye(3)[truth]
            predictions[split] = Predictions(labels, logits, truth, [f"clip {i}" for i in range(120)])
        losses = dict.fromkeys(predictions, 0.5)
        scores = score_predictions(predictions, losses, headline_metric="accuracy", train_targets=truth)
        facts = {"source": "here", "examples": 120, "fingerprint": "0123456789abcdef"}
        folder, demo = (
            tmp_path_factory.mktemp("runs") / name,
            {"name": "honest", "leaks": False, "demo": True, "notes": []},
        )
        data = {"splits": {"validation": facts, "test": facts}}
        folders.append(make_run(folder, "keyword-spotting", [], protocol=demo, data=data, **scores))
        for split, prefix in (("validation", ""), ("test", "test_")):
            write_predictions(folder, prefix, predictions[split])
    return folders


def test_two_runs_are_compared_on_the_command_line(runs, tmp_path):
    command = [sys.executable, "-m", "benchmarks.compare", *map(str, runs)]
    options = {"cwd": ROOT, "env": plain(tmp_path), "capture_output": True, "text": True}
    done = subprocess.run([*command, "--json", str(tmp_path / "found.json")], **options)
    assert done.returncode == 0, done.stderr
    found, results = read(tmp_path / "found.json"), [read(folder / "results.json") for folder in runs]
    assert [found["a"], found["b"]] == pytest.approx([run["headline"]["value"] for run in results])
    assert found["better"] == "A" and found["examples"] == 120
    assert done.stdout.splitlines()[-1] == found["sentence"]
    assert done.stdout.count("DEMO: ") == 2
    refusal = subprocess.run([*command, "--split", "train"], **options)
    assert refusal.returncode == 2 and refusal.stderr.count("\n") == 1 and not refusal.stdout


@pytest.mark.parametrize("split", ["validation", "test"])
def test_every_score_of_two_runs_is_that_of_their_results(runs, split):
    for name in compare.CLASSES.keys() - {"unweighted_average_recall"}:
        found = compared(*runs, split=split, metric=name, resamples=100)
        values = [read(folder / "results.json")["metrics"][split][name]["value"] for folder in runs]
        assert [found["a"], found["b"]] == pytest.approx(values), name


def test_nothing_heavy_is_imported():
    heavy = "{'torch', 'tensorflow', 'keras', 'evaluate', 'datasets', 'sklearn', 'pandas'}"
    program = f"import sys, benchmarks.compare; sys.exit(str({heavy} & sys.modules.keys() or ''))"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.stderr == "\n"
