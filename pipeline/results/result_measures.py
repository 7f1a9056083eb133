"""What is measured of predictions, with 95% intervals."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pipeline.common.metrics import (
    accuracy,
    accuracy_interval,
    bootstrap_intervals,
    brier_score,
    calibration_error,
    log_loss,
    mean_of_defined,
    per_class,
    reliability,
)
from pipeline.results.predictions import Predictions
from pipeline.results.result_files import ClassMeasures, Measures, ReliabilityBin, SourceAccuracy

# A lower and an upper bound.
Interval = tuple[float, float]


def measure(seeds: Sequence[Predictions]) -> tuple[Measures, list[ClassMeasures]]:
    """The measures over all clips, and those of each class in their order, as means over seeds."""
    first = seeds[0]
    values = _means([values_of(predictions) for predictions in seeds])
    intervals = bootstrap_intervals(
        lambda clips: _means([_values(predictions, clips) for predictions in seeds]), first.source_ids
    )
    classes = [
        _class_measures(label, int((first.labels == number).sum()), values, intervals)
        for number, label in enumerate(first.classes)
    ]
    return _measures(first, values, intervals), classes


def deviations(seeds: Sequence[Predictions]) -> dict[str, float | None]:
    """The standard deviation over seeds of each measure, by name; None for a single seed or an undefined measure."""
    every = [values_of(predictions) for predictions in seeds]
    return {
        name: defined(float(np.std([values[name] for values in every], ddof=1))) if len(seeds) > 1 else None
        for name in ("accuracy", "balanced_accuracy", "macro_f1", "log_loss", "brier_score", "calibration_error")
    }


def reliability_bins(seeds: Sequence[Predictions]) -> list[ReliabilityBin]:
    """The bins of the reliability diagram of the scored clips of all seeds, without bins that hold no clip."""
    labels = np.concatenate([each.labels[each.scored] for each in seeds])
    probabilities = np.concatenate([each.probabilities[each.scored] for each in seeds])
    bins = reliability(labels, probabilities)
    columns = (bins[name].tolist() for name in ("confidence", "accuracy", "clips"))
    return [ReliabilityBin(*row) for row in zip(*columns, strict=True)]


def source_accuracies(seeds: Sequence[Predictions]) -> list[SourceAccuracy]:
    """Clips of each source and their accuracy, the mean over seeds, the lowest first.

    Clips cut from one source tend to be right or wrong together.
    """
    sources = np.array(seeds[0].source_ids)
    right = np.mean([each.right for each in seeds], axis=0)
    rows = [
        SourceAccuracy(str(source), int((sources == source).sum()), float(right[sources == source].mean()))
        for source in np.unique(sources)
    ]
    return sorted(rows, key=lambda row: (row.accuracy, row.source_id))


def values_of(predictions: Predictions) -> dict[str, float]:
    """The measures over all clips by name, without intervals, which take seconds. Undefined values are NaN."""
    labels, probabilities = predictions.labels[predictions.scored], predictions.probabilities[predictions.scored]
    return _values(predictions, np.arange(len(predictions.labels))) | {
        "calibration_error": calibration_error(labels, probabilities) if len(labels) else math.nan
    }


def _means(every: Sequence[dict[str, float]]) -> dict[str, float]:
    return {name: mean_of_defined(np.array([values[name] for values in every])) for name in every[0]}


def _values(predictions: Predictions, clips: NDArray[np.int64]) -> dict[str, float]:
    """The measures of some clips that have intervals, those of a class as `class.measure`. Undefined values are NaN."""
    labels, predicted = predictions.labels[clips], predictions.predicted[clips]
    classes = per_class(labels, predicted, len(predictions.classes))
    scored = predictions.scored[clips]
    likelihoods = labels[scored], predictions.probabilities[clips][scored]
    return {
        "accuracy": accuracy(labels, predicted),
        "balanced_accuracy": mean_of_defined(classes["recall"]),
        "macro_f1": mean_of_defined(classes["f1"]),
        "log_loss": log_loss(*likelihoods) if scored.any() else math.nan,
        "brier_score": brier_score(*likelihoods) if scored.any() else math.nan,
        **{
            f"{label}.{name}": float(column[number])
            for name, column in classes.items()
            for number, label in enumerate(predictions.classes)
        },
    }


def _measures(predictions: Predictions, values: dict[str, float], intervals: dict[str, Interval]) -> Measures:
    low, high = _bounds(intervals)
    wilson_low, wilson_high = accuracy_interval(values["accuracy"], len(predictions.labels))
    return Measures(
        accuracy=values["accuracy"],
        balanced_accuracy=values["balanced_accuracy"],
        macro_f1=values["macro_f1"],
        log_loss=defined(values["log_loss"]),
        brier_score=defined(values["brier_score"]),
        calibration_error=defined(values["calibration_error"]),
        accuracy_low=wilson_low,
        accuracy_high=wilson_high,
        balanced_accuracy_low=low["balanced_accuracy"],
        balanced_accuracy_high=high["balanced_accuracy"],
        macro_f1_low=low["macro_f1"],
        macro_f1_high=high["macro_f1"],
        log_loss_low=low["log_loss"],
        log_loss_high=high["log_loss"],
        brier_score_low=low["brier_score"],
        brier_score_high=high["brier_score"],
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
        precision=defined(values[f"{label}.precision"]),
        recall=defined(values[f"{label}.recall"]),
        f1=defined(values[f"{label}.f1"]),
        precision_low=low[f"{label}.precision"],
        precision_high=high[f"{label}.precision"],
        recall_low=low[f"{label}.recall"],
        recall_high=high[f"{label}.recall"],
        f1_low=low[f"{label}.f1"],
        f1_high=high[f"{label}.f1"],
    )


def _bounds(intervals: dict[str, Interval]) -> tuple[dict[str, float | None], dict[str, float | None]]:
    """The lower and the upper bounds by measure. Undefined bounds are None."""
    low = {name: defined(bounds[0]) for name, bounds in intervals.items()}
    return low, {name: defined(bounds[1]) for name, bounds in intervals.items()}


def defined(value: float) -> float | None:
    """The value, or None for NaN."""
    return None if math.isnan(value) else value
