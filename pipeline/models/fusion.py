"""How the tokens of two modalities meet: in cross-attention, in self-attention, side by side, late, or not at all.

Works on tokens alone; what they are made of does not matter to it.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pipeline.common.config import Model

# Wavelengths of the time encoding: from finer than a token to longer than a clip.
SHORTEST_PERIOD_S, LONGEST_PERIOD_S = 0.2, 20.0
VIDEO, AUDIO = "video", "audio"
ATTENDING = ("cross_attention", "self_attention")


@dataclass(frozen=True)
class Tokens:
    """One modality's: values (B, time, space, D), times_s (B, time) or (time,), padding (B, time), True: not there."""

    values: Tensor
    times_s: Tensor
    padding: Tensor


def time_encoding(times_s: Tensor, width: int) -> Tensor:
    """Sines and cosines of the time in seconds at `width / 2` periods: (..., width). Both modalities share it."""
    count = width // 2
    exponents = torch.linspace(0, 1, count, device=times_s.device)
    periods = SHORTEST_PERIOD_S * (LONGEST_PERIOD_S / SHORTEST_PERIOD_S) ** exponents
    angles = 2 * math.pi * times_s[..., None] / periods
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


class Entrance(nn.Module):
    """What a modality's tokens get before they meet others: one width, their times, and a token that is always there.

    That first, learned token stands for the modality as a whole. It is never masked, so attention to a clip that lacks
    the modality is attention to this token: a learned "nothing there", and never an empty softmax.
    """

    def __init__(self, dim: int, space: int, width: int) -> None:
        super().__init__()
        self.project, self.norm = nn.Linear(dim, width), nn.LayerNorm(width)
        self.summary = nn.Parameter(torch.randn(width) * 0.02)
        self.places = nn.Parameter(torch.randn(space, width) * 0.02) if space > 1 else None

    def forward(self, tokens: Tokens) -> tuple[Tensor, Tensor]:
        """Tokens -> (B, 1 + time * space, width) and their padding (B, 1 + time * space)."""
        values: Tensor = self.norm(self.project(tokens.values))
        values = values + time_encoding(tokens.times_s, values.shape[-1]).unsqueeze(-2).to(values.dtype)
        if self.places is not None:
            values = values + self.places
        summary = self.summary.expand(values.shape[0], 1, -1).to(values.dtype)
        padding = tokens.padding[..., None].expand(values.shape[:3]).flatten(1)
        return torch.cat([summary, values.flatten(1, 2)], 1), torch.cat([torch.zeros_like(padding[:, :1]), padding], 1)


class StochasticDepth(nn.Module):
    """Zeros for a share of the clips, and the rest scaled up so that the mean stays (Huang et al., arXiv 1603.09382).

    torchvision has it too, but importing that takes longer than all else that a prediction needs.
    """

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def forward(self, values: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, D)."""
        if not self.training or self.share == 0:
            return values
        kept = values.new_empty(values.shape[0], 1, 1).bernoulli_(1 - self.share)
        return values * (kept / (1 - self.share))


class AttentionBlock(nn.Module):
    """Tokens attend to a context, then a feed-forward layer; pre-norm, residual, each branch skipped now and then."""

    def __init__(self, settings: Model) -> None:
        super().__init__()
        width, dropout = settings.width, settings.dropout
        self.query_norm, self.context_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, settings.heads, dropout=dropout, batch_first=True)
        self.feed_forward = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, 2 * width),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(2 * width, width),
            nn.Dropout(dropout),
        )
        self.skip = StochasticDepth(settings.stochastic_depth)

    def forward(self, tokens: Tensor, context: Tensor, padding: Tensor, maps: list[Tensor] | None) -> Tensor:
        """Tokens (B, T, D), context (B, S, D) and its padding (B, S) -> (B, T, D); to `maps`: (B, heads, T, S)."""
        context = self.context_norm(context)
        attended, weights = self.attention(
            self.query_norm(tokens),
            context,
            context,
            key_padding_mask=padding,
            need_weights=maps is not None,
            average_attn_weights=False,
        )
        if maps is not None:
            maps.append(weights)
        tokens = tokens + self.skip(attended)
        return tokens + self.skip(self.feed_forward(tokens))


class CrossAttention(nn.Module):
    """Video attends to audio and audio to video, both to the other's tokens as they came in."""

    def __init__(self, settings: Model) -> None:
        super().__init__()
        self.video_to_audio, self.audio_to_video = AttentionBlock(settings), AttentionBlock(settings)

    def forward(self, tokens: list[Tensor], padding: list[Tensor], maps: list[Tensor] | None) -> list[Tensor]:
        """The new tokens of video and audio, of the shapes that they had."""
        video, audio = tokens
        seen, heard = padding
        return [self.video_to_audio(video, audio, heard, maps), self.audio_to_video(audio, video, seen, maps)]


class SelfAttention(nn.Module):
    """All tokens of both modalities attend to all."""

    def __init__(self, settings: Model) -> None:
        super().__init__()
        self.block = AttentionBlock(settings)

    def forward(self, tokens: list[Tensor], padding: list[Tensor], maps: list[Tensor] | None) -> list[Tensor]:
        """The new tokens of video and audio, of the shapes that they had."""
        both = torch.cat(tokens, dim=1)
        attended: Tensor = self.block(both, both, torch.cat(padding, dim=1), maps)
        return list(torch.split(attended, [part.shape[1] for part in tokens], dim=1))


class Pooling(nn.Module):
    """The mean of the tokens that are not padding, weighted by a learned function of each if `learned`."""

    def __init__(self, width: int, kind: str) -> None:
        super().__init__()
        self.score = nn.Linear(width, 1, bias=False) if kind == "learned" else None

    def forward(self, tokens: Tensor, padding: Tensor) -> Tensor:
        """Tokens (B, T, D), padding (B, T) -> (B, D)."""
        scores = self.score(tokens).squeeze(-1).float() if self.score else torch.zeros_like(padding, dtype=torch.float)
        weights = scores.masked_fill(padding, -math.inf).softmax(dim=1).to(tokens.dtype)
        return (weights.unsqueeze(1) @ tokens).squeeze(1)


class Fusion(nn.Module):
    """Class logits from the tokens of the modalities that `settings.fusion` uses.

    `given` is (space, D) of each modality's tokens. concat: pooled side by side, one head; late: a head each, and the
    mean of the logits of those that a clip has.
    """

    def __init__(self, settings: Model, given: Mapping[str, tuple[int, int]], classes: int) -> None:
        super().__init__()
        self.kind, self.used, width = settings.fusion, list(settings.backbones), settings.width
        self.is_late = self.kind == "late"
        self.entrances = nn.ModuleDict({name: Entrance(given[name][1], given[name][0], width) for name in self.used})
        layer = CrossAttention if settings.fusion == "cross_attention" else SelfAttention
        count = settings.layers if settings.fusion in ATTENDING else 0
        self.layers = nn.ModuleList(layer(settings) for _ in range(count))
        self.pools = nn.ModuleDict({name: Pooling(width, settings.pooling) for name in self.used})
        widths = [width] * len(self.used) if self.is_late else [width * len(self.used)]
        self.heads = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(size), nn.Dropout(settings.dropout), nn.Linear(size, classes)) for size in widths
        )

    def forward(self, tokens: Mapping[str, Tokens], maps: list[Tensor] | None = None) -> Tensor:
        """Logits (B, classes). `maps` gets the attention of each block, in turn: (B, heads, queries, keys).

        Queries and keys are a modality's summary token and then its tokens in time; cross-attention's blocks are
        video to audio, then audio to video; self-attention's tokens are the video's, then the audio's.
        """
        entered = [self.entrances[name](tokens[name]) for name in self.used]
        values, padding = [value for value, _ in entered], [mask for _, mask in entered]
        for layer in self.layers:
            values = layer(values, padding, maps)
        pooled = [self.pools[name](*each) for name, *each in zip(self.used, values, padding, strict=True)]
        if not self.is_late:
            logits: Tensor = self.heads[0](torch.cat(pooled, dim=-1))
            return logits.float()
        each = torch.stack([head(value) for head, value in zip(self.heads, pooled, strict=True)], dim=1).float()
        present = torch.stack([~mask[:, 1:].all(dim=1) for mask in padding], dim=1)
        present = present | ~present.any(dim=1, keepdim=True)  # with neither, both summaries vote
        return (each * present[..., None]).sum(dim=1) / present.sum(dim=1, keepdim=True)
