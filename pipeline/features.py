"""The log-mel spectrogram: one definition for training, evaluation and prediction (P1)."""

import librosa
import numpy as np
from numpy.typing import NDArray

from pipeline.config import Features

# The floor of the power, hence of the decibels: digital silence is -100 dB. The reference power is 1.
MIN_POWER = 1e-10
MIN_DB = -100.0


def log_mel(waveform: NDArray[np.float32], features: Features) -> NDArray[np.float32]:
    """Log-mel spectrogram (mel_bins, 1 + samples // hop_length) of a mono waveform in [-1, 1], in dB.

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
