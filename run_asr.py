"""Speech recognition with a frozen DistilHuBERT and CTC on LibriSpeech, characters as units.

The published experiment (a linear head) is the default; then SUPERB's recurrent head, and a mixture of layers:

    python run_asr.py
    python run_asr.py --head blstm --output_dir outputs/asr-blstm
    python run_asr.py --model facebook/hubert-base-ls960 --layer weighted --output_dir outputs/asr-hubert

The encoder runs once: one matrix an utterance is kept on disk (100 hours: 28 GB as float16). Your own speech: OpenSLR's
tree, LJ Speech's metadata.csv, or a table with paths and transcripts:

    python run_asr.py --data_dir LibriSpeech/ --max_train_samples 5000
    python run_asr.py --data_dir LJSpeech-1.1.tar.bz2 --split stratified --output_dir outputs/lj
    python run_asr.py --train_file train.csv --validation_file dev.csv --test_file test.csv --case keep

Transcribe files, long ones too; look for better transcripts with a language model (needs one more package):

    python run_asr.py --do_predict --model outputs/asr --test_file talks/ --output_dir outputs/talks
    python run_asr.py --do_eval --model outputs/asr --decoding beam --language_model words.arpa --output_dir outputs/lm
    python run_asr.py --demo
"""

import os
import sys
import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np

from common.legacy import results as facts
from common.legacy.arguments import DataArguments, ModelArguments, flag, parse_arguments
from common.legacy.chunking import chunked, joined
from common.legacy.decoding import BeamDecoder, greedy, to_texts
from common.legacy.errors import UserError, exit_status
from common.legacy.recognition import judge
from common.legacy.recordings import Reading, describe_splits
from common.legacy.run import (
    Clock,
    StopRequest,
    check_launch,
    decided_by_main_process,
    prepare_output_dir,
    start_training,
)
from common.legacy.speech_results import publish_transcripts, transcribed
from common.legacy.speech_task import (
    SpeechArguments,
    features_or_waveforms,
    identity_of,
    load_splits,
    of_length,
    use_demo,
)
from common.legacy.spellings import SPEECH, only
from common.legacy.task import PREFIX, evaluated_sets
from common.legacy.transcripts import (
    Normalization,
    case_of,
    characters_of,
    encode,
    fitting,
    make_processor,
    prepare,
    unknown_characters,
)

# The published recipe (report 002, speech recognition), in one place; the names are the flags.
RECIPE = {
    "model": "ntu-spml/distilhubert",
    "dataset": "openslr/librispeech_asr",
    "output_dir": "outputs/asr",
    "feature_cache": "float16",
    "learning_rate": 1e-3,
    "weight_decay": 5e-3,
    "warmup_steps": 250,
    "per_device_train_batch_size": 16,
    "per_device_eval_batch_size": 16,
    "num_train_epochs": 5.0,
    "train_sampling_strategy": "group_by_length",
    "eval_train_samples": 200,
    "eval_strategy": "epoch",
    "save_strategy": "epoch",
    "save_total_limit": 2,
    "load_best_model_at_end": True,
    "metric_for_best_model": "validation_wer",
    "greater_is_better": False,
    "logging_steps": 50,
}
LIBRISPEECH = {"dataset_config": "clean", "train_split_name": "train.100"}
DEMO = {
    "output_dir": "outputs/demo/asr",
    "feature_cache": "float32",
    "head_size": 64,
    "learning_rate": 3e-2,
    "warmup_steps": 0.1,
    "per_device_train_batch_size": 4,
    "num_train_epochs": 25.0,
    "logging_steps": 40,
}
SPELLINGS = {
    **SPEECH,
    "--tokenizer_name_or_path": "--tokenizer_name",
    "--ctc_loss_reduction": only("--ctc_loss_reduction", "mean", "the loss is the mean over utterances, always"),
    "--ctc_zero_infinity": only("--ctc_zero_infinity", "true", "an infinite loss is left out, always"),
    "--layerdrop": only("--layerdrop", "0.0", "no layers are dropped at random"),
}
PUBLISHED = [
    ("SUPERB, test-clean", "DistilHuBERT frozen, recurrent head, no language model", {"wer": 13.37}),
    ("SUPERB, test-clean", "DistilHuBERT frozen, recurrent head, language model", {"wer": 9.21}),
]
LINEAR_USAGE = """\
import librosa
from transformers import pipeline

recognizer = pipeline("automatic-speech-recognition", model="{model}")
waveform, _ = librosa.load("speech.wav", sr=16000)
print(recognizer(waveform)["text"])
"""
OUR_HEAD_USAGE = """\
import librosa
from transformers import AutoProcessor

from common.legacy.speech_heads import load_speech_model  # of the repository with the training scripts

model, processor = load_speech_model("{model}"), AutoProcessor.from_pretrained("{model}")
waveform, _ = librosa.load("speech.wav", sr=16000)
inputs = processor(waveform, sampling_rate=16000, return_tensors="pt")
print(processor.batch_decode(model(inputs.input_values).logits.argmax(-1))[0])
"""


@dataclass
class RecognitionArguments(SpeechArguments):
    """What only this task has."""

    _argument_group_name = "speech recognition"

    head: Literal["linear", "blstm"] = flag("linear", "one linear layer (published), or SUPERB's two recurrent layers")
    head_size: int = flag(1024, "units of --head blstm, in each direction and in the layer below; linear: none")
    text_column: str | None = flag(None, "column of the transcripts; unset = text, sentence, ...", "--text_column_name")
    case: Literal["upper", "lower", "keep"] = flag("upper", "case of all transcripts; a trained model brings its own")
    punctuation: Literal["remove", "keep"] = flag("remove", "what happens to punctuation; apostrophes in words stay")
    digits: Literal["keep", "refuse"] = flag("keep", "refuse: a transcript with digits in it is a bad example")
    chars_to_ignore: list[str] = field(default_factory=list, metadata={"help": "characters dropped from transcripts"})
    min_seconds: float = flag(0.0, "shorter utterances are not trained on", "--min_duration_in_seconds")
    max_seconds: float | None = flag(
        None, "longer utterances are not trained on; unset: all are", "--max_duration_in_seconds"
    )
    decoding: Literal["greedy", "beam"] = flag("greedy", "how the final transcripts are found")
    beam_width: int = flag(100, "hypotheses that a beam search keeps")
    language_model: str | None = flag(None, "KenLM's file (arpa or binary) of words, for --decoding beam")
    language_model_weight: float = flag(0.5, "weight of the language model's logarithms (alpha)")
    word_bonus: float = flag(1.5, "added for every word, because a language model prefers short texts (beta)")
    chunk_seconds: float = flag(20.0, "longer recordings without transcripts are transcribed in chunks of this length")
    chunk_overlap: float = flag(4.0, "seconds that neighbouring chunks share; each gives up half of it")

    def __post_init__(self):
        super().__post_init__()
        if not 0 < self.chunk_overlap < self.chunk_seconds / 2:
            raise UserError("--chunk_overlap must be above 0 and below half of --chunk_seconds")
        if min(self.beam_width, self.head_size) < 1:
            raise UserError(f"--beam_width {self.beam_width}, --head_size {self.head_size}: must be 1 or more")
        if self.language_model and self.decoding != "beam":
            raise UserError("--language_model belongs to --decoding beam")

    @property
    def rules(self) -> Normalization:
        """How transcripts are made alike."""
        return Normalization(self.case, self.punctuation, self.digits, ignore="".join(self.chars_to_ignore))


def main(argv: list[str] | None = None) -> dict:
    """Runs the script with the arguments `argv` (default: the command line); returns what results.json holds."""
    # Arguments
    check_launch()
    groups = (RecognitionArguments, DataArguments, ModelArguments)
    phases = ("do_train", "do_eval", "do_predict")
    texts = {"description": __doc__, "spellings": SPELLINGS}
    parsed = parse_arguments(groups, argv, recipe=RECIPE, demo=DEMO, phases=phases, **texts)
    task, data, model_args, training = parsed.groups
    task.check_use(training)
    if data.dataset == RECIPE["dataset"]:
        parsed.settle("where this set is on the hub", **LIBRISPEECH)
    clock, output_dir, warnings = Clock(), Path(training.output_dir), []
    checkpoint = decided_by_main_process(lambda: prepare_output_dir(training, overwrite=data.overwrite_output_dir))
    with StopRequest() as stop:
        # Data
        with clock.phase("data"):
            if data.demo:
                from common.legacy.demo_speech import asr_demo

                use_demo(data, task, model_args, asr_demo, output_dir / "demo", RECIPE["model"])
            with training.main_process_first(desc="data"):
                reading = Reading(kind="text")
                splits, selection, notes = load_splits(
                    task, data, training, model_args, reading=reading, explicit=parsed.explicit
                )

        # Preprocessing
        from common.legacy.modeling import load_feature_extractor, model_commit, trained_processor
        from common.legacy.speech_encoders import frame_counts, freeze, ignore_padding, keep_layers
        from common.legacy.waveforms import Waveforms, collate_waveforms

        skip_bad = data.on_bad_example == "skip"
        with clock.phase("preprocessing"), training.main_process_first(desc="preprocessing"):
            processor = trained_processor(model_args)
            trained = processor is not None
            if trained:
                parsed.settle("the model's vocabulary", case=case_of(processor.tokenizer))
            for name, part in splits.items():
                if part.texts is not None:
                    splits[name] = prepare(part, task.rules, skip_bad=skip_bad)
            if not trained:
                if "train" not in splits:
                    raise UserError(f"{model_args.model}: has no vocabulary of characters; train it with --do_train")
                with tempfile.TemporaryDirectory() as folder:
                    characters = characters_of(splits["train"].texts)
                    processor = make_processor(characters, load_feature_extractor(model_args), Path(folder))
            tokenizer, blank = processor.tokenizer, processor.tokenizer.pad_token_id
            unknown = {n: unknown_characters(tokenizer, part.texts or []) for n, part in splits.items()}
            warnings += [sentence for n, found in unknown.items() if (sentence := found.sentence(n))]
            whole = dict(splits)
            if "test" in splits and splits["test"].texts is None:
                splits["test"], believed = chunked(splits["test"], task.chunk_seconds, task.chunk_overlap)

        # Model
        from transformers import set_seed

        with clock.phase("model"), training.main_process_first(desc="model"):
            set_seed(training.seed)
            model, found = recognizer(task, model_args, tokenizer, training.do_train, trained)
            warnings += found
            if trained:
                parsed.settle("the model's head", **head_of(model, tokenizer, task, model_args.model, parsed.explicit))
            if task.kept_layers is not None:
                keep_layers(model, task.kept_layers)
            ignore_padding(model)
            frozen_part = freeze(model, task.freeze)
            decoder = None
            if task.decoding == "beam":  # already here: what it lacks should not end hours of training
                decoder = beam_decoder(task, tokenizer, model.config.vocab_size, data.preprocessing_num_workers)
            model = model.to(training.device)
        with clock.phase("features"), training.main_process_first(desc="features"):
            if "train" in splits:
                splits["train"] = of_length(splits["train"], task.min_seconds, task.max_seconds)
            labels = {n: encode(tokenizer, p.texts) if p.texts is not None else None for n, p in splits.items()}
            if "train" in splits:
                frames = frame_counts(model.config, np.round(splits["train"].seconds * 16_000))
                splits["train"], labels["train"] = fitting(splits["train"], labels["train"], frames, skip_bad=skip_bad)
                whole["train"] = splits["train"]
            inputs = {n: Waveforms(p, processor.feature_extractor, targets=labels[n]) for n, p in splits.items()}
            fed, frozen, found = features_or_waveforms(model, inputs, task, data, model_args, training)
            warnings += found

        # Training
        from common.legacy.ctc import ctc_head, every_score, searched
        from common.legacy.speech_features import collate_features
        from common.legacy.trainer import FinetuneTrainer

        head = ctc_head(model, tokenizer)
        trainer = FinetuneTrainer(
            head=head,
            stop=stop,
            headline="wer",
            forward=frozen.forward if frozen else None,
            model=model,
            args=training,
            train_dataset=fed.get("train"),
            eval_dataset=evaluated_sets(fed, task.eval_train_samples, data.sample_seed) or None,
            data_collator=collate_features if frozen else collate_waveforms,
            processing_class=processor,
        )
        if training.do_train:
            identity = identity_of(parsed, splits["train"], "layer", "freeze", "head", "head_size")
            decided_by_main_process(lambda: start_training(output_dir, checkpoint, identity))
            with clock.phase("training"):
                outcome = trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)

        # Results
        with clock.phase("results"):
            measured, heard = {}, {}
            for name in (n for n in ("validation", "test") if n in fed):
                chunks = splits[name].texts is None  # these are put together before anything is searched in them
                if decoder is not None:
                    trainer.head = replace(head, keep=every_score(model) if chunks else searched(model, decoder))
                kept, measured[name] = trainer.assess(fed[name], PREFIX[name], samples=len(whole[name]))
                if chunks:
                    wholes = ((part[None], [len(part)]) for part in joined(splits[name], believed, *kept))
                    found = [(decoder.labels(*one) if decoder else greedy(*one, blank))[0] for one in wholes]
                else:
                    found = greedy(*kept, blank)
                heard[name] = transcribed(whole[name], to_texts(tokenizer, found))
            if training.do_train:
                measured["train"] = outcome.metrics | {"train_samples": len(splits["train"])}
        shared = {"task": "speech-recognition", "warnings": warnings, "commit": model_commit(model_args)}
        results = {
            **facts.of_run(parsed, trainer, clock, **shared),
            "data": describe_splits(whole, selection, {name: found.statistics() for name, found in unknown.items()}),
            **judge(heard, measured),
        }
        results["protocol"]["notes"] += notes
        method = {"head": task.head, "layer": task.layer or "the last one", "decoding": task.decoding}
        method |= {"frozen": frozen_part, "features computed once": frozen is not None, "characters": len(tokenizer)}
        results["extra"] = {"method": method}
        sources = [split["source"] for split in results["data"]["splits"].values()]
        on_librispeech = any(source.startswith(RECIPE["dataset"]) for source in sources)
        rows = PUBLISHED if training.do_train and on_librispeech else []
        results["published"] = [facts.published(*row, unit="percent") for row in rows]
        if trainer.is_world_process_zero():
            trainer.save_run({PREFIX[name]: numbers for name, numbers in measured.items()})
            stock = type(model).__name__.endswith("ForCTC")
            usage = LINEAR_USAGE if stock else OUR_HEAD_USAGE
            usage = usage.format(model=output_dir if training.do_train else model_args.model)
            results = publish_transcripts(results, heard, whole, output_dir, usage=usage)
    return results


# Model


def recognizer(task: RecognitionArguments, model_args, tokenizer, training: bool, trained: bool) -> tuple:
    """A `trained` model with the head it has; else the encoder with a new head, the one of the flags. And warnings."""
    from transformers import AutoModel, AutoModelForCTC

    from common.legacy.modeling import load_model
    from common.legacy.speech_heads import RecurrentCtc  # the auto class knows it, too, once it is imported

    shape = {} if trained else {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}
    if not trained and (task.head == "blstm" or task.weighted):
        settings = {"head": "speech", "training": training, "configured": {"layerdrop": 0.0}}
        encoder, warnings = load_model(AutoModel, model_args, **settings)
        shape |= {"projection_size": task.head_size, "recurrent_size": task.head_size, "weighted": task.weighted}
        return RecurrentCtc.around(encoder, recurrent_layers=2 if task.head == "blstm" else 0, **shape), warnings
    configured = {"layerdrop": 0.0, "ctc_loss_reduction": "mean", "ctc_zero_infinity": True, **shape}
    return load_model(AutoModelForCTC, model_args, head="CTC", training=training, configured=configured)


def head_of(model, tokenizer, task: RecognitionArguments, name: str, explicit: set[str]) -> dict[str, str]:
    """What the flags are for the head of the trained model `name`; it keeps it, so that others are refused."""
    recurrent = getattr(model, "recurrent", None)
    found = {"head": "blstm", "head_size": model.config.recurrent_size} if recurrent else {"head": "linear"}
    if getattr(model, "layer_weights", None) is not None:
        found["layer"] = "weighted"
    asked = {name: getattr(task, name) for name in ("head", "head_size") if name in explicit}
    asked |= {"layer": task.layer} if task.weighted else {}
    for flag_name, value in asked.items():
        if value != found.get(flag_name):
            raise UserError(f"--{flag_name} {value}: {name} has another head; leave it out, or start from an encoder")
    if max(n for token, n in tokenizer.get_vocab().items() if len(token) == 1) >= model.config.vocab_size:
        raise UserError(f"{name}: gives {model.config.vocab_size} scores, but its tokenizer has more characters")
    return found


def beam_decoder(task: RecognitionArguments, tokenizer, outputs: int, threads: int | None) -> BeamDecoder:
    """The search that the flags ask for."""
    settings = {"width": task.beam_width, "threads": threads or os.cpu_count() or 1}
    settings |= {"language_model": task.language_model, "alpha": task.language_model_weight, "beta": task.word_bonus}
    return BeamDecoder(tokenizer, outputs, **settings)


if __name__ == "__main__":
    sys.exit(exit_status(main, "run_asr.py"))
