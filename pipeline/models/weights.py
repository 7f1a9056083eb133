"""Pretrained weights: fetched once, read without running code (P19), fitted to a network, with a report of what fitted.

A file is safetensors or a state dict; wrappings (`state_dict`, `model`, ...) and prefixes (`module.`, `backbone.`, ...)
are found, not asked for.
"""

import re
import zipfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from pipeline.clips.manifest import sha256_of
from pipeline.common.config import Backbone as Settings
from pipeline.common.errors import UserError
from pipeline.models.backbone import Backbone, Published

DEEPEST = 3  # wrappings in each other
# Under what training code files the weights, the smoothed ones first: timm, Lightning, detectron2, MAE and others.
WRAPPINGS = ("model_ema", "state_dict_ema", "state_dict", "model_state_dict", "model")
HASH_IN_NAME = re.compile(r"-([0-9a-f]{8,})\.")  # torch's files carry the start of their SHA-256
COUNTER = "num_batches_tracked"
HUB_FILES = ("model.safetensors", "pytorch_model.bin")


@dataclass(frozen=True)
class Report:
    """What of a file went into a network; keys are the network's own.

    `unexpected` are those of the file, under the prefix that was found, which the network does not have.
    """

    file: str
    sha256: str
    matched: list[str]
    reshaped: dict[str, str]
    missing: list[str]
    unexpected: list[str]

    @property
    def share(self) -> float:
        """Of the network's tensors that the file filled."""
        filled = len(self.matched) + len(self.reshaped)
        return filled / (filled + len(self.missing))

    def __str__(self) -> str:
        filled = len(self.matched) + len(self.reshaped)
        parts = [f"{filled} of {filled + len(self.missing)} tensors from {self.file}"]
        for name in ("reshaped", "missing", "unexpected"):
            keys = getattr(self, name)
            if keys:
                shown = [f"{key} {keys[key]}" if isinstance(keys, dict) else key for key in sorted(keys)[:4]]
                parts.append(f"{len(keys)} {name}: {', '.join(shown)}{', ...' if len(keys) > 4 else ''}")
        return "; ".join(parts)


def load_weights(backbone: Backbone, settings: Settings, folder: Path) -> Report | None:
    """Put the weights that `settings` ask for into the backbone's network; None if they ask for none.

    Published ones are fetched into `folder`, unless they are there. Raises `UserError` for a file that is missing, not
    the pinned one, not made of tensors alone, or not this network's.
    """
    if (found := find(settings, backbone.published, folder)) is None:
        return None
    path, digest = found
    report = fit(backbone, read_tensors(path), path, digest)
    if report.share < settings.min_matched:
        raise UserError(f"weights of {settings.name}: only {report}; expected {settings.min_matched:.0%} or more")
    return report


def find(settings: Settings, published: Published, folder: Path) -> tuple[Path, str] | None:
    """The file that `settings` ask for and its SHA-256; None if they ask for none.

    A published file is fetched into `folder`, unless it is there. Raises `UserError` for a file that is not the pinned
    one, or not the one that its name says.
    """
    if settings.weights == "none":
        return None
    if settings.weights == "pretrained":
        path = fetch(settings.name, published, folder)
        in_name = HASH_IN_NAME.search(path.name)
    else:
        path, in_name = at_home(Path(settings.weights)), None
    if not path.is_file():
        raise UserError(f"weights are to be read from {path}, which is no file; expected none, pretrained or a file")
    digest = sha256_of(path)
    if in_name and not digest.startswith(in_name[1]):
        raise UserError(
            f"{path} is damaged: its SHA-256 is {digest}, not {in_name[1]}...; remove it and fetch it again"
        )
    if settings.sha256 not in (None, digest):
        raise UserError(
            f"{path} has the SHA-256 {digest}, but {settings.sha256} is pinned: fetch it again, or unpin it"
        )
    return path, digest


def at_home(path: Path) -> Path:
    """The path with ~ as the user's home."""
    try:
        return path.expanduser()
    except RuntimeError as error:
        raise UserError(f"{path}: {error}; give the folder in full") from None


def fit(backbone: Backbone, published: dict[str, Tensor], path: Path, sha256: str) -> Report:
    """Put published tensors into the backbone's network, those of other sizes as its `adapt` makes them fit."""
    # BatchNorm's counters of batches are no weights; older files do not have them.
    own = {key: value for key, value in backbone.network.state_dict().items() if not key.endswith(COUNTER)}
    named = without_prefix({key: value for key, value in published.items() if not key.endswith(COUNTER)}, own)
    try:
        adapted = backbone.adapt(named)
    except Exception as error:  # a library's code, on a file of which nothing is known
        raise UserError(f"{path} is not of this network: its tensors cannot be made to fit ({error!r})") from None
    fitting = {key: value for key, value in adapted.items() if key in own and value.shape == own[key].shape}
    backbone.network.load_state_dict(fitting, strict=False)
    reshaped = {
        key: f"{tuple(named[key].shape)} -> {tuple(value.shape)}"
        for key, value in fitting.items()
        if key in named and named[key].shape != value.shape
    }
    return Report(
        file=str(path),
        sha256=sha256,
        matched=sorted(fitting.keys() - reshaped.keys()),
        reshaped=reshaped,
        missing=sorted(own.keys() - fitting.keys()),
        unexpected=sorted(adapted.keys() - fitting.keys()),
    )


def without_prefix(tensors: dict[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors under that prefix, of those before the network's own keys, under which most of them fit."""
    fitting: Counter[str] = Counter()
    named: Counter[str] = Counter()
    for key, tensor in tensors.items():
        parts = key.split(".")
        for depth in range(len(parts)):
            if (rest := ".".join(parts[depth:])) in own:
                prefix = ".".join([*parts[:depth], ""])
                named[prefix] += 1
                fitting[prefix] += tensor.shape == own[rest].shape
    if not named:
        return tensors
    prefix = max(named, key=lambda prefix: (fitting[prefix], named[prefix], -len(prefix)))
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a file by name, on the CPU; raises `UserError` for one that holds code or no tensors."""
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except SafetensorError as error:
            raise UserError(f"{path} is not a safetensors file: {error}") from None
    try:
        if is_torchscript(path):
            raise UserError(f"{path} is a TorchScript program, which is code: save its state_dict() and give that")
        content = torch.load(path, map_location="cpu", weights_only=True)
    except UserError:
        raise
    except UnpicklingError:  # its own text advises to switch the protection off
        raise UserError(
            f"{path} is no file of tensors alone: it holds other objects, such as a whole module, which could run "
            "code, or is something else altogether; save its state_dict(), or safetensors, and give that"
        ) from None
    except Exception as error:  # a damaged file fails in many ways
        raise UserError(f"{path} is damaged, or not a file of weights ({error!r})") from None
    if not (tensors := unwrapped(content)):
        raise UserError(f"{path} holds no tensors by name, but {str(content)[:100]}; expected a state dict")
    return tensors


def is_torchscript(path: Path) -> bool:
    """Whether a file is what `torch.jit.save` writes."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any("constants.pkl" in name for name in archive.namelist())


def unwrapped(content: Any, depth: int = DEEPEST) -> dict[str, Tensor]:
    """The tensors by name in the first of the usual wrappings that has any, or in the content itself."""
    if not isinstance(content, dict):
        return {}
    inner = (unwrapped(content.get(name), depth - 1) for name in WRAPPINGS if depth)
    own = {str(key): value for key, value in content.items() if isinstance(value, Tensor)}
    return next(filter(None, inner), own)


def fetch(name: str, published: Published, folder: Path) -> Path:
    """The file of a network's published weights, in a folder of its own in `folder`; downloaded if it is not there."""
    import httpx
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, RemoteEntryNotFoundError

    place = at_home(folder) / name.removeprefix("hf_hub:").replace("/", "--")
    if not (published.repository or published.url):
        raise UserError(f"no weights are published for {name}; set weights to none or to a local file")
    names = HUB_FILES if published.repository else (str(published.url).rpartition("/")[2],)
    if there := [place / file for file in names if (place / file).is_file()]:
        return there[0]
    source = f"{HUB_FILES[0]} of {published.repository}" if published.repository else str(published.url)
    try:
        if published.url and not published.repository:
            place.mkdir(parents=True, exist_ok=True)
            path = place / names[0]
            torch.hub.download_url_to_file(published.url, str(path))
            return path
        for file in HUB_FILES:
            try:
                return Path(hf_hub_download(str(published.repository), file, local_dir=place))
            except RemoteEntryNotFoundError:
                continue
    except (OSError, HfHubHTTPError, httpx.HTTPError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"{source} could not be fetched ({reason}). Run python -m stages.fetch_weights on a machine with a "
            f"network, or fetch the file by hand, and put it into {place}"
        ) from None
    raise UserError(f"{published.repository} has none of {', '.join(HUB_FILES)}; set weights to a local file")
