"""The picture of a file that was predicted, as one clip or in windows."""

from collections.abc import Sequence

from matplotlib.figure import Figure

from pipeline.models.scoring import ScoredClip, Scorer
from pipeline.results.pictures import class_colors, draw_clip, draw_legend
from pipeline.serving.rows import NoPrediction, Prediction


def draw_file(
    name: str, rows: Sequence[Prediction | NoPrediction], clip: ScoredClip | None, scorer: Scorer
) -> Figure | None:
    """The picture of a file, or None if no row has a prediction.

    `clip` is the clip of the last row, which is drawn if the file was predicted as one clip.
    """
    predictions = [row for row in rows if isinstance(row, Prediction)]
    if not predictions:
        return None
    if clip is not None and predictions[0].start_s is None:
        return draw_clip(clip, scorer)
    return draw_windows(name, predictions)


def draw_windows(name: str, rows: Sequence[Prediction]) -> Figure:
    """The class probabilities of a file's windows, at the middle of each window."""
    middles_s = [(row.start_s + row.end_s) / 2 for row in rows if row.start_s is not None and row.end_s is not None]
    figure = Figure(figsize=(10, 3), layout="constrained")
    axes = figure.subplots()
    classes = list(rows[0].probabilities)
    for label, color in zip(classes, class_colors(len(classes)), strict=True):
        axes.plot(middles_s, [row.probabilities[label] for row in rows], marker=".", color=color, label=label)
    axes.set_title(name, parse_math=False)
    axes.set_xlabel("middle of the window (s)")
    axes.set_ylabel("probability")
    axes.set_ylim(0, 1)
    draw_legend(axes, classes, loc="upper right")
    return figure
