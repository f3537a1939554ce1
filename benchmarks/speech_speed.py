"""How fast the scripts on speech train on a frozen encoder that runs once, and decode sound, in one run.

    python -m benchmarks.speech_speed --clips FOLDER_OR_ARCHIVE --speech FOLDER_OR_ARCHIVE
    python -m benchmarks.speech_speed ... --only keyword --clip_count 64 --output speech_speed.json

`--clips` are short labelled recordings (keywords), `--speech` utterances with transcripts. The encoder has the shape of
DistilHuBERT (2 layers, 768 wide, all convolutions) and random weights, since time does not depend on them.
`benchmarks/README.md` says what the rows mean.
"""

import argparse
import os
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from transformers import (
    HubertConfig,
    HubertForCTC,
    HubertForSequenceClassification,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    Wav2Vec2FeatureExtractor,
    logging,
    set_seed,
)

import run_asr
import run_keyword
from benchmarks.side_by_side import alternate, publish, row
from common.legacy.arguments import DataArguments, ModelArguments, parse_arguments
from common.legacy.audio import RATE, decode
from common.legacy.ctc import ctc_head
from common.legacy.recordings import Reading, Recordings, read_recordings
from common.legacy.run import StopRequest
from common.legacy.speech_encoders import freeze
from common.legacy.speech_features import FrozenSpeech, collate_features, features_of
from common.legacy.task import classification_head
from common.legacy.trainer import FinetuneTrainer
from common.legacy.transcripts import Normalization, characters_of, encode, make_processor, prepare
from common.legacy.waveforms import Waveforms, collate_waveforms

PARTS = ("keyword", "asr", "audio")
GOALS = {"keyword": (10.0, 100.0), "asr": (4.0, None)}  # all epochs together, an epoch after the first
EPOCHS = {"keyword": 10, "asr": 5}  # of the recipes


class EpochSeconds(TrainerCallback):
    """How long each epoch takes."""

    def __init__(self):
        self.seconds = []

    def on_epoch_begin(self, *_, **__):
        self.start = time.perf_counter()

    def on_epoch_end(self, *_, **__):
        self.seconds.append(time.perf_counter() - self.start)


def stock_epochs(model, inputs: Waveforms, settings: dict, epochs: int, folder: str) -> list[float]:
    """The official way: `Trainer`, `freeze_base_model()`, the encoder in training mode computes every batch anew."""
    model.freeze_base_model()
    model.train()

    def collate(items: list) -> dict:
        batch = collate_waveforms(items)
        batch.pop("row")
        return batch | {"labels": batch.pop("targets")}

    flags = {"report_to": "none", "save_strategy": "no", "disable_tqdm": True, "remove_unused_columns": False}
    flags |= {"use_cpu": not torch.cuda.is_available(), "dataloader_pin_memory": False, "logging_strategy": "no"}
    arguments = TrainingArguments(folder, num_train_epochs=epochs, lr_scheduler_type="constant", **settings, **flags)
    clock = EpochSeconds()
    trainer = Trainer(model=model, args=arguments, train_dataset=inputs, data_collator=collate, callbacks=[clock])
    trainer.log = lambda *args, **kwargs: None  # the table is what is printed
    trainer.train()
    return clock.seconds


def our_epochs(model, head, inputs, collator, script, settings: dict, epochs: int, folder: str, forward=None) -> list:
    """The trainer as the scripts make it, without evaluation and saving."""
    flags = {"output_dir": folder, "do_train": True, "eval_strategy": "no", "save_strategy": "no", "disable_tqdm": True}
    flags |= {"lr_scheduler_type": "constant", "report_to": "none", "load_best_model_at_end": False, **settings}
    flags["num_train_epochs"] = epochs
    own = run_keyword.KeywordArguments if script is run_keyword else run_asr.RecognitionArguments
    argv = [f"--{name}={value}" for name, value in flags.items()]
    groups = (own, DataArguments, ModelArguments)
    training = parse_arguments(groups, argv, recipe=script.RECIPE, description="").groups[-1]
    parts = {"head": head, "stop": StopRequest(), "data_collator": collator, "forward": forward}
    trainer = FinetuneTrainer(model=model, args=training, train_dataset=inputs, **parts)
    trainer.log = lambda *args, **kwargs: None  # the table is what is printed
    clock = EpochSeconds()
    trainer.add_callback(clock)
    trainer.train()
    return clock.seconds


def frozen_training(options: argparse.Namespace, part: str, make_model, make_head, inputs: Waveforms, script) -> tuple:
    """The recipe's epochs: features once and then cached ones, against the stock way; and our trainer without a cache.

    Of the sides without a cache `--computed_epochs` are measured, and taken times the recipe's.
    """
    epochs, batch = EPOCHS[part], script.RECIPE["per_device_train_batch_size"]
    settings = {"learning_rate": 1e-3, "per_device_train_batch_size": batch}
    set_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        model = make_model()
        freeze(model, "encoder")
        weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        frozen, start = FrozenSpeech(model), time.perf_counter()
        features = features_of(inputs, frozen, Path(folder), batch_size=batch)
        filled = time.perf_counter() - start
        ours = (script, settings)
        cached = our_epochs(
            model, make_head(model), features, collate_features, *ours, epochs, folder, forward=frozen.forward
        )
        model.load_state_dict(weights)
        set_seed(0)
        computed = our_epochs(
            model, make_head(model), inputs, collate_waveforms, *ours, options.computed_epochs, folder
        )
        stock = stock_epochs(make_model(), inputs, settings, options.computed_epochs, folder)
    total, later = GOALS[part]
    whole = filled + sum(cached)
    count, unit = len(inputs), {"unit": "clips/s"}
    all_stock, all_computed = [epochs * float(np.mean(stock))], [epochs * float(np.mean(computed))]
    rows = [
        row(f"{part}: {epochs} epochs, to the stock way", [whole], all_stock, epochs * count, total, **unit),
        row(f"{part}: {epochs} epochs, to ours without the cache", [whole], all_computed, epochs * count, None, **unit),
        row(f"{part}: an epoch after the first, to the stock way", cached[1:], stock, count, later, **unit),
    ]
    facts = {"seconds to fill the cache": round(filled, 2), "bytes of the cache": features.features.nbytes}
    return rows, facts


def keyword(options: argparse.Namespace) -> tuple[list[dict], dict]:
    """The keyword recipe: one vector a clip."""
    clips = some(read(options.clips, options, kind="label"), options.clip_count)
    extractor = Wav2Vec2FeatureExtractor(do_normalize=True)
    inputs = Waveforms(clips, extractor, targets=clips.labels)
    config = distilhubert(num_labels=len(clips.names))
    head = classification_head(0.0)
    make = {"make_model": lambda: HubertForSequenceClassification(config), "make_head": lambda model: head}
    rows, facts = frozen_training(options, "keyword", inputs=inputs, script=run_keyword, **make)
    return rows, facts | {"mean seconds of a clip": round(float(clips.seconds.mean()), 2)}


def asr(options: argparse.Namespace) -> tuple[list[dict], dict]:
    """The recipe of speech recognition: one matrix an utterance."""
    speech = prepare(read(options.speech, options, kind="text"), Normalization(), skip_bad=True)
    speech = some(speech, options.utterance_count)
    with tempfile.TemporaryDirectory() as folder:
        processor = make_processor(characters_of(speech.texts), Wav2Vec2FeatureExtractor(), Path(folder))
    tokenizer = processor.tokenizer
    inputs = Waveforms(speech, processor.feature_extractor, targets=encode(tokenizer, speech.texts))
    settings = {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}
    config = distilhubert(ctc_loss_reduction="mean", ctc_zero_infinity=True, **settings)
    make = {"make_model": lambda: HubertForCTC(config), "make_head": lambda model: ctc_head(model, tokenizer)}
    rows, facts = frozen_training(options, "asr", inputs=inputs, script=run_asr, **make)
    return rows, facts | {"mean seconds of an utterance": round(float(speech.seconds.mean()), 2)}


def audio(options: argparse.Namespace) -> tuple[list[dict], dict]:
    """Decoding and resampling every clip, against a bare loop over soundfile and soxr; and two threads against one."""
    import soundfile
    import soxr

    clips = read(options.clips, options, kind="label")
    clips = some(clips, 1000)
    paths = list(map(str, clips.audio))

    def bare() -> None:
        for path in paths:
            samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
            soxr.resample(samples.mean(axis=1), rate, RATE)

    def ours() -> None:
        for path in paths:
            decode(path, path)

    def threads(count: int) -> None:
        with ThreadPoolExecutor(count) as pool:
            list(pool.map(lambda path: decode(path, path), paths))

    sides = {"ours": ours, "bare": bare, "one": lambda: threads(1), "two": lambda: threads(2)}
    bare()  # reads the files from the disk
    seconds = alternate(sides, options.repeats, False)
    count, unit = len(paths), {"unit": "clips/s"}
    rows = [
        row("decoding, to soundfile and soxr alone", seconds["ours"], seconds["bare"], count, 0.9, **unit),
        row("the same, two threads to one", seconds["two"], seconds["one"], count, None, **unit),
    ]
    return rows, {"clips": len(paths)}


def distilhubert(**settings) -> HubertConfig:
    """The shape of DistilHuBERT: 23.5 million parameters."""
    return HubertConfig(num_hidden_layers=2, feat_proj_layer_norm=False, layerdrop=0.0, **settings)


def read(path: str, options: argparse.Namespace, kind: str) -> Recordings:
    """The recordings of a source, with their sound examined."""
    reading = Reading(kind=kind, name_pattern=options.name_pattern if kind == "label" else None)
    found = read_recordings(path, reading, options.cache)
    return found.checked(options.cache, skip_bad=True, workers=None, progress=None, silent_ok=("_silence_",))


def some(recordings: Recordings, count: int) -> Recordings:
    """`count` of them, at random."""
    return recordings.take(np.sort(np.random.default_rng(0).permutation(len(recordings))[:count]))


def main(argv: list[str] | None = None) -> dict:
    """Measures, prints the table and returns {"rows", "checks", "setting"}."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", required=True, help="short recordings with classes, in any form the scripts read")
    parser.add_argument("--speech", required=True, help="utterances with transcripts")
    parser.add_argument("--name_pattern", help="what the names of the clips say, as for run_keyword.py")
    parser.add_argument("--only", choices=PARTS, help="measure this part alone")
    parser.add_argument("--clip_count", type=int, default=256, help="clips to train on (default 256)")
    parser.add_argument("--utterance_count", type=int, default=32, help="utterances to train on (default 32)")
    parser.add_argument("--computed_epochs", type=int, default=2, help="epochs measured without a cache (default 2)")
    parser.add_argument("--repeats", type=int, default=5, help="turns of decoding (default 5)")
    parser.add_argument("--output", type=Path, help="write everything to this json file")
    options = parser.parse_args(argv)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    setting = {"clips": options.clip_count, "utterances": options.utterance_count, "cores": os.cpu_count()}
    results = {"rows": [], "checks": {}, "setting": setting}
    with tempfile.TemporaryDirectory() as folder:
        options.cache = Path(folder)
        for part in PARTS if options.only is None else (options.only,):
            rows, results["checks"][part] = {"keyword": keyword, "asr": asr, "audio": audio}[part](options)
            results["rows"] += rows
    return publish(results, options.output)


if __name__ == "__main__":
    main()
