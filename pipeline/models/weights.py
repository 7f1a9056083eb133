"""Pretrained weights in a network, with a record of which tensors fitted."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from torch import Tensor, nn

from pipeline.common.errors import UserError
from pipeline.common.recipe import BackboneSettings
from pipeline.models.backbone import Backbone
from pipeline.models.run_record import LoadedWeights
from pipeline.models.weight_files import WeightFile, find, read_tensors

BATCH_COUNTER = "num_batches_tracked"  # of BatchNorm; it is not a weight, and older files lack it


def load_weights(backbone: Backbone, settings: BackboneSettings, folder: Path) -> LoadedWeights | None:
    """Put the weights that `settings` ask for into the backbone's network; None if they ask for none.

    Published weights are fetched into `folder` unless they are already in it. Raises `UserError` for a file that is
    missing, is not the pinned one, holds anything but tensors, or is of another network.
    """
    file = find(settings, backbone.published, folder)
    if file is None:
        return None
    loaded = fit(backbone, read_tensors(file.path), file)
    if loaded.share < settings.min_matched:
        raise UserError(f"weights of {settings.name}: only {loaded}; expected {settings.min_matched:.0%} or more")
    return loaded


def fit(backbone: Backbone, tensors: Mapping[str, Tensor], file: WeightFile) -> LoadedWeights:
    """Put the tensors of a file into the backbone's network, after `Backbone.adapt` has converted them."""
    expected = _weights_alone(backbone.network.state_dict())
    named = without_prefix(_weights_alone(tensors), expected)
    try:
        adapted = backbone.adapt(named)
    except Exception as error:  # a library's code, on a file of which nothing is known
        raise UserError(f"{file.path} does not fit this network: its tensors cannot be converted ({error!r})") from None
    loaded = copy_fitting(backbone.network, adapted, file)
    reshaped = {
        key: f"{tuple(named[key].shape)} -> {tuple(adapted[key].shape)}"
        for key in loaded.matched
        if key in named and named[key].shape != adapted[key].shape
    }
    return replace(loaded, matched=[key for key in loaded.matched if key not in reshaped], reshaped=reshaped)


def copy_fitting(network: nn.Module, tensors: Mapping[str, Tensor], file: WeightFile) -> LoadedWeights:
    """Copy the tensors of a file into the network that have the name and the shape of one of its own."""
    own = network.state_dict()
    fitting = {key: value for key, value in tensors.items() if key in own and value.shape == own[key].shape}
    network.load_state_dict(fitting, strict=False)
    return LoadedWeights(
        file=str(file.path),
        sha256=file.sha256,
        matched=sorted(fitting),
        reshaped={},
        missing=sorted(_weights_alone(own).keys() - fitting.keys()),
        unexpected=sorted(tensors.keys() - fitting.keys()),
    )


def without_prefix(tensors: dict[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors under one prefix of their names, without it.

    Of the prefixes that stand before an expected name, it is the one under which most tensors have the expected shape.
    """
    same_name: Counter[str] = Counter()
    same_shape: Counter[str] = Counter()
    for key, tensor in tensors.items():
        parts = key.split(".")
        for depth in range(len(parts)):
            if (name := ".".join(parts[depth:])) in expected:
                prefix = ".".join([*parts[:depth], ""])
                same_name[prefix] += 1
                same_shape[prefix] += tensor.shape == expected[name].shape
    if not same_name:
        return tensors
    prefix = max(same_name, key=lambda prefix: (same_shape[prefix], same_name[prefix], -len(prefix)))
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}


def _weights_alone(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key: value for key, value in tensors.items() if not key.endswith(BATCH_COUNTER)}
