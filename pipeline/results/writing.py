"""Writing a folder of results (`pipeline.results.result_files`): that of one seed, or that of all."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from pipeline.common.config import SEEDS_NAME
from pipeline.common.errors import UserError
from pipeline.common.records import write_record, write_table
from pipeline.results.evaluation import Evaluation
from pipeline.results.predictions import Predictions, write_predictions
from pipeline.results.result_files import (
    CURVES_NAME,
    DEV_PREDICTIONS_NAME,
    METRICS_NAME,
    MISTAKES_NAME,
    PER_CLASS_NAME,
    PER_SOURCE_NAME,
    PREDICTIONS_NAME,
    PROVENANCE_NAME,
    RELIABILITY_NAME,
    STREAM_CURVES_NAME,
    ClassMeasures,
    CurvePoint,
    MeanCurvePoint,
    Metrics,
    ReliabilityBin,
    SourceAccuracy,
    StreamCurvePoint,
    write_class_measures,
    write_mistakes,
)
from pipeline.results.result_measures import reliability_bins, source_accuracies
from pipeline.results.summary import SeedResult, calibrate, mean_or_none, summarize


def check_folder(folder: Path) -> None:
    """Raise `UserError` for a folder that cannot take the result of a run, or in which other files would be lost."""
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--output is {folder}, which is a file; name a folder")
    is_other = folder.is_dir() and any(folder.iterdir()) and not (folder / PROVENANCE_NAME).exists()
    if is_other or folder.resolve().parent.name == SEEDS_NAME:
        raise UserError(
            f"--output is {folder}, which holds other things than a result of evaluate --run; name a new folder"
        )


def write_evaluation(evaluation: Evaluation, folder: Path) -> Metrics:
    """Write the result of one seed; returns its metrics."""
    folder.mkdir(parents=True, exist_ok=True)
    seed, dev = evaluation.seed, evaluation.dev
    calibration = calibrate(evaluation.temperatures, evaluation.scaled)
    result = SeedResult(evaluation.predictions, dev, calibration, evaluation.provenance)
    metrics, classes = summarize({seed: result})
    write_tables({seed: evaluation.predictions}, metrics, classes, folder)
    (folder / DEV_PREDICTIONS_NAME).unlink(missing_ok=True)
    if dev is not None:
        write_predictions({seed: dev}, folder / DEV_PREDICTIONS_NAME)
    write_table(CurvePoint, evaluation.curves, folder / CURVES_NAME)
    write_table(StreamCurvePoint, evaluation.stream_curves, folder / STREAM_CURVES_NAME)
    write_mistakes(evaluation.mistakes, folder / MISTAKES_NAME)
    write_record(evaluation.provenance, folder / PROVENANCE_NAME)
    return metrics


def write_tables(
    predictions: Mapping[int, Predictions], metrics: Metrics, classes: list[ClassMeasures], folder: Path
) -> None:
    """Write what a result of one seed and one of several seeds have in common."""
    every = list(predictions.values())
    write_record(metrics, folder / METRICS_NAME)
    write_predictions(predictions, folder / PREDICTIONS_NAME)
    write_class_measures(classes, folder / PER_CLASS_NAME)
    write_table(SourceAccuracy, source_accuracies(every), folder / PER_SOURCE_NAME)
    write_table(ReliabilityBin, reliability_bins(every), folder / RELIABILITY_NAME)


def mean_curves(points: Iterable[CurvePoint]) -> list[MeanCurvePoint]:
    """The mean of the curves of all seeds and folds, as far as any of them goes."""
    by_epoch: dict[int, list[CurvePoint]] = {}
    for point in points:
        by_epoch.setdefault(point.epoch, []).append(point)
    return [
        MeanCurvePoint(
            epoch=epoch,
            train_loss=sum(point.train_loss for point in group) / len(group),
            selection_accuracy=mean_or_none([point.selection_accuracy for point in group]),
        )
        for epoch, group in sorted(by_epoch.items())
    ]
