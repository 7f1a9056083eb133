"""Trying a network of a library before it is used, on a copy that has shapes and no values.

The copy costs no memory and almost no time, whatever the size of the network.
"""

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.common.errors import UserError
from pipeline.models.backbone import Backbone


@dataclass(frozen=True)
class StridedLayer:
    """A layer's stride, and where its first output is centred on its input, both along the last axis."""

    stride: int
    centre: float


# Layers by the width of their input. Layers side by side, such as a block's and its shortcut's, have the same width.
Strides = dict[int, list[StridedLayer]]


@torch.enable_grad()
def try_out(network: Backbone, name: str) -> float:
    """Where the network's first token is centred, along the last axis of its input.

    Stops training the parameters that the tokens do not depend on: several processes would wait for a gradient that
    never comes. Raises `UserError` for a network that does not give what its interface states, or whose layers are
    unknown: not every network of a library lays out its features in one of the usual ways.
    """
    shapes = copy_without_values(network)
    strides = record_strides(shapes)
    trained = {key: value for key, value in shapes.named_parameters() if value.requires_grad}
    try:
        network.layers()
        tokens = shapes(empty_clip(network))
        gradients = torch.autograd.grad(tokens.sum(), list(trained.values()), allow_unused=True)
    except (AssertionError, AttributeError, IndexError, RuntimeError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split()) or repr(error)
        raise UserError(f"{name} cannot be used with these settings: {reason}") from None
    if (given := tuple(tokens.shape[1:])) != network.interface.gives:
        raise UserError(
            f"{name} cannot be used with these settings: it gives {given} and states {network.interface.gives}"
        )
    for key, gradient in zip(trained, gradients, strict=True):
        network.get_parameter(key).requires_grad_(gradient is not None)
    return first_centre(strides)


def copy_without_values(network: Backbone) -> Backbone:
    """A copy in evaluation mode whose parameters and buffers are on the meta device."""
    memo: dict[int, Any] = {id(tensor): torch.empty_like(tensor, device="meta") for tensor in network.buffers()}
    for parameter in network.parameters():
        memo[id(parameter)] = nn.Parameter(torch.empty_like(parameter, device="meta"), parameter.requires_grad)
    return copy.deepcopy(network, memo).eval()


def empty_clip(network: Backbone) -> Tensor:
    """A batch of one clip as the network takes it, on the meta device."""
    clip = torch.empty(1, *network.interface.takes, device="meta")
    return clip.unsqueeze(2).expand(-1, -1, 3, -1, -1) if clip.dim() == 4 else clip


def record_strides(network: nn.Module) -> Strides:
    """A dictionary that is filled when the network runs, with all its layers that have a stride."""
    strides: Strides = {}

    def record(layer: nn.Module, inputs: tuple[Tensor], _: Tensor) -> None:
        width = inputs[0].shape[-1]
        kernel, stride, padding, dilation = (
            value[-1] if isinstance(value := getattr(layer, key, 1), tuple) else int(value)
            for key in ("kernel_size", "stride", "padding", "dilation")
        )
        reach = (kernel - 1) * dilation
        if type(layer).__name__.endswith("Same"):  # timm's: it pads as much as the width needs, more on the right
            padding = max((-(-width // stride) - 1) * stride + reach + 1 - width, 0) // 2
        if stride > 1:
            strides.setdefault(width, []).append(StridedLayer(stride, reach / 2 - padding))

    for layer in network.modules():
        if isinstance(layer, (nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d)):
            layer.register_forward_hook(record)
    return strides


def first_centre(strides: Strides) -> float:
    """Where the first output of a network is centred on its input; layers side by side count with their mean.

    Of the layers of one width, only those with the smallest stride count. A transformer may also shrink its keys, with
    larger strides, and what comes of these is no token.
    """
    centre, step = 0.0, 1
    for _, layers in sorted(strides.items(), reverse=True):
        stride = min(layer.stride for layer in layers)
        centres = [layer.centre for layer in layers if layer.stride == stride]
        centre += step * sum(centres) / len(centres)
        step *= stride
    return centre
