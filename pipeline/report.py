"""One self-contained HTML page of a result: no network, light and dark, readable on a phone."""

import csv
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

from pipeline.errors import UserError
from pipeline.labels import CLASSES
from pipeline.metrics import NOT_SCORED, confusion_matrix, per_class

# Figures are drawn in this colour, which the page replaces by that of its text, so that they follow its theme.
INK = "#123456"
SERIES = ("#2a7fb8", "#d9622b")
TEMPLATE = Path(__file__).with_name("report.html.j2")


def render_report(results: Path, run_folder: Path) -> str:
    """The page, from what `evaluate` wrote to `results` and `train` to `run_folder`."""
    if missing := [path for path in (results / "metrics.json", run_folder / "history.csv") if not path.exists()]:
        raise UserError(f"{missing[0]} is missing; run the train and evaluate stages (dvc repro evaluate)")
    metrics = json.loads((results / "metrics.json").read_text())
    provenance = json.loads((results / "provenance.json").read_text())
    labels, predictions = read_predictions(results / "predictions.csv")
    with (run_folder / "history.csv").open(newline="") as file:
        history = [{key: float(value or "nan") for key, value in row.items()} for row in csv.DictReader(file)]
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    measured = per_class(labels, predictions, len(CLASSES))
    return environment.from_string(TEMPLATE.read_text()).render(
        metrics=metrics,
        run=provenance["run"],
        data=provenance["data"],
        quarantined=provenance["quarantined"],
        classes=[
            {"name": name, "clips": int((labels == i).sum()), **{key: values[i] for key, values in measured.items()}}
            for i, name in enumerate(CLASSES)
        ],
        curves=svg(
            lambda axes: draw_curves(axes, history, metrics["selected_on"], provenance["run"]["selected_epoch"])
        ),
        confusion=svg(lambda axes: draw_confusion(axes, confusion_matrix(labels, predictions, len(CLASSES)))),
    )


def read_predictions(path: Path) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Labels and predictions of a predictions.csv, as indices in `CLASSES`; `NOT_SCORED` for quarantined clips."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    index = {name: i for i, name in enumerate(CLASSES)}
    labels = np.array([index[row["label"]] for row in rows])
    return labels, np.array([index.get(row["prediction"], NOT_SCORED) for row in rows])


def draw_curves(axes: Axes, history: list[dict[str, float]], split: str, chosen_epoch: float) -> None:
    """Training loss and, where there is one, the accuracy that chose the epoch, over the epochs."""
    epochs = [row["epoch"] for row in history]
    axes.plot(epochs, [row["train_loss"] for row in history], color=SERIES[0])
    axes.set_xlabel("epoch")
    axes.locator_params(axis="x", integer=True)
    axes.set_ylabel("training loss (nats)", color=SERIES[0])
    accuracies = [row["selection_accuracy"] for row in history]
    if np.isnan(accuracies).all():
        return
    accuracy_axes = axes.twinx()
    accuracy_axes.plot(epochs, accuracies, color=SERIES[1])
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
