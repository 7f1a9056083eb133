"""What is measured of predictions, with 95% intervals."""

import math

import numpy as np
from numpy.typing import NDArray

from pipeline.common.metrics import (
    accuracy,
    accuracy_interval,
    bootstrap_intervals,
    calibration_error,
    log_loss,
    per_class,
    reliability,
)
from pipeline.results.predictions import Predictions
from pipeline.results.result_files import ClassMeasures, Measures, ReliabilityBin, SourceAccuracy

# A lower and an upper bound.
Interval = tuple[float, float]


def measure(predictions: Predictions) -> tuple[Measures, list[ClassMeasures]]:
    """The measures over all clips, and those of each class in their order."""
    values = _values(predictions, np.arange(len(predictions.labels)))
    intervals = bootstrap_intervals(lambda clips: _values(predictions, clips), predictions.source_ids)
    classes = [
        _class_measures(label, int((predictions.labels == number).sum()), values, intervals)
        for number, label in enumerate(predictions.classes)
    ]
    return _measures(predictions, values, intervals), classes


def reliability_bins(predictions: Predictions) -> list[ReliabilityBin]:
    """The bins of the reliability diagram of the scored clips, without bins that hold no clip."""
    scored = predictions.scored
    bins = reliability(predictions.labels[scored], predictions.probabilities[scored])
    columns = (bins[name].tolist() for name in ("confidence", "accuracy", "clips"))
    return [ReliabilityBin(*row) for row in zip(*columns, strict=True)]


def source_accuracies(predictions: Predictions) -> list[SourceAccuracy]:
    """Clips and accuracy of each source, the lowest accuracy first.

    Clips cut from one source tend to be right or wrong together.
    """
    sources = np.array(predictions.source_ids)
    rows = []
    for source in np.unique(sources):
        right = predictions.right[sources == source]
        rows.append(SourceAccuracy(str(source), len(right), float(right.mean())))
    return sorted(rows, key=lambda row: (row.accuracy, row.source_id))


def _values(predictions: Predictions, clips: NDArray[np.int64]) -> dict[str, float]:
    """The measures of some clips, those of a class as `class.measure`. Undefined values are NaN."""
    labels, predicted = predictions.labels[clips], predictions.predicted[clips]
    classes = per_class(labels, predicted, len(predictions.classes))
    scored = predictions.scored[clips]
    likelihoods = labels[scored], predictions.probabilities[clips][scored]
    return {
        "accuracy": accuracy(labels, predicted),
        "balanced_accuracy": float(classes["recall"][np.isin(range(len(predictions.classes)), labels)].mean()),
        "macro_f1": float(classes["f1"].mean()),
        "log_loss": log_loss(*likelihoods) if scored.any() else math.nan,
        "calibration_error": calibration_error(*likelihoods) if scored.any() else math.nan,
        **{
            f"{label}.{name}": float(column[number])
            for name, column in classes.items()
            for number, label in enumerate(predictions.classes)
        },
    }


def _measures(predictions: Predictions, values: dict[str, float], intervals: dict[str, Interval]) -> Measures:
    low, high = _bounds(intervals)
    wilson_low, wilson_high = accuracy_interval(int(predictions.right.sum()), len(predictions.labels))
    return Measures(
        accuracy=values["accuracy"],
        balanced_accuracy=values["balanced_accuracy"],
        macro_f1=values["macro_f1"],
        log_loss=_defined(values["log_loss"]),
        calibration_error=_defined(values["calibration_error"]),
        accuracy_low=wilson_low,
        accuracy_high=wilson_high,
        balanced_accuracy_low=low["balanced_accuracy"],
        balanced_accuracy_high=high["balanced_accuracy"],
        macro_f1_low=low["macro_f1"],
        macro_f1_high=high["macro_f1"],
        log_loss_low=low["log_loss"],
        log_loss_high=high["log_loss"],
        calibration_error_low=low["calibration_error"],
        calibration_error_high=high["calibration_error"],
        accuracy_sources_low=low["accuracy"],
        accuracy_sources_high=high["accuracy"],
        clips=len(predictions.labels),
        scored=int(predictions.scored.sum()),
        quarantined_share=float(1 - predictions.scored.mean()),
    )


def _class_measures(label: str, clips: int, values: dict[str, float], intervals: dict[str, Interval]) -> ClassMeasures:
    low, high = _bounds(intervals)
    return ClassMeasures(
        label=label,
        clips=clips,
        precision=values[f"{label}.precision"],
        recall=values[f"{label}.recall"],
        f1=values[f"{label}.f1"],
        precision_low=low[f"{label}.precision"],
        precision_high=high[f"{label}.precision"],
        recall_low=low[f"{label}.recall"],
        recall_high=high[f"{label}.recall"],
        f1_low=low[f"{label}.f1"],
        f1_high=high[f"{label}.f1"],
    )


def _bounds(intervals: dict[str, Interval]) -> tuple[dict[str, float | None], dict[str, float | None]]:
    """The lower and the upper bounds by measure. Undefined bounds are None."""
    low = {name: _defined(bounds[0]) for name, bounds in intervals.items()}
    return low, {name: _defined(bounds[1]) for name, bounds in intervals.items()}


def _defined(value: float) -> float | None:
    return None if math.isnan(value) else value
