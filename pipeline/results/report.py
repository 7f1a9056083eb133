"""One self-contained HTML page of a result: it needs no network, and it fits a phone and a dark theme.

It is made from records alone, so it imports no network.
"""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2
import numpy as np

from pipeline.clips.manifest import TRAIN, VAL
from pipeline.common.config import SEEDS_NAME
from pipeline.common.errors import UserError
from pipeline.common.metrics import BOOTSTRAP_DRAWS, confusion_matrix
from pipeline.models.run_record import without_folders
from pipeline.results.figures import (
    draw_confusion,
    draw_curves,
    draw_gradient_norms,
    draw_reliability,
    draw_stream_accuracies,
    svg,
)
from pipeline.results.literature import PAPER_ACCURACY, PUBLISHED_RESULTS
from pipeline.results.model_card import statements_of
from pipeline.results.predictions import read_predictions
from pipeline.results.result_files import (
    PREDICTIONS_NAME,
    Combination,
    Metrics,
    read_class_measures,
    read_curves,
    read_metrics,
    read_mistakes,
    read_provenance,
    read_reliability,
    read_source_accuracies,
    read_stream_curves,
)

TEMPLATE = Path(__file__).with_name("report.html.j2")


@dataclass(frozen=True)
class MeasureRow:
    """A row of the table of measures. Undefined values are None."""

    name: str
    value: float | None
    low: float | None
    high: float | None
    sd: float | None = None


@dataclass(frozen=True)
class CombinationRow:
    """A row of the table of combinations of the seeds."""

    name: str
    combination: Combination


@dataclass(frozen=True)
class MistakePicture:
    """The picture of a mistake, as a data URL, which is part of the page."""

    clip_id: str
    url: str


def read_metrics_of(results: Path, seeds: Sequence[int]) -> Metrics:
    """The metrics of a result; raises `UserError` if it is of other seeds."""
    metrics = read_metrics(results)
    if (scored := [row.seed for row in metrics.seeds]) != list(seeds):
        raise UserError(f"{results} holds the seeds {scored}, and the settings name {list(seeds)}; run summarize again")
    return metrics


def render_report(results: Path, seeds: Sequence[int]) -> str:
    """The page, from what `summarize` wrote to `results`, and `evaluate` to the folder of each seed in it.

    It names no folder of this machine (`without_folders`), so it can be given away.

    Raises `UserError` if a file is missing or damaged, or if the result is of other seeds.
    """
    metrics, bins = read_metrics_of(results, seeds), read_reliability(results)
    folders = {seed: results / SEEDS_NAME / str(seed) for seed in seeds}
    provenances = {seed: read_provenance(folder) for seed, folder in folders.items()}
    runs = [without_folders(run) for each in provenances.values() for run in each.runs]
    provenance, mistakes = provenances[seeds[0]], read_mistakes(folders[seeds[0]])
    points = [point for folder in folders.values() for point in read_curves(folder)]
    streams = [point for folder in folders.values() for point in read_stream_curves(folder)]
    chosen = {run.run: run.selected_epoch for run in runs}
    every = list(read_predictions(results / PREDICTIONS_NAME).values())
    classes = every[0].classes
    matrix = np.sum([confusion_matrix(each.labels, each.predicted, len(classes)) for each in every], axis=0)
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    return environment.from_string(TEMPLATE.read_text()).render(
        metrics=metrics,
        run=runs[0],
        runs=runs,
        provenance=provenance,
        summaries={TRAIN: provenance.data.train, VAL: provenance.data.val},
        statements=statements_of(classes, runs[0].config.recipe.model.taken),
        classes=read_class_measures(results),
        sources=read_source_accuracies(results),
        mistakes=[as_data_url(clip_id, picture) for clip_id, picture in mistakes.items()],
        measures=measure_rows(metrics),
        combinations=combination_rows(metrics),
        published=PUBLISHED_RESULTS,
        paper=f"{100 * PAPER_ACCURACY:.2f}",
        bootstrap_draws=BOOTSTRAP_DRAWS,
        curves=svg(lambda axes: draw_curves(axes, points, metrics.selected_on, chosen)),
        streams=svg(lambda axes: draw_stream_accuracies(axes, streams, len(classes))) if streams else None,
        gradients=svg(lambda axes: draw_gradient_norms(axes, streams)) if streams else None,
        confusion=svg(lambda axes: draw_confusion(axes, matrix, classes)),
        reliability=svg(lambda axes: draw_reliability(axes, bins, len(classes))),
    )


def combination_rows(metrics: Metrics) -> list[CombinationRow]:
    """The table of the combinations of the seeds."""
    combinations = {
        "Vote, equal weights": metrics.soft_vote,
        "Vote, weights chosen on dev": metrics.weighted_vote,
        "Soup of models chosen on dev": metrics.soup,
    }
    return [CombinationRow(name, combination) for name, combination in combinations.items() if combination]


def measure_rows(metrics: Metrics) -> list[MeasureRow]:
    """The table of measures."""
    return [
        MeasureRow(
            "Accuracy (Wilson's interval, clips independent)",
            metrics.accuracy,
            metrics.accuracy_low,
            metrics.accuracy_high,
            metrics.accuracy_sd,
        ),
        MeasureRow(
            "Accuracy (interval over sources)",
            metrics.accuracy,
            metrics.accuracy_sources_low,
            metrics.accuracy_sources_high,
            metrics.accuracy_sd,
        ),
        MeasureRow(
            "Balanced accuracy",
            metrics.balanced_accuracy,
            metrics.balanced_accuracy_low,
            metrics.balanced_accuracy_high,
            metrics.balanced_accuracy_sd,
        ),
        MeasureRow("Macro-F1", metrics.macro_f1, metrics.macro_f1_low, metrics.macro_f1_high, metrics.macro_f1_sd),
        MeasureRow(
            "Log loss (nats)", metrics.log_loss, metrics.log_loss_low, metrics.log_loss_high, metrics.log_loss_sd
        ),
        MeasureRow(
            "Brier score",
            metrics.brier_score,
            metrics.brier_score_low,
            metrics.brier_score_high,
            metrics.brier_score_sd,
        ),
        MeasureRow("Expected calibration error", metrics.calibration_error, None, None, metrics.calibration_error_sd),
        MeasureRow("Log loss, with the temperature that dev gives", metrics.log_loss_scaled, None, None),
        MeasureRow("Calibration error, with that temperature", metrics.calibration_error_scaled, None, None),
    ]


def as_data_url(clip_id: str, picture: bytes) -> MistakePicture:
    """A JPEG picture as part of the page."""
    return MistakePicture(clip_id, f"data:image/jpeg;base64,{base64.b64encode(picture).decode()}")
