"""A picture of one prediction: what was seen and heard, where the model attended, and what each modality says alone."""

import dataclasses
import io

import numpy as np
import torch
from accelerate import Accelerator
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from numpy.typing import NDArray
from torch import Tensor

from pipeline.config import Config, Features
from pipeline.fusion import AUDIO, VIDEO
from pipeline.inference import probabilities_of
from pipeline.labels import CLASSES
from pipeline.loader import Batch
from pipeline.model import GroupEmotionModel
from pipeline.prediction import Prediction

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


def explain(prediction: Prediction, model: GroupEmotionModel, config: Config, accelerator: Accelerator) -> bytes:
    """The picture of a prediction, as PNG."""
    figure = Figure(figsize=(10, 9), layout="constrained")
    figure.suptitle(f"{prediction.path.name}: {prediction.label}, {prediction.probabilities.max():.0%}")
    top, below = figure.subfigures(2, 1, height_ratios=(1, 5), squeeze=False)[:, 0]
    draw_frames(top, prediction)
    wave, mel, attention, bars = below.subplots(4, 1, height_ratios=(1, 2, 1.5, 1.5))
    draw_sound(wave, mel, prediction, config.recipe.features)
    draw_attention(attention, attention_over_time(model, prediction.batch))
    for axes in (wave, mel, attention):
        axes.set_xlim(0, prediction.media.duration_s)
    answers = {"as it is": prediction.probabilities}
    if config.recipe.model.fusion not in (VIDEO, AUDIO):
        alone = one_modality_alone(model, prediction.batch, accelerator)
        answers |= {f"{name} alone": each for name, each in alone.items()}
    draw_answers(bars, answers)
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=110)
    return file.getvalue()


def draw_frames(figure: SubFigure, prediction: Prediction) -> None:
    """The frames that the model saw, with their times."""
    pictures, times_s = prediction.batch.frames[0].permute(0, 2, 3, 1).cpu(), prediction.media.frame_times_s
    row = figure.subplots(1, len(pictures), squeeze=False)[0]
    for axes in row:
        axes.set_axis_off()
    for axes, picture, time_s in zip(row, pictures, times_s, strict=False):  # no times: there is no video
        axes.imshow(picture.numpy())
        axes.set_title(f"{time_s:.2f} s", fontsize=7, pad=2)


def draw_sound(wave: Axes, mel: Axes, prediction: Prediction, features: Features) -> None:
    """Waveform and log-mel over the clip's time."""
    wave.set_ylabel("waveform")
    mel.set_ylabel("mel bin")
    waveform, hops = prediction.media.waveform, int(prediction.batch.mel_frames[0])
    if waveform is None:
        wave.text(0.5, 0.5, "no sound", ha="center", va="center", transform=wave.transAxes)
        return
    wave.plot(np.arange(len(waveform)) / features.sample_rate_hz, waveform, linewidth=0.4)
    bank = prediction.batch.log_mel[0, :, :hops].float().cpu().numpy()
    start_s, end_s = (features.hop_time_s(hop) for hop in (-0.5, hops - 0.5))
    mel.imshow(bank, origin="lower", aspect="auto", cmap="magma", extent=(start_s, end_s, -0.5, len(bank) - 0.5))


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
