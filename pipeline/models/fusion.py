"""Class logits from the tokens of streams: with cross-attention, self-attention, concatenation, or late fusion.

The fusion works on tokens alone, and does not depend on the networks that make them.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pipeline.common.model_settings import ModelSettings
from pipeline.models.attention_blocks import CrossAttention, SelfAttention

# Periods of the time encoding: the shortest is about as long as a token of the sound, the longest exceeds a clip.
SHORTEST_PERIOD_S, LONGEST_PERIOD_S = 0.2, 20.0
ATTENDING = ("cross_attention", "self_attention")


@dataclass(frozen=True)
class Tokens:
    """The tokens of one stream.

    values (B, time, space, D); times_s (B, time) or (time,); padding (B, time) is True where the clip has nothing;
    boxes (B, time, 4), for people alone: the box of each token's face (`pipeline.shards.format.Person`).
    """

    values: Tensor
    times_s: Tensor
    padding: Tensor
    boxes: Tensor | None = None


@dataclass(frozen=True)
class Pooled:
    """One stream of B clips as a head sees it: its pooled tokens (B, D), and whether a clip has it (B,)."""

    values: Tensor
    present: Tensor


def time_encoding(times_s: Tensor, width: int) -> Tensor:
    """Sines and cosines of the time in seconds at `width / 2` periods: (..., width). All streams share it."""
    count = width // 2
    exponents = torch.linspace(0, 1, count, device=times_s.device)
    periods = SHORTEST_PERIOD_S * (LONGEST_PERIOD_S / SHORTEST_PERIOD_S) ** exponents
    angles = 2 * math.pi * times_s[..., None] / periods
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


class Entrance(nn.Module):
    """Prepares a stream's tokens for the fusion: it gives them the common width, times and places, and adds one token.

    The added token is learned, comes first and stands for the stream as a whole. It is never masked. So the other
    streams have a token to attend to even if a clip lacks the stream.
    """

    def __init__(self, dim: int, space: int, width: int, has_boxes: bool) -> None:
        super().__init__()
        self.project, self.norm = nn.Linear(dim, width), nn.LayerNorm(width)
        self.summary = nn.Parameter(torch.randn(width) * 0.02)
        self.places = nn.Parameter(torch.randn(space, width) * 0.02) if space > 1 else None
        self.boxes = nn.Linear(4, width) if has_boxes else None

    def forward(self, tokens: Tokens) -> tuple[Tensor, Tensor]:
        """Tokens -> (B, 1 + time * space, width) and their padding (B, 1 + time * space)."""
        values: Tensor = self.norm(self.project(tokens.values))
        values = values + time_encoding(tokens.times_s, values.shape[-1]).unsqueeze(-2).to(values.dtype)
        if self.places is not None:
            values = values + self.places
        if self.boxes is not None and tokens.boxes is not None:
            values = values + self.boxes(tokens.boxes.to(values.dtype)).unsqueeze(-2)
        summary = self.summary.expand(values.shape[0], 1, -1).to(values.dtype)
        padding = tokens.padding[..., None].expand(values.shape[:3]).flatten(1)
        return torch.cat([summary, values.flatten(1, 2)], 1), torch.cat([torch.zeros_like(padding[:, :1]), padding], 1)


class Pooling(nn.Module):
    """The mean of the tokens that are not padding. If `kind` is learned, a learned score weights each token."""

    def __init__(self, width: int, kind: str) -> None:
        super().__init__()
        self.score = nn.Linear(width, 1, bias=False) if kind == "learned" else None

    def forward(self, tokens: Tensor, padding: Tensor) -> Tensor:
        """Tokens (B, T, D), padding (B, T) -> (B, D)."""
        scores = self.score(tokens).squeeze(-1).float() if self.score else torch.zeros_like(padding, dtype=torch.float)
        weights = scores.masked_fill(padding, -math.inf).softmax(dim=1).to(tokens.dtype)
        return (weights.unsqueeze(1) @ tokens).squeeze(1)


class Fusion(nn.Module):
    """Class logits from the tokens of the streams that `settings.use` names; a single stream has no attention.

    `sizes` is (space, D) of each stream's tokens. Late fusion has one head per stream, and averages the logits over the
    streams that a clip has. All other kinds have one head, on the pooled streams side by side.
    """

    def __init__(self, settings: ModelSettings, sizes: Mapping[str, tuple[int, int]], classes: int) -> None:
        super().__init__()
        self.kind, self.used, width = settings.fusion, list(settings.used), settings.width
        self.is_late = self.kind == "late"
        self.entrances = nn.ModuleDict(
            {
                name: Entrance(sizes[name][1], sizes[name][0], width, stream.input == "people")
                for name, stream in settings.used.items()
            }
        )
        crosses = self.kind == "cross_attention"
        count = settings.layers if self.kind in ATTENDING and len(self.used) > 1 else 0
        self.layers = nn.ModuleList(
            CrossAttention(settings, self.used) if crosses else SelfAttention(settings) for _ in range(count)
        )
        self.pools = nn.ModuleDict({name: Pooling(width, settings.pooling) for name in self.used})
        widths = [width] * len(self.used) if self.is_late else [width * len(self.used)]
        self.heads = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(size), nn.Dropout(settings.dropout), nn.Linear(size, classes)) for size in widths
        )

    def forward(self, tokens: Mapping[str, Tokens], maps: list[Tensor] | None = None) -> Tensor:
        """Logits (B, classes). Appends the attention of each block to `maps`: (B, heads, queries, keys).

        The tokens of a stream are its summary token and then those in time. In cross-attention, each layer has a block
        for each stream, whose keys are the tokens of all others, one stream after the other. In self-attention, queries
        and keys are the tokens of all streams.
        """
        return self.classify(self.pool(tokens, maps))

    def pool(self, tokens: Mapping[str, Tokens], maps: list[Tensor] | None = None) -> list[Pooled]:
        """What the heads are given of each stream in `used`; `maps` as in `forward`."""
        entered = [self.entrances[name](tokens[name]) for name in self.used]
        values, padding = [value for value, _ in entered], [mask for _, mask in entered]
        for layer in self.layers:
            values = layer(values, padding, maps)
        return [
            Pooled(self.pools[name](value, mask), ~mask[:, 1:].all(dim=1))
            for name, value, mask in zip(self.used, values, padding, strict=True)
        ]

    def classify(self, pooled: list[Pooled]) -> Tensor:
        """Logits (B, classes) of pooled streams."""
        if self.is_late:
            return self._mean_of_heads(pooled)
        logits: Tensor = self.heads[0](torch.cat([stream.values for stream in pooled], dim=-1))
        return logits.float()

    def _mean_of_heads(self, pooled: list[Pooled]) -> Tensor:
        """The mean of the logits of the streams that a clip has; of all of them if it has none."""
        logits = torch.stack([head(each.values) for head, each in zip(self.heads, pooled, strict=True)], dim=1).float()
        present = torch.stack([stream.present for stream in pooled], dim=1)
        present = present | ~present.any(dim=1, keepdim=True)
        return (logits * present[..., None]).sum(dim=1) / present.sum(dim=1, keepdim=True)
