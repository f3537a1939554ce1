"""Two runs as their scripts leave them: results.json with everything that a page may have to show."""

import pytest

from tests.report.helpers import metric


def split(examples, available, counts):
    return {
        "source": "rajpurkar/squad_v2 revision 3ffb306",
        "examples": examples,
        "available": available,
        "selection": f"{examples} drawn at random with seed 42, in the order of the file",
        "fingerprint": "9b74c9897bac770ffc029102a200c5de" * 2,
        "label_counts": counts,
        "skipped": {"answer not in the context": 12} if examples > 10000 else {},
        "statistics": {"windows": examples + 337, "longest question in tokens": 61, "windows_an_example": 1.0613},
    }


@pytest.fixture
def results():
    """A question answering run as run_qa.py leaves it."""
    validation = {
        "exact": metric(63.83, 62.48, 65.19),
        "f1": metric(67.214, 65.92, 68.51),
        "HasAns_exact": metric(59.1572, 57.21, 61.09, 2468),
        "HasAns_f1": metric(66.0118, 64.22, 67.85, 2468),
        "NoAns_exact": metric(68.3854, 66.58, 70.19, 2532),
        "best_f1": metric(67.4031),
        "loss": metric(1.21345, unit="nats"),
    }
    baseline = {"exact": metric(50.64), "f1": metric(50.64), "HasAns_exact": metric(0.0), "NoAns_exact": metric(100.0)}
    recipe = {
        "num_train_epochs": 3.0,
        "per_device_train_batch_size": 8,
        "weight_decay": 1e-4,
        "max_length": 512,
        "stride": 128,
    }
    arguments = {name: {"value": value, "source": "recipe"} for name, value in recipe.items()}
    arguments |= {
        "adam_beta1": {"value": 0.9, "source": "library default"},
        "model": {"value": "distilbert-base-uncased", "source": "command line"},
        "dataset": {"value": "rajpurkar/squad_v2", "source": "command line"},
        "learning_rate": {"value": 2e-5, "source": "file quick.yaml"},
        "output_dir": {"value": "/home/somebody/outputs/qa", "source": "command line"},
    }
    history = [{"step": 50 * i, "epoch": 0.05 * i, "loss": 3 / (1 + 0.1 * i)} for i in range(1, 61)]
    history += [{"step": 1000 * i, "epoch": float(i), "eval_loss": 1.5 / i + 0.6} for i in (1, 2, 3)]
    return {
        "schema_version": 1,
        "task": "question-answering",
        "script": "run_qa.py",
        "created": "2025-11-03T09:14:22Z",
        "command": ["python", "run_qa.py", "--model", "distilbert-base-uncased", "--train_file", "my data.json"],
        "headline": {
            "split": "validation",
            "metric": "f1",
            "value": 67.214,
            "low": 65.92,
            "high": 68.51,
            "unit": "percent",
            "baseline_name": "every question unanswerable",
            "baseline": 50.64,
            "higher_is_better": True,
        },
        "protocol": {"name": "honest", "leaks": False, "demo": False, "notes": []},
        "arguments": arguments,
        "data": {
            "splits": {
                "train": split(60000, 130319, {"answerable": 39966, "unanswerable": 20034}),
                "validation": split(5000, 11873, {"answerable": 2468, "unanswerable": 2532}),
            },
            "overlaps": [{"between": ["train", "validation"], "key": "context", "examples": 31, "share": 0.0062}],
        },
        "model": {
            "name": "distilbert-base-uncased",
            "architecture": "DistilBertForQuestionAnswering",
            "parameters": {"total": 66364418, "trainable": 66364418},
        },
        "metrics": {"validation": validation},
        "per_class": {
            "validation": {
                "answerable": {"precision": 0.7012, "recall": 0.91, "f1": 1.0, "support": 2468},
                "unanswerable": {"precision": None, "recall": 0.6839, "f1": 0.7, "support": 2532},
            }
        },
        "confusion": {
            "validation": {"labels": ["answerable", "unanswerable"], "matrix": [[1840, 628], [801, 1731]]},
        },
        "baseline": {"validation": {"name": "every question unanswerable", "metrics": baseline}},
        "published": [
            {
                "source": "BERT-base, the authors",
                "setting": "whole data, 2 epochs",
                "metrics": {"exact": metric(73.7), "f1": metric(0.763, unit="fraction")},
            }
        ],
        "history": history,
        "resources": {
            "seconds": {"data": 12.4, "preprocessing": 48.03, "model": 3.3, "training": 5021.9, "total": 5160.7},
            "samples_per_second": {"training": 35.84, "evaluation": 211.7},
            "peak_memory_bytes": 5476083302,
            "peak_gpu_memory_bytes": None,
        },
        "environment": {
            "python": "3.11.9",
            "platform": "Linux-6.1-x86_64",
            "device": "NVIDIA H200",
            "processes": 1,
            "versions": {"torch": "2.13.0", "transformers": "5.23.0"},
            "git_commit": "0f3c2ab+changes",
        },
        "warnings": ["31 validation questions share their context with training questions."],
        "files": {"predictions": "predictions.csv", "loss_curves": "plots/loss_curves.svg"},
        "tables": [
            {
                "title": "First and last questions",
                "head": ["id", "question", "tokens", "answerable"],
                "rows": [["5726", "چه کسی آن را ساخت؟", 12, True], ["5727", "Who <b>?", 1012, None]],
                "note": "as they were read",
            }
        ],
        "extra": {"null_threshold": {"best_f1": -0.43}},
    }


@pytest.fixture
def classes(results):
    """A run that predicts classes, with groups, intervals by class, and facts of its task."""
    results["task"] = "persian-nli"
    results["metrics"] = {
        "test": {"f1": {**metric(76.46, 74.29, 78.4, 1564), "average": "macro"}, "mcc": metric(0.6472)}
    }
    results["metrics"]["test"]["mcc"]["unit"] = "score"
    results["headline"] |= {"split": "test", "value": 76.46, "low": 74.29, "high": 78.4}
    results["baseline"] = {"test": {"name": "majority class", "metrics": {"f1": metric(16.99)}}}
    rows = {"استلزام": (0.7472, 0.7803, 0.7634, 0.734, 0.791, 519), "neutral": (0.0, None, None, None, None, 0)}
    columns = ("precision", "recall", "f1", "f1_low", "f1_high", "support")
    results["per_class"] = {"test": {label: dict(zip(columns, row)) for label, row in rows.items()}}
    results["confusion"] = {"test": {"labels": [*rows], "matrix": [[405, 135], [0, 0]]}}
    groups = {"easy": {"accuracy": metric(78.15, 75.61, 80.92, 865)}, "hard": {"accuracy": metric(74.39, examples=699)}}
    results["groups"] = {"test": {"hard(overlap)": groups}}
    results["published"] = [{"source": "the report", "setting": "full", "metrics": {"f1": metric(78.75)}}]
    latency = metric(0.0871, unit="seconds")
    results["extra"] = {
        "reason": "frozen layers learn nothing",
        "share": metric(1.1676, 1.1, 1.2),
        "strategy": {
            "name": "prune_heads",
            "rates": [2e-5, 1e-4],
            "cached": True,
            "best": {"at_epoch": 3, "loss": 0.5},
        },
        "pruning": {"before": {"parameters": 162843651, "latency": latency}, "after": {"parameters": 148664067}},
        "heads": {str(layer): [layer, 9] if layer else [] for layer in range(12)},
    }
    return results
