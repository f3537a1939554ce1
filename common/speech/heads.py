"""Heads on speech encoders that transformers does not have: classifying with other pooling, recurrent CTC.

Once this module is imported, transformers' auto classes and `pipeline` load them, too. They give a clip the same logits
in every batch, from waveforms or from what a frozen encoder gave before (`encoders.prepare_encoder`, `features`).
"""

from collections.abc import Sequence

import torch
from torch.nn import functional
from transformers import AutoConfig, AutoModel, AutoModelForAudioClassification, AutoModelForCTC, PreTrainedModel
from transformers.configuration_utils import PreTrainedConfig, SubConfigSpec
from transformers.modeling_outputs import CausalLMOutput, SequenceClassifierOutput
from transformers.utils import ModelOutput

from common.errors import UserError
from common.speech.encoders import SPECTROGRAMS, encoder_of, frames_in, prepare_encoder


class _HeadConfig(PreTrainedConfig):
    sub_configs_defaults = {"encoder": SubConfigSpec(config_class=AutoConfig, model_type="hubert")}

    encoder: PreTrainedConfig | dict | None = None
    weighted: bool = False  # all layers are summed up, instead of taking the last one


class PooledClassifierConfig(_HeadConfig):
    """Of `PooledClassifier`."""

    model_type = "pooled-speech-classifier"
    pooling: str = "mean"
    classifier_size: int = 256  # between the two linear layers
    classifier_dropout: float = 0.1


class RecurrentCtcConfig(_HeadConfig):
    """Of `RecurrentCtc`; `vocab_size` and `pad_token_id`, CTC's blank, are the tokenizer's."""

    model_type = "recurrent-ctc"
    vocab_size: int = 32
    pad_token_id: int = 0
    recurrent_size: int = 1024  # of each direction of an LSTM, and of the layer below
    recurrent_layers: int = 2  # 0: a linear head
    head_dropout: float = 0.2


class _HeadOnEncoder(PreTrainedModel):
    """An encoder, a sum of all its hidden states if so wished (Yang et al. 2021), and a subclass' `head` on it."""

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
        """A new head on a (pre-trained) encoder, for classes of these names; `settings`: of its configuration."""
        config = encoder_of(encoder).config
        if config.model_type in SPECTROGRAMS:
            raise UserError(f"a {config.model_type} model has transformers' own head only: give --head standard")
        if labels:
            settings |= {"id2label": dict(enumerate(labels)), "label2id": {label: i for i, label in enumerate(labels)}}
        attention = config._attn_implementation
        return cls(cls.config_class(encoder=config, attn_implementation=attention, **settings), encoder)

    def forward(self, input_values: torch.Tensor, attention_mask: torch.Tensor | None = None) -> ModelOutput:
        """Logits of waveforms [B, samples], of what the convolutions gave before, or the encoder, [B, T, L, H]."""
        outputs = self.encoder(input_values, attention_mask=attention_mask, output_hidden_states=self.config.weighted)
        states = outputs.last_hidden_state
        if self.layer_weights is not None:
            shares = functional.softmax(self.layer_weights, dim=0)
            states = (torch.stack(outputs.hidden_states, dim=-2) * shares[:, None]).sum(-2)
        frames = frames_in(self, {"input_values": input_values, "attention_mask": attention_mask})
        return self.output_class(logits=self.head(states, frames))


class PooledClassifier(_HeadOnEncoder):
    """Pooling over a clip's own frames, batch norm, linear, ReLU, dropout, linear: the published head for emotions."""

    config_class, output_class = PooledClassifierConfig, SequenceClassifierOutput

    def __init__(self, config: PooledClassifierConfig, encoder: PreTrainedModel | None = None):
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
    """SUPERB's (s3prl/s3prl): linear, bidirectional LSTMs with dropout, linear; without LSTMs, the last one alone."""

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
    """One vector a clip, [B, H], of its own frames alone: int64 [B], of states [B, T, H]; `how`: mean, max or first."""
    if how == "first":
        return states[:, 0]
    padding = (torch.arange(states.shape[1], device=states.device) >= frames[:, None])[..., None]
    if how == "max":
        return states.masked_fill(padding, float("-inf")).amax(1)
    return states.masked_fill(padding, 0).sum(1) / frames[:, None]


for _model, _auto in ((PooledClassifier, AutoModelForAudioClassification), (RecurrentCtc, AutoModelForCTC)):
    AutoConfig.register(_model.config_class.model_type, _model.config_class)
    _auto.register(_model.config_class, _model)
