"""Networks of torchvision for clips of frames, which were trained on Kinetics-400."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.common.features import Features
from pipeline.common.model_settings import StreamSettings
from pipeline.models.backbone import Backbone, Published, grid_means, require, require_multiple
from pipeline.models.probing import try_out
from pipeline.models.run_record import Interface


def mvit_layers(network: Any) -> list[Callable[[Any], Any]]:
    """The layers of torchvision's MViT, whose blocks pass on the tokens together with the size of their grid."""
    positions = network.pos_encoding

    def embed(pictures: Tensor) -> tuple[Tensor, tuple[int, ...]]:
        tokens = positions(network.conv_proj(pictures).flatten(2).transpose(1, 2))
        return tokens, (positions.temporal_size, *positions.spatial_size)

    def attend(block: Any) -> Callable[[Any], Any]:
        return lambda tokens_and_grid: block(*tokens_and_grid)

    def finish(tokens_and_grid: tuple[Tensor, tuple[int, ...]]) -> Tensor:
        tokens, grid = tokens_and_grid
        return network.norm(tokens)[:, 1:].unflatten(1, grid)

    return [embed, *map(attend, network.blocks), finish]


@dataclass(frozen=True)
class ClipArchitecture:
    """A network of torchvision.models.video.

    `modules` lists its parts from the input to the last features (B, dim, time, h, w), without the classifier; with
    `channels_last`, the features are (B, time, h, w, dim). If calling one module after the other does not compute the
    features, calling the `layers` does. A token covers `stride` frames; `offset` is as in `Interface`. `fixed` holds
    the feature settings that the network's learnt positions allow.
    """

    modules: Callable[[Any], Sequence[nn.Module]]
    dim: int
    stride: int
    offset: float = 0.0
    channels_last: bool = False
    layers: Callable[[Any], Sequence[Callable[[Any], Any]]] | None = None
    fixed: dict[str, int] = field(default_factory=dict)


def swin3d(dim: int) -> ClipArchitecture:
    """A Video Swin transformer whose features have the width `dim`."""
    return ClipArchitecture(
        lambda net: [net.patch_embed, net.pos_drop, *net.features, net.norm],
        dim=dim,
        stride=2,
        offset=0.5,
        channels_last=True,
    )


CLIP_NETWORKS = {
    "r2plus1d_18": ClipArchitecture(
        lambda net: [net.stem, net.layer1, net.layer2, net.layer3, net.layer4], dim=512, stride=8
    ),
    "s3d": ClipArchitecture(lambda net: net.features, dim=1024, stride=8, offset=2.0),
    "swin3d_t": swin3d(dim=768),
    "swin3d_b": swin3d(dim=1024),
    "mvit_v2_s": ClipArchitecture(
        lambda net: [net.conv_proj, net.pos_encoding, *net.blocks, net.norm],
        dim=768,
        stride=2,
        channels_last=True,
        layers=mvit_layers,
        fixed={"frames": 16, "frame_size_px": 224},
    ),
}


class ClipNetwork(Backbone):
    """A network of `CLIP_NETWORKS`. It gives, for every `stride` frames, one token for each cell of the grid."""

    network: Any
    mean: Tensor
    std: Tensor

    def __init__(self, settings: StreamSettings, features: Features) -> None:
        super().__init__()
        from torchvision.models import get_model, get_model_weights

        name, self.grid = settings.network, settings.grid
        self.architecture = architecture = CLIP_NETWORKS[name]
        size, frames = features.frame_size_px, features.frames
        require_multiple(name, features, "frames", architecture.stride)
        require(name, features, **architecture.fixed)
        self.network = get_model(name, weights=None)
        for classifier in ("fc", "classifier", "head"):
            if hasattr(self.network, classifier):
                delattr(self.network, classifier)
        weights = get_model_weights(name).DEFAULT
        self.published = Published(url=weights.url)
        stated = weights.transforms()
        for key, values in (("mean", stated.mean), ("std", stated.std)):
            self.register_buffer(key, torch.tensor(values).view(3, 1, 1, 1) * 255, persistent=False)
        self.interface = Interface(
            takes=(frames, size, size),
            mean=tuple(stated.mean),
            deviation=tuple(stated.std),
            gives=(frames // architecture.stride, self.grid**2, architecture.dim),
            stride=architecture.stride,
            offset=architecture.offset,
        )
        try_out(self, name)

    def layers(self) -> list[list[nn.Parameter]]:
        """One layer per module of the architecture."""
        return [list(module.parameters()) for module in self.architecture.modules(self.network)]

    def forward(self, frames: Tensor) -> Tensor:
        """Frames (B, N, 3, H, W), RGB in 0..255 -> tokens (B, N / stride, grid * grid, D)."""
        pictures = (frames.transpose(1, 2).float() - self.mean) / self.std
        layers = self.architecture.layers or self.architecture.modules
        maps = self.run_layers(layers(self.network), pictures)
        if self.architecture.channels_last:
            maps = maps.permute(0, 4, 1, 2, 3)
        return grid_means(maps, self.grid, self.grid).flatten(3).permute(0, 2, 3, 1)
