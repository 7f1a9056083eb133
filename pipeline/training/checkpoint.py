"""Checkpoints that are whole or absent, that run nothing when they are read, and that know whose they are (P10).

A checkpoint is a folder: tensors as safetensors, everything else as JSON. It is written under another name, flushed to
the disk and renamed; the ones before are removed only then.
"""

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from pipeline.common.errors import UserError

Resume = Literal["exact", "changed", "afresh"]
TENSORS = ("model", "average", "best", "optimizer")
STATE = "state.json"


@dataclass(frozen=True)
class Checkpoint:
    """Where a training run is: after `step` steps, with a history row for each finished epoch.

    `identity` is what the weights follow from, `changes` those of its parts that were changed on the way. `loss_sums`
    (one a process), `elapsed_s` and `wait_s` are of the running epoch; `scaler` is fp16's loss scale. There is no
    random state: what is random in a step follows from (seed, step, process).
    """

    identity: dict[str, Any]
    changes: list[str]
    step: int
    steps_per_epoch: int
    history: list[dict[str, float]]
    loss_sums: list[float]
    elapsed_s: float
    wait_s: float
    scaler: dict[str, float]
    model: dict[str, Tensor]
    average: dict[str, Tensor]
    best: dict[str, Tensor]
    optimizer: dict[str, Tensor]


def save_checkpoint(checkpoint: Checkpoint, folder: Path) -> None:
    """Write `folder/step-NNNNNNNN`, then remove older ones; one of the same step is left as it is."""
    name = f"step-{checkpoint.step:08d}"
    if (folder / name).exists():
        return
    temporary = folder / f".{name}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    values = dict(vars(checkpoint))
    for part in TENSORS:
        save_tensors(values.pop(part), temporary / f"{part}.safetensors")
    (temporary / STATE).write_text(json.dumps(values))
    for path in (*temporary.iterdir(), temporary):
        _flush(path)
    temporary.replace(folder / name)
    _flush(folder)
    remove_checkpoints(folder, but=name)


def save_tensors(tensors: dict[str, Tensor], path: Path) -> None:
    """Write safetensors with the permissions of any other new file: its own would be for the owner alone."""
    path.touch()
    permissions = path.stat().st_mode
    save_file(tensors, path)
    path.chmod(permissions)


def latest_step(folder: Path) -> int | None:
    """The step of the latest checkpoint in `folder`, or None."""
    return max((int(path.name.removeprefix("step-")) for path in folder.glob("step-*")), default=None)


def load_checkpoint(folder: Path) -> Checkpoint | None:
    """The latest checkpoint in `folder`, or None; raises `UserError` for one that is damaged."""
    if (step := latest_step(folder)) is None:
        return None
    latest = folder / f"step-{step:08d}"
    try:
        state = json.loads((latest / STATE).read_text())
        tensors: dict[str, Any] = {part: load_file(latest / f"{part}.safetensors") for part in TENSORS}
        return Checkpoint(**state, **tensors)
    except Exception as error:  # safetensors has its own exception, JSON and the file system theirs
        raise UserError(
            f"checkpoint {latest} cannot be read ({type(error).__name__}: {error}); remove {folder} to start afresh"
        ) from None


def remove_checkpoints(folder: Path, but: str = "") -> None:
    """Remove the checkpoints in `folder` but one, and what is left of half-written or half-removed ones."""
    for path in folder.glob("step-*"):
        if path.name != but:  # first its name: what is half removed must not look like a checkpoint
            path.replace(folder / f".{path.name}.old")
    for path in folder.glob(".step-*"):
        shutil.rmtree(path)


def refuse_another_run(checkpoint: Checkpoint, identity: Mapping[str, Any], folder: Path) -> None:
    """Raise `UserError` with what changed when a checkpoint is not of the run that `identity` stands for."""
    if changes := differences(checkpoint.identity, identity):
        raise UserError(
            f"{folder} holds an unfinished run (step {checkpoint.step}) of something else: {'; '.join(changes)}. "
            "To start afresh, remove that folder or add --resume afresh to the training command; to continue that run "
            "all the same, add --resume changed"
        )


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What differs between two runs' identities, in words."""
    changed = [key for key in sorted({*before, *now}) if before.get(key) != now.get(key)]
    return [f"{key}: {_shown(before.get(key))} -> {_shown(now.get(key))}" for key in changed]


def optimizer_tensors(optimizer: torch.optim.Optimizer, model: nn.Module) -> dict[str, Tensor]:
    """An optimiser's state as named tensors: `<parameter's name>.<state's name>`."""
    names: dict[Tensor, str] = {parameter: name for name, parameter in model.named_parameters()}
    return {
        f"{names[parameter]}.{key}": value.detach().cpu().contiguous()
        for parameter, state in optimizer.state.items()
        for key, value in state.items()
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Undo `optimizer_tensors`; the settings of the parameter groups stay those of `optimizer`."""
    named: dict[str, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        parameter, _, key = name.rpartition(".")
        named.setdefault(parameter, {})[key] = value
    names = {parameter: name for name, parameter in model.named_parameters()}
    ordered = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state = {
        number: {key: _laid_out_like(parameter, value) for key, value in named[names[parameter]].items()}
        for number, parameter in enumerate(ordered)
        if names[parameter] in named
    }
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _laid_out_like(parameter: Tensor, value: Tensor) -> Tensor:
    """In the parameter's memory format, which safetensors does not keep."""
    return torch.empty_like(parameter, device="cpu").copy_(value) if value.shape == parameter.shape else value


def _shown(value: Any) -> str:
    text = str(value)
    return text if len(text) < 40 else f"{text[:12]}..."


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
