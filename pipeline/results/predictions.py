"""The predictions of all clips of a split: `predictions.csv`, with one row per clip."""

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.clips.manifest import Clip
from pipeline.common.errors import UserError
from pipeline.common.metrics import NOT_SCORED

QUARANTINED = "quarantined"
COLUMNS = ("clip_id", "source_id", "label", "prediction")  # before one for each class


@dataclass(frozen=True)
class Predictions:
    """Every clip of a manifest, in its order.

    `labels` and `predicted` (clips,) are indices in `classes`; `probabilities` is (clips, classes). A quarantined clip
    has `NOT_SCORED` in `predicted` and NaN in `probabilities`.
    """

    classes: tuple[str, ...]
    clip_ids: list[str]
    source_ids: list[str]
    labels: NDArray[np.int64]
    predicted: NDArray[np.int64]
    probabilities: NDArray[np.float64]

    @property
    def right(self) -> NDArray[np.bool_]:
        """Which clips were classified correctly: (clips,)."""
        return self.predicted == self.labels

    @property
    def scored(self) -> NDArray[np.bool_]:
        """Which clips were not quarantined: (clips,)."""
        return self.predicted != NOT_SCORED


def predictions_of(
    clips: Sequence[Clip], scored: Mapping[str, NDArray[np.float64]], classes: Sequence[str]
) -> Predictions:
    """The predictions of the clips of a manifest; `scored` holds the class probabilities of a clip by its id.

    Clips that are not in `scored` were quarantined.
    """
    unscored = np.full(len(classes), np.nan)
    probabilities = np.stack([scored.get(clip.clip_id, unscored) for clip in clips])
    return Predictions(
        classes=tuple(classes),
        clip_ids=[clip.clip_id for clip in clips],
        source_ids=[clip.source_id for clip in clips],
        labels=np.array([classes.index(clip.label) for clip in clips]),
        predicted=most_probable_classes(probabilities),
        probabilities=probabilities,
    )


def most_probable_classes(probabilities: NDArray[np.float64]) -> NDArray[np.int64]:
    """The most probable class of each clip, (clips,), and `NOT_SCORED` where the probabilities are NaN."""
    unscored = np.isnan(probabilities).any(axis=1)
    return np.where(unscored, NOT_SCORED, np.nan_to_num(probabilities).argmax(axis=1))


def write_predictions(predictions: Predictions, path: Path) -> None:
    """Write the table as CSV, with probabilities to six decimals."""
    classes = predictions.classes
    names = [*classes, QUARANTINED]  # NOT_SCORED, which is -1, picks the last name
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([*COLUMNS, *classes])
        for row, (clip_id, source_id) in enumerate(zip(predictions.clip_ids, predictions.source_ids, strict=True)):
            label, prediction = classes[predictions.labels[row]], names[predictions.predicted[row]]
            cells = ["" if np.isnan(p) else f"{p:.6f}" for p in predictions.probabilities[row]]
            writer.writerow([clip_id, source_id, label, prediction, *cells])


def parse_predictions(source: str, lines: Iterable[str]) -> Predictions:
    """Parse the lines of a `predictions.csv`; `source` names it in error messages.

    The header names the classes. Raises `UserError` for anything else.
    """
    try:
        reader = csv.DictReader(lines)
        classes = tuple((reader.fieldnames or ())[len(COLUMNS) :])
        numbers = {QUARANTINED: NOT_SCORED} | {label: number for number, label in enumerate(classes)}
        rows = list(reader)
        predictions = Predictions(
            classes=classes,
            clip_ids=[row["clip_id"] for row in rows],
            source_ids=[row["source_id"] for row in rows],
            labels=np.array([classes.index(row["label"]) for row in rows]),
            predicted=np.array([numbers[row["prediction"]] for row in rows]),
            probabilities=np.array([[float(row[label] or "nan") for label in classes] for row in rows]),
        )
    except (csv.Error, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{source} is not a predictions.csv that evaluate wrote ({error!r})") from None
    if not rows:
        raise UserError(f"{source} lists no clip; run the evaluate stage again")
    return predictions
