"""Networks that turn one modality into tokens (B, time, space, D): what they all state, and the small ones.

The small ones are trained from scratch, for the demo, for small sets and for tests. GroupNorm, not BatchNorm: a clip's
result does not depend on the batch it is in, and it is the same on one process as on many.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from pipeline.common.config import Features
from pipeline.common.errors import UserError
from pipeline.extraction.log_mel import LEVELS

GROUPS = 8


@dataclass(frozen=True)
class Interface:
    """What a network takes and gives.

    takes: (frames, height, width), or (mel_bins, hops) of the padded log-mel. mean and deviation normalise it: per
    channel of RGB in 0..1, or in the unit of the log-mel. gives: tokens (time, space, D) for a clip. The i-th token in
    time is centred on the frame or hop number `stride * i + offset`: 0 for convolutions that are padded on both sides,
    (stride - 1) / 2 for patches, in between for others.
    """

    takes: tuple[int, ...]
    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    gives: tuple[int, int, int]
    stride: int = 1
    offset: float = 0.0


@dataclass(frozen=True)
class Published:
    """Where the weights that are published for a network lie: at an address, or in a repository of Hugging Face's."""

    url: str | None = None
    repository: str | None = None


class Backbone(nn.Module):
    """A network with its `interface`; weights from a file go into `network`, which it holds without its classifier."""

    network: nn.Module
    interface: Interface
    published = Published()
    recomputes = False  # what is needed for the gradient, instead of keeping it

    def layers(self) -> list[list[nn.Parameter]]:
        """Its parameters, from the input to the output."""
        raise NotImplementedError

    def adapt(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Weights as they are published -> as `network` has them."""
        return weights

    def recompute(self) -> None:
        """Keep less in memory for the gradient, and compute it again."""
        self.recomputes = True

    def in_turn(self, parts: Iterable[Callable[[Any], Any]], values: Any) -> Any:
        """The values after one part after the other."""
        for part in parts:
            again = self.recomputes and torch.is_grad_enabled()
            values = checkpoint(part, values, use_reentrant=False) if again else part(values)
        return values


def require(name: str, features: Features, **expected: Any) -> None:
    """Raise `UserError` for the first feature setting that is not what the network `name` takes."""
    for key, value in expected.items():
        if (found := getattr(features, key)) != value:
            raise UserError(f"recipe.features.{key} is {found}, but {name} takes {value}: set it to {value}")


def memory_format(module: nn.Module) -> torch.memory_format:
    """That of the module's convolutions, for what goes into them."""
    kernels = [parameter for parameter in module.parameters() if parameter.dim() == 4 and parameter.shape[1] > 1]
    last = kernels and not kernels[0].is_contiguous() and kernels[0].is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if last else torch.contiguous_format


def convolutions(inputs: int, *layers: tuple[int, int, int]) -> nn.Sequential:
    """Convolutions given as (channels, kernel, stride), each with GroupNorm and GELU; they shrink by the strides."""
    blocks = nn.Sequential()
    for channels, kernel, stride in layers:
        convolution = nn.Conv2d(inputs, channels, kernel, stride, padding=kernel // 2, bias=False)
        blocks.append(nn.Sequential(convolution, nn.GroupNorm(GROUPS, channels), nn.GELU()))
        inputs = channels
    return blocks


class SmallBackbone(Backbone):
    """A few convolutions from scratch."""

    network: nn.Sequential

    def layers(self) -> list[list[nn.Parameter]]:
        """A layer a convolution."""
        return [list(block.parameters()) for block in self.network]


class SmallFrameNetwork(SmallBackbone):
    """One token a frame: the largest values in each quarter of the picture."""

    STRIDE = 16  # of the convolutions together

    def __init__(self, features: Features) -> None:
        super().__init__()
        # A stride of 4 at once: on a CPU the time goes to the large maps, and here there are none.
        self.network = convolutions(3, (32, 7, 4), (64, 3, 2), (128, 3, 2))
        size = features.frame_size_px
        side = -(-size // self.STRIDE)
        if side < 2:
            raise UserError(f"recipe.features.frame_size_px is {size}, but the small network takes 18 or more")
        # Quarters that share their middle row and column where the side is odd: AdaptiveMaxPool2d(2), which ONNX lacks.
        self.pool = nn.MaxPool2d(-(-side // 2), side // 2)
        self.interface = Interface((features.frames, size, size), (0.5,) * 3, (0.5,) * 3, (features.frames, 1, 128 * 4))

    def forward(self, frames: Tensor) -> Tensor:
        """Frames (B, N, 3, H, W), RGB in 0..255 -> tokens (B, N, 1, 512)."""
        pictures = frames.flatten(0, 1).float().contiguous(memory_format=memory_format(self))
        maps = self.in_turn(self.network, pictures / 127.5 - 1)
        tokens: Tensor = self.pool(maps).flatten(1).view(*frames.shape[:2], 1, -1)
        return tokens


class SmallSpectrogramNetwork(SmallBackbone):
    """One token for each 16 hops.

    The norms' statistics include the padding, which is digital silence up to one fixed length whatever the batch.
    """

    STRIDE = 16  # of the convolutions together, in mel bins and in hops

    def __init__(self, features: Features) -> None:
        super().__init__()
        self.network = convolutions(1, (16, 3, 2), (32, 3, 2), (64, 3, 2), (128, 3, 2))
        # Constants, not the clip's own statistics: loudness stays comparable across clips.
        self.levels = LEVELS[features.front_end]
        bins, hops = features.mel_bins, features.max_mel_frames
        gives = (-(-hops // self.STRIDE), 1, 128 * -(-bins // self.STRIDE))
        self.interface = Interface((bins, hops), (self.levels.mean,), (self.levels.deviation,), gives, self.STRIDE)

    def forward(self, log_mel: Tensor) -> Tensor:
        """Log-mel (B, mel_bins, T) -> tokens (B, ceil(T / 16), 1, 128 * ceil(mel_bins / 16))."""
        levels = ((log_mel.float() - self.levels.mean) / self.levels.deviation).unsqueeze(1)
        return self.in_turn(self.network, levels).flatten(1, 2).transpose(1, 2).unsqueeze(2)
