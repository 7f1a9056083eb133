"""Files of pretrained weights: found or fetched, checked, and read without running code from them.

A file is safetensors or a state dict. Usual wrappings of the state dict (`state_dict`, `model`, ...) are recognised.
"""

import re
import zipfile
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from pipeline.common.errors import UserError, missing_package
from pipeline.common.files import expand_home, sha256_of
from pipeline.common.model_settings import StreamSettings
from pipeline.models.backbone import HUB, Published

# Names under which training code saves weights, smoothed ones first: timm, Lightning, detectron2, MAE and others.
WRAPPINGS = ("model_ema", "state_dict_ema", "state_dict", "model_state_dict", "model")
SAFETENSORS = ".safetensors"
MAX_WRAPPINGS = 3  # one inside another
HASH_IN_NAME = re.compile(r"-([0-9a-f]{8,})\.")  # the names of PyTorch's files hold the start of their SHA-256
PACKAGE = "package:"  # begins the name of a file in an installed package
HUB_FILES = ("model.safetensors", "pytorch_model.bin")


@dataclass(frozen=True)
class WeightFile:
    """A file of weights and its SHA-256."""

    path: Path
    sha256: str


def find(settings: StreamSettings, published: Published, folder: Path) -> WeightFile | None:
    """The file that `settings` ask for; None if they ask for none.

    A published file is fetched into `folder` unless it is already in it. Raises `UserError` for a file or a package
    that is missing, or a file whose SHA-256 is not the pinned one or not the one in its name.
    """
    if settings.weights == "none":
        return None
    if settings.weights == "pretrained":
        path = fetch(settings.network, published, folder)
        hash_in_name = HASH_IN_NAME.search(path.name)
    elif settings.weights.startswith(PACKAGE):
        path, hash_in_name = file_in_package(settings.weights.removeprefix(PACKAGE)), None
    else:
        path, hash_in_name = expand_home(Path(settings.weights)), None
    if not path.is_file():
        raise UserError(
            f"weights is {path}, which is not a file; expected none, pretrained, {PACKAGE}NAME/PATH or a file's path"
        )
    sha256 = sha256_of(path)
    if hash_in_name and not sha256.startswith(hash_in_name[1]):
        raise UserError(
            f"{path} is damaged: its SHA-256 is {sha256}, not {hash_in_name[1]}...; remove it and fetch it again"
        )
    if settings.sha256 not in (None, sha256):
        raise UserError(
            f"{path} has the SHA-256 {sha256}, but {settings.sha256} is pinned: fetch it again, or set sha256 to null"
        )
    return WeightFile(path, sha256)


def file_in_package(place: str) -> Path:
    """The file at `place`, NAME/PATH: the one whose path ends with PATH among the files of the installed package NAME.

    No code of the package runs. Raises `UserError` if the package is not installed, or has no such file or several.
    """
    name, _, end = place.partition("/")
    try:
        listed = files(name) or []
    except (PackageNotFoundError, ValueError):  # ValueError: the name is empty
        raise missing_package(name, f"weights is {PACKAGE}{place}") from None
    matching = [file for file in listed if f"/{file}".endswith(f"/{end}")]
    if len(matching) != 1:
        raise UserError(
            f"weights is {PACKAGE}{place}, but {len(matching)} of the {len(listed)} files of the package {name} have a "
            f"path that ends with /{end}; expected one: correct the path"
        )
    return Path(str(matching[0].locate()))


def fetch(name: str, published: Published, folder: Path) -> Path:
    """The file of a network's published weights, in a folder of its own in `folder`; downloaded if it is missing.

    Raises `UserError` if no weights are published, or if they cannot be downloaded.
    """
    place = expand_home(folder) / name.removeprefix(HUB).replace("/", "--")
    if not (published.repository or published.url):
        raise UserError(f"no weights are published for {name}; set weights to none or to a local file")
    file_names = HUB_FILES if published.repository else (_file_name(published),)
    for file_name in file_names:
        if (place / file_name).is_file():
            return place / file_name
    return _download(published, place)


def _download(published: Published, place: Path) -> Path:
    import httpx
    from huggingface_hub.errors import HfHubHTTPError

    try:
        if published.repository:
            return _download_from_hub(published.repository, place)
        place.mkdir(parents=True, exist_ok=True)
        path = place / _file_name(published)
        torch.hub.download_url_to_file(str(published.url), str(path))
    except (OSError, HfHubHTTPError, httpx.HTTPError, RuntimeError) as error:
        source = f"{HUB_FILES[0]} of {published.repository}" if published.repository else published.url
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"{source} could not be fetched ({reason}). Run python -m stages.fetch_weights on a machine with a "
            f"network, or fetch the file by hand, and put it into {place}"
        ) from None
    return path


def _download_from_hub(repository: str, place: Path) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import RemoteEntryNotFoundError

    for file_name in HUB_FILES:
        try:
            return Path(hf_hub_download(repository, file_name, local_dir=place))
        except RemoteEntryNotFoundError:
            continue
    raise UserError(f"{repository} holds neither {' nor '.join(HUB_FILES)}; set weights to a local file")


def _file_name(published: Published) -> str:
    return str(published.url).rpartition("/")[2]


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a file by name, on the CPU; raises `UserError` for a file that holds code or no tensors."""
    if path.suffix == SAFETENSORS:
        try:
            return load_file(path)
        except SafetensorError as error:
            raise UserError(f"{path} is not a safetensors file: {error}") from None
    content = _read_pickle(path)
    if not (tensors := unwrap(content)):
        raise UserError(f"{path} holds no tensors by name, but {str(content)[:100]}; expected a state dict")
    return tensors


def keeps_order(path: Path) -> bool:
    """Whether a file has its tensors in the order in which they were saved; safetensors sorts them by name."""
    return path.suffix != SAFETENSORS


def _read_pickle(path: Path) -> Any:
    try:
        if _is_torchscript(path):
            raise UserError(f"{path} is a TorchScript program, which is code: save its state_dict(), and use that file")
        return torch.load(path, map_location="cpu", weights_only=True)
    except UserError:
        raise
    except UnpicklingError:  # its own message advises switching the protection off
        raise UserError(
            f"{path} does not hold tensors alone: it holds other objects, such as a whole module, which could run "
            "code, or it is another kind of file; save the network's state_dict(), and use that file"
        ) from None
    except Exception as error:  # a damaged file fails in many ways
        raise UserError(f"{path} is damaged, or not a file of weights ({error!r})") from None


def _is_torchscript(path: Path) -> bool:
    """Whether `torch.jit.save` wrote a file."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any("constants.pkl" in name for name in archive.namelist())


def unwrap(content: Any, depth: int = MAX_WRAPPINGS) -> dict[str, Tensor]:
    """The tensors by name in the first of `WRAPPINGS` that holds any, otherwise those in the content itself."""
    if not isinstance(content, dict):
        return {}
    for name in WRAPPINGS if depth else ():
        if tensors := unwrap(content.get(name), depth - 1):
            return tensors
    return {str(key): value for key, value in content.items() if isinstance(value, Tensor)}
