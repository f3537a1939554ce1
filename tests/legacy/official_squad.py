"""A second, plain reading of the official SQuAD 2.0 scorer's definition, for comparing: no line is shared with ours."""

import string


def normal(text: str) -> list[str]:
    """Lower case, no ASCII punctuation, no articles, split at white space."""
    kept = "".join(" " if c.isspace() else c for c in text.lower() if c not in string.punctuation)
    words, word = [], ""
    # An article is one standing alone between characters that are no letters, digits or underscores.
    for c in kept + " ":
        if c.isalnum() or c == "_":
            word += c
        else:
            words.append("" if word in ("a", "an", "the") else word)
            words.append(c)
            word = ""
    return "".join(words).split()


def score(prediction: str, golds: list[str]) -> tuple[float, float]:
    """(exact match, F1) of one question, in 0..1."""
    golds = [gold for gold in golds if normal(gold)] or [""]
    best_exact = best_f1 = 0.0
    for gold in golds:
        p, g = normal(prediction), normal(gold)
        best_exact = max(best_exact, float(p == g))
        if not p or not g:
            best_f1 = max(best_f1, float(p == g))
            continue
        left, shared = list(g), 0
        for word in p:
            if word in left:
                left.remove(word)
                shared += 1
        if shared:
            precision, recall = shared / len(p), shared / len(g)
            best_f1 = max(best_f1, 2 * precision * recall / (precision + recall))
    return best_exact, best_f1


def score_file(squad: dict, predictions: dict[str, str]) -> dict[str, float]:
    """The official figures, in percent, of predictions (id -> text) for the content of a SQuAD json file."""
    groups: dict[str, list] = {"": [], "HasAns_": [], "NoAns_": []}
    for article in squad["data"]:
        for paragraph in article["paragraphs"]:
            for question in paragraph["qas"]:
                if str(question["id"]) not in predictions:
                    continue
                golds = [answer["text"] for answer in question["answers"]]
                both = score(predictions[str(question["id"])], golds)
                groups[""].append(both)
                groups["HasAns_" if golds else "NoAns_"].append(both)
    return {
        prefix + name: 100 * sum(pair[i] for pair in pairs) / len(pairs)
        for prefix, pairs in groups.items()
        if pairs
        for i, name in enumerate(("exact", "f1"))
    }
