"""A run's predictions, one row a clip: predictions.csv and what is read from it."""

import csv
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.clips.labels import CLASSES
from pipeline.common.errors import UserError
from pipeline.common.metrics import NOT_SCORED

QUARANTINED = "quarantined"


@dataclass(frozen=True)
class Predictions:
    """Every clip of a manifest, in its order.

    labels and predictions (clips,) are indices in `CLASSES`; probabilities (clips, classes). Where a clip was
    quarantined, its prediction is `NOT_SCORED` and its probabilities are NaN.
    """

    clip_ids: list[str]
    source_ids: list[str]
    labels: NDArray[np.int64]
    predictions: NDArray[np.int64]
    probabilities: NDArray[np.float64]


def write_predictions(predictions: Predictions, path: Path) -> None:
    """Write the table as CSV."""
    names = [*CLASSES, QUARANTINED]  # NOT_SCORED is the last one
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["clip_id", "source_id", "label", "prediction", *CLASSES])
        for clip_id, source_id, label, prediction, probabilities in zip(*vars(predictions).values(), strict=True):
            shown = ["" if np.isnan(p) else f"{p:.6f}" for p in probabilities]
            writer.writerow([clip_id, source_id, CLASSES[label], names[prediction], *shown])


def parse_predictions(name: str, lines: Iterable[str]) -> Predictions:
    """What a predictions.csv holds; `name` says in errors which one it is."""
    index = {QUARANTINED: NOT_SCORED} | {label: i for i, label in enumerate(CLASSES)}
    try:
        rows = list(csv.DictReader(lines))
        read = Predictions(
            clip_ids=[row["clip_id"] for row in rows],
            source_ids=[row["source_id"] for row in rows],
            labels=np.array([CLASSES.index(row["label"]) for row in rows]),
            predictions=np.array([index[row["prediction"]] for row in rows]),
            probabilities=np.array([[float(row[label] or "nan") for label in CLASSES] for row in rows]),
        )
    except (csv.Error, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{name} is not a predictions.csv that evaluate wrote ({error!r})") from None
    if not rows:
        raise UserError(f"{name} holds no clips")
    return read
