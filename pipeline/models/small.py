"""Small networks that are trained from scratch: for the demo, for small data sets and for tests.

They have GroupNorm instead of BatchNorm. So a clip's result does not depend on its batch, and the number of processes
does not change it.
"""

from torch import Tensor, nn

from pipeline.common.errors import UserError
from pipeline.common.recipe import Features
from pipeline.models.backbone import Backbone, memory_format
from pipeline.models.run_record import Interface
from pipeline.shards.log_mel_units import LEVELS

GROUPS = 8


def convolutions(inputs: int, *layers: tuple[int, int, int]) -> nn.Sequential:
    """Convolutions given as (channels, kernel, stride), each with GroupNorm and GELU, for `inputs` channels."""
    blocks = nn.Sequential()
    for channels, kernel, stride in layers:
        convolution = nn.Conv2d(inputs, channels, kernel, stride, padding=kernel // 2, bias=False)
        blocks.append(nn.Sequential(convolution, nn.GroupNorm(GROUPS, channels), nn.GELU()))
        inputs = channels
    return blocks


class SmallBackbone(Backbone):
    """A few convolutions."""

    network: nn.Sequential

    def layers(self) -> list[list[nn.Parameter]]:
        """One layer per convolution."""
        return [list(block.parameters()) for block in self.network]


class SmallFrameNetwork(SmallBackbone):
    """One token per frame: the largest values in each quarter of the picture."""

    STRIDE = 16  # of all convolutions together

    def __init__(self, features: Features) -> None:
        super().__init__()
        # The first stride is 4: on a CPU, large feature maps would take most of the time.
        self.network = convolutions(3, (32, 7, 4), (64, 3, 2), (128, 3, 2))
        size = features.frame_size_px
        side = -(-size // self.STRIDE)
        if side < 2:
            raise UserError(f"recipe.features.frame_size_px is {size}, but the small network takes 18 or more")
        # It equals AdaptiveMaxPool2d(2), which ONNX lacks: if the side is odd, the quarters share the middle row and
        # column.
        self.pool = nn.MaxPool2d(-(-side // 2), side // 2)
        self.interface = Interface((features.frames, size, size), (0.5,) * 3, (0.5,) * 3, (features.frames, 1, 128 * 4))

    def forward(self, frames: Tensor) -> Tensor:
        """Frames (B, N, 3, H, W), RGB in 0..255 -> tokens (B, N, 1, 512)."""
        pictures = frames.flatten(0, 1).float().contiguous(memory_format=memory_format(self))
        maps = self.run_layers(self.network, pictures / 127.5 - 1)
        tokens: Tensor = self.pool(maps).flatten(1).view(*frames.shape[:2], 1, -1)
        return tokens


class SmallSpectrogramNetwork(SmallBackbone):
    """One token for every 16 hops.

    The statistics of the norms include the padding. It is digital silence up to one fixed length, whatever the batch.
    """

    STRIDE = 16  # of all convolutions together, in mel bins and in hops

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
        tokens: Tensor = self.run_layers(self.network, levels).flatten(1, 2).transpose(1, 2).unsqueeze(2)
        return tokens
