"""Built-in data and tiny models, so that a script's `--demo` runs without a network and still learns something.

The data is composed from templates about invented places and people; the models are the real architectures with
random weights, a few hundred thousand parameters and a tokenizer trained on the spot. Both are functions of the seed
alone: the same files, byte for byte, on every run. Not for measuring anything but that a script works.
"""

import json
import math
import random
import re
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from common.errors import UserError

VOCABULARY_SIZE = 2000
HEADS = {"none": "AutoModel", "question-answering": "AutoModelForQuestionAnswering"}

# --- tiny models ------------------------------------------------------------------------------------------------------


class Twin(NamedTuple):
    """The architecture that stands in for a family of pre-trained models."""

    model_type: str
    tokenizer_class: str
    algorithm: str  # how the tokenizer cuts words: wordpiece, bpe or unigram
    special_tokens: tuple[str, ...]  # the first ids, in the order of the real vocabularies; the last one is the mask


BERT_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
ROBERTA_TOKENS = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")

TWINS = {
    "bert": Twin("bert", "BertTokenizer", "wordpiece", BERT_TOKENS),
    "distilbert": Twin("distilbert", "DistilBertTokenizer", "wordpiece", BERT_TOKENS),
    "parsbert": Twin("bert", "BertTokenizer", "wordpiece", BERT_TOKENS),
    "roberta": Twin("roberta", "RobertaTokenizer", "bpe", ROBERTA_TOKENS),
    "distilroberta": Twin("roberta", "RobertaTokenizer", "bpe", ROBERTA_TOKENS),
    "xlm-roberta": Twin("xlm-roberta", "XLMRobertaTokenizer", "unigram", ROBERTA_TOKENS),
}


def twin_of(architecture: str) -> Twin:
    """The tiny stand-in for a model id such as `HooshvareLab/bert-base-parsbert-uncased`, or a `UserError`.

    The family is looked for as a whole word of the id's last part, so that HuBERT or DeBERTa are not taken for BERT,
    and the longest name first, so that xlm-roberta is not taken for roberta.
    """
    name = architecture.rstrip("/").split("/")[-1].lower()
    for family in sorted(TWINS, key=len, reverse=True):
        if re.search(rf"(?<![a-z]){family}(?![a-z])", name):
            return TWINS[family]
    raise UserError(
        f"--demo has no tiny twin of the model {architecture!r}; choose one with "
        f"{', '.join(sorted(TWINS))} in its name, such as distilbert-base-uncased"
    )


def tiny_model(architecture: str, texts: list[str], folder: Path, head: str, seed: int = 0) -> Path:
    """Writes a tiny random model of the architecture and a fast tokenizer trained on `texts` into `folder`.

    `architecture` is a model id (see `twin_of`), `head` a key of `HEADS`. The folder has the layout of
    `save_pretrained`, so the Auto classes load it like a real checkpoint. The caller's random state is left alone.
    """
    import torch
    import transformers

    twin = twin_of(architecture)
    tokenizer = _tiny_tokenizer(twin, texts)
    config = _tiny_config(twin, tokenizer)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = getattr(transformers, HEADS[head]).from_config(config)
    _write_sinusoids(model)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return Path(folder)


def _tiny_tokenizer(twin: Twin, texts: list[str]):
    import transformers

    tokenizer_class = getattr(transformers, twin.tokenizer_class)
    blank = tokenizer_class().backend_tokenizer  # the class's own normaliser and pre-tokeniser, with no vocabulary yet
    if twin.algorithm == "bpe":
        vocabulary = _byte_pairs(blank.pre_tokenizer, texts, twin.special_tokens)
    else:
        vocabulary = _whole_words(blank, texts, twin)
    return tokenizer_class(**vocabulary, model_max_length=512)


def _byte_pairs(pre_tokenizer, texts: list[str], special_tokens: tuple[str, ...]) -> dict:
    """Vocabulary and merges of a byte-level BPE: the one trainer of `tokenizers` that gives the same twice."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizer
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_SIZE,
        special_tokens=list(special_tokens),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    trained = json.loads(tokenizer.to_str())["model"]
    return {"vocab": trained["vocab"], "merges": [tuple(pair) for pair in trained["merges"]]}


def _whole_words(blank, texts: list[str], twin: Twin) -> dict:
    """Vocabulary of the most frequent words and every character, for WordPiece and Unigram.

    The trainers of these two break ties by hash and give another vocabulary in every process, hence this.
    """
    counts = Counter()
    for text in texts:
        normalized = blank.normalizer.normalize_str(text) if blank.normalizer else text
        for word, _ in blank.pre_tokenizer.pre_tokenize_str(normalized):
            counts.update(re.findall(r"▁?\w+|▁?[^\w▁]", word))  # XLM-R leaves punctuation at its word
    characters = sorted(set("".join(counts)) | set(map(chr, range(33, 127))))
    ranked = sorted(counts, key=lambda word: (-counts[word], word))
    if twin.algorithm == "wordpiece":
        pieces = [*characters, *("##" + character for character in characters)]
        tokens = list(dict.fromkeys([*twin.special_tokens, *pieces, *ranked]))[:VOCABULARY_SIZE]
        return {"vocab": {token: number for number, token in enumerate(tokens)}}
    # A Unigram cuts where the sum of log probabilities is highest: a word must beat the characters it is made of.
    total = sum(counts.values())
    words = [word for word in ranked if len(word) > 1][: VOCABULARY_SIZE - len(characters) - len(twin.special_tokens)]
    scored = [(word, math.log(counts[word] / total)) for word in words]
    rare = [(character, -2 * math.log(total)) for character in characters]
    first, mask = twin.special_tokens[:-1], twin.special_tokens[-1]
    return {"vocab": [(token, 0.0) for token in first] + scored + rare + [(mask, 0.0)]}


def _tiny_config(twin: Twin, tokenizer):
    from transformers import AutoConfig

    # No dropout: it slows a model that sees a few hundred steps, and equal runs can be told equal to the last digit.
    if twin.model_type == "distilbert":
        shape = {"dim": 128, "hidden_dim": 256, "n_layers": 2, "n_heads": 4}
        shape |= {"dropout": 0.0, "attention_dropout": 0.0, "qa_dropout": 0.0, "seq_classif_dropout": 0.0}
    else:
        shape = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4}
        shape |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    roberta = twin.special_tokens is ROBERTA_TOKENS
    if roberta:
        shape |= {"layer_norm_eps": 1e-5, "type_vocab_size": 1}
    return AutoConfig.for_model(
        twin.model_type,
        vocab_size=len(tokenizer),
        max_position_embeddings=514 if roberta else 512,  # RoBERTa counts from padding_idx + 1
        pad_token_id=tokenizer.pad_token_id,
        initializer_range=0.1,  # wider than for 768 dimensions, or attention stays flat for hundreds of steps
        **shape,
    )


def _write_sinusoids(model) -> None:
    """Starts the position table from sinusoids: "the token before" is then one rotation, learnt once for all places.

    From a random table the demo of run_qa.py gets 63-80 F1 in the steps in which it gets 94-99 from this one.
    """
    import torch

    for name, table in model.named_modules():
        if name.endswith("position_embeddings") and isinstance(table, torch.nn.Embedding):
            places, size = table.weight.shape
            rates = torch.exp(torch.arange(0, size, 2) * (-math.log(10000.0) / size))
            angles = torch.arange(places)[:, None] * rates
            waves = torch.stack([angles.sin(), angles.cos()], dim=-1).reshape(places, size)
            with torch.no_grad():
                table.weight.copy_(waves * model.config.initializer_range)
                if table.padding_idx is not None:
                    table.weight[table.padding_idx] = 0


# --- question answering -----------------------------------------------------------------------------------------------


class Relation(NamedTuple):
    """Something a paragraph may state about its subject; the wider of the two gold answers stands between < and >."""

    kind: str  # of the answer: another relation of the same kind makes the question's plausible answer
    statement: str
    questions: tuple[str, ...]
    answers: tuple[str, ...]


PLACES = [
    first + last for last in ("la", "mora", "tin", "ford", "by") for first in ("Or", "Vel", "Kas", "Dun", "Mar", "Tol")
]
PEOPLE = [f"{first} {last}" for first in ("Anna", "Clara", "Elena", "Greta") for last in ("Berg", "Dahl", "Funke")]
PEOPLE += [f"{first} {last}" for first in ("Boris", "David", "Felix", "Hugo") for last in ("Costa", "Egede", "Grau")]
# kind -> the pool of answers, then (statement, questions) of each relation. {s} is the subject, {a} the answer.
KINDS = {
    "year": (
        [str(year) for year in range(1705, 1995, 15)],
        ("{s} was founded <in {a}>", "When was {s} founded?", "In what year was {s} founded?"),
        ("{s} was closed <in {a}>", "When was {s} closed?", "In what year was {s} closed?"),
    ),
    "person": (
        PEOPLE,
        ("{s} was designed <by {a}>", "Who designed {s}?", "By whom was {s} designed?"),
        ("{s} was bought <by {a}>", "Who bought {s}?", "By whom was {s} bought?"),
    ),
    "number": (
        [str(number) for number in range(20, 620, 30)],
        ("{s} has <{a} rooms>", "How many rooms does {s} have?", "What number of rooms does {s} have?"),
        ("{s} has <{a} books>", "How many books does {s} have?", "What number of books does {s} have?"),
    ),
    "place": (
        PLACES,
        (
            "{s} stands beside <the river {a}>",
            "Which river does {s} stand beside?",
            "Beside which river does {s} stand?",
        ),
        ("{s} is named after <the town {a}>", "Which town is {s} named after?", "After which town is {s} named?"),
    ),
}


def _relations() -> list[Relation]:
    """Every relation draws its answers from a share of the kind's pool of its own.

    So a tiny model finds the answer by its words as well as by its sentence, which it learns in seconds; telling two
    relations apart by nothing but the sentence takes it thousands of steps.
    """
    relations = []
    for kind, (pool, *forms) in KINDS.items():
        share = len(pool) // len(forms)
        for number, (statement, *questions) in enumerate(forms):
            answers = pool[number * share : (number + 1) * share]
            relations.append(Relation(kind, statement, tuple(questions), tuple(answers)))
    return relations


RELATIONS = _relations()
TOWNS = ("Alder", "Brink", "Corve", "Draam", "Elst", "Faro", "Gelm", "Hask", "Isen", "Jorv", "Kelt", "Lumen")
SUBJECTS = ("museum", "library", "theatre", "castle", "school", "bridge", "mill", "tower")
OPENINGS = ("", "", "today ", "of course ", "the guide says that ", "as everybody knows, ")
ASIDES = (
    "The garden is quiet.",
    "In summer many families come.",
    "The roof is red.",
    "A small cafe sells tea.",
    "The road there is steep.",
    "Dogs must wait outside.",
    "The windows face north.",
    "On Mondays the doors stay shut.",
)
OWN_ANSWERS = 0.95  # the others are the hard ones: only the sentence tells them
QUESTIONS_A_PARAGRAPH = 3
SPLITS = {"train": (2400, 1 / 3), "validation": (300, 1 / 2), "test": (21, 1 / 2)}  # questions, share unanswerable


def question_answering_demo(folder: Path, architecture: str, seed: int = 0) -> dict[str, str]:
    """Writes SQuAD v2 files about invented buildings and a tiny model of `architecture` into `folder`.

    Returns the paths as the script's arguments: model, train_file, validation_file and test_file, the last one
    without answers. The shares of unanswerable questions are those of SQuAD v2, no paragraph is in two splits, and
    validation has several gold answers a question.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    generator = random.Random(seed)
    seen: set[str] = set()
    paths, texts = {}, []
    for split, (questions, share) in SPLITS.items():
        articles = _articles(split, questions, share, seen, generator)
        path = folder / f"{split}.json"
        content = {"version": "v2.0", "data": articles}
        path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        paths[f"{split}_file"] = str(path)
        if split == "train":
            paragraphs = [paragraph for article in articles for paragraph in article["paragraphs"]]
            texts = [paragraph["context"] for paragraph in paragraphs]
            texts += [question["question"] for paragraph in paragraphs for question in paragraph["qas"]]
    model = tiny_model(
        architecture, texts, folder / f"tiny-{twin_of(architecture).model_type}", "question-answering", seed
    )
    return {"model": str(model), **paths}


def _articles(split: str, questions: int, share: float, seen: set[str], generator: random.Random) -> list[dict]:
    """Articles of four paragraphs with exactly the share of unanswerable questions; `seen` collects the contexts."""
    impossible = [number < round(questions * share) for number in range(questions)]
    generator.shuffle(impossible)
    articles: list[dict] = []
    for first in range(0, questions, QUESTIONS_A_PARAGRAPH):
        if first % (4 * QUESTIONS_A_PARAGRAPH) == 0:
            town, thing = generator.choice(TOWNS), generator.choice(SUBJECTS)
            articles.append({"title": f"{town} {thing} ({split} {len(articles) + 1})", "paragraphs": []})
        flags = impossible[first : first + QUESTIONS_A_PARAGRAPH]
        paragraph = _paragraph(town, thing, flags, generator)
        while paragraph["context"] in seen:
            paragraph = _paragraph(town, thing, flags, generator)
        seen.add(paragraph["context"])
        for number, question in enumerate(paragraph["qas"], start=first):
            question["id"] = f"{split}-{number:05d}"
            if split == "train":
                question["answers"] = question["answers"][:1]
            elif split == "test":
                for key in ("answers", "plausible_answers", "is_impossible"):
                    question.pop(key, None)
        articles[-1]["paragraphs"].append(paragraph)
    return articles


def _paragraph(town: str, thing: str, impossible: list[bool], generator: random.Random) -> dict:
    """A context and one question for each flag; an unanswerable one has a plausible answer of the right kind."""
    kinds = generator.sample(sorted(KINDS), generator.choice((3, 4)))
    stated = [generator.choice([relation for relation in RELATIONS if relation.kind == kind]) for kind in kinds]
    missing = [relation for relation in RELATIONS if relation.kind in kinds and relation not in stated]
    for _ in range(min(generator.choice((0, 0, 1, 2)), len(missing) - sum(impossible))):
        stated.append(missing.pop(generator.randrange(len(missing))))
    asides = 6 if generator.random() < 0.1 else generator.choice((0, 0, 1, 2))  # a tenth are long
    parts = [*stated, *generator.sample(ASIDES, asides)]
    generator.shuffle(parts)

    context = ""
    gold: dict[Relation, list[dict]] = {}
    full_name = f"the {town} {thing}"
    for part in parts:
        context += " " if context else ""
        if isinstance(part, str):
            context += part
            continue
        subject = generator.choice((f"the {thing}", "it")) if gold else full_name
        pool = part.answers if generator.random() < OWN_ANSWERS else KINDS[part.kind][0]
        answer = generator.choice(pool)
        sentence = generator.choice(OPENINGS) + part.statement.format(s=subject, a=answer) + "."
        sentence = sentence[0].upper() + sentence[1:]
        before, wide, after = re.split("[<>]", sentence)
        start = len(context) + len(before)
        short = {"text": answer, "answer_start": start + wide.index(answer)}
        gold[part] = [short, {"text": wide, "answer_start": start}, short]
        context += before + wide + after

    asked = iter(generator.sample(stated, impossible.count(False)))
    not_stated = iter(generator.sample(missing, impossible.count(True)))
    questions = []
    for flag in impossible:
        relation = next(not_stated if flag else asked)
        text = generator.choice(relation.questions).format(s=f"the {thing}")
        question = {"id": "", "question": text, "answers": [], "is_impossible": flag}
        if flag:
            plausible = next(other for other in stated if other.kind == relation.kind)
            question["plausible_answers"] = gold[plausible][:1]
        else:
            question["answers"] = gold[relation]
        questions.append(question)
    return {"context": context, "qas": questions}
