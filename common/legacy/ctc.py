"""Connectionist temporal classification (Graves et al. 2006): the loss, and what is kept of a batch to be scored.

Not for models (`common.legacy.speech_heads`), nor for how labels become text (`common.legacy.decoding`).
"""

from functools import partial

import torch

from common.legacy.decoding import BeamDecoder
from common.legacy.recognition import score
from common.legacy.speech_encoders import frames_in
from common.legacy.trainer import Head


def ctc_head(model, tokenizer) -> Head:
    """The loss of each utterance by label, and the best label of every frame, whatever the size of the vocabulary.

    The batch's targets are labels [B, L], padded by -100; the model gives logits [B, T, V].
    """

    def losses(output: dict, batch: dict) -> torch.Tensor:
        scores = torch.log_softmax(output["logits"].float(), dim=-1).transpose(0, 1)
        targets, lengths = batch["targets"].clamp(min=0), (batch["targets"] >= 0).sum(-1)
        settings = {"blank": tokenizer.pad_token_id, "reduction": "none", "zero_infinity": True}
        with torch.backends.cudnn.flags(enabled=False):  # cuDNN's gradients differ from run to run
            loss = torch.nn.functional.ctc_loss(scores, targets, frames_in(model, batch), lengths, **settings)
        return loss / lengths.clamp(min=1)

    def keep(output: dict, batch: dict) -> tuple[torch.Tensor, ...]:
        return output["logits"].argmax(-1).to(torch.int32), frames_in(model, batch).to(torch.int32)

    return Head(
        targets=("targets",),
        losses=losses,
        keep=keep,
        score=partial(score, tokenizer=tokenizer),
        has_truth=lambda batch: "targets" in batch,
    )


def searched(model, decoder: BeamDecoder):
    """`Head.keep` by beam search: in the place of every frame's best label, a path with the labels that were found."""

    def keep(output: dict, batch: dict) -> tuple[torch.Tensor, ...]:
        frames = frames_in(model, batch).to(torch.int32)
        paths = decoder.paths(output["logits"].float().cpu().numpy(), frames.cpu().numpy())
        return torch.from_numpy(paths).to(frames.device), frames

    return keep


def every_score(model):
    """`Head.keep` of the logits themselves, which a beam search over a recording in chunks wants joined first."""

    def keep(output: dict, batch: dict) -> tuple[torch.Tensor, ...]:
        return output["logits"].float(), frames_in(model, batch).to(torch.int32)

    return keep
