"""A picture of one prediction: what was seen and heard, where the model attended, and what each modality says alone."""

import dataclasses
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from numpy.typing import NDArray
from torch import Tensor

from pipeline.clips.labels import CLASSES
from pipeline.common.config import Features
from pipeline.loading.loader import Batch
from pipeline.models.fusion import AUDIO, VIDEO
from pipeline.models.model import GroupEmotionModel
from pipeline.models.scoring import ScoredClip, probabilities_of

COLORS = ("#3a9d5d", "#8a939c", "#c8553d")  # of the classes


Curve = tuple[NDArray[np.float64], NDArray[np.float64]]  # times in seconds, and a value at each


def attention_over_time(model: GroupEmotionModel, batch: Batch) -> dict[str, Curve]:
    """For each modality of a clip (a batch of one): the times of its tokens in seconds, and their share of attention.

    Shares are means over blocks, heads and queries, summed over places; they add up to less than 1 where attention goes
    to the modality's summary token. Empty for a fusion that does not attend.
    """
    maps: list[Tensor] = []
    with torch.no_grad():
        tokens = model.tokens(batch)
        model.fusion(tokens, maps)
    if not maps:
        return {}
    received = [weights[0].float().mean(dim=(0, 1)).cpu() for weights in maps]  # (keys,) of each block
    if model.fusion.kind == "cross_attention":
        of = {AUDIO: torch.stack(received[0::2]).mean(0), VIDEO: torch.stack(received[1::2]).mean(0)}
    else:
        video_keys = 1 + tokens[VIDEO].values.shape[1:3].numel()
        both = torch.stack(received).mean(0)
        of = {VIDEO: both[:video_keys], AUDIO: both[video_keys:]}
    found = {}
    for name in (VIDEO, AUDIO):
        there = ~tokens[name].padding[0].cpu()
        shares = of[name][1:].view(tokens[name].values.shape[1:3]).sum(dim=1)
        times_s = tokens[name].times_s.expand(tokens[name].padding.shape)[0].cpu()
        found[name] = (times_s[there].double().numpy(), shares[there].double().numpy())
    return found


def one_modality_alone(
    model: GroupEmotionModel, batch: Batch, accelerator: Accelerator
) -> dict[str, NDArray[np.float64]]:
    """Class probabilities when a modality of the clip is hidden: from video alone, and from audio alone."""
    without_sound = dataclasses.replace(batch, mel_frames=torch.zeros_like(batch.mel_frames))
    without_video = dataclasses.replace(batch, has_video=torch.zeros_like(batch.has_video))
    hidden = {VIDEO: without_sound, AUDIO: without_video}
    return {name: probabilities_of(model, each, accelerator)[0] for name, each in hidden.items()}


def explain(clip: ScoredClip, model: GroupEmotionModel, accelerator: Accelerator) -> Figure:
    """The picture of a clip."""
    figure = Figure(figsize=(10, 9), layout="constrained")
    figure.suptitle(f"{clip.name}: {clip.label}, {clip.probabilities.max():.0%}", parse_math=False)
    top, below = figure.subfigures(2, 1, height_ratios=(1, 5), squeeze=False)[:, 0]
    draw_frames(top, clip.batch)
    heights = {"waveform": 1.0} if clip.waveform is not None else {}
    heights |= {"log_mel": 2.0, "attention": 1.5, "answers": 1.5}
    axes = below.subplot_mosaic([[name] for name in heights], height_ratios=list(heights.values()))
    if clip.waveform is not None:
        draw_waveform(axes["waveform"], clip.waveform, model.features)
    draw_log_mel(axes["log_mel"], clip.batch, model.features)
    draw_attention(axes["attention"], attention_over_time(model, clip.batch))
    for name in heights.keys() - {"answers"}:
        axes[name].set_xlim(0, clip.duration_s)
    answers = {"as it is": clip.probabilities}
    if len(model.fusion.used) > 1:
        alone = one_modality_alone(model, clip.batch, accelerator)
        answers |= {f"{name} alone": each for name, each in alone.items()}
    draw_answers(axes["answers"], answers)
    return figure


def timeline(name: str, rows: Iterable[dict[str, Any]]) -> Figure:
    """The picture of a long file: class probabilities at the middles of its windows, which are rows of predictions."""
    windows = [row for row in rows if row["prediction"]]
    times_s = [(row["start_s"] + row["end_s"]) / 2 for row in windows]
    figure = Figure(figsize=(10, 3), layout="constrained")
    axes = figure.subplots()
    for label, color in zip(CLASSES, COLORS, strict=True):
        axes.plot(times_s, [row["probabilities"][label] for row in windows], marker=".", color=color, label=label)
    axes.set_title(name, parse_math=False)
    axes.set_xlabel("middle of the window (s)")
    axes.set_ylabel("probability")
    axes.set_ylim(0, 1)
    axes.legend(fontsize=7, ncols=len(CLASSES), loc="upper right")
    return figure


def draw_frames(figure: SubFigure, batch: Batch) -> None:
    """The frames that the model saw, with their times."""
    pictures, times_s = batch.frames[0].permute(0, 2, 3, 1).cpu(), batch.frame_times_s[0].tolist()
    row = figure.subplots(1, len(pictures), squeeze=False)[0]
    for axes, picture, time_s in zip(row, pictures, times_s, strict=True):
        axes.set_axis_off()
        if batch.has_video[0]:
            axes.imshow(picture.numpy())
            axes.set_title(f"{time_s:.2f} s", fontsize=7, pad=2)


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


def draw_attention(axes: Axes, curves: dict[str, Curve]) -> None:
    """How much attention the tokens of each modality get, over the clip's time."""
    for name, (times_s, shares) in curves.items():
        axes.plot(times_s, shares, marker=".", label=f"to {name}")
    axes.set_ylabel("attention")
    axes.set_ylim(bottom=0)
    axes.set_xlabel("time (s)")
    if curves:
        axes.legend(fontsize=7, loc="upper right")
    else:
        axes.text(0.5, 0.5, "this fusion does not attend", ha="center", va="center", transform=axes.transAxes)


def draw_answers(axes: Axes, answers: dict[str, NDArray[np.float64]]) -> None:
    """A bar for each answer, cut into the classes' probabilities."""
    for row, probabilities in enumerate(answers.values()):
        left = 0.0
        for label, probability, color in zip(CLASSES, probabilities, COLORS, strict=True):
            axes.barh(row, probability, left=left, color=color, label=label if row == 0 else None)
            if probability > 0.08:
                axes.text(
                    left + probability / 2,
                    row,
                    f"{probability:.0%}",
                    ha="center",
                    va="center",
                    color="white",
                    fontsize=8,
                )
            left += probability
    axes.set_yticks(range(len(answers)), list(answers))
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    axes.set_xlabel("probability")
    axes.legend(fontsize=7, ncols=len(CLASSES), loc="lower center", bbox_to_anchor=(0.5, 1.0))
