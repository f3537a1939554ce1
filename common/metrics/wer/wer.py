"""Word and character error rate of transcripts: jiwer aligns, the errors are counted by utterance and then summed.

- The rate of a set is the sum of its errors over the sum of its reference words, not the mean of the utterances' rates.
- An utterance with an empty reference counts: every word in its transcript is an insertion. A set without any reference
  word has errors but no rate.
- Words are what white space separates; characters include one space between two words. Nothing else is normalised.
"""

from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np

INPUTS = """\
Args:
    predictions, references: the transcript that a model wrote, and the true one, of each utterance.
Returns:
    wer, cer: errors per 100 reference words or characters; None where all references are empty. substitutions,
    deletions, insertions: those errors alone, per 100 reference words. exact: utterances without an error, in percent.
    words, characters: the counts themselves, summed over the set.
"""
KINDS = ("hits", "substitutions", "deletions", "insertions")
SPLITS = {
    "word": lambda texts: [text.split() for text in texts],
    "character": lambda texts: [list(" ".join(text.split())) for text in texts],
}
CHUNK = 256  # utterances aligned at once: the alignments of a million characters take more memory than the texts
Unit = Literal["word", "character"]
Alignment = list[tuple[str, int, int, int, int]]


def alignments(references: Sequence[str], hypotheses: Sequence[str], unit: Unit = "word") -> Iterator[Alignment]:
    """Yields, utterance by utterance, how the hypothesis comes out of the reference, which are equally many.

    An alignment is a list of (kind, begin, end, begin, end): "equal", "substitute", "delete" or "insert", the words or
    characters of the reference, and those of the hypothesis; in order, and together all of both.
    """
    import jiwer

    for begin in range(0, len(references), CHUNK):
        texts = (list(column[begin : begin + CHUNK]) for column in (references, hypotheses))
        for chunks in jiwer.process_words(*texts, *[SPLITS[unit]] * 2).alignments:
            yield [(c.type, c.ref_start_idx, c.ref_end_idx, c.hyp_start_idx, c.hyp_end_idx) for c in chunks]


def counted(alignment: Alignment) -> tuple[int, int, int, int]:
    """Hits, substitutions, deletions and insertions of one utterance."""
    count = dict.fromkeys(("equal", "substitute", "delete", "insert"), 0)
    for kind, begin, end, first, last in alignment:
        count[kind] += max(end - begin, last - first)
    return tuple(count.values())


def edit_counts(references: Sequence[str], hypotheses: Sequence[str], unit: Unit = "word") -> np.ndarray:
    """int64 [N, 4]: `counted` of every utterance."""
    rows = [counted(alignment) for alignment in alignments(references, hypotheses, unit)]
    return np.array(rows, dtype=np.int64).reshape(-1, len(KINDS))


def summary(words: np.ndarray, characters: np.ndarray) -> dict[str, float | None]:
    """wer, cer, substitutions, deletions, insertions and exact, as INPUTS says, of `edit_counts`.

    words, characters: int64 [N, 4], N > 0, of the same utterances. Rates are None where no reference has a word.
    """
    (_, *errors), said = words.sum(axis=0), words[:, :3].sum()
    counts = {"wer": (sum(errors), said), "cer": (characters[:, 1:].sum(), characters[:, :3].sum())}
    counts |= {kind: (count, said) for kind, count in zip(KINDS[1:], errors)}
    rates = {name: 100 * float(count) / float(of) if of else None for name, (count, of) in counts.items()}
    return rates | {"exact": 100 * float(np.mean(words[:, 1:].sum(axis=1) == 0))}


if __name__.startswith("evaluate_modules"):  # loaded by `evaluate`, whose import takes seconds, and not by ours
    import datasets
    import evaluate

    class Wer(evaluate.Metric):
        """The functions above as an `evaluate` metric."""

        def _info(self) -> evaluate.MetricInfo:
            text = datasets.Value("string")
            features = datasets.Features(predictions=text, references=text)
            return evaluate.MetricInfo(__doc__, "", features, inputs_description=INPUTS)

        def _compute(self, predictions: list[str], references: list[str]) -> dict:
            """See INPUTS. Raises ValueError without utterances."""
            if not len(references):
                raise ValueError("there are no utterances to score")
            words, characters = (edit_counts(references, predictions, unit) for unit in ("word", "character"))
            found = summary(words, characters)
            for name, counts in (("words", words), ("characters", characters)):
                found[name] = dict(zip(KINDS, counts.sum(axis=0).tolist()))
            return found
