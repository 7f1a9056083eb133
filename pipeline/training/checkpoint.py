"""Checkpoints: whole or absent, read without running code, and refused by default if the training changed.

A checkpoint is a folder with tensors as safetensors and everything else as JSON. It is written under another name,
flushed to the disk, and renamed; only then are older ones removed. If the best weights have not changed since the
previous checkpoint, the new one has a hard link to them.
"""

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from safetensors.torch import load

from pipeline.common.errors import UserError
from pipeline.common.files import write_text
from pipeline.common.records import read_record, to_json
from pipeline.loading.selection import ROLES_KEY
from pipeline.models.run_record import Identity
from pipeline.models.runs import save_tensors
from pipeline.training.history import best_epoch
from pipeline.training.identity import differences
from pipeline.training.state import Position, StateTensors

Resume = Literal["exact", "changed", "afresh"]
RECORD_NAME, TENSORS_SUFFIX = "state.json", ".safetensors"


@dataclass(frozen=True)
class CheckpointRecord:
    """The part of a checkpoint that is not made of tensors: whose it is, and how far that training has come."""

    identity: Identity
    steps_per_epoch: int
    position: Position


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint as it is read and written: its record, and the tensors of the state."""

    record: CheckpointRecord
    tensors: StateTensors


def save_checkpoint(checkpoint: Checkpoint, folder: Path) -> None:
    """Write `folder/step-NNNNNNNN`, then remove older checkpoints; an existing one of the same step is kept."""
    place = _place_of(folder, checkpoint.record.position.step)
    if place.exists():
        return
    temporary = folder / f".{place.name}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    unchanged_best = _unchanged_best_file(checkpoint.record, folder)
    try:
        for part, tensors in checkpoint.tensors.items():
            target = temporary / f"{part}{TENSORS_SUFFIX}"
            if part != "best" or unchanged_best is None or not _hard_link(target, unchanged_best):
                save_tensors(tensors, target)
        write_text(temporary / RECORD_NAME, to_json(checkpoint.record, indent=None))
        for path in (*temporary.iterdir(), temporary):
            _flush(path)
    except OSError:
        shutil.rmtree(temporary)  # so that a full disk does not get fuller
        raise
    temporary.replace(place)
    _flush(folder)
    remove_checkpoints(folder, keep=place.name)


def _unchanged_best_file(record: CheckpointRecord, folder: Path) -> Path | None:
    """The file of the best weights in the training's latest checkpoint; None if they are not the best any more."""
    step, history = latest_step(folder), record.position.history
    if step is None or not history:
        return None
    try:
        before = _read_record(folder, step)
    except UserError:  # it is damaged, which must not end a healthy training
        return None
    if before.identity != record.identity or not before.position.history:
        return None
    if best_epoch(before.position.history) != best_epoch(history):
        return None
    return _place_of(folder, step) / f"best{TENSORS_SUFFIX}"


def _hard_link(path: Path, existing: Path) -> bool:
    """Make `path` a hard link to an existing file; returns False if the file system has no hard links."""
    try:
        path.hardlink_to(existing)
    except OSError:
        return False
    return True


def latest_step(folder: Path) -> int | None:
    """The step of the latest checkpoint in `folder`, or None."""
    return max((int(path.name.removeprefix("step-")) for path in folder.glob("step-*")), default=None)


def load_checkpoint(folder: Path) -> Checkpoint | None:
    """The latest checkpoint in `folder`, or None; raises `UserError` for one that is damaged."""
    if (step := latest_step(folder)) is None:
        return None
    with _errors_of(folder, step) as latest:
        # As a copy: a file that is still mapped cannot be removed from a network disk.
        tensors = {path.stem: load(path.read_bytes()) for path in latest.glob(f"*{TENSORS_SUFFIX}")}
    return Checkpoint(_read_record(folder, step), tensors)


def _read_record(folder: Path, step: int) -> CheckpointRecord:
    with _errors_of(folder, step) as checkpoint:
        return read_record(CheckpointRecord, checkpoint / RECORD_NAME)


def _place_of(folder: Path, step: int) -> Path:
    return folder / f"step-{step:08d}"


@contextmanager
def _errors_of(folder: Path, step: int) -> Iterator[Path]:
    """Name the checkpoint that cannot be read."""
    checkpoint = _place_of(folder, step)
    try:
        yield checkpoint
    except Exception as error:  # safetensors has its own exception, JSON and the file system have theirs
        raise UserError(
            f"checkpoint {checkpoint} cannot be read ({type(error).__name__}: {error}); remove {folder} to start afresh"
        ) from None


def remove_checkpoints(folder: Path, keep: str = "") -> None:
    """Remove all checkpoints in `folder` but one, and what half-written or half-removed ones left behind.

    What cannot be removed gives a warning, and the next call tries it again.
    """
    for path in folder.glob("step-*"):
        if path.name != keep:  # renamed first: a half-removed one must not look like a checkpoint
            path.replace(folder / f".{path.name}.old")
    for path in folder.glob(".step-*"):
        try:
            shutil.rmtree(path)
        except OSError as error:
            print(f"warning: {path} cannot be removed yet ({error.strerror})", file=sys.stderr)


def remove_own_checkpoints(identity: Identity, folder: Path) -> None:
    """Remove what a training that is finished left in `folder`, and the folder; checkpoints of another one stay."""
    step = latest_step(folder)
    if step is None or not differences(_read_record(folder, step).identity, identity):
        remove_checkpoints(folder)
        if not any(folder.iterdir()):
            folder.rmdir()


def refuse_another_training(record: CheckpointRecord, identity: Identity, folder: Path) -> None:
    """Raise `UserError`, with what changed, for a checkpoint of a training with another identity."""
    if changes := differences(record.identity, identity):
        raise UserError(
            f"{folder} holds an unfinished training run (step {record.position.step}) with other settings, data or "
            f"code: {'; '.join(changes)}. To start afresh, remove that folder or add --resume afresh to the training "
            "command; to continue it with these changes, add --resume changed"
        )


def refuse_other_clips(record: CheckpointRecord, identity: Identity, folder: Path) -> None:
    """Raise `UserError` for a checkpoint of a training with other clips, roles of clips, classes or selection.

    Continued, it would have been fitted on clips that are held out now, or choose among epochs that were scored on
    different clips.
    """
    fixed = ("dataset", "classes", ROLES_KEY, "recipe.training.select_on")
    if changed := [key for key in fixed if record.identity.get(key) != identity[key]]:
        raise UserError(
            f"{folder} is of a training run with another value of {', '.join(changed)}: it cannot be continued, not "
            "even with changes, because it saw other clips; remove that folder, or add --resume afresh"
        )


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
