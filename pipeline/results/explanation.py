"""What a prediction depends on: attention over time, and the prediction from each modality alone."""

import dataclasses
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.loading.batch import Batch
from pipeline.models.fusion import AUDIO, VIDEO, Tokens
from pipeline.models.model import GroupEmotionModel
from pipeline.models.scoring import ScoredClip, Scorer


@dataclass(frozen=True)
class AttentionCurve:
    """Times of a modality's tokens in seconds, (tokens,), and their shares of the attention, (tokens,)."""

    times_s: NDArray[np.float64]
    shares: NDArray[np.float64]


@dataclass(frozen=True)
class Explanation:
    """What a prediction depends on, by modality.

    `attention` is empty for a fusion without attention. `alone` holds the class probabilities (classes,) when the other
    modality is hidden; it is empty for a model of one modality.
    """

    attention: dict[str, AttentionCurve]
    alone: dict[str, NDArray[np.float64]]


def explain(clip: ScoredClip, scorer: Scorer) -> Explanation:
    """The explanation of a prediction that `scorer` made: the attention is that of the first view."""
    batch = clip.batch.to(scorer.accelerator.device)
    uses_both = len(scorer.model.fusion.used) > 1
    return Explanation(
        attention=attention_over_time(scorer.model, scorer.model.sampling.view_of(batch, 0)),
        alone=predictions_alone(batch, scorer) if uses_both else {},
    )


def attention_over_time(model: GroupEmotionModel, batch: Batch) -> dict[str, AttentionCurve]:
    """The attention to each modality of a clip, which is a batch of one on the model's device.

    Shares are means over blocks, heads and queries, summed over places in the picture or spectrum. They add up to less
    than 1, because some attention goes to the modality's summary token. Empty for a fusion without attention.
    """
    maps: list[Tensor] = []
    with torch.no_grad():
        tokens = model.tokens(batch)
        model.fusion(tokens, maps)
    if not maps:
        return {}
    received = [weights[0].float().mean(dim=(0, 1)).cpu() for weights in maps]  # (keys,) of each block
    if model.fusion.kind == "cross_attention":  # blocks alternate: video to audio, audio to video
        by_modality = {AUDIO: torch.stack(received[0::2]).mean(0), VIDEO: torch.stack(received[1::2]).mean(0)}
    else:
        video_keys = 1 + tokens[VIDEO].values.shape[1:3].numel()
        both = torch.stack(received).mean(0)
        by_modality = {VIDEO: both[:video_keys], AUDIO: both[video_keys:]}
    return {name: _curve(tokens[name], by_modality[name]) for name in (VIDEO, AUDIO)}


def _curve(tokens: Tokens, received: Tensor) -> AttentionCurve:
    """The curve of a clip's tokens that are not padding; `received` begins with the share of the summary token."""
    is_valid = ~tokens.padding[0].cpu()
    shares = received[1:].view(tokens.values.shape[1:3]).sum(dim=1)
    times_s = tokens.times_s.expand(tokens.padding.shape)[0].cpu()
    return AttentionCurve(times_s[is_valid].double().numpy(), shares[is_valid].double().numpy())


def predictions_alone(batch: Batch, scorer: Scorer) -> dict[str, NDArray[np.float64]]:
    """Class probabilities (classes,) of a batch of one from video alone, and from audio alone."""
    without_sound = dataclasses.replace(batch, mel_frames=torch.zeros_like(batch.mel_frames))
    without_video = dataclasses.replace(batch, has_video=torch.zeros_like(batch.has_video))
    return {VIDEO: scorer.probabilities(without_sound)[0], AUDIO: scorer.probabilities(without_video)[0]}
