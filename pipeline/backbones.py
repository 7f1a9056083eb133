"""Networks that turn one modality into tokens (B, tokens, width), each with the time that it stands for.

Each gives its `stages()`, parts from the input to the output, for learning rates that decay from layer to layer.
The small ones here are trained from scratch, for the demo and for tests. GroupNorm, not BatchNorm: a clip's result does
not depend on the batch it is in, and it is the same on one process as on many.
"""

import torch
from torch import Tensor, nn

from pipeline.config import Features
from pipeline.features import LEVELS

GROUPS = 8


def convolutions(inputs: int, *layers: tuple[int, int, int]) -> nn.Sequential:
    """Convolutions given as (channels, kernel, stride), each with GroupNorm and GELU; they shrink by the strides."""
    blocks = nn.Sequential()
    for channels, kernel, stride in layers:
        convolution = nn.Conv2d(inputs, channels, kernel, stride, padding=kernel // 2, bias=False)
        blocks.append(nn.Sequential(convolution, nn.GroupNorm(GROUPS, channels), nn.GELU()))
        inputs = channels
    return blocks


def memory_format(module: nn.Module) -> torch.memory_format:
    """That of the module's convolutions, for what goes into them."""
    kernels = [parameter for parameter in module.parameters() if parameter.dim() == 4 and parameter.shape[1] > 1]
    last = kernels and not kernels[0].is_contiguous() and kernels[0].is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if last else torch.contiguous_format


class SmallFrameNetwork(nn.Module):
    """One token a frame."""

    def __init__(self, width: int) -> None:
        super().__init__()
        # A stride of 4 at once: on a CPU the time goes to the large maps, and here there are none.
        self.layers = convolutions(3, (32, 7, 4), (64, 3, 2), (128, 3, 2))
        self.project = nn.Sequential(nn.AdaptiveMaxPool2d(2), nn.Flatten(), nn.Linear(128 * 4, width))

    def stages(self) -> list[nn.Module]:
        """Its parts, from the input to the output."""
        return [*self.layers, self.project]

    def forward(self, frames: Tensor) -> Tensor:
        """Frames (B, N, 3, H, W), RGB in 0..255 -> tokens (B, N, width)."""
        clips, count = frames.shape[:2]
        pictures = frames.flatten(0, 1).float().contiguous(memory_format=memory_format(self))
        tokens: Tensor = self.project(self.layers(pictures / 127.5 - 1))
        return tokens.view(clips, count, -1)


class SmallSpectrogramNetwork(nn.Module):
    """One token for each `STRIDE` hops.

    The norms' statistics include the padding, which is digital silence up to one fixed length whatever the batch.
    """

    STRIDE = 16  # of the convolutions together, in mel bins and in hops

    def __init__(self, width: int, features: Features) -> None:
        super().__init__()
        self.layers = convolutions(1, (16, 3, 2), (32, 3, 2), (64, 3, 2), (128, 3, 2))
        self.project = nn.Linear(128 * -(-features.mel_bins // self.STRIDE), width)
        self.hop_s = features.hop_length / features.sample_rate_hz
        # Constants, not the clip's own statistics: loudness stays comparable across clips.
        self.levels = LEVELS[features.front_end]

    def stages(self) -> list[nn.Module]:
        """Its parts, from the input to the output."""
        return [*self.layers, self.project]

    def forward(self, log_mel: Tensor) -> Tensor:
        """Log-mel (B, mel_bins, T) -> tokens (B, ceil(T / 16), width)."""
        maps: Tensor = self.layers(((log_mel.float() - self.levels.mean) / self.levels.deviation).unsqueeze(1))
        tokens: Tensor = self.project(maps.flatten(1, 2).transpose(1, 2))
        return tokens

    def token_times_s(self, tokens: int, device: torch.device) -> Tensor:
        """Time of the middle of each token's hops, in seconds from the clip's start: (tokens,)."""
        return (torch.arange(tokens, device=device) + 0.5) * self.STRIDE * self.hop_s
