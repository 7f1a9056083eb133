"""What is recorded of networks and of runs. Importing it imports no network, so a report can read it quickly."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, JsonValue

from pipeline.clips.labels import CLASSES
from pipeline.common.config import Config
from pipeline.common.errors import UserError
from pipeline.common.records import parse_record, read_table

MODEL_NAME, LAST_MODEL_NAME = "model.safetensors", "last.safetensors"
HISTORY_NAME, RUN_NAME = "history.csv", "run.json"
# Everything that the weights of a run follow from, by name.
Identity = dict[str, JsonValue]
# What version 1.0.0 did not record of a data set, because it was the same for all.
SINCE_1_0_0 = {"table": None, "classes": list(CLASSES), "allow_identical": False}


def _with_later_keys(config: Any) -> Any:
    """The settings in a record, with the keys that version 1.0.0 did not have."""
    if not isinstance(config, dict) or not isinstance(config.get("dataset"), dict):
        return config
    return config | {"dataset": SINCE_1_0_0 | config["dataset"]}


@dataclass(frozen=True)
class Interface:
    """What a network takes and gives.

    `takes` is (frames, height, width), or (mel_bins, hops) of the padded log-mel. `mean` and `deviation` normalise it:
    per channel of RGB in 0..1, or in the unit of the log-mel. `gives` is (time, space, D), the tokens of one clip. The
    i-th token in time is centred on frame or hop `stride * i + offset`: `offset` is 0 for convolutions that are padded
    on both sides, (stride - 1) / 2 for patches, and between the two for other networks.
    """

    takes: tuple[int, ...]
    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    gives: tuple[int, int, int]
    stride: int = 1
    offset: float = 0.0


@dataclass(frozen=True)
class LoadedWeights:
    """Which tensors of a file went into a network, by the network's own keys.

    `reshaped` maps a key to its old and new shape. `unexpected` are keys of the file, without its prefix, that the
    network does not have.
    """

    file: str
    sha256: str
    matched: list[str]
    reshaped: dict[str, str]
    missing: list[str]
    unexpected: list[str]

    @property
    def share(self) -> float:
        """Share of the network's tensors that the file filled."""
        filled = len(self.matched) + len(self.reshaped)
        return filled / (filled + len(self.missing))

    def __str__(self) -> str:
        filled = len(self.matched) + len(self.reshaped)
        parts = [f"{filled} of {filled + len(self.missing)} tensors from {self.file}"]
        reshaped = [f"{key} {shapes}" for key, shapes in self.reshaped.items()]
        for name, keys in (("reshaped", reshaped), ("missing", self.missing), ("unexpected", self.unexpected)):
            if keys:
                parts.append(f"{len(keys)} {name}: {', '.join(sorted(keys)[:4])}{', ...' if len(keys) > 4 else ''}")
        return "; ".join(parts)


@dataclass(frozen=True)
class Epoch:
    """One row of a run's history. The selection measures are None for an epoch that was not scored.

    `step` counts the steps up to the end of the epoch; `data_wait_share` is the share of the training time in which the
    process waited for data.
    """

    epoch: int
    step: int
    train_loss: float
    selection_accuracy: float | None
    selection_log_loss: float | None
    learning_rate: float
    seconds: float
    data_wait_share: float


@dataclass(frozen=True)
class ClipCounts:
    """How many clips a run was trained on, and how many chose its epoch."""

    training: int
    selection: int


@dataclass(frozen=True)
class RunRecord:
    """What `run.json` holds: what a run was made from and with.

    `fingerprint` is the SHA-256 of `identity`. `resumed_with_changes` lists what was changed when an unfinished run was
    continued. `pretrained` and `interfaces` are by backbone.
    """

    config: Annotated[Config, BeforeValidator(_with_later_keys)]
    identity: Identity
    fingerprint: str
    resumed_with_changes: list[str]
    parameters: int
    pretrained: dict[str, LoadedWeights]
    interfaces: dict[str, Interface]
    clips: ClipCounts
    selected_on: str
    selected_epoch: int
    selection_accuracy: float | None
    seconds: float
    processes: int
    device: str
    code_version: str
    python: str
    libraries: dict[str, str]
    machine: str


def read_run_record(folder: Path) -> RunRecord:
    """Read a run's `run.json`; raises `UserError` if it is missing, damaged or of another version."""
    path = folder / RUN_NAME
    try:
        return parse_record(RunRecord, path.read_bytes())
    except FileNotFoundError:
        raise UserError(f"{path} is missing; run the train stage (dvc repro train)") from None
    except ValueError as error:
        raise UserError(f"{path} is damaged or of another version ({error}); train again") from None


def read_history(folder: Path) -> list[Epoch]:
    """Read a run's `history.csv`; raises `UserError` if it is missing or damaged."""
    path = folder / HISTORY_NAME
    try:
        return read_table(Epoch, path)
    except FileNotFoundError:
        raise UserError(f"{path} is missing; run the train stage (dvc repro train)") from None
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}); train again") from None
