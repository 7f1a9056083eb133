"""One self-contained HTML page of a result: no network, light and dark, readable on a phone."""

import base64
import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jinja2
import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from pipeline.clips.labels import CLASSES
from pipeline.common.errors import UserError
from pipeline.common.metrics import BOOTSTRAP_DRAWS, confusion_matrix
from pipeline.models.runs import HISTORY_NAME
from pipeline.results.model_card import STATEMENTS
from pipeline.results.predictions import parse_predictions
from pipeline.results.tables import (
    METRICS_NAME,
    MISTAKES_NAME,
    PER_CLASS_NAME,
    PER_SOURCE_NAME,
    PREDICTIONS_NAME,
    PROVENANCE_NAME,
    RELIABILITY_NAME,
    clip_of_mistake,
    read_table,
)

# Figures are drawn in this colour, which the page replaces by that of its text, so that they follow its theme.
INK = "#123456"
SERIES = ("#2a7fb8", "#d9622b")
TEMPLATE = Path(__file__).with_name("report.html.j2")
MEASURES = {
    "accuracy": "Accuracy (interval of Wilson, clips independent)",
    "accuracy_sources": "Accuracy (interval over sources)",
    "balanced_accuracy": "Balanced accuracy",
    "macro_f1": "Macro-F1",
    "log_loss": "Log loss (nats)",
    "calibration_error": "Expected calibration error",
}
# Accuracy on VGAF's validation split in percent, as published; by single models and by ensembles alike.
LITERATURE = [
    ("majority class", "about 39", ""),
    ("organisers' baseline, 2019", "52.1", "video; 50.2 with audio"),
    ("hslrock, 2020", "55.2", "two ResNet-18, openSMILE"),
    ("Evtodienko, 2021 (arXiv 2111.05890)", "60.37", "end to end, cross-modal attention: what is reproduced here"),
    ("VGAFNet, 2021", "61.61", "faces, scene, audio"),
    ("Wang et al., 2020", "63.25", "K-injection network"),
    ("Fusical, 2020", "64.0", "four modalities, frozen"),
    ("CLIP B/16, frozen", "68.25", "15 whole frames, no sound"),
    ("Savchenko, 2022", "70.23", "faces"),
    ("Sun et al., 2020", "71.93", "14 models"),
    ("gerhyperg, 2026", "76.21", "mean of five seeds, deviation 1.32; epoch chosen on a part of train"),
    ("Augusma et al., 2023", "79.24", "CLIP L/14 and a mel CNN, cross-attention; winner of EmotiW 2023"),
    ("VE-MD, 2026", "82.25", "the highest that is known"),
]


def render_report(results: Path, run_folder: Path) -> str:
    """The page, from what `evaluate` wrote to `results` and `train` to `run_folder`."""
    if missing := [
        path
        for path in (results / METRICS_NAME, results / MISTAKES_NAME, run_folder / HISTORY_NAME)
        if not path.exists()
    ]:
        raise UserError(f"{missing[0]} is missing; run the train and evaluate stages (dvc repro evaluate)")
    metrics = json.loads((results / METRICS_NAME).read_text())
    provenance = json.loads((results / PROVENANCE_NAME).read_text())
    predictions = parse_predictions(
        str(results / PREDICTIONS_NAME), (results / PREDICTIONS_NAME).read_text().splitlines()
    )
    history = read_table(run_folder / HISTORY_NAME)
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    matrix = confusion_matrix(predictions.labels, predictions.predictions, len(CLASSES))
    return environment.from_string(TEMPLATE.read_text()).render(
        metrics=metrics,
        run=provenance["run"],
        data=provenance["data"],
        clips=provenance["clips"],
        quarantined=provenance["quarantined"],
        statements=STATEMENTS,
        classes=read_table(results / PER_CLASS_NAME),
        sources=read_table(results / PER_SOURCE_NAME),
        mistakes=[data_url(path) for path in sorted((results / MISTAKES_NAME).iterdir())],
        measures=MEASURES,
        literature=LITERATURE,
        bootstrap_draws=BOOTSTRAP_DRAWS,
        curves=svg(
            lambda axes: draw_curves(axes, history, metrics["selected_on"], provenance["run"]["selected_epoch"])
        ),
        confusion=svg(lambda axes: draw_confusion(axes, matrix)),
        reliability=svg(lambda axes: draw_reliability(axes, read_table(results / RELIABILITY_NAME))),
    )


def data_url(picture: Path) -> dict[str, str]:
    """A picture that is part of the page, and the clip that it is of."""
    encoded = base64.b64encode(picture.read_bytes()).decode()
    return {"clip_id": clip_of_mistake(picture), "source": f"data:image/jpeg;base64,{encoded}"}


def draw_curves(axes: Axes, history: list[dict[str, Any]], split: str, chosen_epoch: float) -> None:
    """Training loss and, where there is one, the accuracy that chose the epoch, over the epochs."""
    epochs = [row["epoch"] for row in history]
    axes.plot(epochs, [row["train_loss"] for row in history], color=SERIES[0])
    axes.set_xlabel("epoch")
    axes.locator_params(axis="x", integer=True)
    axes.set_ylabel("training loss (nats)", color=SERIES[0])
    accuracies = [row["selection_accuracy"] for row in history]
    if accuracies == [None] * len(history):
        return
    accuracy_axes = axes.twinx()
    accuracy_axes.plot(epochs, np.array(accuracies, float), color=SERIES[1])  # None becomes NaN, a gap
    accuracy_axes.set_ylabel(f"accuracy on {split}", color=SERIES[1])
    accuracy_axes.set_ylim(0, 1.02)
    axes.axvline(chosen_epoch, color=INK, linewidth=0.8, linestyle=":")
    axes.annotate("chosen", (chosen_epoch, 0.02), (-4, 0), xycoords=("data", "axes fraction"),
                  textcoords="offset points", ha="right", fontsize=8)  # fmt: skip


def draw_confusion(axes: Axes, matrix: NDArray[np.int64]) -> None:
    """Clips by label (row) and prediction (column), shaded by the share of the row."""
    share = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for (row, column), count in np.ndenumerate(matrix):
        color = "white" if share[row, column] > 0.5 else "#102030"
        axes.text(column, row, f"{count}\n{share[row, column]:.0%}", ha="center", va="center", color=color)
    axes.set_xticks(range(len(CLASSES)), CLASSES)
    axes.set_yticks(range(len(CLASSES)), CLASSES, rotation=90, va="center")
    axes.set_xlabel("predicted")
    axes.set_ylabel("label")


def draw_reliability(axes: Axes, bins: list[dict[str, Any]]) -> None:
    """Accuracy over confidence, a dot a bin, its area by the bin's clips; on the diagonal, both are equal."""
    axes.plot([0, 1], [0, 1], color=INK, linewidth=0.8, linestyle=":")
    clips = np.array([row["clips"] for row in bins])
    axes.scatter(
        [row["confidence"] for row in bins],
        [row["accuracy"] for row in bins],
        s=20 + 300 * clips / max(1, clips.sum(initial=0)),
        color=SERIES[0],
        clip_on=False,
        zorder=3,
    )
    axes.set_xlim(1 / len(CLASSES), 1)
    axes.set_ylim(0, 1)
    axes.set_xlabel("confidence")
    axes.set_ylabel("accuracy")


def svg(draw: Callable[[Axes], Any]) -> str:
    """A figure as an SVG element whose ink is the colour of the text around it."""
    style: dict[Any, Any] = {"svg.hashsalt": "report", "svg.fonttype": "none", "font.family": "sans-serif"}
    for key in ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"):
        style[key] = INK
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(5.2, 3.6), layout="constrained")
        draw(figure.subplots())
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    element = buffer.getvalue()[buffer.getvalue().index("<svg") :]
    return re.sub(r'<svg [^>]*viewBox="([^"]*)"[^>]*>', r'<svg viewBox="\1" role="img">', element, count=1).replace(
        INK, "currentColor"
    )
