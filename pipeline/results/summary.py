"""The result of one seed or of several: their measures as means, how they vary, and what they are worth together."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.clips.manifest import VAL
from pipeline.common.config import Config
from pipeline.common.errors import UserError
from pipeline.common.metrics import calibration_error, log_loss
from pipeline.results.combination import measure_combination, vote_of, weights_on_dev
from pipeline.results.literature import is_reproduced
from pipeline.results.predictions import Predictions, have_same_clips, read_predictions
from pipeline.results.result_files import (
    DEV_PREDICTIONS_NAME,
    PREDICTIONS_NAME,
    ClassMeasures,
    Combination,
    Metrics,
    Provenance,
    SeedMeasures,
    read_metrics,
    read_provenance,
)
from pipeline.results.result_measures import defined, deviations, measure, values_of


@dataclass(frozen=True)
class Calibration:
    """The temperature that dev gives, as the mean over folds, and the measures with it; all are None without dev."""

    temperature: float | None
    log_loss_scaled: float | None
    calibration_error_scaled: float | None


@dataclass(frozen=True)
class SeedResult:
    """What one seed predicts of the reported clips and of dev (None without dev), and what that comes from."""

    predictions: Predictions
    dev: Predictions | None
    calibration: Calibration
    provenance: Provenance


def calibrate(temperatures: Sequence[float], scaled: Predictions | None) -> Calibration:
    """The calibration of a seed from the temperatures of its runs and its predictions with them."""
    if scaled is None or not scaled.scored.any():
        return Calibration(None, None, None)
    labels, probabilities = scaled.labels[scaled.scored], scaled.probabilities[scaled.scored]
    return Calibration(
        temperature=statistics.mean(temperatures),
        log_loss_scaled=log_loss(labels, probabilities),
        calibration_error_scaled=calibration_error(labels, probabilities),
    )


def read_seed_result(folder: Path, seed: int) -> SeedResult:
    """Read what `evaluate` wrote of a seed; raises `UserError` if a file is missing, damaged or of another seed."""
    metrics, dev_path = read_metrics(folder, "evaluate"), folder / DEV_PREDICTIONS_NAME

    def read(path: Path) -> Predictions:
        if seed not in (by_seed := read_predictions(path)):
            raise UserError(f"{path} holds no result of seed {seed}; run the evaluate stage (dvc repro -f evaluate)")
        return by_seed[seed]

    return SeedResult(
        predictions=read(folder / PREDICTIONS_NAME),
        dev=read(dev_path) if dev_path.exists() else None,
        calibration=Calibration(metrics.temperature, metrics.log_loss_scaled, metrics.calibration_error_scaled),
        provenance=read_provenance(folder),
    )


def read_seed_results(config: Config) -> dict[int, SeedResult]:
    """Read what `evaluate` wrote of all seeds of the settings.

    Raises `UserError` for a result that was made with other settings, or that is about other clips than the first one.
    """
    results = {seed: read_seed_result(config.results_of(seed), seed) for seed in config.seeds}
    first = results[config.seeds[0]].predictions
    for seed, result in results.items():
        runs = result.provenance.runs
        differing = {
            "data set": result.provenance.dataset != config.dataset.name,
            "recipe": any(run.config.recipe != config.recipe for run in runs),
            "number of folds": [run.run for run in runs] != config.run_ids(seed),
            "list of classes": list(result.predictions.classes) != config.dataset.classes,
        }
        for name, differs in differing.items():
            if differs:
                raise UserError(
                    f"{config.results_of(seed)} was made with another {name} than the settings name; run the evaluate "
                    "stage again (dvc repro -f evaluate)"
                )
        if not have_same_clips(first, result.predictions):
            raise UserError(
                f"the results of the seeds {config.seeds[0]} and {seed} are not about the same clips with the same "
                "labels; run the evaluate stage again (dvc repro -f evaluate)"
            )
    return results


def summarize(
    results: Mapping[int, SeedResult], soup: Combination | None = None
) -> tuple[Metrics, list[ClassMeasures]]:
    """The metrics of a result, by seed: means, deviations, votes, the soup if one was scored; and those of each class.

    The draws of their intervals take seconds, so both come from the same ones.
    """
    every = [result.predictions for result in results.values()]
    measures, classes = measure(every)
    first = next(iter(results.values())).provenance
    spread = deviations(every)
    calibrations = [result.calibration for result in results.values()]
    seeds = [measure_seed(seed, result) for seed, result in results.items()]
    label_files = {(first.data.val if split == VAL else first.data.train).label_sha256 for split in first.reported}
    dev = [result.dev for result in results.values() if result.dev is not None]
    weights = weights_on_dev(dev) if len(dev) == len(every) > 1 else None
    metrics = Metrics(
        **vars(measures),
        accuracy_sd=spread["accuracy"],
        balanced_accuracy_sd=spread["balanced_accuracy"],
        macro_f1_sd=spread["macro_f1"],
        log_loss_sd=spread["log_loss"],
        brier_score_sd=spread["brier_score"],
        calibration_error_sd=spread["calibration_error"],
        temperature=mean_or_none([each.temperature for each in calibrations]),
        log_loss_scaled=mean_or_none([each.log_loss_scaled for each in calibrations]),
        calibration_error_scaled=mean_or_none([each.calibration_error_scaled for each in calibrations]),
        soft_vote=_equal_vote(every) if len(every) > 1 else None,
        weighted_vote=measure_combination(vote_of(every, weights), weights) if weights else None,
        soup=soup,
        seeds=seeds,
        folds=first.folds,
        reproduced=is_reproduced(first, measures.accuracy_high),
        selected_on=first.runs[0].selected_on,
        selection_accuracy=mean_or_none([seed.selection_accuracy for seed in seeds]),
        label_sha256=", ".join(sorted(label_files)),
        code_version=", ".join(sorted({run.code_version for each in results.values() for run in each.provenance.runs})),
    )
    return metrics, classes


def measure_seed(seed: int, result: SeedResult) -> SeedMeasures:
    """The row of one seed among others."""
    values = values_of(result.predictions)
    return SeedMeasures(
        seed=seed,
        accuracy=values["accuracy"],
        macro_f1=values["macro_f1"],
        log_loss=defined(values["log_loss"]),
        selection_accuracy=mean_or_none([run.selection_accuracy for run in result.provenance.runs]),
    )


def mean_or_none(values: Sequence[float | None]) -> float | None:
    """The mean, or None if one of the values is None."""
    known = [value for value in values if value is not None]
    return statistics.mean(known) if len(known) == len(values) else None


def _equal_vote(seeds: Sequence[Predictions]) -> Combination:
    return measure_combination(vote_of(seeds), [1 / len(seeds)] * len(seeds))
