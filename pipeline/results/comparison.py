"""Several results on the same clips: how much their seeds vary, their vote, and whether two of them differ."""

import io
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import scipy.stats
from numpy.typing import NDArray

from pipeline.common.config import RESULTS
from pipeline.common.errors import UserError
from pipeline.common.metrics import accuracy_interval, bootstrap_intervals, mcnemar
from pipeline.common.records import parse_record
from pipeline.results.combination import vote_of
from pipeline.results.predictions import Predictions, have_same_clips, parse_predictions
from pipeline.results.result_files import METRICS_NAME, PREDICTIONS_NAME, Metrics
from pipeline.results.result_measures import defined


@dataclass(frozen=True)
class Result:
    """What `evaluate` or `summarize` wrote: the predictions of each seed, and the metrics."""

    predictions: dict[int, Predictions]
    metrics: Metrics


@dataclass(frozen=True)
class ResultAccuracy:
    """The accuracy of a result over all clips, the mean over its seeds, and what it comes from (as in `Metrics`)."""

    accuracy: float
    accuracy_sd: float | None
    seeds: list[int]
    selected_on: str
    label_sha256: str
    code_version: str


@dataclass(frozen=True)
class Vote:
    """Results by name, the mean and standard deviation of the accuracies of all their seeds, and their soft vote.

    `soft_vote_low` and `soft_vote_high` are Wilson's 95% interval. `sd` is None for a single seed.
    """

    runs: dict[str, ResultAccuracy]
    mean: float
    sd: float | None
    soft_vote: float
    soft_vote_low: float
    soft_vote_high: float
    clips: int


@dataclass(frozen=True)
class Comparison:
    """Two results by name, and by how much the first is more accurate than the second, in the mean over seeds.

    The 95% interval of the difference is over sources; its bounds are None for clips of a single source. `seeds_low`
    and `seeds_high` are the interval over seeds that both results have (paired, Student's t), None for fewer than two.
    `mcnemar_p` is the p-value of McNemar's exact test of the soft votes, which takes clips as independent.
    """

    runs: dict[str, ResultAccuracy]
    difference: float
    difference_low: float | None
    difference_high: float | None
    seeds_low: float | None
    seeds_high: float | None
    only_first_right: int
    only_second_right: int
    mcnemar_p: float
    clips: int


def read_results(names: Iterable[str]) -> dict[str, Result]:
    """Read results by name: the name of a folder, or of an experiment (any revision that DVC knows).

    Raises `UserError` for a name that has no result, and for a result that is given twice, whatever its names.
    """
    results: dict[str, Result] = {}
    names_of: dict[tuple[str | bytes, ...], str] = {}  # by the classes and the probabilities of a seed
    for name in names:
        if name in results:
            raise UserError(f"{name} is named twice; name each result once")
        predictions = parse_predictions(name, io.StringIO(_read_text(name, PREDICTIONS_NAME)))
        for each in predictions.values():
            if (first := names_of.setdefault((*each.classes, each.probabilities.tobytes()), name)) != name:
                raise UserError(f"{first} and {name} hold the same predictions; name each result once")
        try:
            metrics = parse_record(Metrics, _read_text(name, METRICS_NAME))
        except ValueError as error:
            raise UserError(f"{name} has no {METRICS_NAME} that this version wrote ({error}); evaluate again") from None
        results[name] = Result(predictions, metrics)
    return results


def vote(results: Mapping[str, Result]) -> Vote:
    """The soft vote of all seeds of results by name: the class with the highest mean probability.

    Quarantined clips count as wrong. Raises `UserError` for results on other clips, labels or classes.
    """
    labels = common_labels(results)
    every = [predictions for result in results.values() for predictions in result.predictions.values()]
    accuracies = [predictions.accuracy for predictions in every]
    elected = vote_of(every).accuracy
    low, high = accuracy_interval(elected, len(labels))
    return Vote(
        runs={name: _accuracy_of(result) for name, result in results.items()},
        mean=statistics.mean(accuracies),
        sd=statistics.stdev(accuracies) if len(every) > 1 else None,
        soft_vote=elected,
        soft_vote_low=low,
        soft_vote_high=high,
        clips=len(labels),
    )


def compare(results: Mapping[str, Result]) -> Comparison:
    """How two results by name differ; raises `UserError` for results on other clips, labels or classes."""
    labels = common_labels(results)
    first, second = (result.predictions for result in results.values())
    shares = [np.mean([each.right for each in seeds.values()], axis=0) for seeds in (first, second)]
    differences = shares[0] - shares[1]  # (clips,), of the shares of seeds that are right
    sources = next(iter(first.values())).source_ids
    intervals = bootstrap_intervals(lambda clips: {"difference": differences[clips].mean()}, sources)
    low, high = intervals["difference"]
    votes = [vote_of(list(seeds.values())).right for seeds in (first, second)]
    paired = [first[seed].right.mean() - second[seed].right.mean() for seed in first if seed in second]
    seeds_low, seeds_high = mean_interval(paired)
    return Comparison(
        runs={name: _accuracy_of(result) for name, result in results.items()},
        difference=float(differences.mean()),
        difference_low=defined(low),
        difference_high=defined(high),
        seeds_low=seeds_low,
        seeds_high=seeds_high,
        only_first_right=int((votes[0] & ~votes[1]).sum()),
        only_second_right=int((votes[1] & ~votes[0]).sum()),
        mcnemar_p=mcnemar(*votes),
        clips=len(labels),
    )


def mean_interval(values: Sequence[float]) -> tuple[float, float] | tuple[None, None]:
    """Student's 95% interval of the mean of values; (None, None) for fewer than two."""
    if len(values) < 2:
        return None, None
    half = float(scipy.stats.t.ppf(0.975, len(values) - 1)) * statistics.stdev(values) / math.sqrt(len(values))
    return statistics.mean(values) - half, statistics.mean(values) + half


def common_labels(results: Mapping[str, Result]) -> NDArray[np.int64]:
    """The labels (clips,) that all results have for the same clips; raises `UserError` if they differ."""
    (first_name, first), *others = (
        (f"seed {seed} of {name}", predictions)
        for name, result in results.items()
        for seed, predictions in result.predictions.items()
    )
    for name, other in others:
        if other.classes != first.classes:
            raise UserError(
                f"{name} has the classes {', '.join(other.classes)}, and {first_name} {', '.join(first.classes)}; "
                "name results on one data set"
            )
        if not have_same_clips(first, other):
            raise UserError(
                f"{name} and {first_name} are not about the same clips with the same labels; "
                "name results on one data set; if they are of one result, evaluate all its seeds again"
            )
    return first.labels


def _accuracy_of(result: Result) -> ResultAccuracy:
    accuracies = [float(predictions.right.mean()) for predictions in result.predictions.values()]
    metrics = result.metrics
    return ResultAccuracy(
        accuracy=statistics.mean(accuracies),
        accuracy_sd=statistics.stdev(accuracies) if len(accuracies) > 1 else None,
        seeds=list(result.predictions),
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
        text: str = dvc.api.read(f"{RESULTS}/{file}", rev=name)
    except (DvcException, SCMError, FileNotFoundError) as error:
        raise UserError(f"{name} is neither a folder nor an experiment that has {RESULTS}/{file} ({error})") from None
    return text
