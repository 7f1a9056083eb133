import numpy as np
import pytest
import torch
from torchaudio.transforms import MelSpectrogram

from pipeline.features import MIN_DB, log_mel


@pytest.fixture
def waveform():
    noise = np.random.default_rng(0).normal(0, 0.1, 48_000)
    return (noise * np.linspace(0, 1, 48_000)).astype(np.float32)


def test_librosa_and_torchaudio_agree_within_a_hundredth_of_a_decibel(waveform, features):
    transform = MelSpectrogram(
        sample_rate=features.sample_rate_hz,
        n_fft=features.fft_size,
        win_length=features.window_length,
        hop_length=features.hop_length,
        n_mels=features.mel_bins,
        norm="slaney",
        mel_scale="slaney",
        pad_mode="constant",
    )
    power = transform(torch.from_numpy(waveform)).clamp(min=1e-10).numpy()
    assert np.abs(log_mel(waveform, features) - 10 * np.log10(power)).max() < 0.01


def test_the_level_does_not_depend_on_the_rest_of_the_clip(waveform, features):
    hop = 100  # of the first second; the loud part begins later
    louder = np.concatenate([waveform[:32_000], 100 * waveform[32_000:]])
    np.testing.assert_array_equal(log_mel(waveform, features)[:, :hop], log_mel(louder, features)[:, :hop])


def test_digital_silence_is_the_floor(features):
    assert (log_mel(np.zeros(16_000, np.float32), features) == MIN_DB).all()


def test_there_is_a_frame_at_every_hop_and_one_at_the_start(waveform, features):
    assert log_mel(waveform, features).shape == (features.mel_bins, 1 + len(waveform) // features.hop_length)
