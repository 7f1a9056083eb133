"""Checkpoints that are whole or absent, and that run nothing when they are read (P10).

A checkpoint is a folder: tensors as safetensors, everything else as JSON. It is written under another name, flushed to
the disk and renamed; the one before is removed only then.
"""

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

MODEL, BEST_MODEL, OPTIMIZER, STATE = "model.safetensors", "best.safetensors", "optimizer.safetensors", "state.json"


@dataclass(frozen=True)
class Checkpoint:
    """Where a training run is: after `epochs` finished epochs, with a history row for each."""

    epochs: int
    history: list[dict[str, float]]
    model: dict[str, Tensor]
    best_model: dict[str, Tensor]
    optimizer: dict[str, Tensor]


def save_checkpoint(checkpoint: Checkpoint, folder: Path) -> None:
    """Write `folder/epoch-NNNN` and remove older ones."""
    name = f"epoch-{checkpoint.epochs:04d}"
    temporary = folder / f".{name}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    save_file(checkpoint.model, temporary / MODEL)
    save_file(checkpoint.best_model, temporary / BEST_MODEL)
    save_file(checkpoint.optimizer, temporary / OPTIMIZER)
    state = {"epochs": checkpoint.epochs, "history": checkpoint.history}
    (temporary / STATE).write_text(json.dumps(state))
    for path in (*temporary.iterdir(), temporary):
        _flush(path)
    temporary.replace(folder / name)
    _flush(folder)
    for old in folder.glob("epoch-*"):
        if old.name < name:
            shutil.rmtree(old)


def load_checkpoint(folder: Path) -> Checkpoint | None:
    """The latest checkpoint in `folder`, or None."""
    if not (found := sorted(folder.glob("epoch-*"))):
        return None
    latest = found[-1]
    state = json.loads((latest / STATE).read_text())
    return Checkpoint(
        epochs=state["epochs"],
        history=state["history"],
        model=load_file(latest / MODEL),
        best_model=load_file(latest / BEST_MODEL),
        optimizer=load_file(latest / OPTIMIZER),
    )


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """An optimiser's state as named tensors: `<parameter's number>.<name>`."""
    state: dict[int, dict[str, Tensor]] = optimizer.state_dict()["state"]
    return {f"{number}.{name}": value for number, values in state.items() for name, value in values.items()}


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Undo `optimizer_tensors`; the settings of the parameter groups stay those of `optimizer`."""
    state: dict[int, dict[str, Any]] = {}
    for key, value in tensors.items():
        number, _, name = key.partition(".")
        state.setdefault(int(number), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
