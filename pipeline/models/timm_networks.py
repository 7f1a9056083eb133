"""Networks of timm for pictures, applied to each frame.

A network takes what it was trained on. A setting that does not fit is refused, and the error names one that does.
"""

import difflib
import sys
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.common.errors import UserError
from pipeline.common.features import Features
from pipeline.common.model_settings import StreamSettings
from pipeline.models.backbone import HUB, Backbone, Published, grid_means, memory_format, require, require_multiple
from pipeline.models.probing import try_out
from pipeline.models.run_record import Interface
from pipeline.models.torchvision_networks import CLIP_NETWORKS


class TimmBackbone(Backbone):
    """A network of timm. `name` is what the recipe calls it, `architecture` what timm calls it."""

    network: Any

    def __init__(self, name: str, architecture: str, **arguments: Any) -> None:
        super().__init__()
        self.network = create_network(name, architecture, **arguments)
        self.name = name
        self.prefix_tokens = getattr(self.network, "num_prefix_tokens", 0)
        stated = self.network.pretrained_cfg
        self.published = Published(stated.get("url") or None, stated.get("hf_hub_id") or None)

    def layers(self) -> list[list[nn.Parameter]]:
        """The parameters as timm groups them for layer-wise learning rates."""
        from timm.models import group_parameters

        groups = group_parameters(self.network, self.network.group_matcher(coarse=False))
        parameters = dict(self.network.named_parameters())
        return [[parameters[name] for name in names if name in parameters] for _, names in sorted(groups.items())]

    def adapt(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Convert, as timm itself does, older layouts and other numbers of input channels or of positions."""
        from timm.models import adapt_input_conv

        # timm defines this function beside a network, to convert its published weights to its present layout.
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
        """Recompute activations block by block; raises `UserError` for a network that timm cannot recompute."""
        try:
            self.network.set_grad_checkpointing(True)
        except (AssertionError, AttributeError) as error:
            raise UserError(
                f"timm cannot recompute {self.name}: set gradient_checkpointing to false ({error})"
            ) from None

    def remove_head(self) -> None:
        """Remove the layers after the last features, for tokens that are means of these features."""
        if hasattr(self.network, "head"):
            self.network.head = nn.Identity()

    def feature_map(self, pictures: Tensor) -> Tensor:
        """Pictures (B, channels, H, W) -> the last features, where they are in the picture: (B, D, h, w)."""
        features = self.network.forward_features(pictures)
        if features.dim() == 3:  # a transformer's tokens; the first ones may stand for the whole picture
            grid = self.network.patch_embed.grid_size
            return features[:, self.prefix_tokens :].transpose(1, 2).unflatten(2, grid)
        return features.permute(0, 3, 1, 2) if getattr(self.network, "output_fmt", None) == "NHWC" else features


class FrameNetwork(TimmBackbone):
    """A network for pictures, applied to each frame.

    With a grid of 1, a frame's token is what the network itself pools. With a finer grid, there is one token for each
    of its cells.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, settings: StreamSettings, features: Features) -> None:
        name, size = settings.network, features.frame_size_px
        stated = stated_settings(name)
        has_fixed_size = bool(stated and stated.fixed_input_size)
        if has_fixed_size and settings.weights != "none":
            require(f"{name} with weights", features, frame_size_px=stated.input_size[-1])
        super().__init__(name, name, **({"img_size": size} if has_fixed_size else {}))
        require_multiple(name, features, "frame_size_px", patch_size(self.network))
        self.grid = settings.grid
        if self.grid > 1:
            self.remove_head()
        norms = {key: tuple(self.network.pretrained_cfg[key]) for key in ("mean", "std")}
        for key, values in norms.items():
            self.register_buffer(key, torch.tensor(values).view(3, 1, 1) * 255, persistent=False)
        width = self.network.head_hidden_size if self.grid == 1 else self.network.num_features
        gives = (features.frames, self.grid**2, width)
        self.interface = Interface((features.frames, size, size), norms["mean"], norms["std"], gives)
        try_out(self, name)

    def forward(self, frames: Tensor) -> Tensor:
        """Frames (B, N, 3, H, W), RGB in 0..255 -> tokens (B, N, grid * grid, D)."""
        pictures = ((frames.flatten(0, 1).float() - self.mean) / self.std).contiguous(memory_format=memory_format(self))
        if self.grid == 1:
            tokens = self.network.forward_head(self.network.forward_features(pictures), pre_logits=True).unsqueeze(1)
        else:
            tokens = grid_means(self.feature_map(pictures), self.grid, self.grid).flatten(2).transpose(1, 2)
        return tokens.unflatten(0, frames.shape[:2])


def create_network(name: str, architecture: str, **arguments: Any) -> Any:
    """timm's network without its classifier; raises `UserError` for one that timm does not have or cannot build."""
    import timm

    if not architecture.startswith(HUB) and not timm.is_model(architecture):
        if "/" in architecture:
            raise UserError(f"there is no network {name}; one on Hugging Face's hub is named {HUB}owner/name")
        close = difflib.get_close_matches(architecture, [*CLIP_NETWORKS, *timm.list_models()], 3)
        raise UserError(f"there is no network {name}; close to it: {', '.join(close) or 'none'} (timm.list_models())")
    try:
        return timm.create_model(architecture, pretrained=False, num_classes=0, **arguments)
    except (AssertionError, RuntimeError, TypeError, ValueError, OSError) as error:
        raise UserError(f"timm cannot make {name} with {arguments}: {' '.join(str(error).split())}") from None


def stated_settings(name: str) -> Any:
    """What timm states about the weights of a network: input size, mean, deviation.

    None for a network on Hugging Face's hub, where they are stated beside the weights. Raises `UserError` for weights
    that timm does not have.
    """
    import timm

    if name.startswith(HUB):
        return None
    architecture, dot, tag = name.partition(".")
    tags = timm.list_pretrained(f"{architecture}.*")
    if dot and tags and name not in tags:
        raise UserError(f"timm has no weights {tag} of {architecture}; it has {', '.join(tags)}")
    return timm.get_pretrained_cfg(name)


def patch_size(network: nn.Module) -> int:
    """Side of the patches, without overlap, that a network cuts its input into; 1 for one that pads and convolves."""
    first = next((module for module in network.modules() if isinstance(module, nn.Conv2d)), None)
    return int(first.stride[0]) if first is not None and first.kernel_size == first.stride else 1
