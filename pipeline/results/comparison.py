"""Several runs on the same clips: how much they vary, what they say together, and whether two of them differ."""

import io
import json
import math
import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.common.errors import UserError
from pipeline.common.metrics import NOT_SCORED, accuracy, accuracy_interval, bootstrap_intervals, mcnemar
from pipeline.results.predictions import Predictions, parse_predictions
from pipeline.results.tables import METRICS_NAME, PREDICTIONS_NAME

FOLDER = "results"
STATED = ("seed", "selected_on", "label_sha256", "code_version")


@dataclass(frozen=True)
class Result:
    """What `evaluate` wrote of a run: its predictions, and what they come from."""

    predictions: Predictions
    provenance: dict[str, Any]


def read_results(names: Iterable[str]) -> dict[str, Result]:
    """Results by the names that were asked for: folders of them, or experiments (any revision that DVC knows)."""
    results: dict[str, Result] = {}
    for name in names:
        if name in results:
            raise UserError(f"{name} is named twice; each run counts once")
        predictions = parse_predictions(name, io.StringIO(_read(name, PREDICTIONS_NAME)))
        try:
            metrics = json.loads(_read(name, METRICS_NAME))
            results[name] = Result(predictions, {key: metrics[key] for key in STATED})
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{name} has no {METRICS_NAME} that evaluate wrote ({error!r})") from None
    return results


def vote(runs: dict[str, Result]) -> dict[str, Any]:
    """Each run's accuracy, their mean and deviation, and the soft vote's (the mean of the probabilities).

    Over all clips, quarantined ones counting as wrong. Raises `UserError` for runs on other clips or labels.
    """
    labels = common_labels(runs)
    described = stated(runs)
    accuracies = [run["accuracy"] for run in described.values()]
    together = classes_of(np.mean([run.predictions.probabilities for run in runs.values()], axis=0))
    low, high = accuracy_interval(int((together == labels).sum()), len(labels))
    return {
        "runs": described,
        "mean": statistics.mean(accuracies),
        "sd": statistics.stdev(accuracies) if len(runs) > 1 else None,
        "soft_vote": accuracy(labels, together),
        "soft_vote_low": low,
        "soft_vote_high": high,
        "clips": len(labels),
    }


def compare(runs: dict[str, Result]) -> dict[str, Any]:
    """How much more accurate the first of two runs is than the second, and whether that could be chance.

    McNemar's exact test takes the clips as independent; the interval of the difference does not: it is over sources.
    """
    labels = common_labels(runs)
    first, second = (labels == run.predictions.predictions for run in runs.values())
    sources = next(iter(runs.values())).predictions.source_ids
    differences = first.astype(float) - second
    intervals = bootstrap_intervals(lambda clips: {"difference": differences[clips].mean()}, sources)
    low, high = intervals["difference"]
    return {
        "runs": stated(runs),
        "difference": float(differences.mean()),
        "difference_low": None if math.isnan(low) else low,
        "difference_high": None if math.isnan(high) else high,
        "only_first_right": int((first & ~second).sum()),
        "only_second_right": int((second & ~first).sum()),
        "mcnemar_p": mcnemar(first, second),
        "clips": len(labels),
    }


def stated(runs: dict[str, Result]) -> dict[str, dict[str, Any]]:
    """Each run's accuracy and what it comes from."""
    return {
        name: {"accuracy": accuracy(run.predictions.labels, run.predictions.predictions), **run.provenance}
        for name, run in runs.items()
    }


def common_labels(runs: dict[str, Result]) -> NDArray[np.int64]:
    """The labels that all runs have for the same clips; raises `UserError` where they do not."""
    (first_name, first), *others = ((name, run.predictions) for name, run in runs.items())
    for name, run in others:
        if run.clip_ids != first.clip_ids or not np.array_equal(run.labels, first.labels):
            raise UserError(f"{name} and {first_name} are not about the same clips with the same labels")
    return first.labels


def classes_of(probabilities: NDArray[np.float64]) -> NDArray[np.int64]:
    """The most probable class of each clip, `NOT_SCORED` for a quarantined one: (clips,)."""
    unscored = np.isnan(probabilities).any(axis=1)
    return np.where(unscored, NOT_SCORED, np.nan_to_num(probabilities).argmax(axis=1))


def _read(name: str, file: str) -> str:
    """A file of the results of that name."""
    if Path(name).is_dir():
        try:
            return Path(name, file).read_text()
        except FileNotFoundError:
            raise UserError(f"{name} has no {file}; expected a folder that evaluate wrote") from None
    import dvc.api
    from dvc.exceptions import DvcException
    from dvc.scm import SCMError

    try:
        text: str = dvc.api.read(f"{FOLDER}/{file}", rev=name)
    except (DvcException, SCMError, FileNotFoundError) as error:
        raise UserError(f"{name} is neither a folder nor an experiment that has {FOLDER}/{file} ({error})") from None
    return text
