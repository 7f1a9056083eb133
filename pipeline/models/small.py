"""Small networks that are trained from scratch: for the demo, for small data sets and for tests.

A face may be anywhere in the picture, and a voice may be higher or deeper. So they take the largest values over the
whole picture, and the mean and the largest values over the mel bands.
"""

from torch import Tensor, cat, nn

from pipeline.common.features import Features
from pipeline.models.backbone import Backbone, memory_format
from pipeline.models.run_record import Interface
from pipeline.shards.log_mel_units import LEVELS

STRIDE = 16  # of all layers together
# A pooling takes pairs, so its values are centred half a step later: at 2, 4 and 8 hops a step, 1 + 2 + 4 hops.
OFFSET = 7.0


def convolutions(inputs: int, channels: tuple[int, ...]) -> nn.Sequential:
    """Convolutions with BatchNorm and ReLU. All but the last one are followed by max pooling.

    The first one has stride 2. It and each pooling halve both sides, rounded up. So the maps are small early: on a CPU,
    large ones would take most of the time.
    """
    blocks = nn.Sequential()
    for number, outputs in enumerate(channels):
        kernel, stride = (3, 1) if number else (5, 2)
        convolution = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)
        pooling = [] if number == len(channels) - 1 else [nn.MaxPool2d(2, ceil_mode=True)]
        blocks.append(nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU(), *pooling))
        inputs = outputs
    return blocks


class SmallBackbone(Backbone):
    """A few convolutions."""

    network: nn.Sequential

    def layers(self) -> list[list[nn.Parameter]]:
        """One layer per convolution."""
        return [list(block.parameters()) for block in self.network]


class SmallFrameNetwork(SmallBackbone):
    """One token per frame: the largest values over the picture."""

    CHANNELS = (24, 48, 96, 128)

    def __init__(self, features: Features) -> None:
        super().__init__()
        self.network = convolutions(3, self.CHANNELS)
        size, gives = features.frame_size_px, (features.frames, 1, self.CHANNELS[-1])
        self.interface = Interface((features.frames, size, size), (0.5,) * 3, (0.5,) * 3, gives)

    def forward(self, frames: Tensor) -> Tensor:
        """Frames (B, N, 3, H, W), RGB in 0..255 -> tokens (B, N, 1, 128)."""
        pictures = frames.flatten(0, 1).float().contiguous(memory_format=memory_format(self))
        maps = self.run_layers(self.network, pictures / 127.5 - 1)
        tokens: Tensor = maps.amax(dim=(2, 3)).view(*frames.shape[:2], 1, -1)
        return tokens


class SmallSpectrogramNetwork(SmallBackbone):
    """One token for every 16 hops: the mean and the largest values over the mel bands."""

    CHANNELS = (16, 32, 64, 96)
    any_length = True

    def __init__(self, features: Features) -> None:
        super().__init__()
        self.network = convolutions(1, self.CHANNELS)
        # Constants, not the clip's own statistics: loudness stays comparable across clips.
        self.levels = LEVELS[features.front_end]
        bins, hops = features.mel_bins, features.max_mel_frames
        gives = (-(-hops // STRIDE), 1, 2 * self.CHANNELS[-1])
        self.interface = Interface((bins, hops), (self.levels.mean,), (self.levels.deviation,), gives, STRIDE, OFFSET)

    def forward(self, log_mel: Tensor) -> Tensor:
        """Log-mel (B, mel_bins, T) -> tokens (B, ceil(T / 16), 1, 192)."""
        levels = ((log_mel.float() - self.levels.mean) / self.levels.deviation).unsqueeze(1)
        maps = self.run_layers(self.network, levels.contiguous(memory_format=memory_format(self)))
        tokens = cat([maps.mean(dim=2), maps.amax(dim=2)], dim=1)
        return tokens.transpose(1, 2).unsqueeze(2)
