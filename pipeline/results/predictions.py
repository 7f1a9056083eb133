"""The predictions of clips by one or more seeds: `predictions.csv`, with one row per seed and clip."""

import csv
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.clips.manifest import Clip
from pipeline.common.errors import UserError
from pipeline.common.metrics import NOT_SCORED, accuracy
from pipeline.common.records import reading

QUARANTINED = "quarantined"
COLUMNS = ("seed", "fold", "clip_id", "source_id", "label", "prediction")  # before one for each class


@dataclass(frozen=True)
class Predictions:
    """What one seed predicts of clips, in the order of the manifests, quarantined ones among them.

    `folds` (clips,) are the folds whose models predicted the clips, or None without cross-validation. `labels` and
    `predicted` (clips,) are indices in `classes`; `probabilities` is (clips, classes). A quarantined clip has
    `NOT_SCORED` in `predicted` and NaN in `probabilities`.
    """

    classes: tuple[str, ...]
    clip_ids: list[str]
    source_ids: list[str]
    folds: list[int | None]
    labels: NDArray[np.int64]
    predicted: NDArray[np.int64]
    probabilities: NDArray[np.float64]

    @property
    def right(self) -> NDArray[np.bool_]:
        """Which clips were classified correctly: (clips,)."""
        return self.predicted == self.labels

    @property
    def accuracy(self) -> float:
        """The share of all clips that were classified correctly; a quarantined clip counts as wrong."""
        return accuracy(self.labels, self.predicted)

    @property
    def scored(self) -> NDArray[np.bool_]:
        """Which clips were not quarantined: (clips,)."""
        return self.predicted != NOT_SCORED


def have_same_clips(first: Predictions, second: Predictions) -> bool:
    """Whether both are about the same clips, in the same order and with the same labels."""
    return first.clip_ids == second.clip_ids and np.array_equal(first.labels, second.labels)


def predictions_of(
    clips: Sequence[Clip], scored: Mapping[str, NDArray[np.float64]], classes: Sequence[str], fold: int | None = None
) -> Predictions:
    """The predictions of the clips of a manifest; `scored` holds the class probabilities of a clip by its id.

    Clips that are not in `scored` were quarantined.
    """
    unscored = np.full(len(classes), np.nan)
    probabilities = np.array([scored.get(clip.clip_id, unscored) for clip in clips]).reshape(len(clips), len(classes))
    return Predictions(
        classes=tuple(classes),
        clip_ids=[clip.clip_id for clip in clips],
        source_ids=[clip.source_id for clip in clips],
        folds=[fold] * len(clips),
        labels=np.array([classes.index(clip.label) for clip in clips], np.int64),
        predicted=most_probable_classes(probabilities),
        probabilities=probabilities,
    )


def with_probabilities(predictions: Predictions, probabilities: NDArray[np.float64]) -> Predictions:
    """The same clips with other class probabilities, (clips, classes)."""
    return replace(predictions, probabilities=probabilities, predicted=most_probable_classes(probabilities))


def concatenate(parts: Sequence[Predictions]) -> Predictions:
    """The predictions of one seed for several lots of clips, such as those of all folds, sorted by clip and fold."""
    rows = [(clip_id, fold or 0) for part in parts for clip_id, fold in zip(part.clip_ids, part.folds, strict=True)]
    order = sorted(range(len(rows)), key=rows.__getitem__) if len(parts) > 1 else range(len(rows))

    def join(name: str) -> list[Any]:
        values = [value for part in parts for value in getattr(part, name)]
        return [values[row] for row in order]

    return Predictions(
        classes=parts[0].classes,
        clip_ids=join("clip_ids"),
        source_ids=join("source_ids"),
        folds=join("folds"),
        labels=np.array(join("labels"), np.int64),
        predicted=np.array(join("predicted"), np.int64),
        probabilities=np.array(join("probabilities")).reshape(len(rows), len(parts[0].classes)),
    )


def most_probable_classes(probabilities: NDArray[np.float64]) -> NDArray[np.int64]:
    """The most probable class of each clip, (clips,), and `NOT_SCORED` where the probabilities are NaN."""
    unscored = np.isnan(probabilities).any(axis=1)
    return np.where(unscored, NOT_SCORED, np.nan_to_num(probabilities).argmax(axis=1))


def write_predictions(by_seed: Mapping[int, Predictions], path: Path) -> None:
    """Write the predictions of all seeds as CSV.

    The probabilities are exact: rounded, one that is small would become 0, whose logarithm is not that of the result.
    """
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([*COLUMNS, *next(iter(by_seed.values())).classes])
        for seed, predictions in by_seed.items():
            writer.writerows(_rows(seed, predictions))


def _rows(seed: int, predictions: Predictions) -> Iterator[list[Any]]:
    classes = predictions.classes
    names = [*classes, QUARANTINED]  # NOT_SCORED, which is -1, picks the last name
    for row, clip_id in enumerate(predictions.clip_ids):
        label, prediction = classes[predictions.labels[row]], names[predictions.predicted[row]]
        cells = ["" if np.isnan(p) else repr(p) for p in predictions.probabilities[row].tolist()]
        yield [seed, predictions.folds[row], clip_id, predictions.source_ids[row], label, prediction, *cells]


def read_predictions(path: Path) -> dict[int, Predictions]:
    """Read a `predictions.csv`, by seed; raises `UserError` if it is missing or something else."""
    with reading(path, "evaluate"), path.open(newline="") as lines:
        return parse_predictions(str(path), lines)


def parse_predictions(source: str, lines: Iterable[str]) -> dict[int, Predictions]:
    """Parse the lines of a `predictions.csv` with their ends, by seed; `source` names it in error messages.

    Only the ends of lines of CSV count: a name in a cell may hold another. The header names the classes. Raises
    `UserError` for anything else.
    """
    rows_by_seed: dict[int, list[dict[str, str]]] = {}
    try:
        reader = csv.DictReader(lines)
        classes = tuple((reader.fieldnames or ())[len(COLUMNS) :])
        for row in reader:
            rows_by_seed.setdefault(int(row["seed"]), []).append(row)
        predictions = {seed: _parse_rows(rows, classes) for seed, rows in rows_by_seed.items()}
    except (csv.Error, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{source} is not a predictions.csv that evaluate wrote ({error!r})") from None
    if not predictions:
        raise UserError(f"{source} lists no clip; run the evaluate stage again")
    return predictions


def _parse_rows(rows: Sequence[Mapping[str, str]], classes: tuple[str, ...]) -> Predictions:
    numbers = {QUARANTINED: NOT_SCORED} | {label: number for number, label in enumerate(classes)}
    return Predictions(
        classes=classes,
        clip_ids=[row["clip_id"] for row in rows],
        source_ids=[row["source_id"] for row in rows],
        folds=[int(row["fold"]) if row["fold"] else None for row in rows],
        labels=np.array([classes.index(row["label"]) for row in rows], np.int64),
        predicted=np.array([numbers[row["prediction"]] for row in rows], np.int64),
        probabilities=np.array([[float(row[label] or "nan") for label in classes] for row in rows]),
    )
