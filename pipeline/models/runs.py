"""The folder of a finished run: writing it and opening it."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from pipeline.common.config import Config
from pipeline.common.errors import UserError
from pipeline.common.files import written_whole
from pipeline.common.records import write_record, write_table
from pipeline.models.model import GroupEmotionModel
from pipeline.models.run_record import (
    HISTORY_NAME,
    LAST_MODEL_NAME,
    MODEL_NAME,
    RUN_NAME,
    STREAMS_NAME,
    Epoch,
    RunRecord,
    StreamEpoch,
    read_history,
    read_run_record,
    read_streams,
)


@dataclass(frozen=True)
class FinishedRun:
    """A run's record, its history and that of its streams, and its model with the weights of the chosen epoch.

    The histories of an exported folder are empty.
    """

    record: RunRecord
    history: list[Epoch]
    streams: list[StreamEpoch]
    model: GroupEmotionModel

    @property
    def config(self) -> Config:
        """The settings that the run was made with."""
        return self.record.config


def write_run(folder: Path, record: RunRecord, chosen: dict[str, Tensor], last: dict[str, Tensor]) -> None:
    """Write the chosen and the last weights, and the record."""
    folder.mkdir(parents=True, exist_ok=True)
    save_tensors(chosen, folder / MODEL_NAME)
    save_tensors(last, folder / LAST_MODEL_NAME)
    write_record(record, folder / RUN_NAME)


def write_histories(folder: Path, history: Sequence[Epoch], streams: Sequence[StreamEpoch]) -> None:
    """Write a run's history with one row per epoch, and that of its streams with one per epoch and stream."""
    folder.mkdir(parents=True, exist_ok=True)
    write_table(Epoch, history, folder / HISTORY_NAME)
    write_table(StreamEpoch, streams, folder / STREAMS_NAME)


def open_run(folder: Path) -> FinishedRun:
    """Open the folder of a run, or an exported one; raises `UserError` if it is missing, damaged or incompatible."""
    if not (folder / RUN_NAME).is_file():
        inner = next((path for depth in (1, 2, 3) for path in sorted(folder.glob(f"{'*/' * depth}{RUN_NAME}"))), None)
        advice = f"there is one in {inner.parent}" if inner else "name the folder of one, or run the train stage"
        raise UserError(f"{folder} is not the folder of a finished run; {advice}")
    record = read_run_record(folder)
    path = folder / MODEL_NAME
    try:
        weights = load_file(path)
    except FileNotFoundError:
        raise UserError(f"{path} is missing; run the train stage (dvc repro train)") from None
    except SafetensorError as error:
        raise UserError(f"{path} is damaged ({error}); train again") from None
    recipe = record.config.recipe
    model = GroupEmotionModel(recipe.model, recipe.features, record.config.dataset.classes)
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"the weights in {path} are of another version of this code ({reason}); train again") from None
    history = read_history(folder) if (folder / HISTORY_NAME).exists() else []
    streams = read_streams(folder) if (folder / STREAMS_NAME).exists() else []
    return FinishedRun(record, history, streams, model)


def save_tensors(tensors: dict[str, Tensor], path: Path) -> None:
    """Write safetensors, whole or not at all, with the permissions of any other new file.

    The library's own permissions are for the owner alone.
    """
    with written_whole(path) as temporary:
        temporary.touch()
        permissions = temporary.stat().st_mode
        try:
            save_file(tensors, temporary)
        except SafetensorError as error:  # it has the operating system's error in its text alone
            if number := re.search(r"os error (\d+)", str(error)):
                raise OSError(int(number[1]), os.strerror(int(number[1]))) from None
            raise
        temporary.chmod(permissions)
