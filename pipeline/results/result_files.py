"""What a folder of results holds: the names of its files, their records, and reading them.

`pipeline.results.writing` writes the folder; `pipeline.results.predictions` has the format of `predictions.csv`.
Importing this module imports no network.
"""

import csv
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from pipeline.clips.manifest import DatasetSummary
from pipeline.clips.splits import RoleSummary
from pipeline.common.records import read_record, read_table, reading
from pipeline.models.run_record import RunRecord
from pipeline.results.data_card import DataCard
from pipeline.shards.index import QuarantinedClip

METRICS_NAME, PREDICTIONS_NAME, PROVENANCE_NAME = "metrics.json", "predictions.csv", "provenance.json"
PER_CLASS_NAME, PER_SOURCE_NAME, RELIABILITY_NAME = "per_class.csv", "per_source.csv", "reliability.csv"
MISTAKES_NAME, DEV_PREDICTIONS_NAME, CURVES_NAME = "mistakes", "dev_predictions.csv", "curves.csv"
STREAM_CURVES_NAME = "stream_curves.csv"

# Whether the paper's accuracy is reached (`pipeline.results.literature`).
Reproduced = bool | Literal["not applicable"]


@dataclass(frozen=True)
class Measures:
    """Measures over all clips of a split, with 95% intervals from `..._low` to `..._high`. Undefined values are None.

    The interval of `accuracy` is Wilson's, which takes clips as independent. All others, `accuracy_sources_...` among
    them, are over sources; `calibration_error` has none, because it would be biased. `scored` counts the clips that
    were not quarantined; a quarantined clip counts as wrong. `log_loss` (nats), `brier_score` and `calibration_error`
    are over the scored clips.
    """

    accuracy: float
    balanced_accuracy: float
    macro_f1: float
    log_loss: float | None
    brier_score: float | None
    calibration_error: float | None
    accuracy_low: float
    accuracy_high: float
    balanced_accuracy_low: float | None
    balanced_accuracy_high: float | None
    macro_f1_low: float | None
    macro_f1_high: float | None
    log_loss_low: float | None
    log_loss_high: float | None
    brier_score_low: float | None
    brier_score_high: float | None
    accuracy_sources_low: float | None
    accuracy_sources_high: float | None
    clips: int
    scored: int
    quarantined_share: float


@dataclass(frozen=True)
class Combination:
    """Several seeds made one model, and its accuracy, with Wilson's interval and that over sources.

    `weights` are those of the seeds, in their order; they are chosen on dev, never on the reported clips, unless they
    are equal.
    """

    accuracy: float
    accuracy_low: float
    accuracy_high: float
    accuracy_sources_low: float | None
    accuracy_sources_high: float | None
    weights: list[float]


@dataclass(frozen=True)
class SeedMeasures:
    """One seed of a result. `selection_accuracy` is the mean over its folds, None if no epoch was chosen."""

    seed: int
    accuracy: float
    macro_f1: float
    log_loss: float | None
    selection_accuracy: float | None


@dataclass(frozen=True)
class Metrics(Measures):
    """What `metrics.json` holds: the measures of one or more seeds, and what they come from.

    The measures are means over the seeds, `..._sd` their standard deviations, None for a single seed. `temperature` is
    fitted on dev, and the measures `..._scaled` are those with it; all three are None without dev. `soft_vote` takes
    the mean of the seeds' probabilities, `weighted_vote` a mean with weights that are best on dev, `soup` is a model
    whose weights are means over the seeds that help on dev; they are None where there is nothing to combine, or no dev.
    `selected_on` is the split that chose the epoch, `selection_accuracy` the mean accuracy on it. `label_sha256` is
    that of the label file of the reported clips, or of both files; `code_version` is the commit that trained the runs.
    """

    accuracy_sd: float | None
    balanced_accuracy_sd: float | None
    macro_f1_sd: float | None
    log_loss_sd: float | None
    brier_score_sd: float | None
    calibration_error_sd: float | None
    temperature: float | None
    log_loss_scaled: float | None
    calibration_error_scaled: float | None
    soft_vote: Combination | None
    weighted_vote: Combination | None
    soup: Combination | None
    seeds: list[SeedMeasures]
    folds: int | None
    reproduced: Reproduced
    selected_on: str
    selection_accuracy: float | None
    label_sha256: str
    code_version: str


@dataclass(frozen=True)
class ClassMeasures:
    """One row of `per_class.csv`, with intervals over sources.

    Undefined values are None: the precision of a class that is never predicted, the recall of one without clips.

    `label` is the name of the class. Its column is called `class`, which cannot be the name of a field in Python.
    """

    label: Annotated[str, Field(alias="class")]
    clips: int
    precision: float | None
    recall: float | None
    f1: float | None
    precision_low: float | None
    precision_high: float | None
    recall_low: float | None
    recall_high: float | None
    f1_low: float | None
    f1_high: float | None


@dataclass(frozen=True)
class SourceAccuracy:
    """One row of `per_source.csv`: the clips that were cut from one source, and the share that is right."""

    source_id: str
    clips: int
    accuracy: float


@dataclass(frozen=True)
class ReliabilityBin:
    """One row of `reliability.csv`: mean confidence, accuracy and number of the clips in a range of confidences."""

    confidence: float
    accuracy: float
    clips: float


@dataclass(frozen=True)
class CurvePoint:
    """One row of `curves.csv` of a seed: an epoch of one run, with the measures of its history."""

    seed: int
    fold: int | None
    epoch: int
    train_loss: float
    selection_accuracy: float | None


@dataclass(frozen=True)
class StreamCurvePoint:
    """One row of `stream_curves.csv` of a seed: an epoch of a stream of one run (`run_record.StreamEpoch`)."""

    seed: int
    fold: int | None
    epoch: int
    stream: str
    train_loss: float | None
    train_accuracy: float | None
    gradient_norm: float


@dataclass(frozen=True)
class MeanCurvePoint:
    """One row of `curves.csv` of a result: an epoch, with means over all seeds and folds."""

    epoch: int
    train_loss: float
    selection_accuracy: float | None


@dataclass(frozen=True)
class Provenance:
    """What `provenance.json` holds: the data and the runs, one for each fold, that a result of one seed comes from.

    `clips` is by split. `roles` says how many clips were trained on, held out and reported. `reported` are the
    splits of `dataset` whose clips the result is about: train, val, or dev, which is a part of train.
    """

    dataset: str
    data: DatasetSummary
    clips: dict[str, DataCard]
    quarantined: list[QuarantinedClip]
    roles: list[RoleSummary]
    reported: list[str]
    folds: int | None
    runs: list[RunRecord]


def write_class_measures(rows: list[ClassMeasures], path: Path) -> None:
    """Write `per_class.csv`."""
    values = TypeAdapter(list[ClassMeasures]).dump_python(rows, by_alias=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(values[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(values)


def write_mistakes(pictures: Mapping[str, bytes], folder: Path) -> None:
    """Write JPEG pictures by clip id as `<place>-<clip_id>.jpg`. What was in the folder before is removed."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for place, (clip_id, picture) in enumerate(pictures.items(), start=1):
        (folder / f"{place:02d}-{clip_id}.jpg").write_bytes(picture)


def read_mistakes(folder: Path) -> dict[str, bytes]:
    """Read the pictures in `mistakes/` of a results folder, by clip id, in the order of their places."""
    with reading(folder / MISTAKES_NAME, "evaluate") as path:
        return {picture.stem.partition("-")[2]: picture.read_bytes() for picture in sorted(path.iterdir())}


def read_metrics(folder: Path, stage: str = "summarize") -> Metrics:
    """Read `metrics.json` of a results folder, which `stage` writes: that of a seed is written by `evaluate`.

    Like all functions here that read, it raises `UserError` if the file is missing or damaged.
    """
    with reading(folder / METRICS_NAME, stage) as path:
        return read_record(Metrics, path)


def read_provenance(folder: Path) -> Provenance:
    """Read `provenance.json` of a results folder."""
    with reading(folder / PROVENANCE_NAME, "evaluate") as path:
        return read_record(Provenance, path)


def read_curves(folder: Path) -> list[CurvePoint]:
    """Read `curves.csv` of the folder of a seed."""
    with reading(folder / CURVES_NAME, "evaluate") as path:
        return read_table(CurvePoint, path)


def read_stream_curves(folder: Path) -> list[StreamCurvePoint]:
    """Read `stream_curves.csv` of the folder of a seed."""
    with reading(folder / STREAM_CURVES_NAME, "evaluate") as path:
        return read_table(StreamCurvePoint, path)


def read_class_measures(folder: Path) -> list[ClassMeasures]:
    """Read `per_class.csv` of a results folder."""
    with reading(folder / PER_CLASS_NAME, "summarize") as path:
        return read_table(ClassMeasures, path)


def read_source_accuracies(folder: Path) -> list[SourceAccuracy]:
    """Read `per_source.csv` of a results folder."""
    with reading(folder / PER_SOURCE_NAME, "summarize") as path:
        return read_table(SourceAccuracy, path)


def read_reliability(folder: Path) -> list[ReliabilityBin]:
    """Read `reliability.csv` of a results folder."""
    with reading(folder / RELIABILITY_NAME, "summarize") as path:
        return read_table(ReliabilityBin, path)
