"""What is recorded of networks and of runs. Importing it imports no network, so a report can read it quickly."""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, JsonValue

from pipeline.clips.labels import CLASSES
from pipeline.common.config import Config, RunId
from pipeline.common.records import parse_record, read_table, reading, to_json
from pipeline.models.later_settings import config_of_any_version

MODEL_NAME, LAST_MODEL_NAME = "model.safetensors", "last.safetensors"
HISTORY_NAME, STREAMS_NAME, RUN_NAME, LOG_NAME = "history.csv", "streams.csv", "run.json", "train.log"
# Everything that the weights of a run follow from, by name.
Identity = dict[str, JsonValue]


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
    network does not have. `by_order`: no key of the file fitted, and its tensors were matched in their order.
    """

    file: str
    sha256: str
    matched: list[str]
    reshaped: dict[str, str]
    missing: list[str]
    unexpected: list[str]
    by_order: bool = False  # records of 1.0.0 lack it

    @property
    def share(self) -> float:
        """Share of the network's tensors that the file filled."""
        filled = len(self.matched) + len(self.reshaped)
        return filled / (filled + len(self.missing))

    def __str__(self) -> str:
        filled = len(self.matched) + len(self.reshaped)
        how = ", matched by order because no name fits" if self.by_order else ""
        parts = [f"{filled} of {filled + len(self.missing)} tensors from {self.file}{how}"]
        reshaped = [f"{key} {shapes}" for key, shapes in self.reshaped.items()]
        for name, keys in (("reshaped", reshaped), ("missing", self.missing), ("unexpected", self.unexpected)):
            if keys:
                parts.append(f"{len(keys)} {name}: {', '.join(sorted(keys)[:4])}{', ...' if len(keys) > 4 else ''}")
        return "; ".join(parts)


@dataclass(frozen=True)
class InitialWeights:
    """What a training took from another run before its first step.

    `trained_on` names the data sets on which that run was trained, or a run that it started from, each with the digest
    of the clips and their roles; None where version 1.0.0 recorded no digest.
    """

    weights: LoadedWeights
    trained_on: Identity


@dataclass(frozen=True)
class Epoch:
    """One row of a run's history. The selection measures are None for an epoch that was not scored.

    `step` counts the steps up to the end of the epoch. `clips_per_s` is the rate of all processes together, and
    `data_wait_share` the share of the training time in which this process waited for data; neither counts scoring.
    `skipped_steps` had a gradient that was not finite; they changed nothing, and are not in `train_loss`.
    """

    epoch: int
    step: int
    train_loss: float
    selection_accuracy: float | None
    selection_log_loss: float | None
    learning_rate: float
    seconds: float
    data_wait_share: float
    skipped_steps: int = 0
    clips_per_s: float = math.nan  # the histories of 1.0.0 lack it


@dataclass(frozen=True)
class StreamEpoch:
    """What one stream alone learnt in an epoch: the training loss and accuracy of its own head.

    They are over the augmented clips that have the stream, and None if there were none. `gradient_norm` is the norm of
    the gradient of its network before clipping, as the mean over the steps.
    """

    epoch: int
    stream: str
    train_loss: float | None
    train_accuracy: float | None
    gradient_norm: float


@dataclass(frozen=True)
class ClipCounts:
    """How many clips a run was trained on, and how many chose its epoch."""

    training: int
    selection: int


@dataclass(frozen=True)
class RunRecord:
    """What `run.json` holds: what a run was made from and with.

    `config.seeds` names the seed of `run` alone. `fingerprint` is the SHA-256 of `identity`. `resumed_with_changes`
    lists what was changed when an unfinished run was continued. `pretrained` and `interfaces` are by stream.
    `initial` is None for a run that did not start from another one.
    """

    config: Annotated[Config, BeforeValidator(config_of_any_version)]
    run: RunId
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
    initial: InitialWeights | None = None


def without_folders(record: RunRecord) -> RunRecord:
    """The record without the folders of this machine: each absolute path in it is replaced by its last part."""
    return parse_record(RunRecord, json.dumps(_last_parts(json.loads(to_json(record)))))


def _last_parts(value: Any) -> Any:
    match value:
        case dict():
            return {key: _last_parts(each) for key, each in value.items()}
        case list():
            return [_last_parts(each) for each in value]
        case str() if Path(value).is_absolute():
            return Path(value).name
        case _:
            return value


def read_run_record(folder: Path) -> RunRecord:
    """Read a run's `run.json`; raises `UserError` if it is missing, damaged or of an unknown version."""
    with reading(folder / RUN_NAME, "train") as path:
        values = json.loads(path.read_bytes())
        if isinstance(values, dict) and "run" not in values:
            values = _from_version_1(values)
        return parse_record(RunRecord, json.dumps(values))


def _from_version_1(values: dict[str, Any]) -> dict[str, Any]:
    """A record of version 1.0.0, which had one seed, no folds and always VGAF's classes, in today's form."""
    config = dict(values.get("config", {}))
    seed = config.pop("seed", 0)
    config |= {"seeds": [seed], "folds": None, "split_seed": seed, "fit_on": "train"}
    if config.get("recipe", {}).get("training", {}).get("select_on") != "dev":
        config["fit_on"] = "train_and_dev"
    config["dataset"] = {"table": None, "classes": list(CLASSES), "allow_identical": False} | config.get("dataset", {})
    return values | {"config": config, "run": {"seed": seed, "fold": None}}


def read_streams(folder: Path) -> list[StreamEpoch]:
    """Read a run's `streams.csv`; raises `UserError` if it is missing or damaged."""
    with reading(folder / STREAMS_NAME, "train") as path:
        return read_table(StreamEpoch, path)


def read_history(folder: Path) -> list[Epoch]:
    """Read a run's `history.csv`; raises `UserError` if it is missing or damaged."""
    with reading(folder / HISTORY_NAME, "train") as path:
        return read_table(Epoch, path)
