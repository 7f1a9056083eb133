"""Several runs on the same clips: how much their accuracy varies, and what they say together."""

import csv
import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import UserError
from pipeline.labels import CLASSES
from pipeline.metrics import NOT_SCORED, accuracy, accuracy_interval


@dataclass(frozen=True)
class Predictions:
    """A run's clips, labels (clips,) as indices in `CLASSES`, probabilities (clips, classes); NaN: quarantined."""

    name: str
    clip_ids: list[str]
    labels: NDArray[np.int64]
    probabilities: NDArray[np.float64]


def parse_predictions(name: str, lines: Iterable[str]) -> Predictions:
    """What a predictions.csv holds."""
    try:
        rows = list(csv.DictReader(lines))
        return Predictions(
            name=name,
            clip_ids=[row["clip_id"] for row in rows],
            labels=np.array([CLASSES.index(row["label"]) for row in rows]),
            probabilities=np.array([[float(row[label] or "nan") for label in CLASSES] for row in rows]).reshape(-1, 3),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{name} is not a predictions.csv that evaluate wrote ({error!r})") from None


def classes_of(probabilities: NDArray[np.float64]) -> NDArray[np.int64]:
    """The most probable class of each clip, `NOT_SCORED` for a quarantined one: (clips,)."""
    unscored = np.isnan(probabilities).any(axis=1)
    return np.where(unscored, NOT_SCORED, np.nan_to_num(probabilities).argmax(axis=1))


def vote(runs: list[Predictions]) -> dict[str, Any]:
    """Each run's accuracy, their mean and deviation, and the soft vote's (the mean of the probabilities).

    Over all clips, quarantined ones counting as wrong. Raises `UserError` for runs on other clips or labels.
    """
    first = runs[0]
    if not first.clip_ids:
        raise UserError(f"{first.name} holds no clips")
    if len({run.name for run in runs}) < len(runs):
        raise UserError("the same run is named twice; each has one vote")
    for run in runs:
        if run.clip_ids != first.clip_ids or not np.array_equal(run.labels, first.labels):
            raise UserError(f"{run.name} and {first.name} are not about the same clips with the same labels")
    accuracies = {run.name: accuracy(run.labels, classes_of(run.probabilities)) for run in runs}
    together = classes_of(np.mean([run.probabilities for run in runs], axis=0))
    low, high = accuracy_interval(int((together == first.labels).sum()), len(first.labels))
    return {
        "runs": accuracies,
        "mean": statistics.mean(accuracies.values()),
        "sd": statistics.stdev(accuracies.values()) if len(runs) > 1 else None,
        "soft_vote": accuracy(first.labels, together),
        "soft_vote_low": low,
        "soft_vote_high": high,
        "clips": len(first.labels),
    }
