"""Networks of kept libraries, with the weights that are published for them: timm's and torchvision's.

What they were trained on fixes what they take: a setting that does not fit is refused with the one that does.
"""

import copy
import difflib
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.common.config import Backbone as Settings
from pipeline.common.config import Features
from pipeline.common.errors import UserError
from pipeline.extraction.log_mel import LEVELS
from pipeline.models.backbone import Backbone, Interface, Published, memory_format, require

HUB = "hf_hub:"
PICTURE_STRIDE = 32  # what the sides of a picture are a multiple of, for most networks


class TimmBackbone(Backbone):
    """A network of timm."""

    network: Any

    def __init__(self, settings: Settings, architecture: str, **arguments: Any) -> None:
        super().__init__()
        self.network = timm_network(settings.name, architecture, **arguments)
        self.name = settings.name
        self.prefix_tokens = getattr(self.network, "num_prefix_tokens", 0)
        published = self.network.pretrained_cfg
        self.published = Published(published.get("url") or None, published.get("hf_hub_id") or None)

    def layers(self) -> list[list[nn.Parameter]]:
        """As timm groups them for layer-wise learning rates."""
        from timm.models import group_parameters

        groups = group_parameters(self.network, self.network.group_matcher(coarse=False))
        own = dict(self.network.named_parameters())
        return [[own[name] for name in names if name in own] for _, names in sorted(groups.items())]

    def adapt(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Older layouts of the network, other numbers of input channels and of positions, as timm itself does it."""
        from timm.models import adapt_input_conv

        # timm keeps beside a network the function that turns what is published of it into what it is now.
        convert = getattr(sys.modules[type(self.network).__module__], "checkpoint_filter_fn", None)
        weights = convert(weights, self.network) if convert else weights
        first = self.network.pretrained_cfg.get("first_conv") or ()
        for name in (first,) if isinstance(first, str) else first:
            kernels = f"{name}.weight"
            if kernels in weights:
                channels = self.network.get_parameter(kernels).shape[1]
                weights = weights | {kernels: adapt_input_conv(channels, weights[kernels])}
        return weights

    def recompute(self) -> None:
        """Keep less in memory for the gradient, block by block; raises `UserError` where timm cannot."""
        try:
            self.network.set_grad_checkpointing(True)
        except (AssertionError, AttributeError) as error:
            raise UserError(
                f"timm cannot recompute {self.name}: set gradient_checkpointing to false ({error})"
            ) from None

    def drop_head(self) -> None:
        """Remove the layers behind the last features, where these are used as they are."""
        if hasattr(self.network, "head"):
            self.network.head = nn.Identity()

    def feature_map(self, pictures: Tensor) -> Tensor:
        """Pictures (B, channels, H, W) -> the last features, where they are in the picture: (B, D, h, w)."""
        features = self.network.forward_features(pictures)
        if features.dim() == 3:  # a transformer's tokens, of which the first may stand for the whole picture
            grid = self.network.patch_embed.grid_size
            return features[:, self.prefix_tokens :].transpose(1, 2).unflatten(2, grid)
        return features.permute(0, 3, 1, 2) if getattr(self.network, "output_fmt", None) == "NHWC" else features


@torch.enable_grad()
def try_out(network: Backbone, name: str) -> float:
    """Refuse a network that does not give what its interface states, or whose layers are not known.

    Not all networks lay out their features in one of the usual ways. Parameters that the tokens do not depend on are
    not trained: a gradient that never comes would stop several processes. A copy is tried that has shapes and no
    values. Gives where the first token is centred on the last axis of the input, by the layers that have a stride.
    """
    meta = {id(tensor): torch.empty_like(tensor, device="meta") for tensor in network.buffers()}
    for parameter in network.parameters():
        meta[id(parameter)] = nn.Parameter(torch.empty_like(parameter, device="meta"), parameter.requires_grad)
    shapes = copy.deepcopy(network, meta).eval()
    strides = noted_strides(shapes)
    interface = network.interface
    clip = torch.empty(1, *interface.takes, device="meta")
    clip = clip.unsqueeze(2).expand(-1, -1, 3, -1, -1) if clip.dim() == 4 else clip
    trained = {key: value for key, value in shapes.named_parameters() if value.requires_grad}
    try:
        network.layers()
        tokens = shapes(clip)
        gradients = torch.autograd.grad(tokens.sum(), list(trained.values()), allow_unused=True)
    except (AssertionError, AttributeError, IndexError, RuntimeError, TypeError, ValueError) as error:
        said = " ".join(str(error).split()) or repr(error)
        raise UserError(f"{name} cannot be used with these settings: {said}") from None
    if tokens.shape[1:] != interface.gives:
        found = tuple(tokens.shape[1:])
        raise UserError(f"{name} cannot be used with these settings: it gives {found} and states {interface.gives}")
    for key, gradient in zip(trained, gradients, strict=True):
        network.get_parameter(key).requires_grad_(gradient is not None)
    return first_centre(strides)


def noted_strides(network: nn.Module) -> dict[int, list[tuple[int, float]]]:
    """Filled when the network runs: for the width of a layer's input, its stride, and its first output's centre in it.

    Layers side by side, such as a block's and its shortcut's, have inputs of one width.
    """
    noted: dict[int, list[tuple[int, float]]] = {}

    def note(layer: nn.Module, inputs: tuple[Tensor], _: Tensor) -> None:
        width = inputs[0].shape[-1]
        kernel, stride, padding, dilation = (
            value[-1] if isinstance(value := getattr(layer, key, 1), tuple) else int(value)
            for key in ("kernel_size", "stride", "padding", "dilation")
        )
        reach = (kernel - 1) * dilation
        if type(layer).__name__.endswith("Same"):  # timm's: as much padding as the width needs, more of it on the right
            padding = max((-(-width // stride) - 1) * stride + reach + 1 - width, 0) // 2
        if stride > 1:
            noted.setdefault(width, []).append((stride, reach / 2 - padding))

    for layer in network.modules():
        if isinstance(layer, (nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d)):
            layer.register_forward_hook(note)
    return noted


def first_centre(noted: dict[int, list[tuple[int, float]]]) -> float:
    """Where the first output is centred, from what `noted_strides` found; the mean of layers side by side."""
    centre, step = 0.0, 1
    for _, layers in sorted(noted.items(), reverse=True):
        centre += step * sum(shift for _, shift in layers) / len(layers)
        step *= layers[0][0]
    return centre


def in_parts(maps: Tensor, rows: int, columns: int) -> Tensor:
    """Maps (B, D, ..., h, w) -> the means of their parts (B, D, ..., rows, columns)."""
    height, width = maps.shape[-2:]
    if rows > height or columns > width:
        raise ValueError(f"grid asks for {rows} x {columns} parts of its map, which is {height} x {width}")
    parts: Tensor = F.adaptive_avg_pool2d(maps.flatten(1, -3), (rows, columns))
    return parts.view(*maps.shape[:-2], rows, columns)


def timm_network(name: str, architecture: str, **arguments: Any) -> Any:
    """timm's network without its classifier; raises `UserError` for one that timm does not have or cannot build."""
    import timm

    known = architecture.startswith(HUB) or timm.is_model(architecture)
    if not known:
        if "/" in architecture:
            raise UserError(f"there is no network {name}; one of Hugging Face's is named {HUB}owner/name")
        close = difflib.get_close_matches(architecture, [*CLIP_NETWORKS, *timm.list_models()], 3)
        raise UserError(f"there is no network {name}; close to it: {', '.join(close) or 'none'} (timm.list_models())")
    try:
        return timm.create_model(architecture, pretrained=False, num_classes=0, **arguments)
    except (AssertionError, RuntimeError, TypeError, ValueError, OSError) as error:
        raise UserError(f"timm cannot make {name} with {arguments}: {' '.join(str(error).split())}") from None


def timm_settings(name: str) -> Any:
    """What timm states about the weights of a network: input size, mean, deviation."""
    import timm

    if name.startswith(HUB):
        return None  # stated where its weights are
    architecture, dot, tag = name.partition(".")
    tags = timm.list_pretrained(f"{architecture}.*")
    if dot and tags and name not in tags:
        raise UserError(f"timm has no weights {tag} of {architecture}; it has {', '.join(tags)}")
    return timm.get_pretrained_cfg(name)


def padded_to(multiple: int, length: int) -> int:
    """The next multiple."""
    return -(-length // multiple) * multiple


def patch_of(network: nn.Module) -> int:
    """Side of the patches, without overlap, that a network cuts its input into; 1 for one that pads and convolves."""
    first = next((module for module in network.modules() if isinstance(module, nn.Conv2d)), None)
    return int(first.stride[0]) if first is not None and first.kernel_size == first.stride else 1


def require_multiple(name: str, features: Features, key: str, of: int) -> None:
    """Raise `UserError` for a feature setting of which the network `name` would cut something off."""
    if (found := getattr(features, key)) % of:
        raise UserError(
            f"recipe.features.{key} is {found}, but {name} takes a multiple of {of}: set it to {padded_to(of, found)}"
        )


class FrameNetwork(TimmBackbone):
    """A network for pictures, on each frame: a token a frame as the network itself pools it, or one a part of it."""

    mean: Tensor
    std: Tensor

    def __init__(self, settings: Settings, features: Features) -> None:
        size = features.frame_size_px
        stated = timm_settings(settings.name)
        fixed = bool(stated and stated.fixed_input_size)
        if fixed and settings.weights != "none":
            require(f"{settings.name} with weights", features, frame_size_px=stated.input_size[-1])
        super().__init__(settings, settings.name, **({"img_size": size} if fixed else {}))
        require_multiple(settings.name, features, "frame_size_px", patch_of(self.network))
        self.grid = settings.grid
        if self.grid > 1:
            self.drop_head()
        norms = {key: tuple(self.network.pretrained_cfg[key]) for key in ("mean", "std")}
        for key, values in norms.items():
            self.register_buffer(key, torch.tensor(values).view(3, 1, 1) * 255, persistent=False)
        width = self.network.head_hidden_size if self.grid == 1 else self.network.num_features
        gives = (features.frames, self.grid**2, width)
        self.interface = Interface((features.frames, size, size), norms["mean"], norms["std"], gives)
        try_out(self, settings.name)

    def forward(self, frames: Tensor) -> Tensor:
        """Frames (B, N, 3, H, W), RGB in 0..255 -> tokens (B, N, grid * grid, D)."""
        pictures = ((frames.flatten(0, 1).float() - self.mean) / self.std).contiguous(memory_format=memory_format(self))
        if self.grid == 1:
            tokens = self.network.forward_head(self.network.forward_features(pictures), pre_logits=True).unsqueeze(1)
        else:
            tokens = in_parts(self.feature_map(pictures), self.grid, self.grid).flatten(2).transpose(1, 2)
        return tokens.unflatten(0, frames.shape[:2])


@dataclass(frozen=True)
class AudioTransformer:
    """A vision transformer that was trained on kaldi's filter banks, laid out as (time, mel) pictures."""

    architecture: str
    repository: str
    patch: int  # hops and mel bins of a token
    mel_bins: int
    most_hops: int
    deviations: float  # what the bank's deviation is multiplied with before it divides

    @property
    def front_end(self) -> dict[str, Any]:
        """The feature settings that it takes."""
        settings = {"front_end": "kaldi", "sample_rate_hz": 16000, "window_length": 400, "hop_length": 160}
        return settings | {"mel_bins": self.mel_bins}


# AudioMAE ViT-B/16 (arXiv 2207.06405), on AudioSet-2M and then on AudioSet-20k; the settings of its model card.
AUDIOMAE = "gaunernst/vit_base_patch16_1024_128.audiomae_as2m_ft_as20k"
AUDIO_TRANSFORMERS = {HUB + AUDIOMAE: AudioTransformer("vit_base_patch16_224", AUDIOMAE, 16, 128, 1024, 2.0)}


class SpectrogramNetwork(TimmBackbone):
    """A network for pictures on the log-mel, as a picture of one channel: tokens in time, averaged over `grid` bands.

    What it sees is padded with silence to whole tokens.
    """

    def __init__(self, settings: Settings, features: Features) -> None:
        if settings.name in CLIP_NETWORKS:
            raise UserError(f"{settings.name} is a network for frames; for audio take small, or one of timm's")
        transformer = AUDIO_TRANSFORMERS.get(settings.name)
        self.time_first = transformer is not None
        self.levels = LEVELS[features.front_end]
        bins, hops = features.mel_bins, features.max_mel_frames
        if transformer:
            require(settings.name, features, **transformer.front_end)
            if hops > transformer.most_hops:
                raise UserError(
                    f"recipe.features.max_duration_s is {features.max_duration_s}, {hops} hops, but {settings.name} "
                    f"takes {transformer.most_hops}: set it to {int(features.hop_time_s(transformer.most_hops))}.0"
                )
            padded, deviation = padded_to(transformer.patch, hops), transformer.deviations * self.levels.deviation
            size = {"img_size": (padded, bins)}
            super().__init__(settings, transformer.architecture, in_chans=1, global_pool="avg", **size)
            self.published = Published(repository=transformer.repository)
        else:
            padded, deviation = padded_to(PICTURE_STRIDE, hops), self.levels.deviation
            stated = timm_settings(settings.name)
            size = {"img_size": (bins, padded)} if stated and stated.fixed_input_size else {}
            super().__init__(settings, settings.name, in_chans=1, **size)
        self.drop_head()
        self.grid, self.missing = settings.grid, padded - hops
        stride = self.network.feature_info[-1]["reduction"]
        gives = (padded // stride, self.grid, self.network.num_features)
        patch = patch_of(self.network)
        require_multiple(settings.name, features, "mel_bins", patch)
        self.interface = Interface((bins, hops), (self.levels.mean,), (deviation,), gives, stride)
        centre = try_out(self, settings.name)
        # Patches are merged without a layer that has a stride.
        self.interface = replace(self.interface, offset=(stride - 1) / 2 if patch > 1 else centre)

    def forward(self, log_mel: Tensor) -> Tensor:
        """Log-mel (B, mel_bins, T) -> tokens (B, time, grid, D)."""
        levels = F.pad(log_mel.float(), (0, self.missing), value=self.levels.silence)
        picture = ((levels - self.interface.mean[0]) / self.interface.deviation[0]).unsqueeze(1)
        maps = (
            self.feature_map(picture.transpose(2, 3)).transpose(2, 3) if self.time_first else self.feature_map(picture)
        )
        tokens = in_parts(maps, self.grid, maps.shape[-1]).permute(0, 3, 2, 1)
        # A transformer that was trained on the mean of its tokens has its last norm behind that.
        return self.network.fc_norm(tokens) if hasattr(self.network, "fc_norm") else tokens

    def adapt(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """An audio transformer's positions are cut to the clip's length, not stretched to it."""
        if self.time_first and "pos_embed" in weights:
            positions, prefix = weights["pos_embed"], self.prefix_tokens
            rows, bands = self.network.patch_embed.grid_size
            cut = positions[:, prefix:].reshape(1, -1, bands, positions.shape[-1])[:, :rows].flatten(1, 2)
            weights = weights | {"pos_embed": torch.cat([positions[:, :prefix], cut], dim=1)}
        return super().adapt(weights)


@dataclass(frozen=True)
class ClipArchitecture:
    """A network of torchvision.models.video, and what its weights were trained on (Kinetics-400)."""

    modules: Callable[[Any], Sequence[nn.Module]]  # from the input to the last features, without the classifier
    dim: int
    stride: int  # frames a token
    size_px: int
    offset: float = 0.0  # as in `Interface`
    channels_last: bool = False  # in what the modules give
    frames: int | None = None  # where positions are learnt, hence the numbers of frames and pixels fixed


CLIP_NETWORKS = {
    "r2plus1d_18": ClipArchitecture(
        lambda net: [net.stem, net.layer1, net.layer2, net.layer3, net.layer4], dim=512, stride=8, size_px=112
    ),
    "s3d": ClipArchitecture(lambda net: net.features, dim=1024, stride=8, size_px=224, offset=2.0),
    "swin3d_t": ClipArchitecture(
        lambda net: [net.patch_embed, net.pos_drop, *net.features, net.norm], 768, 2, 224, 0.5, channels_last=True
    ),
    "mvit_v2_s": ClipArchitecture(
        lambda net: [net.conv_proj, net.pos_encoding, *net.blocks, net.norm], 768, 2, 224, channels_last=True, frames=16
    ),
}


class ClipNetwork(Backbone):
    """A network for clips: a token for each `stride` frames, or one for each part of them."""

    network: Any
    mean: Tensor
    std: Tensor

    def __init__(self, settings: Settings, features: Features) -> None:
        super().__init__()
        from torchvision.models import get_model, get_model_weights

        name, self.grid = settings.name, settings.grid
        self.architecture = architecture = CLIP_NETWORKS[name]
        size, frames = features.frame_size_px, features.frames
        require_multiple(name, features, "frames", architecture.stride)
        if architecture.frames:
            require(name, features, frames=architecture.frames, frame_size_px=architecture.size_px)
        self.network = get_model(name, weights=None)
        for classifier in ("fc", "classifier", "head"):
            if hasattr(self.network, classifier):
                delattr(self.network, classifier)
        weights = get_model_weights(name).DEFAULT
        self.published = Published(url=weights.url)
        stated = weights.transforms()
        for key, values in (("mean", stated.mean), ("std", stated.std)):
            self.register_buffer(key, torch.tensor(values).view(3, 1, 1, 1) * 255, persistent=False)
        gives = (frames // architecture.stride, self.grid**2, architecture.dim)
        takes = (frames, size, size)
        norms = tuple(stated.mean), tuple(stated.std)
        self.interface = Interface(takes, *norms, gives, architecture.stride, architecture.offset)
        try_out(self, name)

    def layers(self) -> list[list[nn.Parameter]]:
        """A layer a module."""
        return [list(module.parameters()) for module in self.architecture.modules(self.network)]

    def forward(self, frames: Tensor) -> Tensor:
        """Frames (B, N, 3, H, W), RGB in 0..255 -> tokens (B, N / stride, grid * grid, D)."""
        pictures = (frames.transpose(1, 2).float() - self.mean) / self.std
        parts = _mvit(self.network) if self.architecture.frames else self.architecture.modules(self.network)
        maps = self.in_turn(parts, pictures)
        if self.architecture.channels_last:
            maps = maps.permute(0, 4, 1, 2, 3)
        return in_parts(maps, self.grid, self.grid).flatten(3).permute(0, 2, 3, 1)


def _mvit(network: Any) -> list[Callable[[Any], Any]]:
    """The parts of torchvision's MViT; its blocks hand on the tokens together with the size of their grid."""
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
