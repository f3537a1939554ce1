"""How the official examples do the tasks, written plainly from what they are documented to do: the other side of
`benchmarks.official`, which calls this file in processes of their own.

Texts are padded to one length, batches are random, answers are found by loops over windows, starts and ends; audio goes
through the whole encoder in every epoch; Keras is called as `fit`. Seconds by phase and scores go to official.json.
"""

import collections
import contextlib
import json
import sys
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

METRICS = Path(__file__).resolve().parent.parent / "common" / "metrics"
SECONDS: dict[str, float] = {}


@dataclass
class DataArguments:
    """Flags of the examples that `benchmarks.official` sets; `freeze` stands for a line that people add to them."""

    model_name_or_path: str
    train_file: str
    validation_file: str
    max_seq_length: int = 384
    doc_stride: int = 128
    n_best_size: int = 20
    max_answer_length: int = 30
    null_score_diff_threshold: float = 0.0
    version_2_with_negative: bool = False
    freeze: str = "none"


@contextlib.contextmanager
def phase(name: str):
    """Counts the seconds inside the `with`."""
    begin = time.perf_counter()
    yield
    SECONDS[name] = SECONDS.get(name, 0.0) + time.perf_counter() - begin


# Each way gives, of rows {"train", "validation"}: the model, what else `Trainer` gets, and what scores it at the end.


def question_answering(rows, data, training) -> tuple:
    import evaluate
    from transformers import AutoModelForQuestionAnswering, AutoTokenizer, default_data_collator

    with phase("model"):
        tokenizer = AutoTokenizer.from_pretrained(data.model_name_or_path)
        model = pretrained(AutoModelForQuestionAnswering, data)
    with phase("preprocessing"):
        examples, settings = rows["validation"], {"batched": True, "remove_columns": rows["train"].column_names}
        train = rows["train"].map(partial(windows, tokenizer, data, True), **settings)
        features = examples.map(partial(windows, tokenizer, data, False), **settings)

    def score(trainer) -> dict:
        scores = trainer.predict(features.remove_columns(["example_id", "offset_mapping"])).predictions
        files = answers_by_loops(examples, features, scores, data)
        for name, content in files.items():
            (Path(training.output_dir) / f"eval_{name}.json").write_text(json.dumps(content, indent=4) + "\n")
        texts = files["predictions"].items()
        found = [{"id": i, "prediction_text": text, "no_answer_probability": 0.0} for i, text in texts]
        references = [{"id": row["id"], "answers": row["answers"]} for row in examples]
        return {"f1": evaluate.load(str(METRICS / "squad_v2")).compute(predictions=found, references=references)["f1"]}

    return model, {"train_dataset": train, "data_collator": default_data_collator, "processing_class": tokenizer}, score


def windows(tokenizer, data, labelled: bool, batch) -> dict:
    """Padded windows with the first answer's first and last token, which a walk over the offsets finds, else [CLS]'s.

    Not `labelled`: with the id of the example, and offsets, None outside the text.
    """
    cutting = {"truncation": "only_second", "max_length": data.max_seq_length, "stride": data.doc_stride}
    cutting |= {"padding": "max_length", "return_overflowing_tokens": True, "return_offsets_mapping": True}
    encoded = tokenizer([question.lstrip() for question in batch["question"]], batch["context"], **cutting)
    owners, all_places = encoded.pop("overflow_to_sample_mapping"), encoded.pop("offset_mapping")
    sides = [encoded.sequence_ids(number) for number in range(len(owners))]
    if not labelled:
        encoded["example_id"] = [batch["id"][owner] for owner in owners]
        encoded["offset_mapping"] = [
            [place if part == 1 else None for place, part in zip(places, side)]
            for places, side in zip(all_places, sides)
        ]
        return encoded
    spans = []
    for ids, places, side, owner in zip(encoded["input_ids"], all_places, sides, owners):
        spans.append([ids.index(tokenizer.cls_token_id)] * 2)
        answers = batch["answers"][owner]
        if not answers["answer_start"]:
            continue
        first, last = answers["answer_start"][0], answers["answer_start"][0] + len(answers["text"][0])
        left, right = 0, len(places) - 1
        while side[left] != 1:
            left += 1
        while side[right] != 1:
            right -= 1
        if places[left][0] <= first and places[right][1] >= last:
            while left < len(places) and places[left][0] <= first:
                left += 1
            while places[right][1] >= last:
                right -= 1
            spans[-1] = [left - 1, right + 1]
    encoded["start_positions"], encoded["end_positions"] = (list(positions) for positions in zip(*spans))
    return encoded


def answers_by_loops(examples, features, scores, data) -> dict[str, dict]:
    """What the three json files hold by id (the answer, the n best, the null odds), from loops over windows and the
    best starts and ends."""
    rows_of = collections.defaultdict(list)
    for number, feature in enumerate(features):
        rows_of[feature["example_id"]].append(number)
    files = {"predictions": {}, "nbest_predictions": {}, "null_odds": {}}
    for example in examples:
        candidates, null = [], None
        for number in rows_of[example["id"]]:
            start, end, places = scores[0][number], scores[1][number], features[number]["offset_mapping"]
            if null is None or start[0] + end[0] < null["score"]:
                null = {"score": start[0] + end[0], "place": (0, 0)}
            for first in np.argsort(start)[-1 : -data.n_best_size - 1 : -1].tolist():
                for last in np.argsort(end)[-1 : -data.n_best_size - 1 : -1].tolist():
                    if not places[first] or not places[last]:
                        continue
                    if first <= last < first + data.max_answer_length:
                        place = (places[first][0], places[last][1])
                        candidates.append({"score": start[first] + end[last], "place": place})
        best = sorted([*candidates, null], key=lambda one: one["score"], reverse=True)[: data.n_best_size]
        best += [] if any(one is null for one in best) else [null]
        exponents = np.exp(np.array([one["score"] for one in best]) - best[0]["score"])
        for one, share in zip(best, exponents / exponents.sum()):
            one["text"] = example["context"][slice(*one.pop("place"))]
            one |= {"probability": float(share), "score": float(one["score"])}
        answer = next((one for one in best if one["text"]), {"text": "", "score": -1e9})
        odds = null["score"] - answer["score"]
        files["predictions"][example["id"]] = "" if odds > data.null_score_diff_threshold else answer["text"]
        files["nbest_predictions"][example["id"]], files["null_odds"][example["id"]] = best, odds
    return files


def pairs(rows, data, training) -> tuple:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer, default_data_collator

    names = sorted(rows["train"].unique("label"))
    with phase("model"):
        tokenizer = AutoTokenizer.from_pretrained(data.model_name_or_path)
        model = pretrained(AutoModelForSequenceClassification, data, num_labels=len(names))

    def prepared(batch) -> dict:
        padding = {"padding": "max_length", "max_length": data.max_seq_length, "truncation": True}
        encoded = tokenizer(batch["premise"], batch["hypothesis"], **padding)
        return {**encoded, "labels": [names.index(label) for label in batch["label"]]}

    with phase("preprocessing"):
        rows = rows.map(prepared, batched=True, remove_columns=rows["train"].column_names)
    parts = {"compute_metrics": accuracy, "data_collator": default_data_collator, "processing_class": tokenizer}
    return model, {"train_dataset": rows["train"], "eval_dataset": rows["validation"], **parts}, evaluated


def keyword(rows, data, training) -> tuple:
    from transformers import AutoFeatureExtractor, AutoModelForAudioClassification

    names, training.remove_unused_columns = sorted(rows["train"].unique("label")), False
    with phase("model"):
        extractor = AutoFeatureExtractor.from_pretrained(data.model_name_or_path)
        model = pretrained(AutoModelForAudioClassification, data, num_labels=len(names))

    def decoded(batch) -> dict:  # whenever a batch is taken
        inputs = extractor([sound(path) for path in batch["path"]], sampling_rate=extractor.sampling_rate)
        return {"input_values": inputs["input_values"], "labels": [names.index(label) for label in batch["label"]]}

    rows.set_transform(decoded)
    parts = {"compute_metrics": accuracy, "processing_class": extractor}
    return model, {"train_dataset": rows["train"], "eval_dataset": rows["validation"], **parts}, evaluated


def asr(rows, data, training) -> tuple:
    import jiwer
    from transformers import AutoFeatureExtractor, AutoModelForCTC, Wav2Vec2CTCTokenizer, Wav2Vec2Processor

    with phase("model"):
        letters = sorted({letter for split in rows.values() for text in split["transcript"] for letter in text})
        file = Path(training.output_dir) / "vocab.json"
        letters = ["|" if letter == " " else letter for letter in letters] + ["[UNK]", "[PAD]"]
        file.write_text(json.dumps({letter: number for number, letter in enumerate(letters)}))
        extractor = AutoFeatureExtractor.from_pretrained(data.model_name_or_path)
        tokenizer = Wav2Vec2CTCTokenizer(str(file), unk_token="[UNK]", pad_token="[PAD]")
        processor = Wav2Vec2Processor(extractor, tokenizer)
        shape = {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}
        model = pretrained(AutoModelForCTC, data, ctc_loss_reduction="mean", ctc_zero_infinity=True, **shape)

    def prepared(row) -> dict:
        inputs = extractor(sound(row["path"]), sampling_rate=extractor.sampling_rate)
        return {"input_values": inputs["input_values"][0], "labels": tokenizer(row["transcript"]).input_ids}

    def collate(batch: list[dict]) -> dict:
        inputs = processor.pad([{"input_values": row["input_values"]} for row in batch], return_tensors="pt")
        labels = processor.pad(labels=[{"input_ids": row["labels"]} for row in batch], return_tensors="pt")
        return {**inputs, "labels": labels["input_ids"].masked_fill(labels["attention_mask"] != 1, -100)}

    def word_errors(output) -> dict:
        labels = np.where(output.label_ids == -100, tokenizer.pad_token_id, output.label_ids)
        texts = tokenizer.batch_decode(output.predictions.argmax(axis=-1))
        return {"wer": 100 * jiwer.wer(tokenizer.batch_decode(labels, group_tokens=False), texts)}

    with phase("preprocessing"):
        rows = rows.map(prepared, remove_columns=rows["train"].column_names)
    parts = {"compute_metrics": word_errors, "data_collator": collate, "processing_class": processor}
    return model, {"train_dataset": rows["train"], "eval_dataset": rows["validation"], **parts}, evaluated


def pretrained(kind, data, **settings):
    """The model with a new head, frozen as far as asked for; what is frozen still computes in every epoch."""
    model = kind.from_pretrained(data.model_name_or_path, **settings)
    if data.freeze == "encoder":
        model.base_model.requires_grad_(False)
    elif data.freeze == "convolution":
        model.freeze_feature_encoder()
    return model


def sound(path: str) -> np.ndarray:
    import soundfile

    return soundfile.read(path, dtype="float32")[0]


def accuracy(output) -> dict[str, float]:
    return {"accuracy": 100 * float((output.predictions.argmax(axis=1) == output.label_ids).mean())}


def evaluated(trainer) -> dict[str, float]:
    return {name.removeprefix("eval_"): value for name, value in trainer.evaluate().items()}


def with_trainer(way, flags: list[str]) -> tuple[str, dict]:
    """A way from its files to the last one that it writes; its folder and scores."""
    from datasets import load_dataset
    from transformers import HfArgumentParser, Trainer, TrainingArguments, set_seed

    data, training = HfArgumentParser((DataArguments, TrainingArguments)).parse_args_into_dataclasses(flags)
    Path(training.output_dir).mkdir(parents=True, exist_ok=True)
    set_seed(training.seed)
    with phase("data"):
        files = {"train": data.train_file, "validation": data.validation_file}
        rows = load_dataset("json" if data.train_file.endswith("jsonl") else "csv", data_files=files)
    model, parts, score = way(rows, data, training)
    trainer = Trainer(model, training, **parts)
    with phase("training"):
        trainer.save_metrics("train", trainer.train().metrics)
        trainer.save_model()
        trainer.save_state()
    with phase("evaluation"):
        scores = score(trainer)
    with phase("results"):
        trainer.save_metrics("eval", scores)
        trainer.create_model_card()
    return training.output_dir, scores


def with_keras(flags: list[str]) -> tuple[str, dict]:
    """One table split, scaled by its training rows, `fit` with a checkpoint an epoch, `predict`; folder and scores."""
    import keras
    import pandas as pd
    from sklearn.metrics import average_precision_score
    from sklearn.model_selection import train_test_split
    from sklearn.preprocessing import StandardScaler

    from common.tabular.network import build

    given = dict(zip(flags[::2], flags[1::2]))
    with phase("data"):
        rest, test = train_test_split(
            table := pd.read_csv(given["--train_file"]), test_size=0.3, stratify=table["Class"]
        )
        train, validation = train_test_split(rest, test_size=0.2, stratify=rest["Class"])
    with phase("preprocessing"):
        scaler = StandardScaler().fit(train.drop(columns="Class"))
        parts = [train, validation, test]
        inputs = [scaler.transform(part.drop(columns="Class"))[..., None] for part in parts]
    with phase("model"):
        model = build("cnn", inputs[0].shape[1])
        optimizer = keras.optimizers.Adam(float(given["--learning_rate"]))
        model.compile(optimizer, "binary_crossentropy", metrics=["accuracy"])
    with phase("training"):
        saving = keras.callbacks.ModelCheckpoint(given["--output_dir"] + "/model_{epoch}.keras")
        settings = {"batch_size": int(given["--per_device_train_batch_size"]), "callbacks": [saving]}
        settings |= {"epochs": int(given["--num_train_epochs"]), "validation_data": (inputs[1], validation["Class"])}
        model.fit(inputs[0], train["Class"], verbose=2, **settings)
    with phase("evaluation"):
        said = model.predict(inputs[2], verbose=0)[:, 0]
        scores = {"auprc": 100 * average_precision_score(test["Class"], said)}
    with phase("results"):
        test.assign(probability=said).to_csv(given["--output_dir"] + "/predictions.csv")
        model.save(given["--output_dir"] + "/model.keras")
    return given["--output_dir"], scores


if __name__ == "__main__":
    task, *flags = sys.argv[1:]
    ways = {"qa": question_answering, "pairs": pairs, "keyword": keyword, "asr": asr}
    folder, scores = with_trainer(ways[task], flags) if task in ways else with_keras(flags)
    Path(folder, "official.json").write_text(json.dumps({"seconds": SECONDS, "scores": scores}))
