"""The base class of the networks that turn what a stream takes into tokens, and what all of these networks share."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from pipeline.common.errors import UserError
from pipeline.common.features import Features
from pipeline.models.run_record import Interface

HUB = "hf_hub:"  # begins the names of networks on Hugging Face's hub


@dataclass(frozen=True)
class Published:
    """Where the published weights of a network are: at an address, or in a repository on Hugging Face's hub."""

    url: str | None = None
    repository: str | None = None


class Backbone(nn.Module, ABC):
    """A network that turns frames or log-mels into tokens (B, time, space, D).

    `interface` states what it takes and gives. A network of the sound with `any_length` takes shorter log-mels too, and
    gives fewer tokens. Weights from a file go into `network`, which has no classifier.
    """

    network: nn.Module
    interface: Interface
    any_length = False
    published = Published()
    recomputes = False

    @abstractmethod
    def layers(self) -> list[list[nn.Parameter]]:
        """The parameters of each layer, from the input to the output."""

    def adapt(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Convert published weights to the names and shapes of `network`."""
        return weights

    def recompute(self) -> None:
        """Recompute activations in the backward pass from now on, instead of storing them."""
        self.recomputes = True

    def run_layers(self, layers: Iterable[Callable[[Any], Any]], values: Any) -> Any:
        """Pass values through one layer after the other; after `recompute`, their activations are not stored."""
        for layer in layers:
            recomputed = self.recomputes and torch.is_grad_enabled()
            values = checkpoint(layer, values, use_reentrant=False) if recomputed else layer(values)
        return values


def require(name: str, features: Features, **expected: Any) -> None:
    """Raise `UserError` for the first feature setting that differs from what the network `name` takes."""
    for key, value in expected.items():
        if (actual := getattr(features, key)) != value:
            raise UserError(f"{_setting(key)} is {actual}, but {name} takes {value}: set it to {value}")


def require_multiple(name: str, features: Features, key: str, divisor: int) -> None:
    """Raise `UserError` for a feature setting that is not a multiple: the network `name` would cut off the rest."""
    if (actual := getattr(features, key)) % divisor:
        raise UserError(
            f"{_setting(key)} is {actual}, but {name} takes a multiple of {divisor}: "
            f"set it to {next_multiple(actual, divisor)}"
        )


def _setting(key: str) -> str:
    """The setting that a network gets as this feature: it gets as many frames as its stream or the model uses."""
    return "recipe.model.frames (or the stream's frames)" if key == "frames" else f"recipe.features.{key}"


def next_multiple(length: int, divisor: int) -> int:
    """The smallest multiple of `divisor` that is not below `length`."""
    return -(-length // divisor) * divisor


def memory_format(module: nn.Module) -> torch.memory_format:
    """The memory layout of the module's convolution kernels, which its input should have too."""
    kernels = [parameter for parameter in module.parameters() if parameter.dim() == 4 and parameter.shape[1] > 1]
    last = kernels and not kernels[0].is_contiguous() and kernels[0].is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if last else torch.contiguous_format


def grid_means(maps: Tensor, rows: int, columns: int) -> Tensor:
    """Average feature maps (B, D, ..., h, w) over the cells of a grid: (B, D, ..., rows, columns).

    Raises `ValueError` for a grid that is finer than the maps.
    """
    height, width = maps.shape[-2:]
    if rows > height or columns > width:
        raise ValueError(f"grid asks for {rows} x {columns} parts of its map, which is {height} x {width}")
    means: Tensor = F.adaptive_avg_pool2d(maps.flatten(1, -3), (rows, columns))
    return means.view(*maps.shape[:-2], rows, columns)
