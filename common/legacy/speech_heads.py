"""Heads on speech encoders that transformers does not have: classifying with other pooling, recurrent CTC.

Both are ordinary models of transformers: once this module is imported, the auto classes and `pipeline` load them, too.

    from common.legacy.speech_heads import load_speech_model

    model = load_speech_model("outputs/ser")  # a folder or a hub id; of these heads, or of transformers' own

They give a clip the same logits in every batch (`speech_encoders.ignore_padding`), from waveforms or from features that
a frozen encoder has computed before (`speech_features`). What transformers has is used from there: projector, mean and
linear layer (`HubertForSequenceClassification`), linear CTC (`HubertForCTC`). Losses belong to the scripts.
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
    PreTrainedConfig,
    PreTrainedModel,
    initialization,
)
from transformers.configuration_utils import SubConfigSpec
from transformers.utils import ModelOutput

from common.legacy.errors import UserError
from common.legacy.speech_encoders import encoder_of, ignore_padding

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
    """An encoder, a weighted sum of its layers if so wished, and what a subclass makes of it in `from_features`.

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
        ignore_padding(self)

    @classmethod
    def around(cls, encoder: PreTrainedModel, **settings) -> "_HeadOnEncoder":
        """A new head on a (pre-trained) encoder, such as `AutoModel.from_pretrained` gives; it is taken, not copied.

        Args:
            settings: fields of the head's configuration.
        """
        attention = encoder.config._attn_implementation
        config = cls.config_class(encoder=encoder_of(encoder).config, attn_implementation=attention, **settings)
        return cls(config, encoder)

    def _init_weights(self, module):
        super()._init_weights(module)
        if module is self and self.layer_weights is not None:
            initialization.constant_(self.layer_weights, 1 / len(self.layer_weights))

    def forward(
        self,
        input_values: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        features: torch.Tensor | None = None,
        frames: torch.Tensor | None = None,
    ) -> SpeechOutput:
        """Logits of waveforms [B, samples] with their mask, or of what the encoder has made of them before.

        Args:
            features, frames: as in `from_features`; the encoder is passed by.
        """
        if features is not None:
            return self.from_features(features, frames)
        outputs = self.encoder(input_values, attention_mask=attention_mask, output_hidden_states=self.config.weighted)
        if attention_mask is None:
            attention_mask = torch.ones_like(input_values, dtype=torch.int64)
        frames = self.encoder._get_feat_extract_output_lengths(attention_mask.sum(-1))
        if self.config.weighted:
            return self.from_features(torch.stack(outputs.hidden_states, dim=-2), frames)
        return self.from_features(outputs.last_hidden_state, frames)

    def _mixed(self, states: torch.Tensor) -> torch.Tensor:
        """[..., H] of [..., L, H] where layers are weighted, else of [..., H]."""
        if self.layer_weights is None:
            return states
        return (states * functional.softmax(self.layer_weights, dim=0)[:, None]).sum(-2)


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

    def from_features(self, features: torch.Tensor, frames: torch.Tensor) -> SpeechOutput:
        """Logits of what the encoder gave.

        Args:
            features: hidden states [B, T, H], padded in any way, or [B, T, L, H] of all layers where these are
                weighted; or pooled already, [B, H] or [B, L, H] (`pools_early`).
            frames: int64 [B].
        """
        states = self._mixed(features)
        if states.ndim == 3:
            scores = None if self.attention is None else self.attention(states).squeeze(-1)
            states = pool(states, frames, self.config.pooling, scores)
        hidden = functional.relu(self.projector(self.norm(states)))
        return SpeechOutput(logits=self.classifier(self.dropout(hidden)), frames=frames)

    @property
    def pools_early(self) -> bool:
        """Whether pooling has nothing learned before it, so that it may be done once for all epochs.

        A mean, and a choice of a frame, of the sum of layers is the sum of the layers' means; a maximum is not.
        """
        return self.config.pooling in ("mean", "first") or (self.config.pooling == "max" and not self.config.weighted)


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

    def from_features(self, features: torch.Tensor, frames: torch.Tensor) -> SpeechOutput:
        """Logits [B, T, V] of what the encoder gave; behind a clip's own frames they mean nothing.

        Args:
            features: hidden states [B, T, H], padded in any way, or [B, T, L, H] of all layers if these are weighted.
            frames: int64 [B].
        """
        states = self._mixed(features)
        if self.projector is None:
            return SpeechOutput(logits=self.lm_head(self.dropout(states)), frames=frames)
        rnn = torch.nn.utils.rnn  # packed, so that the backward direction begins at each clip's own end
        packed = rnn.pack_padded_sequence(self.projector(states), frames.cpu(), batch_first=True, enforce_sorted=False)
        for layer in self.recurrent:
            packed, _ = layer(packed)
            packed = packed._replace(data=self.dropout(packed.data))
        hidden, _ = rnn.pad_packed_sequence(packed, batch_first=True, total_length=states.shape[1])
        return SpeechOutput(logits=self.lm_head(hidden), frames=frames)


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


def load_speech_model(name: str, **source) -> PreTrainedModel:
    """A trained model for classifying or recognising speech, ready for use: in eval mode, the score without the batch.

    Args:
        name: a folder or a hub id; one of the heads here, or transformers' `...ForSequenceClassification`/`...ForCTC`.
        source: `revision`, `token` and `cache_dir`, as `from_pretrained` takes them.

    Raises:
        UserError: it has no such head, or weights are missing.
    """
    config = AutoConfig.from_pretrained(name, **source)
    made_for = config.architectures or ["an unknown task"]
    for auto_class in (AutoModelForAudioClassification, AutoModelForCTC):
        mapping = auto_class._model_mapping
        if type(config) in mapping and mapping[type(config)].__name__ in made_for:
            break
    else:
        raise UserError(f"{name}: is made for {', '.join(made_for)}, not for classifying or recognising speech")
    model, report = auto_class.from_pretrained(
        name, config=config, use_safetensors=True, output_loading_info=True, **source
    )
    missing = sorted(key for key in report["missing_keys"] if not key.endswith("masked_spec_embed"))
    if missing:
        raise UserError(
            f"{name}: {len(missing)} weights of a {type(model).__name__} are missing, the first is {missing[0]}"
        )
    ignore_padding(model)
    return model.eval()
