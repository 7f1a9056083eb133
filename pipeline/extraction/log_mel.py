"""The log-mel spectrogram: one definition for training, evaluation and prediction, by either of two front ends."""

from functools import cache

import numpy as np
from numpy.typing import NDArray

from pipeline.common.features import Features
from pipeline.shards.log_mel_units import MIN_POWER

# Slaney's scale (Auditory Toolbox, 1998): 15 mels up to 1 kHz, then 27 for each factor of 6.4.
LINEAR_HZ, LINEAR_MELS = 1000.0, 15.0
MELS_PER_LOG_HZ = 27 / np.log(6.4)


def log_mel(waveform: NDArray[np.float32], features: Features) -> NDArray[np.float32]:
    """Log-mel spectrogram (mel_bins, hops) of a mono waveform in [-1, 1], by `features.front_end`.

    `pipeline.shards.log_mel_units` has the unit of each front end.
    """
    return _librosa(waveform, features) if features.front_end == "librosa" else _kaldi(waveform, features)


def _librosa(waveform: NDArray[np.float32], features: Features) -> NDArray[np.float32]:
    """In dB: (mel_bins, 1 + samples // hop_length).

    Power spectrogram, Hann window, frames centred on multiples of the hop with zeros beyond the ends, Slaney mel scale
    and norm, reference power 1, no clamp relative to the clip's own maximum: the level stays comparable across clips.

    The definition is librosa's (0.11, `feature.melspectrogram` and `power_to_db`), to which the tests and each
    extraction hold this code (`pipeline.extraction.librosa_check`). Importing librosa takes seconds, which a prediction
    would wait for, so it is not called here.
    """
    size, length = features.fft_size, features.window_length
    window = np.zeros(size)
    first = (size - length) // 2
    window[first : first + length] = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(length) / length)
    padded = np.pad(waveform, size // 2)
    frames = np.lib.stride_tricks.sliding_window_view(padded, size)[:: features.hop_length]
    # In float64 up to here and in float32 from here, as in librosa.
    power = np.abs(np.fft.rfft(frames * window).astype(np.complex64)) ** 2
    mels = _slaney_filters(features.sample_rate_hz, size, features.mel_bins) @ power.T
    return 10 * np.log10(np.maximum(MIN_POWER, mels), dtype=np.float32)


@cache
def _slaney_filters(sample_rate_hz: int, fft_size: int, mel_bins: int) -> NDArray[np.float32]:
    """Triangles of equal area up to half the sample rate, evenly spaced in mels: (mel_bins, 1 + fft_size // 2)."""
    highest_hz = sample_rate_hz / 2
    linear_mels = min(highest_hz, LINEAR_HZ) * LINEAR_MELS / LINEAR_HZ
    highest_mels = linear_mels + MELS_PER_LOG_HZ * np.log(max(highest_hz, LINEAR_HZ) / LINEAR_HZ)
    mels = np.linspace(0.0, highest_mels, mel_bins + 2)
    logarithmic = LINEAR_HZ * np.exp((mels - LINEAR_MELS) / MELS_PER_LOG_HZ)
    edges_hz = np.where(mels < LINEAR_MELS, mels * LINEAR_HZ / LINEAR_MELS, logarithmic)
    distances = np.subtract.outer(edges_hz, np.fft.rfftfreq(fft_size, 1 / sample_rate_hz))
    widths = np.diff(edges_hz)[:, None]
    filters = np.maximum(0, np.minimum(-distances[:-2] / widths[:-1], distances[2:] / widths[1:])).astype(np.float32)
    filters *= (2 / (edges_hz[2:] - edges_hz[:-2]))[:, None]
    return filters


def _kaldi(waveform: NDArray[np.float32], features: Features) -> NDArray[np.float32]:
    """Natural logarithms: (mel_bins, 1 + (samples - window_length) // hop_length), no hops for less than one window.

    Hanning window, HTK mel scale from 20 Hz to half the sample rate, no dither, no energy: the settings with which the
    Audio Spectrogram Transformer and AudioMAE were trained (torchaudio 2.11, `compliance.kaldi.fbank`).
    """
    # Imported here, so that with the other front end no extraction process loads torch (half a gigabyte, seconds).
    import torch
    from torchaudio.compliance.kaldi import fbank

    if len(waveform) < features.window_length:
        return np.zeros((features.mel_bins, 0), np.float32)
    # fbank takes milliseconds and rounds down to samples, so each length is given half a sample more.
    ms_per_sample = 1000 / features.sample_rate_hz
    bank = fbank(
        torch.tensor(waveform)[None],  # a copy, because a waveform from the sandbox is read-only
        htk_compat=True,
        sample_frequency=features.sample_rate_hz,
        frame_length=(features.window_length + 0.5) * ms_per_sample,
        frame_shift=(features.hop_length + 0.5) * ms_per_sample,
        use_energy=False,
        window_type="hanning",
        num_mel_bins=features.mel_bins,
        dither=0.0,
    )
    return np.ascontiguousarray(bank.numpy().T)
