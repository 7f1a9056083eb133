"""The log-mel spectrogram of both front ends."""

import numpy as np
import pytest
import torch
from torchaudio.compliance.kaldi import fbank
from torchaudio.transforms import MelSpectrogram

from pipeline.common.features import Features
from pipeline.extraction import librosa_check
from pipeline.extraction.librosa_check import check_log_mel, librosa_log_mel
from pipeline.extraction.log_mel import log_mel
from pipeline.shards.log_mel_units import LEVELS


@pytest.fixture
def waveform():
    noise = np.random.default_rng(0).normal(0, 0.1, 48_000)
    return (noise * np.linspace(0, 1, 48_000)).astype(np.float32)


@pytest.mark.filterwarnings("ignore:Empty filters")  # librosa's warning; the settings refuse such bands
@pytest.mark.parametrize("mel_bins", [8, 40, 64, 128])
@pytest.mark.parametrize("fft_size", [256, 1024, 2048])
@pytest.mark.parametrize("sample_rate_hz", [1_500, 8_000, 16_000, 44_100, 48_000])
def test_a_log_mel_is_librosas_whatever_the_settings(waveform, features, sample_rate_hz, fft_size, mel_bins):
    for window_length, hop_length in ((fft_size, fft_size // 4), (fft_size * 3 // 4 + 1, 101)):
        changes = {"window_length": window_length, "hop_length": hop_length, "mel_bins": mel_bins}
        settings = features.model_copy(update={"sample_rate_hz": sample_rate_hz, "fft_size": fft_size, **changes})
        ours, theirs = log_mel(waveform, settings), librosa_log_mel(waveform, settings)
        assert ours.dtype == theirs.dtype == np.float32
        np.testing.assert_allclose(ours, theirs, atol=1e-4)


@pytest.mark.filterwarnings("ignore:n_fft=")
def test_the_shortest_and_quietest_waveforms_have_librosas_log_mel(features):
    for waveform in (np.zeros(1, np.float32), np.ones(7, np.float32), np.full(5_000, 1e-6, np.float32)):
        np.testing.assert_allclose(log_mel(waveform, features), librosa_log_mel(waveform, features), atol=1e-4)


@pytest.mark.parametrize("factor", [1.001, 0.999, np.nan])
def test_an_extraction_refuses_a_log_mel_that_is_not_librosas(factor, features, monkeypatch):
    check_log_mel(features)
    monkeypatch.setattr(librosa_check, "log_mel", lambda waveform, features: factor * log_mel(waveform, features))
    with pytest.raises(AssertionError, match="differs by"):
        check_log_mel(features)


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


def test_digital_silence_has_the_lowest_value(features):
    # In the type in which it is stored: in float32, the logarithm of some processors is off by a rounding.
    stored = log_mel(np.zeros(16_000, np.float32), features).astype(np.float16)
    assert (stored == LEVELS["librosa"].silence).all()


def test_there_is_one_spectrum_at_the_start_and_one_after_each_hop(waveform, features):
    assert log_mel(waveform, features).shape == (features.mel_bins, 1 + len(waveform) // features.hop_length)


@pytest.fixture
def kaldi(features):
    """The second front end: 128 bins of 25 ms windows every 10 ms."""
    changes = {"front_end": "kaldi", "window_length": 400, "hop_length": 160, "mel_bins": 128}
    return Features.model_validate({**features.model_dump(), **changes})


def test_kaldi_gives_what_audioset_pretrained_transformers_were_trained_on(waveform, kaldi):
    # The preprocessing published with the Audio Spectrogram Transformer, whose checkpoints AudioMAE's follow.
    signal = torch.from_numpy(waveform)[None]
    expected = fbank(
        signal - signal.mean(),
        htk_compat=True,
        sample_frequency=16_000,
        use_energy=False,
        window_type="hanning",
        num_mel_bins=128,
        dither=0.0,
        frame_shift=10,
    )
    read_only = np.frombuffer(waveform.tobytes(), np.float32)  # like a waveform from the sandbox
    np.testing.assert_allclose(log_mel(read_only, kaldi), expected.numpy().T, atol=1e-3)
    assert log_mel(waveform, kaldi).shape == (128, kaldi.mel_frames(len(waveform)))
    for rate_hz in (24_000, 48_000):  # where 400 samples, converted to ms and back, become 399
        settings = kaldi.model_copy(update={"sample_rate_hz": rate_hz})
        assert log_mel(waveform, settings).shape == (128, settings.mel_frames(len(waveform)))


def test_kaldi_gives_silence_its_lowest_value_and_nothing_for_less_than_one_window(kaldi):
    silence = log_mel(np.zeros(16_000, np.float32), kaldi)
    np.testing.assert_allclose(silence, LEVELS["kaldi"].silence, rtol=1e-6)
    assert log_mel(np.zeros(399, np.float32), kaldi).shape == (128, kaldi.mel_frames(399)) == (128, 0)


def test_a_decibel_has_the_stated_size_in_both_front_ends(waveform, features, kaldi):
    for settings in (features, kaldi):
        louder = log_mel(10 * waveform, settings) - log_mel(waveform, settings)
        assert np.median(louder) == pytest.approx(20 * LEVELS[settings.front_end].decibel, rel=1e-3)
