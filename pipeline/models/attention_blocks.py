"""Attention within and between the tokens of several streams."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pipeline.common.model_settings import ModelSettings


class StochasticDepth(nn.Module):
    """Replaces a share of the clips by zeros, and scales up the others so that the mean stays the same.

    Huang et al., arXiv 1603.09382. torchvision has this too, but importing it takes longer than everything else that a
    prediction needs.
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
    """Tokens attend to a context, then pass a feed-forward layer.

    Both branches have their norm first and are residual; in training, a clip skips a branch now and then.
    """

    def __init__(self, settings: ModelSettings) -> None:
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
        """Tokens (B, T, D), context (B, S, D), its padding (B, S) -> (B, T, D); appends (B, heads, T, S) to `maps`."""
        context = self.context_norm(context)
        # The same as `key_padding_mask=padding`, whose check makes PyTorch import SymPy, which takes two seconds.
        mask = padding[:, None, None].expand(-1, self.attention.num_heads, tokens.shape[1], -1).flatten(0, 1)
        attended, weights = self.attention(
            self.query_norm(tokens),
            context,
            context,
            attn_mask=mask,
            need_weights=maps is not None,
            average_attn_weights=False,
        )
        if maps is not None:
            maps.append(weights)
        tokens = tokens + self.skip(attended)
        return tokens + self.skip(self.feed_forward(tokens))


class CrossAttention(nn.Module):
    """Each stream attends to the tokens of all others, as they were before this layer.

    `names` are those of two streams or more; `maps` gets the attention of each, in this order.
    """

    def __init__(self, settings: ModelSettings, names: Sequence[str]) -> None:
        super().__init__()
        self.blocks = nn.ModuleDict({name: AttentionBlock(settings) for name in names})

    def forward(self, tokens: list[Tensor], padding: list[Tensor], maps: list[Tensor] | None) -> list[Tensor]:
        """The tokens of the streams and their padding -> new tokens of the same shapes."""
        return [
            block(tokens[number], cat_others(tokens, number), cat_others(padding, number), maps)
            for number, block in enumerate(self.blocks.values())
        ]


class SelfAttention(nn.Module):
    """All tokens of all streams attend to all tokens."""

    def __init__(self, settings: ModelSettings) -> None:
        super().__init__()
        self.block = AttentionBlock(settings)

    def forward(self, tokens: list[Tensor], padding: list[Tensor], maps: list[Tensor] | None) -> list[Tensor]:
        """The tokens of the streams and their padding -> new tokens of the same shapes."""
        everything = torch.cat(tokens, dim=1)
        attended: Tensor = self.block(everything, everything, torch.cat(padding, dim=1), maps)
        return list(torch.split(attended, [part.shape[1] for part in tokens], dim=1))


def cat_others(parts: Sequence[Tensor], number: int) -> Tensor:
    """All of the parts (B, T, ...) but one, one after the other: (B, sum of their T, ...)."""
    return torch.cat([*parts[:number], *parts[number + 1 :]], dim=1)
