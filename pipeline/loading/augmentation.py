"""Random changes to a training batch, on its device. Each is drawn per clip and is the same for all its frames."""

from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from pipeline.common.recipe import AugmentationSettings, Features
from pipeline.loading.batch import Batch, to_device
from pipeline.shards.log_mel_units import LEVELS


@dataclass(frozen=True)
class Draws:
    """Random numbers for the `clips` clips of a step; a batch holds the clips at `rows` of the step.

    They are drawn for the whole step, on the CPU, so a clip gets the same numbers on any number of processes and on any
    device.
    """

    generator: torch.Generator
    clips: int
    rows: NDArray[np.int64]
    device: torch.device

    def uniform(self, *shape: int) -> Tensor:
        """In [0, 1): (rows, *shape), on the device."""
        return to_device(torch.rand(self.clips, *shape, generator=self.generator)[self.rows], self.device)

    def around(self, extent: float, *shape: int) -> Tensor:
        """In [-extent, extent): (rows, *shape)."""
        return extent * (2 * self.uniform(*shape) - 1)


def augment(batch: Batch, settings: AugmentationSettings, features: Features, draws: Draws) -> Batch:
    """A changed copy of the batch, with frames and log-mels in float32. All randomness comes from `draws`."""
    batch = _drop_modality(batch, settings, features, draws)
    frames = _jitter_color(_crop_and_flip(batch.frames.float(), settings, draws), settings, draws)
    rolled = _roll(batch.log_mel.float(), batch.mel_frames, settings, features, draws)
    return replace(batch, frames=frames, log_mel=_mask_and_gain(rolled, batch.mel_frames, settings, features, draws))


def _drop_modality(batch: Batch, settings: AugmentationSettings, features: Features, draws: Draws) -> Batch:
    """Hide the video of some clips and the sound of others. No clip loses both, nor the only modality it has."""
    chosen = draws.uniform()
    has_audio = batch.mel_frames > 0
    drop_video = (chosen < settings.drop_video) & has_audio
    drop_audio = (chosen >= 1 - settings.drop_audio) & batch.has_video
    silence = LEVELS[features.front_end].silence
    return replace(
        batch,
        has_video=batch.has_video & ~drop_video,
        log_mel=batch.log_mel.masked_fill(drop_audio[:, None, None], silence),
        mel_frames=batch.mel_frames.masked_fill(drop_audio, 0),
    )


def _crop_and_flip(frames: Tensor, settings: AugmentationSettings, draws: Draws) -> Tensor:
    """Cut a random rectangle of at least `min_crop` of each side, resize it back, and mirror half of the clips."""
    clips, count, channels, height, width = frames.shape
    scale = settings.min_crop + (1 - settings.min_crop) * draws.uniform(2)
    shift = (1 - scale) * draws.around(1.0, 2)
    mirrored = (draws.uniform() < 0.5) & settings.flip
    sign = torch.where(mirrored, -1.0, 1.0)
    nothing = torch.zeros_like(sign)
    columns = [sign * scale[:, 0], nothing, shift[:, 0], nothing, scale[:, 1], shift[:, 1]]
    affine = torch.stack(columns, dim=1).view(clips, 2, 3)
    # All frames of a clip move together, as channels of one picture.
    picture = frames.reshape(clips, count * channels, height, width)
    grid = F.affine_grid(affine, list(picture.shape), align_corners=False)
    return F.grid_sample(picture, grid, padding_mode="reflection", align_corners=False).reshape(frames.shape)


def _jitter_color(frames: Tensor, settings: AugmentationSettings, draws: Draws) -> Tensor:
    """Multiply brightness and contrast of each clip by a factor within 1 +- `color_jitter`."""
    brightness, contrast = (1 + draws.around(settings.color_jitter, 2, 1, 1, 1, 1)).unbind(dim=1)
    mean = frames.mean(dim=(1, 2, 3, 4), keepdim=True)
    return ((frames - mean) * contrast + mean * brightness).clamp(0, 255)


def _roll(
    log_mel: Tensor, mel_frames: Tensor, settings: AugmentationSettings, features: Features, draws: Draws
) -> Tensor:
    """Shift the sound of each clip by up to `roll_s` seconds; what leaves at one end enters at the other."""
    hops_per_s = features.sample_rate_hz / features.hop_length
    shift = draws.around(settings.roll_s * hops_per_s).round().long()
    hop = torch.arange(log_mel.shape[-1], device=log_mel.device)
    length = mel_frames.clamp(min=1)[:, None]
    source = torch.where(hop < mel_frames[:, None], (hop - shift[:, None]) % length, hop)
    return log_mel.gather(2, source[:, None, :].expand_as(log_mel))


def _mask_and_gain(
    log_mel: Tensor, mel_frames: Tensor, settings: AugmentationSettings, features: Features, draws: Draws
) -> Tensor:
    """Change the loudness by up to `gain_db`; mask some bins and some hops (SpecAugment) with the clip's mean."""
    clips, bins, hops = log_mel.shape
    device = log_mel.device
    gain_db = draws.around(settings.gain_db, 1, 1)
    longest = round(settings.mask_time_s * features.sample_rate_hz / features.hop_length)
    in_bins = _random_span(torch.full((clips,), bins, device=device), settings.mask_mel_bins, draws)
    in_hops = _random_span(mel_frames, longest, draws)
    masked = _inside(bins, in_bins)[:, :, None] | _inside(hops, in_hops)[:, None, :]
    sounding = (torch.arange(hops, device=device) < mel_frames[:, None])[:, None, :]
    total = (log_mel * sounding).sum(dim=(1, 2), keepdim=True)
    mean = total / (bins * mel_frames.clamp(min=1))[:, None, None]
    changed = torch.where(masked, mean, log_mel) + gain_db * LEVELS[features.front_end].decibel
    return torch.where(sounding, changed, log_mel)


def _random_span(length: Tensor, longest: int, draws: Draws) -> Tensor:
    """For each clip, start and end of a span of 0 to `longest`, placed at random in 0 .. length: (clips, 2)."""
    size = (draws.uniform() * (longest + 1)).floor()
    start = (draws.uniform() * (length - size + 1).clamp(min=1)).floor()
    return torch.stack([start, start + size], dim=1)


def _inside(length: int, span: Tensor) -> Tensor:
    position = torch.arange(length, device=span.device)
    return (position >= span[:, :1]) & (position < span[:, 1:])
