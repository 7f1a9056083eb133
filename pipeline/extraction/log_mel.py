"""The log-mel spectrogram: one definition for training, evaluation and prediction, by either of two front ends."""

import librosa
import numpy as np
from numpy.typing import NDArray

from pipeline.common.features import Features
from pipeline.shards.log_mel_units import MIN_POWER


def log_mel(waveform: NDArray[np.float32], features: Features) -> NDArray[np.float32]:
    """Log-mel spectrogram (mel_bins, hops) of a mono waveform in [-1, 1], by `features.front_end`.

    `pipeline.shards.log_mel_units` has the unit of each front end.
    """
    return _librosa(waveform, features) if features.front_end == "librosa" else _kaldi(waveform, features)


def _librosa(waveform: NDArray[np.float32], features: Features) -> NDArray[np.float32]:
    """In dB: (mel_bins, 1 + samples // hop_length).

    Power spectrogram, Hann window, frames centred on multiples of the hop with zeros beyond the ends, Slaney mel scale
    and norm, reference power 1, no clamp relative to the clip's own maximum: the level stays comparable across clips.
    librosa's defaults otherwise (librosa 0.11, `feature.melspectrogram`).
    """
    power = librosa.feature.melspectrogram(
        y=waveform,
        sr=features.sample_rate_hz,
        n_fft=features.fft_size,
        win_length=features.window_length,
        hop_length=features.hop_length,
        n_mels=features.mel_bins,
        window="hann",
        center=True,
        pad_mode="constant",
    )
    return np.asarray(librosa.power_to_db(power, ref=1.0, amin=MIN_POWER, top_db=None), dtype=np.float32)


def _kaldi(waveform: NDArray[np.float32], features: Features) -> NDArray[np.float32]:
    """Natural logarithms: (mel_bins, 1 + (samples - window_length) // hop_length), no hops for less than one window.

    Hanning window, HTK mel scale from 20 Hz to half the sample rate, no dither, no energy: the settings with which the
    Audio Spectrogram Transformer and AudioMAE were trained (torchaudio 2.11, `compliance.kaldi.fbank`).
    """
    # Imported here: with the other front end, no extraction process pays for torch (half a gigabyte, seconds).
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
