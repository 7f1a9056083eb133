"""One self-contained HTML page of a result: it needs no network, and it fits a phone and a dark theme.

It is made from records alone, so it imports no network.
"""

import base64
from dataclasses import dataclass
from pathlib import Path

import jinja2

from pipeline.clips.manifest import TRAIN, VAL
from pipeline.common.metrics import BOOTSTRAP_DRAWS, confusion_matrix
from pipeline.models.run_record import read_history
from pipeline.results.figures import draw_confusion, draw_curves, draw_reliability, svg
from pipeline.results.literature import PAPER_ACCURACY, PUBLISHED_RESULTS
from pipeline.results.model_card import statements_of
from pipeline.results.predictions import parse_predictions
from pipeline.results.result_files import (
    PREDICTIONS_NAME,
    Metrics,
    read_class_measures,
    read_metrics,
    read_mistakes,
    read_provenance,
    read_reliability,
    read_source_accuracies,
)

TEMPLATE = Path(__file__).with_name("report.html.j2")


@dataclass(frozen=True)
class MeasureRow:
    """A row of the table of measures. Undefined values are None."""

    name: str
    value: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class MistakePicture:
    """The picture of a mistake, as a data URL, which is part of the page."""

    clip_id: str
    url: str


def render_report(results: Path, run_folder: Path) -> str:
    """The page, from what `evaluate` wrote to `results` and `train` to `run_folder`.

    Raises `UserError` if a file is missing or damaged.
    """
    metrics, provenance, mistakes = read_metrics(results), read_provenance(results), read_mistakes(results)
    history, bins = read_history(run_folder), read_reliability(results)
    path = results / PREDICTIONS_NAME
    predictions = parse_predictions(str(path), path.read_text().splitlines())
    matrix = confusion_matrix(predictions.labels, predictions.predicted, len(predictions.classes))
    selected_epoch = provenance.run.selected_epoch
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    return environment.from_string(TEMPLATE.read_text()).render(
        metrics=metrics,
        run=provenance.run,
        summaries={TRAIN: provenance.data.train, VAL: provenance.data.val},
        sources_in_both=provenance.data.sources_in_both,
        cards=provenance.clips,
        quarantined=provenance.quarantined,
        statements=statements_of(predictions.classes),
        classes=read_class_measures(results),
        sources=read_source_accuracies(results),
        mistakes=[as_data_url(clip_id, picture) for clip_id, picture in mistakes.items()],
        measures=measure_rows(metrics),
        published=PUBLISHED_RESULTS,
        paper=f"{100 * PAPER_ACCURACY:.2f}",
        bootstrap_draws=BOOTSTRAP_DRAWS,
        curves=svg(lambda axes: draw_curves(axes, history, metrics.selected_on, selected_epoch)),
        confusion=svg(lambda axes: draw_confusion(axes, matrix, predictions.classes)),
        reliability=svg(lambda axes: draw_reliability(axes, bins, len(predictions.classes))),
    )


def measure_rows(metrics: Metrics) -> list[MeasureRow]:
    """The table of measures."""
    return [
        MeasureRow(
            "Accuracy (Wilson's interval, clips independent)",
            metrics.accuracy,
            metrics.accuracy_low,
            metrics.accuracy_high,
        ),
        MeasureRow(
            "Accuracy (interval over sources)",
            metrics.accuracy,
            metrics.accuracy_sources_low,
            metrics.accuracy_sources_high,
        ),
        MeasureRow(
            "Balanced accuracy",
            metrics.balanced_accuracy,
            metrics.balanced_accuracy_low,
            metrics.balanced_accuracy_high,
        ),
        MeasureRow("Macro-F1", metrics.macro_f1, metrics.macro_f1_low, metrics.macro_f1_high),
        MeasureRow("Log loss (nats)", metrics.log_loss, metrics.log_loss_low, metrics.log_loss_high),
        MeasureRow(
            "Expected calibration error",
            metrics.calibration_error,
            metrics.calibration_error_low,
            metrics.calibration_error_high,
        ),
    ]


def as_data_url(clip_id: str, picture: bytes) -> MistakePicture:
    """A JPEG picture as part of the page."""
    return MistakePicture(clip_id, f"data:image/jpeg;base64,{base64.b64encode(picture).decode()}")
