"""How fast the scripts on speech train above what is frozen, which runs once, against the official way, in one run.

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
from common.arguments import parse_arguments
from common.run import start_run
from common.speech.audio import RATE, load_clip
from common.speech.encoders import freeze, prepare_encoder
from common.speech.features import ClipCollator, ClipRows, model_inputs
from common.speech.recordings import load_recordings
from common.speech.transcripts import check_transcripts, with_labels

GOALS = {"keyword": 20.0, "asr": 10.0}  # all epochs of the recipe together, what is kept computed first
SHAPE = {"num_hidden_layers": 2, "feat_proj_layer_norm": False, "layerdrop": 0.0}  # 23.5 million parameters


class EpochSeconds(TrainerCallback):
    """How long each epoch takes."""

    def __init__(self):
        self.seconds = []

    def on_epoch_begin(self, *_, **__):
        self.start = time.perf_counter()

    def on_epoch_end(self, *_, **__):
        self.seconds.append(time.perf_counter() - self.start)


def stock_epochs(model, rows: ClipRows, extractor, what: str, batch: int, epochs: int, folder: str) -> list[float]:
    """The official way: `Trainer`, `freeze_base_model()` or `freeze_feature_encoder()`, every batch computed anew."""
    model.freeze_base_model() if what == "encoder" else model.freeze_feature_encoder()
    flags = {"report_to": "none", "save_strategy": "no", "disable_tqdm": True, "remove_unused_columns": False}
    flags |= {"use_cpu": not torch.cuda.is_available(), "dataloader_pin_memory": False, "logging_strategy": "no"}
    flags |= {"per_device_train_batch_size": batch, "num_train_epochs": epochs}
    clock, parts = EpochSeconds(), {"train_dataset": rows, "data_collator": ClipCollator(extractor)}
    trainer = Trainer(model=model, args=TrainingArguments(folder, **flags), callbacks=[clock], **parts)
    trainer.log = lambda *args, **kwargs: None  # the table is what is printed
    trainer.train()
    return clock.seconds


def measured(part: str, options: argparse.Namespace, folder: str, what: str) -> tuple[list[dict], dict]:
    """The recipe's epochs: what is frozen once and then from the disk, against the official way.

    Of the official way `--computed_epochs` are measured, and taken times the recipe's.
    """
    script, kind = (run_keyword, run_keyword.KeywordArguments) if part == "keyword" else (
        run_asr, run_asr.RecognitionArguments)  # fmt: skip
    count = options.clip_count if part == "keyword" else options.utterance_count
    argv = ["--do_train", "--data_dir", options.clips if part == "keyword" else options.speech, "--freeze", what]
    argv += ["--output_dir", f"{folder}/{part}-{what}", "--cache_dir", folder, "--eval_strategy", "no"]
    argv += ["--save_strategy", "no", "--disable_tqdm", "true", "--load_best_model_at_end", "false"]
    argv += f"--max_train_samples {count} --validation_share 0.01 --test_share 0.01 --split random".split()
    argv += ["--name_pattern", options.name_pattern] if options.name_pattern and part == "keyword" else []
    args = parse_arguments(kind, argv, recipe=script.RECIPE)
    epochs, batch = int(args.training_args.num_train_epochs), args.training_args.per_device_train_batch_size
    with start_run(args, task="benchmark") as run:
        args.set("the benchmark", on_bad_example="skip")
        how = {} if part == "keyword" else {"rules": args.rules}
        splits = load_recordings(args, run, **how)
        extractor = Wav2Vec2FeatureExtractor()
        extractor.save_pretrained(folder)
        args.model, processing = folder, extractor
        if part == "asr":
            HubertConfig(**SHAPE).save_pretrained(folder)
            processing = check_transcripts(splits, None, args, run)
            labels = ["-"] * len(processing.tokenizer)
            config = HubertConfig(ctc_loss_reduction="mean", vocab_size=len(labels), pad_token_id=0, **SHAPE)
        else:
            labels = splits["train"].features["labels"].names
            config = HubertConfig(num_labels=len(labels), **SHAPE)
        clips = {"train": with_labels(splits["train"], processing.tokenizer) if part == "asr" else splits["train"]}
        make = HubertForSequenceClassification if part == "keyword" else HubertForCTC
        set_seed(0)
        model = make(config)
        prepare_encoder(model)
        freeze(model, what)
        begin = time.perf_counter()
        inputs, collator = model_inputs(run, model, clips, extractor)
        filled, clock = time.perf_counter() - begin, EpochSeconds()
        parts = {"model": model, "data_collator": collator, "processing_class": processing}
        own = (inputs, labels) if part == "keyword" else (inputs,)
        trainer = script.make_trainer(run, *own, **parts)
        trainer.add_callback(clock)
        trainer.train()
        size = inputs["train"].features.data.nbytes
    stock = stock_epochs(
        make(config), ClipRows(clips["train"]), extractor, what, batch, options.computed_epochs, folder
    )
    whole, theirs = filled + sum(clock.seconds), epochs * float(np.mean(stock))
    goal, unit = GOALS[part] if what == "encoder" else 1.0, {"unit": "clips/s"}
    of = len(clips["train"])
    rows = [
        row(f"{part}, {what} frozen: {epochs} epochs", [whole], [theirs], epochs * of, goal, **unit),
        row(f"{part}, {what} frozen: an epoch after the first", clock.seconds[1:], stock, of, None, **unit),
    ]
    seconds = round(float(np.mean(clips["train"]["seconds"][:])), 2)
    return rows, {"clips": of, "mean seconds": seconds, "seconds to fill": round(filled, 2), "bytes kept": size}


def audio(options: argparse.Namespace, folder: str) -> tuple[list[dict], dict]:
    """Decoding and resampling every clip, against a bare loop over soundfile and soxr."""
    import soundfile
    import soxr

    argv = ["--do_train", "--data_dir", options.clips, "--output_dir", f"{folder}/audio", "--split", "random"]
    argv += ["--name_pattern", options.name_pattern] if options.name_pattern else []
    args = parse_arguments(run_keyword.KeywordArguments, argv, recipe=run_keyword.RECIPE)
    with start_run(args, task="benchmark") as run:
        clips = [*load_recordings(args, run)["train"].select_columns(["path", "start", "end"])][:1000]

    def bare() -> None:
        for clip in clips:
            samples, rate = soundfile.read(clip["path"], dtype="float32", always_2d=True)
            soxr.resample(samples.mean(axis=1), rate, RATE)

    bare()  # reads the files from the disk
    seconds = alternate({"ours": lambda: [*map(load_clip, clips)], "bare": bare}, options.repeats, False)
    sides = (seconds["ours"], seconds["bare"], len(clips), None)
    return [row("decoding, to soundfile and soxr alone", *sides, unit="clips/s")], {"clips": len(clips)}


def main(argv: list[str] | None = None) -> dict:
    """Measures, prints the table and returns {"rows", "checks", "setting"}."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", required=True, help="short recordings with classes, in any form the scripts read")
    parser.add_argument("--speech", required=True, help="utterances with transcripts")
    parser.add_argument("--name_pattern", help="what the names of the clips say, as for run_keyword.py")
    parser.add_argument("--only", choices=("keyword", "asr", "convolution", "audio"), help="measure this part alone")
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
        parts = {
            "keyword": lambda: measured("keyword", options, folder, "encoder"),
            "asr": lambda: measured("asr", options, folder, "encoder"),
            "convolution": lambda: measured("keyword", options, folder, "convolution"),
            "audio": lambda: audio(options, folder),
        }
        for part in parts if options.only is None else (options.only,):
            rows, results["checks"][part] = parts[part]()
            results["rows"] += rows
    return publish(results, options.output)


if __name__ == "__main__":
    main()
