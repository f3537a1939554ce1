"""Heads on speech encoders that transformers does not have: classifying with other pooling, recurrent CTC.

Both are ordinary models of transformers: once this module is imported, the auto classes and `pipeline` load them, too.

    import common.speech.heads
    model = AutoModelForAudioClassification.from_pretrained("outputs/ser")

They give a clip the same logits in every batch, from waveforms or from what a frozen encoder gave before
(`encoders.prepare_encoder`, `features`). Losses belong to the scripts.
"""

from collections.abc import Sequence

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
)
from transformers.configuration_utils import SubConfigSpec
from transformers.modeling_outputs import CausalLMOutput, SequenceClassifierOutput
from transformers.utils import ModelOutput

from common.errors import UserError
from common.hub import fetching
from common.models import RECOGNIZERS, load_config, source_of
from common.speech.encoders import SPECTROGRAMS, encoder_of, frames_in, prepare_encoder

POOLING = ("mean", "max", "first")


class _HeadConfig(PreTrainedConfig):
    """`encoder`: its own configuration; `weighted`: all its layers are summed up, instead of taking the last one."""

    sub_configs_defaults = {"encoder": SubConfigSpec(config_class=AutoConfig, model_type="hubert")}

    encoder: PreTrainedConfig | dict | None = None
    weighted: bool = False


class PooledClassifierConfig(_HeadConfig):
    """`pooling`: one of `POOLING`; `classifier_size`: width between the head's two linear layers."""

    model_type = "pooled-speech-classifier"

    pooling: str = "mean"
    classifier_size: int = 256
    classifier_dropout: float = 0.1


class RecurrentCtcConfig(_HeadConfig):
    """`recurrent_size`: of each direction of an LSTM, and of the layer below; `recurrent_layers`: 0 is a linear head.

    `vocab_size` and `pad_token_id` are the tokenizer's; its padding token is CTC's blank.
    """

    model_type = "recurrent-ctc"

    vocab_size: int = 32
    pad_token_id: int = 0
    recurrent_size: int = 1024
    recurrent_layers: int = 2
    head_dropout: float = 0.2


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
    def around(cls, encoder: PreTrainedModel, labels: Sequence[str] = (), **settings) -> "_HeadOnEncoder":
        """A new head on a (pre-trained) encoder, which is taken, not copied; `settings`: of its configuration.

        labels: of a classifier, the names of the classes, in the order of the logits.
        """
        config = encoder_of(encoder).config
        if config.model_type in SPECTROGRAMS:
            raise UserError(f"a {config.model_type} model has transformers' own head only: give --head standard")
        if labels:
            settings |= {"id2label": dict(enumerate(labels)), "label2id": {label: i for i, label in enumerate(labels)}}
        attention = config._attn_implementation
        return cls(cls.config_class(encoder=config, attn_implementation=attention, **settings), encoder)

    def forward(
        self,
        input_values: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        input_features: torch.Tensor | None = None,
    ) -> ModelOutput:
        """Logits of what the encoder takes, waveforms [B, samples] or features, or gave before, [B, T, L, H]."""
        inputs = input_features if input_values is None else input_values
        outputs = self.encoder(inputs, attention_mask=attention_mask, output_hidden_states=self.config.weighted)
        states = outputs.last_hidden_state
        if self.layer_weights is not None:
            shares = functional.softmax(self.layer_weights, dim=0)
            states = (torch.stack(outputs.hidden_states, dim=-2) * shares[:, None]).sum(-2)
        frames = frames_in(self, {self.encoder.main_input_name: inputs, "attention_mask": attention_mask})
        return self.output_class(logits=self.head(states, frames))


class PooledClassifier(_HeadOnEncoder):
    """Pooling over time, batch norm, linear, ReLU, dropout, linear: the published head for emotions.

    Pooling is over a clip's own frames: their mean, their maximum, or the first one.
    """

    config_class, output_class = PooledClassifierConfig, SequenceClassifierOutput

    def __init__(self, config: PooledClassifierConfig, encoder: PreTrainedModel | None = None):
        if config.pooling not in POOLING:
            raise UserError(f"pooling {config.pooling!r}: this head knows {', '.join(POOLING)}")
        super().__init__(config, encoder)
        hidden = config.encoder.hidden_size
        self.norm = torch.nn.BatchNorm1d(hidden)
        self.projector = torch.nn.Linear(hidden, config.classifier_size)
        self.dropout = torch.nn.Dropout(config.classifier_dropout)
        self.classifier = torch.nn.Linear(config.classifier_size, config.num_labels)
        self.post_init()

    def head(self, states: torch.Tensor, frames: torch.Tensor) -> torch.Tensor:
        """Logits [B, C] of states [B, T, H], padded in any way, and each clip's own frames, int64 [B]."""
        pooled = pool(states, frames, self.config.pooling)
        self.norm.train(self.training and len(pooled) > 1)  # one clip has no variance: by the statistics seen before
        return self.classifier(self.dropout(functional.relu(self.projector(self.norm(pooled)))))


class RecurrentCtc(_HeadOnEncoder):
    """A linear layer, bidirectional LSTMs, each with dropout behind it, and a linear layer over the vocabulary.

    With the defaults it is SUPERB's head for speech recognition (Yang et al. 2021; sizes in s3prl/s3prl:
    s3prl/downstream/asr/config.yaml). Without recurrent layers it is dropout and a linear layer: `HubertForCTC`, which
    cannot weight layers, with weighted layers.
    """

    config_class, output_class = RecurrentCtcConfig, CausalLMOutput

    def __init__(self, config: RecurrentCtcConfig, encoder: PreTrainedModel | None = None):
        super().__init__(config, encoder)
        width, size, layers = config.encoder.hidden_size, config.recurrent_size, config.recurrent_layers
        self.projector = self.recurrent = None
        if layers:
            between = {"dropout": config.head_dropout if layers > 1 else 0.0, "bidirectional": True}
            self.projector = torch.nn.Linear(width, size)
            self.recurrent = torch.nn.LSTM(size, size, layers, batch_first=True, **between)
        self.dropout = torch.nn.Dropout(config.head_dropout)
        self.lm_head = torch.nn.Linear(2 * size if layers else width, config.vocab_size)
        self.post_init()

    def head(self, states: torch.Tensor, frames: torch.Tensor) -> torch.Tensor:
        """Logits [B, T, V] of states [B, T, H]; behind a clip's own frames, int64 [B], they mean nothing."""
        if self.recurrent is not None:
            rnn = torch.nn.utils.rnn  # packed, so that the backward direction begins at each clip's own end
            settings = {"batch_first": True, "enforce_sorted": False}
            packed, _ = self.recurrent(rnn.pack_padded_sequence(self.projector(states), frames.cpu(), **settings))
            states, _ = rnn.pad_packed_sequence(packed, batch_first=True, total_length=states.shape[1])
        return self.lm_head(self.dropout(states))


def pool(states: torch.Tensor, frames: torch.Tensor, how: str) -> torch.Tensor:
    """One vector a clip, [B, H], of its own frames alone.

    Args:
        states: [B, T, H], padded in any way.
        frames: int64 [B].
        how: one of `POOLING`.
    """
    if how == "first":
        return states[:, 0]
    padding = (torch.arange(states.shape[1], device=states.device) >= frames[:, None])[..., None]
    if how == "max":
        return states.masked_fill(padding, float("-inf")).amax(1)
    return states.masked_fill(padding, 0).sum(1) / frames[:, None]


for _model, _auto in ((PooledClassifier, AutoModelForAudioClassification), (RecurrentCtc, AutoModelForCTC)):
    AutoConfig.register(_model.config_class.model_type, _model.config_class)
    _auto.register(_model.config_class, _model)


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


def keep_head(model, tokenizer, args) -> None:
    """Notes in `args` which head a trained model has; it keeps it: flags for another one are a `UserError`."""
    recurrent = getattr(model, "recurrent", None) is not None
    found = {"head": "blstm", "head_size": model.config.recurrent_size} if recurrent else {"head": "linear"}
    found |= {"layer": "weighted"} if getattr(model, "layer_weights", None) is not None else {}
    for name in args.explicit & {"head", "head_size", "layer" if args.weighted else "head"}:
        if (value := getattr(args, name)) != found.get(name):
            raise UserError(f"--{name} {value}: {args.model} has another head; leave it out, or start from an encoder")
    args.set("the model's head", **found)
    if max(number for token, number in tokenizer.get_vocab().items() if len(token) == 1) >= model.config.vocab_size:
        raise UserError(f"{args.model}: gives {model.config.vocab_size} scores; its tokenizer has more characters")
