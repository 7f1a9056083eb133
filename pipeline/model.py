"""The audio-visual model: two backbones, cross-attention between their tokens in both directions, one head.

After "End-to-End Audio-Visual Group Emotion Recognition" (arXiv 2111.05890): all layers are trained through the fusion.
Its abstract fixes no more than that; depth, width, positions and pooling are this project's choices.
"""

import math

import torch
from torch import Tensor, nn

from pipeline.backbones import SmallFrameNetwork, SmallSpectrogramNetwork
from pipeline.config import Features, Model
from pipeline.labels import CLASSES
from pipeline.loader import Batch

# Wavelengths of the time encoding: from finer than a token to longer than a clip.
SHORTEST_PERIOD_S, LONGEST_PERIOD_S = 0.2, 20.0


def time_encoding(times_s: Tensor, width: int) -> Tensor:
    """Sines and cosines of the time in seconds at `width / 2` periods: (..., width). Both modalities share it."""
    count = width // 2
    exponents = torch.linspace(0, 1, count, device=times_s.device)
    periods = SHORTEST_PERIOD_S * (LONGEST_PERIOD_S / SHORTEST_PERIOD_S) ** exponents
    angles = 2 * math.pi * times_s[..., None] / periods
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


class CrossAttention(nn.Module):
    """Tokens of one modality attend to those of the other, then a feed-forward layer; pre-norm, residual."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.query_norm, self.context_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, heads, dropout=dropout, batch_first=True)
        self.feed_forward = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, 2 * width),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(2 * width, width),
            nn.Dropout(dropout),
        )

    def forward(self, tokens: Tensor, context: Tensor, context_padding: Tensor) -> Tensor:
        """Tokens (B, T, D), context (B, S, D), padding (B, S), True where there is nothing to see -> (B, T, D)."""
        context = self.context_norm(context)
        attended, _ = self.attention(
            self.query_norm(tokens), context, context, key_padding_mask=context_padding, need_weights=False
        )
        tokens = tokens + attended
        return tokens + self.feed_forward(tokens)


class FusionLayer(nn.Module):
    """Video attends to audio and audio to video, both to the other's tokens as they came in."""

    def __init__(self, settings: Model) -> None:
        super().__init__()
        self.video_to_audio = CrossAttention(settings.width, settings.heads, settings.dropout)
        self.audio_to_video = CrossAttention(settings.width, settings.heads, settings.dropout)

    def forward(
        self, video: Tensor, audio: Tensor, video_padding: Tensor, audio_padding: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The new (video, audio) tokens, of the shapes they had."""
        return self.video_to_audio(video, audio, audio_padding), self.audio_to_video(audio, video, video_padding)


class Modality(nn.Module):
    """What the tokens of a modality get before the fusion: their times, and a token that is always there.

    That first, learned token stands for the modality as a whole. It is never masked, so attention to a clip that lacks
    the modality is attention to this token: a learned "nothing there", and never an empty softmax.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.summary = nn.Parameter(torch.randn(width) * 0.02)
        self.norm = nn.LayerNorm(width)

    def forward(self, tokens: Tensor, times_s: Tensor, padding: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens (B, T, D), times (B, T) or (T,), padding (B, T) -> tokens (B, 1 + T, D), padding (B, 1 + T)."""
        tokens = self.norm(tokens) + time_encoding(times_s, tokens.shape[-1]).to(tokens.dtype)
        summary = self.summary.expand(len(tokens), 1, -1).to(tokens.dtype)
        present = torch.zeros_like(padding[:, :1])
        return torch.cat([summary, tokens], dim=1), torch.cat([present, padding], dim=1)


class GroupEmotionModel(nn.Module):
    """Class logits of a batch of clips. `fusion: video` and `fusion: audio` leave the other modality out altogether."""

    def __init__(self, settings: Model, features: Features) -> None:
        super().__init__()
        width = settings.width
        self.fusion = settings.fusion
        self.uses_video, self.uses_audio = settings.fusion != "audio", settings.fusion != "video"
        if self.uses_video:
            self.video_network, self.video = SmallFrameNetwork(width), Modality(width)
        if self.uses_audio:
            self.audio_network, self.audio = SmallSpectrogramNetwork(width, features), Modality(width)
        both = self.uses_video and self.uses_audio
        self.layers = nn.ModuleList(FusionLayer(settings) for _ in range(settings.layers if both else 0))
        self.head = nn.Sequential(
            nn.LayerNorm(2 * width if both else width),
            nn.Dropout(settings.dropout),
            nn.Linear(2 * width if both else width, len(CLASSES)),
        )

    def backbones(self) -> list[SmallFrameNetwork | SmallSpectrogramNetwork]:
        """The networks of the modalities that the fusion uses."""
        networks: list[SmallFrameNetwork | SmallSpectrogramNetwork] = []
        if self.uses_video:
            networks.append(self.video_network)
        if self.uses_audio:
            networks.append(self.audio_network)
        return networks

    def forward(self, batch: Batch) -> Tensor:
        """Logits (B, classes), in the order of `CLASSES`."""
        if not self.uses_audio:
            return self._classify(masked_mean(*self.video_tokens(batch)))
        if not self.uses_video:
            return self._classify(masked_mean(*self.audio_tokens(batch)))
        video, video_padding = self.video_tokens(batch)
        audio, audio_padding = self.audio_tokens(batch)
        for layer in self.layers:
            video, audio = layer(video, audio, video_padding, audio_padding)
        pooled = [masked_mean(video, video_padding), masked_mean(audio, audio_padding)]
        return self._classify(torch.cat(pooled, dim=-1))

    def video_tokens(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The video's tokens and their padding mask: True for all of a clip without video."""
        tokens = self.video_network(batch.frames)
        padding = ~batch.has_video[:, None].expand(tokens.shape[:2])
        result: tuple[Tensor, Tensor] = self.video(tokens, batch.frame_times_s, padding)
        return result

    def audio_tokens(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The audio's tokens and their padding mask: True for a token whose first hop is past the clip's end."""
        tokens = self.audio_network(batch.log_mel)
        first_hops = self.audio_network.STRIDE * torch.arange(tokens.shape[1], device=tokens.device)
        padding = first_hops >= batch.mel_frames[:, None]
        times_s = self.audio_network.token_times_s(tokens.shape[1], tokens.device)
        result: tuple[Tensor, Tensor] = self.audio(tokens, times_s, padding)
        return result

    def _classify(self, pooled: Tensor) -> Tensor:
        logits: Tensor = self.head(pooled)
        return logits.float()


def masked_mean(tokens: Tensor, padding: Tensor) -> Tensor:
    """Mean of the tokens (B, T, D) that are not padding: (B, D)."""
    kept = (~padding).to(tokens.dtype)[..., None]
    return (tokens * kept).sum(dim=1) / kept.sum(dim=1)
