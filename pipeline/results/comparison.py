"""Several results on the same clips: how much they vary, their vote, and whether two of them differ."""

import io
import math
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.common.errors import UserError
from pipeline.common.metrics import accuracy, accuracy_interval, bootstrap_intervals, mcnemar
from pipeline.common.records import parse_record
from pipeline.results.predictions import Predictions, most_probable_classes, parse_predictions
from pipeline.results.result_files import METRICS_NAME, PREDICTIONS_NAME, Metrics

FOLDER = "results"


@dataclass(frozen=True)
class Result:
    """What `evaluate` wrote of a run: its predictions and metrics."""

    predictions: Predictions
    metrics: Metrics


@dataclass(frozen=True)
class RunAccuracy:
    """A run's accuracy over all clips, and what it comes from (as in `Metrics`)."""

    accuracy: float
    seed: int
    selected_on: str
    label_sha256: str
    code_version: str


@dataclass(frozen=True)
class Vote:
    """Several runs by name, the mean and standard deviation of their accuracies, and the accuracy of their soft vote.

    `soft_vote_low` and `soft_vote_high` are Wilson's 95% interval. `sd` is None for a single run.
    """

    runs: dict[str, RunAccuracy]
    mean: float
    sd: float | None
    soft_vote: float
    soft_vote_low: float
    soft_vote_high: float
    clips: int


@dataclass(frozen=True)
class Comparison:
    """Two runs by name, and by how much the first is more accurate than the second.

    The 95% interval of the difference is over sources; its bounds are None for clips of a single source. `mcnemar_p` is
    the p-value of McNemar's exact test, which takes clips as independent.
    """

    runs: dict[str, RunAccuracy]
    difference: float
    difference_low: float | None
    difference_high: float | None
    only_first_right: int
    only_second_right: int
    mcnemar_p: float
    clips: int


def read_results(names: Iterable[str]) -> dict[str, Result]:
    """Read results by name: the name of a folder, or of an experiment (any revision that DVC knows).

    Raises `UserError` for a name that has no result, and for one that is given twice.
    """
    results: dict[str, Result] = {}
    for name in names:
        if name in results:
            raise UserError(f"{name} is named twice; name each run once")
        predictions = parse_predictions(name, io.StringIO(_read_text(name, PREDICTIONS_NAME)))
        try:
            metrics = parse_record(Metrics, _read_text(name, METRICS_NAME))
        except ValueError as error:
            raise UserError(f"{name} has no {METRICS_NAME} that evaluate wrote ({error}); evaluate again") from None
        results[name] = Result(predictions, metrics)
    return results


def vote(results: Mapping[str, Result]) -> Vote:
    """The soft vote of results by name: the class with the highest mean probability.

    Quarantined clips count as wrong. Raises `UserError` for results on other clips, labels or classes.
    """
    labels = common_labels(results)
    runs = {name: _run_accuracy(result) for name, result in results.items()}
    accuracies = [run.accuracy for run in runs.values()]
    mean_probabilities = np.mean([result.predictions.probabilities for result in results.values()], axis=0)
    elected = most_probable_classes(mean_probabilities)
    low, high = accuracy_interval(int((elected == labels).sum()), len(labels))
    return Vote(
        runs=runs,
        mean=statistics.mean(accuracies),
        sd=statistics.stdev(accuracies) if len(runs) > 1 else None,
        soft_vote=accuracy(labels, elected),
        soft_vote_low=low,
        soft_vote_high=high,
        clips=len(labels),
    )


def compare(results: Mapping[str, Result]) -> Comparison:
    """How two results by name differ; raises `UserError` for results on other clips, labels or classes."""
    labels = common_labels(results)
    first, second = (result.predictions.right for result in results.values())
    sources = next(iter(results.values())).predictions.source_ids
    differences = first.astype(float) - second
    intervals = bootstrap_intervals(lambda clips: {"difference": differences[clips].mean()}, sources)
    low, high = intervals["difference"]
    return Comparison(
        runs={name: _run_accuracy(result) for name, result in results.items()},
        difference=float(differences.mean()),
        difference_low=None if math.isnan(low) else low,
        difference_high=None if math.isnan(high) else high,
        only_first_right=int((first & ~second).sum()),
        only_second_right=int((second & ~first).sum()),
        mcnemar_p=mcnemar(first, second),
        clips=len(labels),
    )


def common_labels(results: Mapping[str, Result]) -> NDArray[np.int64]:
    """The labels (clips,) that all results have for the same clips; raises `UserError` if they differ."""
    (first_name, first), *others = ((name, result.predictions) for name, result in results.items())
    for name, other in others:
        if other.classes != first.classes:
            raise UserError(
                f"{name} has the classes {', '.join(other.classes)}, and {first_name} {', '.join(first.classes)}; "
                "name runs that were evaluated on one data set"
            )
        if other.clip_ids != first.clip_ids or not np.array_equal(other.labels, first.labels):
            raise UserError(
                f"{name} and {first_name} are not about the same clips with the same labels; "
                "name runs that were evaluated on one data set"
            )
    return first.labels


def _run_accuracy(result: Result) -> RunAccuracy:
    predictions, metrics = result.predictions, result.metrics
    return RunAccuracy(
        accuracy=accuracy(predictions.labels, predictions.predicted),
        seed=metrics.seed,
        selected_on=metrics.selected_on,
        label_sha256=metrics.label_sha256,
        code_version=metrics.code_version,
    )


def _read_text(name: str, file: str) -> str:
    """A file of the results folder `name`, or of the results of the experiment `name`."""
    if Path(name).is_dir():
        try:
            return Path(name, file).read_text()
        except FileNotFoundError:
            raise UserError(f"{name} has no {file}; name a folder that evaluate wrote") from None
    import dvc.api
    from dvc.exceptions import DvcException
    from dvc.scm import SCMError

    try:
        text: str = dvc.api.read(f"{FOLDER}/{file}", rev=name)
    except (DvcException, SCMError, FileNotFoundError) as error:
        raise UserError(f"{name} is neither a folder nor an experiment that has {FOLDER}/{file} ({error})") from None
    return text
