"""Pretrained weights in a network, with a record of which tensors fitted."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from torch import Tensor, nn

from pipeline.common.errors import UserError
from pipeline.common.model_settings import StreamSettings
from pipeline.models.backbone import Backbone
from pipeline.models.run_record import LoadedWeights
from pipeline.models.weight_files import WeightFile, find, keeps_order, read_tensors

BATCH_COUNTER = "num_batches_tracked"  # of BatchNorm; it is not a weight, and older files lack it


def load_weights(backbone: Backbone, settings: StreamSettings, folder: Path) -> LoadedWeights | None:
    """Put the weights that `settings` ask for into the backbone's network; None if they ask for none.

    Published weights are fetched into `folder` unless they are already in it. Raises `UserError` for a file that is
    missing, is not the pinned one, holds anything but tensors, or is of another network.
    """
    file = find(settings, backbone.published, folder)
    if file is None:
        return None
    loaded = fit(backbone, read_tensors(file.path), file)
    if loaded.share < settings.min_matched:
        raise UserError(f"weights of {settings.network}: only {loaded}; expected {settings.min_matched:.0%} or more")
    return loaded


def fit(backbone: Backbone, tensors: Mapping[str, Tensor], file: WeightFile) -> LoadedWeights:
    """Put the tensors of a file into the backbone's network, after `Backbone.adapt` has converted them.

    Tensors are matched by their names. If no name fits, they are matched by their order, if `has_same_order`.
    """
    expected = _weights_alone(backbone.network.state_dict())
    given = _weights_alone(tensors)
    named = without_prefix(given, expected)
    adapted = _adapt(backbone, named, file)
    by_order = not adapted.keys() & expected.keys() and keeps_order(file.path) and has_same_order(given, expected)
    if by_order:
        named = dict(zip([*expected, *list(given)[len(expected) :]], given.values(), strict=True))
        adapted = _adapt(backbone, named, file)
    loaded = copy_fitting(backbone.network, adapted, file)
    reshaped = {
        key: f"{tuple(named[key].shape)} -> {tuple(adapted[key].shape)}"
        for key in loaded.matched
        if key in named and named[key].shape != adapted[key].shape
    }
    matched = [key for key in loaded.matched if key not in reshaped]
    return replace(loaded, matched=matched, reshaped=reshaped, by_order=by_order)


def copy_fitting(network: nn.Module, tensors: Mapping[str, Tensor], file: WeightFile) -> LoadedWeights:
    """Copy the weights of a file into the network that have the name and the shape of one of its own."""
    state, given = _weights_alone(network.state_dict()), _weights_alone(tensors)
    fitting = {key: value for key, value in given.items() if key in state and value.shape == state[key].shape}
    network.load_state_dict(fitting, strict=False)
    return LoadedWeights(
        file=str(file.path),
        sha256=file.sha256,
        matched=sorted(fitting),
        reshaped={},
        missing=sorted(state.keys() - fitting.keys()),
        unexpected=sorted(given.keys() - fitting.keys()),
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


def has_same_order(given: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> bool:
    """Whether a file holds the network's tensors under other names: one by one the expected shape and kind.

    The kind is the last part of the name, such as weight or running_mean. The first kernel may have another number of
    input channels, which `Backbone.adapt` changes. A classifier, which the network lacks, may come last.
    """
    classifier = [tensor.dim() for tensor in list(given.values())[len(expected) :]]
    if len(given) < len(expected) or classifier not in ([], [2], [2, 1]):
        return False
    first = next(iter(expected), None)
    return all(
        old.rpartition(".")[2] == new.rpartition(".")[2]
        and (given[old].shape == expected[new].shape or (new == first and _same_kernel(given[old], expected[new])))
        for old, new in zip(given, expected, strict=False)
    )


def _same_kernel(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors are kernels of pictures that differ in nothing but their number of input channels."""
    return one.dim() == other.dim() == 4 and one.shape[0] == other.shape[0] and one.shape[2:] == other.shape[2:]


def _adapt(backbone: Backbone, named: dict[str, Tensor], file: WeightFile) -> dict[str, Tensor]:
    try:
        return backbone.adapt(named)
    except Exception as error:  # a library's code, on a file of which nothing is known
        raise UserError(f"{file.path} does not fit this network: its tensors cannot be converted ({error!r})") from None


def _weights_alone(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key: value for key, value in tensors.items() if not key.endswith(BATCH_COUNTER)}
