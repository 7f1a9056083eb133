"""A comparison of this project's log-mel with librosa's, before an extraction writes any.

NumPy's FFT and logarithm differ between versions and processors. The machine that starts the extraction is checked;
workers of a Dask cluster are not.
"""

from importlib.metadata import version

import librosa
import numpy as np
from numpy.typing import NDArray

from pipeline.common.features import Features
from pipeline.extraction.log_mel import log_mel
from pipeline.shards.log_mel_units import MIN_POWER

# Stored values are float16, whose steps at -40 dB are thirty times as large.
MOST_DB = 1e-3


def librosa_log_mel(waveform: NDArray[np.float32], features: Features) -> NDArray[np.float32]:
    """The log-mel that librosa computes of a waveform (samples,): (mel_bins, hops), in dB."""
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
    return np.asarray(librosa.power_to_db(power, ref=1.0, amin=MIN_POWER, top_db=None), np.float32)


def check_log_mel(features: Features) -> None:
    """Compare both on a second of noise; raises `AssertionError` if a value differs by more than `MOST_DB`."""
    noise = np.random.default_rng(0).normal(0, 0.1, features.sample_rate_hz).astype(np.float32)
    difference_db = float(np.abs(log_mel(noise, features) - librosa_log_mel(noise, features)).max())
    if not difference_db <= MOST_DB:
        raise AssertionError(
            f"the log-mel of a second of noise differs by {difference_db:.2g} dB from librosa's, expected at most "
            f"{MOST_DB} dB: this is a bug; please report it with the processor and with the versions of NumPy, "
            f"{np.__version__}, and librosa, {version('librosa')}"
        )
