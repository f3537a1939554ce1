"""Heads on speech encoders that transformers does not have: classifying with other pooling, recurrent CTC.

Both are ordinary models of transformers: once this module is imported, the auto classes and `pipeline` load them, too.

    import common.speech.heads
    model = AutoModelForAudioClassification.from_pretrained("outputs/ser")

They give a clip the same logits in every batch, from waveforms or from what a frozen encoder gave before
(`encoders.prepare_encoder`, `features`). Losses belong to the scripts.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForAudioClassification,
    AutoModelForCTC,
    AutoProcessor,
    PreTrainedConfig,
    PreTrainedModel,
    initialization,
)
from transformers.configuration_utils import SubConfigSpec
from transformers.utils import ModelOutput

from common.errors import UserError
from common.hub import fetching
from common.models import source_of
from common.speech.encoders import SPECTROGRAMS, encoder_of, frames_in, main_input, prepare_encoder

POOLING = ("mean", "max", "first", "attention")
ENCODER = {"encoder": SubConfigSpec(config_class=AutoConfig, model_type="hubert")}


class PooledClassifierConfig(PreTrainedConfig):
    """What a `PooledClassifier` is made of.

    Attributes:
        encoder: the encoder's own configuration.
        weighted: sum up all layers by learned weights, instead of taking the last one.
        pooling: one of `POOLING`.
        classifier_size: width between the head's two linear layers.
    """

    model_type = "pooled-speech-classifier"
    sub_configs_defaults = ENCODER

    encoder: PreTrainedConfig | dict | None = None
    weighted: bool = False
    pooling: str = "mean"
    classifier_size: int = 256
    classifier_dropout: float = 0.1


class RecurrentCtcConfig(PreTrainedConfig):
    """What a `RecurrentCtc` is made of.

    Attributes:
        encoder, weighted: as for `PooledClassifierConfig`.
        vocab_size, pad_token_id: of the tokenizer; its padding token is CTC's blank.
        projection_size: width between encoder and LSTMs.
        recurrent_size: of each of an LSTM's two directions.
        recurrent_layers: 0 is a linear head.
    """

    model_type = "recurrent-ctc"
    sub_configs_defaults = ENCODER

    encoder: PreTrainedConfig | dict | None = None
    weighted: bool = False
    vocab_size: int = 32
    pad_token_id: int = 0
    projection_size: int = 1024
    recurrent_size: int = 1024
    recurrent_layers: int = 2
    head_dropout: float = 0.2


@dataclass
class SpeechOutput(ModelOutput):
    """`logits` float [B, C] or [B, T, V], and how many frames are each clip's own, int64 [B]."""

    logits: torch.Tensor | None = None
    frames: torch.Tensor | None = None


class _HeadOnEncoder(PreTrainedModel):
    """An encoder, a weighted sum of its layers if so wished, and what a subclass makes of it in `head`.

    The weights of the sum are a softmax over all hidden states, the input of the first layer included (SUPERB, Yang et
    al. 2021, and transformers' `use_weighted_layer_sum`).
    """

    base_model_prefix = "encoder"
    main_input_name = "input_values"
    supports_gradient_checkpointing = True
    _supports_sdpa = _supports_flash_attn = True

    def __init__(self, config, encoder: PreTrainedModel | None = None):
        super().__init__(config)
        self.encoder = AutoModel.from_config(config.encoder) if encoder is None else encoder
        states = config.encoder.num_hidden_layers + 1
        self.layer_weights = torch.nn.Parameter(torch.full((states,), 1 / states)) if config.weighted else None
        prepare_encoder(self)

    @classmethod
    def around(cls, encoder: PreTrainedModel, **settings) -> "_HeadOnEncoder":
        """A new head on a (pre-trained) encoder, which is taken, not copied; `settings`: of its configuration."""
        config = encoder_of(encoder).config
        if config.model_type in SPECTROGRAMS:
            raise UserError(f"a {config.model_type} model has transformers' own head only: give --head standard")
        return cls(
            cls.config_class(encoder=config, attn_implementation=config._attn_implementation, **settings), encoder
        )

    def _init_weights(self, module):
        super()._init_weights(module)
        if module is self and self.layer_weights is not None:
            initialization.constant_(self.layer_weights, 1 / len(self.layer_weights))

    def forward(
        self,
        input_values: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        input_features: torch.Tensor | None = None,
    ) -> SpeechOutput:
        """Logits of what the encoder takes, waveforms [B, samples] or features, or gave before, [B, T, L, H]."""
        inputs = input_features if input_values is None else input_values
        outputs = self.encoder(inputs, attention_mask=attention_mask, output_hidden_states=self.config.weighted)
        frames = frames_in(self, {main_input(self): inputs, "attention_mask": attention_mask})
        if self.layer_weights is None:
            return SpeechOutput(logits=self.head(outputs.last_hidden_state, frames), frames=frames)
        states = torch.stack(outputs.hidden_states, dim=-2)
        mixed = (states * functional.softmax(self.layer_weights, dim=0)[:, None]).sum(-2)
        return SpeechOutput(logits=self.head(mixed, frames), frames=frames)


class PooledClassifier(_HeadOnEncoder):
    """Pooling over time, batch norm, linear, ReLU, dropout, linear: the published head for emotions.

    Pooling is over a clip's own frames: their mean, their maximum, the first one, or a mean weighted by a learned score
    of each frame (Safari et al. 2020, "Self-attention encoding and pooling").
    """

    config_class = PooledClassifierConfig

    def __init__(self, config: PooledClassifierConfig, encoder: PreTrainedModel | None = None):
        super().__init__(config, encoder)
        hidden = config.encoder.hidden_size
        self.attention = torch.nn.Linear(hidden, 1) if config.pooling == "attention" else None
        self.norm = _Norm(hidden)
        self.projector = torch.nn.Linear(hidden, config.classifier_size)
        self.dropout = torch.nn.Dropout(config.classifier_dropout)
        self.classifier = torch.nn.Linear(config.classifier_size, config.num_labels)
        self.post_init()

    @classmethod
    def around(cls, encoder: PreTrainedModel, labels: Sequence[str], **settings) -> "PooledClassifier":
        """A new head on an encoder; `labels` are the names of the classes, in the order of the logits."""
        label2id = {label: index for index, label in enumerate(labels)}
        return super().around(encoder, id2label=dict(enumerate(labels)), label2id=label2id, **settings)

    def head(self, states: torch.Tensor, frames: torch.Tensor) -> torch.Tensor:
        """Logits [B, C] of states [B, T, H], padded in any way, and each clip's own frames, int64 [B]."""
        scores = None if self.attention is None else self.attention(states).squeeze(-1)
        pooled = pool(states, frames, self.config.pooling, scores)
        return self.classifier(self.dropout(functional.relu(self.projector(self.norm(pooled)))))


class RecurrentCtc(_HeadOnEncoder):
    """A linear layer, bidirectional LSTMs, each with dropout behind it, and a linear layer over the vocabulary.

    With the defaults it is SUPERB's head for speech recognition (Yang et al. 2021; sizes in s3prl/s3prl:
    s3prl/downstream/asr/config.yaml). Without recurrent layers it is dropout and a linear layer: `HubertForCTC`, which
    cannot weight layers, with weighted layers.
    """

    config_class = RecurrentCtcConfig

    def __init__(self, config: RecurrentCtcConfig, encoder: PreTrainedModel | None = None):
        super().__init__(config, encoder)
        width, size = config.encoder.hidden_size, config.recurrent_size
        self.projector = torch.nn.Linear(width, config.projection_size) if config.recurrent_layers else None
        widths = [config.projection_size, *[2 * size] * config.recurrent_layers]
        self.recurrent = torch.nn.ModuleList(
            torch.nn.LSTM(below, size, batch_first=True, bidirectional=True) for below in widths[:-1]
        )
        self.dropout = torch.nn.Dropout(config.head_dropout)
        self.lm_head = torch.nn.Linear(widths[-1] if config.recurrent_layers else width, config.vocab_size)
        self.post_init()

    def head(self, states: torch.Tensor, frames: torch.Tensor) -> torch.Tensor:
        """Logits [B, T, V] of states [B, T, H]; behind a clip's own frames, int64 [B], they mean nothing."""
        if self.projector is None:
            return self.lm_head(self.dropout(states))
        rnn = torch.nn.utils.rnn  # packed, so that the backward direction begins at each clip's own end
        packed = rnn.pack_padded_sequence(self.projector(states), frames.cpu(), batch_first=True, enforce_sorted=False)
        for layer in self.recurrent:
            packed, _ = layer(packed)
            packed = packed._replace(data=self.dropout(packed.data))
        hidden, _ = rnn.pad_packed_sequence(packed, batch_first=True, total_length=states.shape[1])
        return self.lm_head(hidden)


class _Norm(torch.nn.BatchNorm1d):
    """A batch norm that takes a training batch of one, which has no variance, by the statistics seen before."""

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        if self.training and len(inputs) == 1:
            seen = self.running_mean, self.running_var
            return functional.batch_norm(inputs, *seen, self.weight, self.bias, eps=self.eps)
        return super().forward(inputs)


def pool(states: torch.Tensor, frames: torch.Tensor, how: str, scores: torch.Tensor | None = None) -> torch.Tensor:
    """One vector a clip, [B, H], of its own frames alone.

    Args:
        states: [B, T, H], padded in any way.
        frames: int64 [B].
        how: one of `POOLING`.
        scores: [B, T], of each frame, for `attention`.
    """
    if how == "first":
        return states[:, 0]
    padding = torch.arange(states.shape[1], device=states.device) >= frames[:, None]
    if how == "max":
        return states.masked_fill(padding[..., None], float("-inf")).amax(1)
    states = states.masked_fill(padding[..., None], 0)
    if how == "mean":
        return states.sum(1) / frames[:, None]
    shares = functional.softmax(scores.masked_fill(padding, float("-inf")), dim=-1)
    return (states * shares[..., None]).sum(1)


AutoConfig.register(PooledClassifierConfig.model_type, PooledClassifierConfig)
AutoConfig.register(RecurrentCtcConfig.model_type, RecurrentCtcConfig)
AutoModelForAudioClassification.register(PooledClassifierConfig, PooledClassifier)
AutoModelForCTC.register(RecurrentCtcConfig, RecurrentCtc)


def trained_processor(args):
    """The processor (characters and feature extractor) of a `--model` that was trained to transcribe, else None."""
    with fetching("model", args.model):
        config = AutoConfig.from_pretrained(args.model, **source_of(args, args.model))
        if not any(name.endswith(("ForCTC", "RecurrentCtc")) for name in config.architectures or []):
            return None
        name = args.tokenizer_name or args.model
        try:
            return AutoProcessor.from_pretrained(name, **source_of(args, name))
        except TypeError:  # so the library says that a file is not there
            raise UserError(f"{name}: has no vocabulary (vocab.json) of a tokenizer of characters") from None


def keep_head(model, tokenizer, args) -> None:
    """Notes in `args` which head a trained model has; it keeps it: flags for another one are a `UserError`."""
    recurrent = getattr(model, "recurrent", None)
    found = {"head": "blstm", "head_size": model.config.recurrent_size} if recurrent else {"head": "linear"}
    found |= {"layer": "weighted"} if getattr(model, "layer_weights", None) is not None else {}
    asked = {name: getattr(args, name) for name in ("head", "head_size") if name in args.explicit}
    asked |= {"layer": args.layer} if args.weighted else {}
    for name, value in asked.items():
        if value != found.get(name):
            raise UserError(f"--{name} {value}: {args.model} has another head; leave it out, or start from an encoder")
    args.set("the model's head", **found)
    if max(number for token, number in tokenizer.get_vocab().items() if len(token) == 1) >= model.config.vocab_size:
        raise UserError(f"{args.model}: gives {model.config.vocab_size} scores; its tokenizer has more characters")
