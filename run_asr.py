# /// script
# requires-python = ">=3.11"
# dependencies = [
#   "accelerate==1.15.0", "datasets==5.2.0", "evaluate==0.4.6", "filelock==4.3.1", "huggingface-hub==2.4.0",
#   "jinja2==3.1.6", "jiwer==4.0.0", "librosa==0.11.0", "matplotlib==3.11.2", "numpy==2.4.6", "pandas==3.1.1",
#   "pyyaml==6.0.4", "scikit-learn==1.9.1", "soundfile==0.14.0", "soxr==1.1.0", "torch==2.13.0",
#   "transformers==5.23.0",
# ]
# ///
"""Speech recognition with a frozen DistilHuBERT and CTC on LibriSpeech, characters as units.

The published experiment (a linear head) is the default; then SUPERB's recurrent head, and a mixture of layers:

    python run_asr.py
    python run_asr.py --head blstm --output_dir outputs/asr-blstm
    python run_asr.py --model facebook/hubert-base-ls960 --layer weighted --output_dir outputs/asr-hubert

The encoder runs once: one matrix an utterance is kept on disk (100 hours: 28 GB as float16). Your own speech: OpenSLR's
tree, Common Voice, LJ Speech, or a table with paths and transcripts; or train the layers of the encoder, too:

    python run_asr.py --data_dir LibriSpeech/ --max_train_samples 5000
    python run_asr.py --train_file train.csv --validation_file dev.csv --test_file test.csv --case keep
    python run_asr.py --freeze convolution --encoder_learning_rate 3e-5 --mask_time_prob 0.05 --augment_speed 0.1

Transcribe files; with a language model (needs one more package):

    python run_asr.py --do_predict --model outputs/asr --test_file talks/ --output_dir outputs/talks --timestamps
    python run_asr.py --do_eval --model outputs/asr --decoding beam --language_model words.arpa --output_dir outputs/lm
    python run_asr.py --demo
"""

import logging
import sys
from dataclasses import dataclass
from typing import Literal

from common.arguments import flag, parse_arguments, show_help
from common.errors import UserError, exit_status
from common.legacy_flags import SPEECH, only
from common.speech.settings import EncoderArguments, TextArguments, use_demo

logger = logging.getLogger(__name__)
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
    "metric_for_best_model": "wer",
    "logging_steps": 50,
}
LIBRISPEECH = {"dataset_config": "clean", "train_split_name": "train.100"}
DEMO = {
    "output_dir": "outputs/demo/asr",
    "feature_cache": "float32",
    "head_size": 64,
    "learning_rate": 3e-2,
    "warmup_steps": 0.1,
    "num_train_epochs": 15.0,
    "logging_steps": 10,
}


LEGACY = {
    **SPEECH,
    "--layerdrop": only("0.0", "no layers are dropped at random") | {"0": ""},
    "--phoneme_language": only("", "units are characters; give transcripts in phonemes as text"),
}
TOKENS = ("unk_token", "pad_token", "word_delimiter_token")  # of a new vocabulary
BEAM = {"beam_width", "language_model", "language_model_weight", "word_bonus"}
PUBLISHED = [
    ("SUPERB, test-clean", "DistilHuBERT frozen, recurrent head, no language model", {"wer": 13.37}),
    ("SUPERB, test-clean", "DistilHuBERT frozen, recurrent head, language model", {"wer": 9.21}),
]


@dataclass
class RecognitionArguments(EncoderArguments, TextArguments):
    """What only this task has."""

    _argument_group_name = "speech recognition"

    head: Literal["linear", "blstm"] = flag("linear", "one linear layer (published), or SUPERB's two recurrent layers")
    head_size: int = flag(1024, "units of --head blstm, in each direction and in the layer below; linear: none")
    case: Literal["upper", "lower", "keep"] = flag("upper", "case of all transcripts; a trained model brings its own")
    punctuation: Literal["remove", "keep"] = flag("remove", "what happens to punctuation; apostrophes in words stay")
    chars_to_ignore: list[str] = flag([], "characters dropped from transcripts")
    unk_token: str = flag("[UNK]", "what a new vocabulary calls characters that it lacks")
    pad_token: str = flag("[PAD]", "what a new vocabulary calls padding, which is CTC's blank")
    word_delimiter_token: str = flag("|", "what a new vocabulary calls the space between words")
    decoding: Literal["greedy", "beam"] = flag("greedy", "how the final transcripts are found")
    beam_width: int = flag(100, "hypotheses that a beam search keeps")
    language_model: str | None = flag(None, "KenLM's file (arpa or binary) of words, for --decoding beam")
    language_model_weight: float = flag(0.5, "weight of the language model's logarithms (alpha)")
    word_bonus: float = flag(1.5, "added for every word, because a language model prefers short texts (beta)")
    timestamps: bool = flag(False, "predictions.json with the begin and end of every word, in seconds")
    preprocessing_only: bool = flag(False, "check the clips, compute the features, and stop")

    def __post_init__(self):
        super().__post_init__()
        if min(self.beam_width, self.head_size) < 1:
            raise UserError("--beam_width and --head_size must be 1 or more")
        if self.timestamps and self.decoding == "beam":
            raise UserError("--timestamps: a beam search does not say when a word was said; give --decoding greedy")

    @property
    def rules(self):
        """How transcripts are made alike."""
        return Normalization(self.case, self.punctuation, "".join(self.chars_to_ignore))


COMMAND_LINE = {"recipe": RECIPE, "demo": DEMO, "legacy": LEGACY, "phases": ("do_train", "do_eval", "do_predict")}
show_help(RecognitionArguments, **COMMAND_LINE)  # --help ends here: what follows takes seconds to import

import numpy as np
import torch
from torch.nn.functional import ctc_loss
from transformers import AutoModel, AutoModelForCTC, AutoProcessor, TrainerCallback, set_seed

from common import metrics
from common.demo.speech import asr_demo
from common.hub import fetching
from common.models import RECOGNIZERS, load_config, load_model, source_of, structure_table
from common.results import published
from common.run import start_run
from common.speech.decoding import BeamDecoder, texts_of
from common.speech.encoders import frames_in
from common.speech.features import model_inputs
from common.speech.heads import RecurrentCtc
from common.speech.recognition import score_transcripts, transcriptions_of, write_transcripts
from common.speech.recordings import load_recordings
from common.speech.results import shapes_table, usage
from common.speech.splits import describe_splits
from common.speech.training import SpeechTrainer, refuse_own, settle_encoder
from common.speech.transcripts import Normalization, case_of, check_transcripts, with_labels


class CtcTrainer(SpeechTrainer):
    """Connectionist temporal classification (Graves et al. 2006); each example's loss is divided by its labels."""

    metric_names = ("wer", "cer")
    decoder = shapes = None

    def example_losses(self, outputs, batch):  # [B]
        scores = torch.log_softmax(outputs["logits"].float(), dim=-1).transpose(0, 1)
        labels, lengths = batch["labels"].clamp(min=0), (batch["labels"] >= 0).sum(-1)
        blank = self.processing_class.tokenizer.pad_token_id
        settings = {"blank": blank, "reduction": "none", "zero_infinity": True}
        with torch.backends.cudnn.flags(enabled=False):  # cuDNN's gradients differ from run to run
            loss = ctc_loss(scores, labels, frames_in(self.model, batch), lengths, **settings)
        return loss / lengths.clamp(min=1)

    def example_predictions(self, outputs, batch):  # paths [B, T], frames [B]
        self.shapes = self.shapes or shapes_table(batch, outputs)
        frames, logits = frames_in(self.model, batch).to(torch.int32), outputs["logits"].float()
        if self.decoder is None:
            return logits.argmax(-1).to(torch.int32), frames
        paths = self.decoder.paths(logits.cpu().numpy(), frames.tolist())  # each process its own batches
        return torch.tensor(np.stack(paths), device=frames.device), frames

    def predict_splits(self, inputs, decoder=None):
        """The final predictions, by beam search with a decoder."""
        if decoder is not None:  # what training kept of its evaluations was found without a search
            self.decoder = decoder
            inputs = {name: rows.select(range(len(rows))) for name, rows in inputs.items()}
        return super().predict_splits(inputs)


class ShowTranscripts(TrainerCallback):
    """After each evaluation: what was said, and what the model writes, of three utterances."""

    latest = ()  # (reference, hypothesis) of the last evaluation

    def on_evaluate(self, args, state, control, metrics, **kwargs):
        if "eval_loss" in metrics:
            for reference, hypothesis in self.latest:
                logger.info("said:    %s\nwritten: %s", reference, hypothesis)


def main(argv: list[str] | None = None) -> dict:
    """Runs the script with the arguments `argv` (default: the command line); returns what results.json holds."""
    args = parse_arguments(RecognitionArguments, argv, **COMMAND_LINE)
    args.settle_freeze()
    refuse_idle(args)
    if args.dataset == RECIPE["dataset"]:
        args.set("where this set is on the hub", **LIBRISPEECH)

    with start_run(args, task="speech-recognition") as run:
        use_demo(args, run, asr_demo, RECIPE["model"])
        training = args.training_args.do_train
        with run.phase("data", together=True):  # a row a clip, with its normalised transcript and its labels
            trained = trained_processor(args)
            refuse_own(args, trained is not None, "head", "head_size", "case", *TOKENS)
            if trained:
                args.set("the model's vocabulary", case=case_of(trained.tokenizer))
            splits = load_recordings(args, run, rules=args.rules)
            processor = check_transcripts(splits, trained, args, run)
            outputs = load_config(args).vocab_size if trained else len(processor.tokenizer)
            # What it lacks should not end hours of training.
            decoder = BeamDecoder(processor.tokenizer, outputs, args) if args.decoding == "beam" else None
            describe_splits(splits, run)
        clips = {name: with_labels(part, processor.tokenizer) for name, part in splits.items()}

        with run.phase("model"):
            set_seed(args.training_args.seed)
            model = recognizer(run, processor.tokenizer, trained is not None)
            settle_encoder(model, args, run)
            model.to(args.training_args.device)
        with run.phase("frozen features", together=True):
            inputs, collator = model_inputs(run, model, clips, processor.feature_extractor)
        if args.preprocessing_only:
            return {}

        parts = {"model": model, "data_collator": collator, "processing_class": processor}
        trainer = make_trainer(run, inputs, **parts)
        if training:
            trainer.train()
        found = {name: output.predictions for name, output in trainer.predict_splits(inputs, decoder).items()}
        paths = {n: [path[:count] for path, count in zip(*predicted)] for n, predicted in found.items()}
        texts = {name: texts_of(processor.tokenizer, *predicted) for name, predicted in found.items()}
        transcriptions = {name: transcriptions_of(splits[name], texts[name]) for name in texts}
        ours = training and any(facts["source"].startswith(RECIPE["dataset"]) for facts in splits.facts.values())
        return run.finish(
            trainer,
            score_transcripts(transcriptions, trainer.losses),
            write=lambda results: write_transcripts(results, transcriptions, paths, splits, processor.tokenizer, run),
            published=[published(*row) for row in PUBLISHED if ours],
            usage=usage(model, "automatic-speech-recognition", args),
            extra={"frozen": args.freeze, "decoding": args.decoding, "characters": len(processor.tokenizer)},
            tables=[structure_table(model), *([trainer.shapes] if trainer.shapes else [])],
        )


def refuse_idle(args: RecognitionArguments) -> None:
    """Raises `UserError` for flags that would have no effect."""
    if args.decoding == "greedy" and (idle := sorted(BEAM & args.explicit)):
        raise UserError(f"--{idle[0]} belongs to --decoding beam")
    if args.training_args.label_smoothing_factor:
        raise UserError("--label_smoothing_factor: CTC has no label for each frame to smooth; leave it out")


# Model and training


def trained_processor(args):
    """The processor (characters and feature extractor) of a `--model` that was trained to transcribe, else None."""
    if not any(name.endswith(RECOGNIZERS) for name in load_config(args).architectures or []):
        return None
    name = args.tokenizer_name or args.model
    with fetching("model", name):
        try:
            return AutoProcessor.from_pretrained(name, **source_of(args, name))
        except TypeError:  # so the library says that a file is not there
            raise UserError(f"{name}: has no vocabulary (vocab.json) of a tokenizer of characters") from None


def recognizer(run, tokenizer, trained: bool):
    """A `trained` model with the head it has; else the encoder with a new head, the one of the flags."""
    args, shape = run.args, {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}
    if not trained and (args.head == "blstm" or args.layer == "weighted"):
        encoder = load_model(AutoModel, run, head="speech", configured=args.configured)
        shape |= {"recurrent_size": args.head_size, "weighted": args.layer == "weighted"}
        return RecurrentCtc.around(encoder, recurrent_layers=2 if args.head == "blstm" else 0, **shape)
    configured = args.configured | {"ctc_loss_reduction": "mean", "ctc_zero_infinity": True}
    configured |= {} if trained else shape
    return load_model(AutoModelForCTC, run, head="CTC", configured=configured)


def make_trainer(run, inputs: dict, **parts) -> CtcTrainer:
    """The task's `Trainer`, scored by `evaluate`; it shows three transcripts after each evaluation."""
    metric, tokenizer, shown = metrics.load("wer"), parts["processing_class"].tokenizer, ShowTranscripts()

    def compute_metrics(output) -> dict[str, float]:
        references = output.inputs.clips["text"][:]
        hypotheses = texts_of(tokenizer, *output.predictions)
        shown.latest = [*zip(references, hypotheses)][:3]
        found = metric.compute(predictions=hypotheses, references=references)
        return {name: found[name] for name in ("wer", "cer") if found[name] is not None}

    return CtcTrainer(run, inputs, compute_metrics=compute_metrics, callbacks=[shown], **parts)


if __name__ == "__main__":
    sys.exit(exit_status(main, "run_asr.py"))
