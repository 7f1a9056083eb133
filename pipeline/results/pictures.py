"""The picture of a clip: what the model saw and heard, what it attended to, and what it predicted."""

from collections.abc import Mapping, Sequence
from itertools import accumulate, cycle, islice
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure, SubFigure
from numpy.typing import NDArray

from pipeline.common.features import Features
from pipeline.loading.batch import Batch
from pipeline.models.scoring import ScoredClip, Scorer
from pipeline.results.boxes import draw_box
from pipeline.results.explanation import AttentionCurve, explain

FEW_COLORS = ("#3a9d5d", "#8a939c", "#c8553d")
MANY_COLORS = [to_hex(colormaps["tab20"](number)) for number in (*range(0, 20, 2), *range(1, 20, 2))]
LEGEND_WIDTH = 140  # letters that fit into a row of the legend
LEGEND_GAP = 9  # width in letters of an entry's colour and its margins in the legend
SMALLEST_NAMED_SHARE = 0.08  # a narrower part of a bar has no room for its percentage


def draw_clip(clip: ScoredClip, scorer: Scorer) -> Figure:
    """What the model saw and heard of a clip, what it attended to, and its prediction from each stream alone."""
    features, explanation = scorer.model.features, explain(clip, scorer)
    figure = Figure(figsize=(10, 9), layout="constrained")
    figure.suptitle(f"{clip.name}: {clip.label}, {clip.probabilities.max():.0%}", parse_math=False)
    top, bottom = figure.subfigures(2, 1, height_ratios=(1, 5), squeeze=False)[:, 0]
    draw_frames(top, scorer.model.sampling.view_of(clip.batch, 0), explanation.faces)
    heights = {"waveform": 1.0} if clip.waveform is not None else {}
    heights |= {"log_mel": 2.0, "attention": 1.5, "predictions": 1.5}
    axes = bottom.subplot_mosaic([[name] for name in heights], height_ratios=list(heights.values()))
    if clip.waveform is not None:
        draw_waveform(axes["waveform"], clip.waveform, features)
    draw_log_mel(axes["log_mel"], clip.batch, features)
    draw_attention(axes["attention"], explanation.attention)
    for name in heights.keys() - {"predictions"}:
        axes[name].set_xlim(0, clip.duration_s)
    alone = {f"{name} alone": probabilities for name, probabilities in explanation.alone.items()}
    draw_predictions(axes["predictions"], {"as it is": clip.probabilities, **alone}, clip.labels)
    return figure


def draw_frames(figure: SubFigure, batch: Batch, faces: NDArray[np.float64] | None) -> None:
    """The frames that the model saw, with their times, and boxes around the faces.

    `faces` are the shares of the attention to them (`Explanation`), which stand below the boxes.
    """
    pictures, times_s = batch.frames[0].permute(0, 2, 3, 1).cpu(), batch.frame_times_s[0].tolist()
    row = figure.subplots(1, len(pictures), squeeze=False)[0]
    for number, (axes, picture, time_s) in enumerate(zip(row, pictures, times_s, strict=True)):
        axes.set_axis_off()
        if batch.has_video[0]:
            axes.imshow(picture.numpy())
            axes.set_title(f"{time_s:.2f} s", fontsize=7, pad=2)
        if batch.people is not None:
            for rank in batch.people.present[0, number].nonzero()[:, 0].tolist():
                share = None if faces is None else faces[number, rank]
                draw_box(axes, batch.people.boxes[0, number, rank].tolist(), share)


def draw_waveform(axes: Axes, waveform: NDArray[np.float32], features: Features) -> None:
    """The sound over the clip's time."""
    axes.plot(np.arange(len(waveform)) / features.sample_rate_hz, waveform, linewidth=0.4)
    axes.set_ylabel("waveform")


def draw_log_mel(axes: Axes, batch: Batch, features: Features) -> None:
    """The log-mel spectrogram over the clip's time."""
    axes.set_ylabel("mel bin")
    hops = int(batch.mel_frames[0])
    if hops == 0:
        axes.text(0.5, 0.5, "no sound", ha="center", va="center", transform=axes.transAxes)
        return
    bank = batch.log_mel[0, :, :hops].float().cpu().numpy()
    start_s, end_s = (features.hop_time_s(hop) for hop in (-0.5, hops - 0.5))
    axes.imshow(bank, origin="lower", aspect="auto", cmap="magma", extent=(start_s, end_s, -0.5, len(bank) - 0.5))


def draw_attention(axes: Axes, curves: Mapping[str, AttentionCurve]) -> None:
    """How much attention the tokens of each stream get, over the clip's time."""
    for name, curve in curves.items():
        axes.plot(curve.times_s, curve.shares, marker=".", label=f"to {name}")
    axes.set_ylabel("attention")
    axes.set_ylim(bottom=0)
    axes.set_xlabel("time (s)")
    if curves:
        axes.legend(fontsize=7, loc="upper right")
    else:
        axes.text(0.5, 0.5, "this fusion has no attention", ha="center", va="center", transform=axes.transAxes)


def draw_predictions(axes: Axes, predictions: Mapping[str, NDArray[np.float64]], classes: Sequence[str]) -> None:
    """One bar for each prediction by its name, divided into the probabilities (classes,) of the classes."""
    colors = class_colors(len(classes))
    for row, probabilities in enumerate(predictions.values()):
        starts = [0.0, *accumulate(probabilities[:-1])]
        for label, color, start, width in zip(classes, colors, starts, probabilities, strict=True):
            axes.barh(row, width, left=start, color=color, label=label if row == 0 else None)
            if width > SMALLEST_NAMED_SHARE:
                middle = start + width / 2
                axes.text(middle, row, f"{width:.0%}", ha="center", va="center", color="white", fontsize=8)
    axes.set_yticks(range(len(predictions)), list(predictions))
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    axes.set_xlabel("probability")
    draw_legend(axes, classes, loc="lower center", bbox_to_anchor=(0.5, 1.0))


def class_colors(count: int) -> list[str]:
    """Colours for `count` classes; beyond 20, they repeat."""
    return list(islice(cycle(MANY_COLORS if count > len(FEW_COLORS) else FEW_COLORS), count))


def draw_legend(axes: Axes, classes: Sequence[str], **place: Any) -> None:
    """The legend of what is drawn for the classes, in as many columns as fit; `place` is that of Matplotlib."""
    columns = LEGEND_WIDTH // (max(map(len, classes)) + LEGEND_GAP)
    legend = axes.legend(fontsize=7, ncols=max(1, min(columns, len(classes))), **place)
    for text in legend.get_texts():
        text.set_parse_math(False)
