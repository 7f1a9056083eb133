"""Building backbones with random weights, and giving them those of a library's network."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from pipeline.common.features import Features
from pipeline.common.model_settings import StreamSettings
from pipeline.models.backbone import Backbone
from pipeline.models.building import build_backbone
from pipeline.models.run_record import LoadedWeights
from pipeline.models.weight_files import WeightFile
from pipeline.models.weights import fit


@pytest.fixture
def build(features: Features) -> Callable[..., Backbone]:
    """Builds a backbone by its name, for the features of the demo with some of them changed."""

    def build(
        takes: str,
        name: str,
        grid: int = 1,
        weights: str = "none",
        of_frames: int | None = None,
        **changes: object,
    ) -> Backbone:
        torch.manual_seed(0)
        settings = StreamSettings(
            input=takes, network=name, weights=weights, sha256=None, min_matched=0.9, frames=of_frames, grid=grid
        )
        return build_backbone("stream", settings, features.model_copy(update=changes)).eval()

    return build


@pytest.fixture
def take_weights() -> Callable[[Backbone, nn.Module], LoadedWeights]:
    """Gives a backbone the weights of a library's network, as the library would publish them."""
    return lambda network, published: fit(network, published.state_dict(), WeightFile(Path("published"), ""))
