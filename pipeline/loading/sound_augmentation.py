"""Random changes to the log-mels of a training batch. Their padding stays digital silence."""

import math
from dataclasses import replace

import torch
from torch import Tensor

from pipeline.common.augmentation_settings import AugmentationSettings
from pipeline.common.features import Features
from pipeline.loading.batch import Batch
from pipeline.loading.draws import Draws, inside
from pipeline.shards.log_mel_units import LEVELS


def change_tempo(batch: Batch, settings: AugmentationSettings, features: Features, draws: Draws) -> Batch:
    """Play each clip faster or slower by up to `tempo`, at the same pitch; log-mels are float32.

    Sound and frames stay together. Log-mels become as long as the slowest clip may be, but not longer than a clip of
    `max_duration_s`: what would end after that is cut off.
    """
    if not settings.tempo:
        return batch
    speed = 1 + draws.apart("tempo").around(settings.tempo)[:, None]
    hops = min(math.ceil(batch.log_mel.shape[-1] / (1 - settings.tempo)), features.max_mel_frames)
    last = (batch.mel_frames - 1)[:, None]
    # The middle of Kaldi's first hop is half a window late. With tempo 0.1, ignoring that moves the sound by 1 ms.
    mel_frames = ((last / speed).floor().long() + 1).clamp(0, hops)
    hop = torch.arange(hops, device=speed.device)
    played = _interpolate(batch.log_mel, torch.minimum(hop * speed, last.clamp(min=0)))
    return replace(
        batch,
        frame_times_s=batch.frame_times_s / speed,
        log_mel=played.masked_fill((hop >= mel_frames)[:, None], LEVELS[features.front_end].silence),
        mel_frames=mel_frames[:, 0],
    )


def change_sound(
    log_mel: Tensor, mel_frames: Tensor, settings: AugmentationSettings, features: Features, draws: Draws
) -> Tensor:
    """Change log-mels (B, mel_bins, T), float32, of which `mel_frames` (B,) hops are not padding."""
    log_mel = _roll(log_mel, mel_frames, settings, features, draws)
    log_mel = _add_noise(_shift_pitch(log_mel, settings, draws), mel_frames, settings, features, draws)
    return _mask_and_gain(log_mel, mel_frames, settings, features, draws)


def _roll(
    log_mel: Tensor, mel_frames: Tensor, settings: AugmentationSettings, features: Features, draws: Draws
) -> Tensor:
    """Shift the sound of each clip by up to `roll_s` seconds; what leaves at one end enters at the other."""
    hops_per_s = features.sample_rate_hz / features.hop_length
    shift = draws.around(settings.roll_s * hops_per_s).round().long()
    if not settings.roll_s:
        return log_mel
    hop = torch.arange(log_mel.shape[-1], device=log_mel.device)
    length = mel_frames.clamp(min=1)[:, None]
    source = torch.where(hop < mel_frames[:, None], (hop - shift[:, None]) % length, hop)
    return log_mel.gather(2, source[:, None, :].expand_as(log_mel))


def _shift_pitch(log_mel: Tensor, settings: AugmentationSettings, draws: Draws) -> Tensor:
    """Shift each spectrum along the mel axis by up to `pitch_mel_bins`; the bin at the edge is repeated."""
    if not settings.pitch_mel_bins:
        return log_mel
    bins = log_mel.shape[1]
    shift = draws.apart("pitch").around(settings.pitch_mel_bins, 1)
    position = (torch.arange(bins, device=shift.device) - shift).clamp(0, bins - 1)
    return _interpolate(log_mel.mT, position).mT.contiguous()


def _interpolate(values: Tensor, position: Tensor) -> Tensor:
    """Values (B, C, N) at fractional positions (B, M), from the first to the last of the N: (B, C, M)."""
    before, after = (
        values.gather(2, index.long()[:, None].expand(-1, values.shape[1], -1))
        for index in (position.floor(), position.ceil())
    )
    return before.lerp(after, position.frac()[:, None])


def _add_noise(
    log_mel: Tensor, mel_frames: Tensor, settings: AugmentationSettings, features: Features, draws: Draws
) -> Tensor:
    """Add Gaussian noise to each clip, with a deviation of up to `noise_db`."""
    if not settings.noise_db:
        return log_mel
    draws = draws.apart("noise")
    deviation = settings.noise_db * LEVELS[features.front_end].decibel * draws.uniform(1, 1)
    noisy = log_mel + deviation * draws.normal(*log_mel.shape[1:])
    return torch.where(_sounding(log_mel, mel_frames), noisy, log_mel)


def _mask_and_gain(
    log_mel: Tensor, mel_frames: Tensor, settings: AugmentationSettings, features: Features, draws: Draws
) -> Tensor:
    """Change the loudness by up to `gain_db`; mask some bins and some hops (SpecAugment) with the clip's mean."""
    clips, bins, hops = log_mel.shape
    gain_db = draws.around(settings.gain_db, 1, 1)
    longest = round(settings.mask_time_s * features.sample_rate_hz / features.hop_length)
    in_bins = _random_span(torch.full((clips,), bins, device=log_mel.device), settings.mask_mel_bins, draws)
    in_hops = _random_span(mel_frames, longest, draws)
    if not (settings.gain_db or settings.mask_mel_bins or longest):
        return log_mel
    masked = inside(bins, in_bins)[:, :, None] | inside(hops, in_hops)[:, None, :]
    sounding = _sounding(log_mel, mel_frames)
    total = (log_mel * sounding).sum(dim=(1, 2), keepdim=True)
    mean = total / (bins * mel_frames.clamp(min=1))[:, None, None]
    changed = torch.where(masked, mean, log_mel) + gain_db * LEVELS[features.front_end].decibel
    return torch.where(sounding, changed, log_mel)


def _sounding(log_mel: Tensor, mel_frames: Tensor) -> Tensor:
    """Which hops are not padding: (B, 1, T)."""
    return (torch.arange(log_mel.shape[-1], device=log_mel.device) < mel_frames[:, None])[:, None, :]


def _random_span(length: Tensor, longest: int, draws: Draws) -> Tensor:
    """For each clip, start and end of a span of 0 to `longest`, placed at random in 0 .. length: (clips, 2)."""
    size = (draws.uniform() * (longest + 1)).floor()
    start = (draws.uniform() * (length - size + 1).clamp(min=1)).floor()
    return torch.stack([start, start + size], dim=1)
