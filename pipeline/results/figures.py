"""The figures of the report, as SVG: curves of the training, confusion matrix, reliability diagram."""

import io
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from pipeline.common.config import RunId
from pipeline.results.result_files import CurvePoint, ReliabilityBin, StreamCurvePoint

# Figures are drawn in this colour, which the page replaces by that of its text, so that they follow its theme.
INK = "#123456"
# Legible on a light and a dark page, and told apart by those who see no red or no green: after Okabe and Ito.
SERIES_COLORS = ("#2a7fb8", "#d9622b", "#009e73", "#b8559b")
AXIS_LETTERS = 33  # letters that fit along an axis of the confusion matrix
NAME_LETTERS = 20  # letters of a name that the axes show; a longer name is cut off


def draw_curves(axes: Axes, points: Sequence[CurvePoint], selected_on: str, chosen: Mapping[RunId, int]) -> None:
    """The training loss and, if epochs were scored, the accuracy on the split `selected_on`, over the epochs.

    Each run has a line, and a dot at its chosen epoch, which `chosen` names; the lines of several runs are thin.
    """
    runs: dict[RunId, list[CurvePoint]] = {}
    for point in points:
        runs.setdefault(RunId(point.seed, point.fold), []).append(point)
    is_scored = any(point.selection_accuracy is not None for point in points)
    accuracy_axes = axes.twinx() if is_scored else None
    style: dict[str, Any] = {"linewidth": 1.5 if len(runs) == 1 else 0.8, "alpha": 1.0 if len(runs) == 1 else 0.7}
    for run_id, run in runs.items():
        epochs, best = [point.epoch for point in run], chosen[run_id] - 1
        axes.plot(epochs, [point.train_loss for point in run], color=SERIES_COLORS[0], marker=_dot(run), **style)
        if accuracy_axes:
            accuracies = np.array([point.selection_accuracy for point in run], float)  # None becomes NaN, a gap
            accuracy_axes.plot(epochs, accuracies, color=SERIES_COLORS[1], marker="o", markevery=[best], **style)
    axes.set_xlabel("epoch")
    axes.locator_params(axis="x", integer=True)
    axes.set_ylabel("training loss (nats)", color=SERIES_COLORS[0])
    if accuracy_axes:
        accuracy_axes.set_ylabel(f"accuracy on {selected_on}", color=SERIES_COLORS[1])
        accuracy_axes.set_ylim(0, 1.02)


def _dot(points: Sequence[object]) -> str | None:
    """The marker of a line: a single point has no line that could be seen."""
    return "o" if len(points) == 1 else None


def draw_stream_accuracies(axes: Axes, points: Sequence[StreamCurvePoint], classes: int) -> None:
    """The training accuracy of each stream alone over the epochs, a line for each run, and chance as a dotted line."""
    _draw_streams(axes, points, lambda point: point.train_accuracy)
    axes.axhline(1 / classes, color=INK, linewidth=0.8, linestyle=":")
    axes.set_ylabel("training accuracy alone")
    axes.set_ylim(0, 1.02)


def draw_gradient_norms(axes: Axes, points: Sequence[StreamCurvePoint]) -> None:
    """The norm of the gradient of each stream's network over the epochs, a line for each run."""
    # A logarithm has no place for the 0 of a network that is frozen or dead, so its line ends there.
    _draw_streams(axes, points, lambda point: point.gradient_norm or None)
    axes.set_yscale("log")
    axes.set_ylabel("gradient norm")


def _draw_streams(
    axes: Axes, points: Sequence[StreamCurvePoint], value_of: Callable[[StreamCurvePoint], float | None]
) -> None:
    names = list(dict.fromkeys(point.stream for point in points))
    lines: dict[tuple[str, RunId], list[StreamCurvePoint]] = {}
    for point in points:
        lines.setdefault((point.stream, RunId(point.seed, point.fold)), []).append(point)
    width = 1.5 if len(lines) == len(names) else 0.8
    drawn: dict[str, Any] = {}
    for (name, _), line in lines.items():
        values = np.array([value_of(point) for point in line], float)  # None becomes NaN, a gap
        color = SERIES_COLORS[names.index(name) % len(SERIES_COLORS)]
        (drawn[name],) = axes.plot(
            [point.epoch for point in line], values, color=color, linewidth=width, marker=_dot(line)
        )
    axes.set_xlabel("epoch")
    axes.locator_params(axis="x", integer=True)
    axes.legend(drawn.values(), drawn, frameon=False, labelcolor=INK)


def draw_confusion(axes: Axes, matrix: NDArray[np.int64], classes: Sequence[str]) -> None:
    """The number of clips by label (row) and prediction (column), shaded by its share of the row."""
    names = [name if len(name) <= NAME_LETTERS else f"{name[: NAME_LETTERS - 1]}…" for name in classes]
    fits_along = len(names) * max(map(len, names)) <= AXIS_LETTERS
    size = min(10, 60 / len(names))
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for (row, column), count in np.ndenumerate(matrix):
        color = "white" if shares[row, column] > 0.5 else "#102030"
        text = f"{count}\n{shares[row, column]:.0%}"
        axes.text(column, row, text, ha="center", va="center", color=color, fontsize=size)
    axes.set_xticks(range(len(names)), names, fontsize=size, rotation=0 if fits_along else 90)
    axes.set_yticks(range(len(names)), names, fontsize=size, rotation=90 if fits_along else 0, va="center")
    axes.set_xlabel("predicted")
    axes.set_ylabel("label")


def draw_reliability(axes: Axes, bins: Sequence[ReliabilityBin], classes: int) -> None:
    """Accuracy over confidence; `classes` is the number of classes, so no confidence is below 1 / `classes`.

    Each bin has a dot whose area grows with its clips. On the diagonal, accuracy and confidence are equal.
    """
    axes.plot([0, 1], [0, 1], color=INK, linewidth=0.8, linestyle=":")
    clips = np.array([each.clips for each in bins])
    axes.scatter(
        [each.confidence for each in bins],
        [each.accuracy for each in bins],
        s=20 + 300 * clips / max(1, clips.sum(initial=0)),
        color=SERIES_COLORS[0],
        clip_on=False,
        zorder=3,
    )
    axes.set_xlim(1 / classes, 1)
    axes.set_ylim(0, 1)
    axes.set_xlabel("confidence")
    axes.set_ylabel("accuracy")


def svg(draw: Callable[[Axes], None]) -> str:
    """What `draw` draws, as an SVG element whose ink is the colour of the text around it."""
    style: dict[Any, Any] = {"svg.hashsalt": "report", "svg.fonttype": "none", "font.family": "sans-serif"}
    style["text.parse_math"] = False  # a class may have any name
    for key in ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"):
        style[key] = INK
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(5.2, 3.6), layout="constrained")
        draw(figure.subplots())
        file = io.StringIO()
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    document = file.getvalue()
    element = document[document.index("<svg") :]
    scalable = re.sub(r'<svg [^>]*viewBox="([^"]*)"[^>]*>', r'<svg viewBox="\1" role="img">', element, count=1)
    return scalable.replace(INK, "currentColor")
