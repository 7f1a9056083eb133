"""Random changes to a training batch, on its device, each drawn per clip and the same for all frames of a clip."""

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.config import Augmentation, Features
from pipeline.features import LEVELS
from pipeline.loader import Batch


def augment(batch: Batch, settings: Augmentation, features: Features, generator: torch.Generator) -> Batch:
    """A changed copy of the batch; frames become float. `generator` (on the CPU) decides everything."""
    return Batch(
        clip_ids=batch.clip_ids,
        frames=_jitter_color(_crop_and_flip(batch.frames.float(), settings, generator), settings, generator),
        frame_times_s=batch.frame_times_s,
        log_mel=_mask_and_gain(batch.log_mel, batch.mel_frames, settings, features, generator),
        mel_frames=batch.mel_frames,
        labels=batch.labels,
    )


def _crop_and_flip(frames: Tensor, settings: Augmentation, generator: torch.Generator) -> Tensor:
    """A random rectangle of each clip, of at least `min_crop` of each side, resized back; mirrored half of the time."""
    clips, count, channels, height, width = frames.shape
    scale = settings.min_crop + (1 - settings.min_crop) * torch.rand(clips, 2, generator=generator)
    shift = (1 - scale) * (2 * torch.rand(clips, 2, generator=generator) - 1)
    mirrored = (torch.rand(clips, generator=generator) < 0.5) & settings.flip
    sign = torch.where(mirrored, -1.0, 1.0)
    affine = torch.zeros(clips, 2, 3)
    affine[:, 0, 0], affine[:, 0, 2] = sign * scale[:, 0], shift[:, 0]
    affine[:, 1, 1], affine[:, 1, 2] = scale[:, 1], shift[:, 1]
    # All frames of a clip move together: they are channels of one picture.
    picture = frames.reshape(clips, count * channels, height, width)
    grid = F.affine_grid(affine.to(frames.device), list(picture.shape), align_corners=False)
    return F.grid_sample(picture, grid, padding_mode="reflection", align_corners=False).reshape(frames.shape)


def _jitter_color(frames: Tensor, settings: Augmentation, generator: torch.Generator) -> Tensor:
    """Brightness and contrast of each clip change by a factor of 1 +- `color_jitter`."""
    factors = 1 + settings.color_jitter * (2 * torch.rand(2, len(frames), 1, 1, 1, 1, generator=generator) - 1)
    brightness, contrast = factors.to(frames.device)
    mean = frames.mean(dim=(1, 2, 3, 4), keepdim=True)
    return ((frames - mean) * contrast + mean * brightness).clamp(0, 255)


def _mask_and_gain(
    log_mel: Tensor, mel_frames: Tensor, settings: Augmentation, features: Features, generator: torch.Generator
) -> Tensor:
    """Loudness within +- `gain_db`; one frequency and one time mask (SpecAugment), filled with the clip's mean."""
    clips, bins, hops = log_mel.shape
    device = log_mel.device
    gain_db = settings.gain_db * (2 * torch.rand(clips, 1, 1, generator=generator) - 1)
    longest = round(settings.mask_time_s * features.sample_rate_hz / features.hop_length)
    in_bins = _random_span(clips, torch.full((clips,), bins), settings.mask_mel_bins, generator)
    in_hops = _random_span(clips, mel_frames.cpu(), longest, generator)
    masked = _inside(bins, in_bins)[:, :, None] | _inside(hops, in_hops)[:, None, :]
    sounding = (torch.arange(hops, device=device) < mel_frames[:, None])[:, None, :]
    total = (log_mel * sounding).sum(dim=(1, 2), keepdim=True)
    mean = total / (bins * mel_frames.clamp(min=1))[:, None, None]
    changed = torch.where(masked.to(device), mean, log_mel) + gain_db.to(device) * LEVELS[features.front_end].decibel
    return torch.where(sounding, changed, log_mel)


def _random_span(clips: int, length: Tensor, longest: int, generator: torch.Generator) -> Tensor:
    """Start and end of a span of 0 to `longest`, somewhere in 0 .. length: (clips, 2)."""
    size = (torch.rand(clips, generator=generator) * (longest + 1)).floor()
    start = (torch.rand(clips, generator=generator) * (length - size + 1).clamp(min=1)).floor()
    return torch.stack([start, start + size], dim=1)


def _inside(length: int, span: Tensor) -> Tensor:
    position = torch.arange(length)
    return (position >= span[:, :1]) & (position < span[:, 1:])
