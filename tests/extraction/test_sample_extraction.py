"""What a sample holds of a clip."""

import cv2
import numpy as np
import pytest
from helpers import run_ffmpeg

from pipeline.extraction.sample_extraction import extract_sample
from pipeline.extraction.sandbox import Sandbox
from pipeline.loading.jpeg import decode_jpeg


@pytest.fixture
def sandbox():
    sandbox = Sandbox()
    yield sandbox
    sandbox.close()


def test_a_sample_holds_frames_times_and_log_mel(sandbox, one_clip, features, clip_settings):
    sample = extract_sample(one_clip, one_clip.stem, clip_settings, sandbox)
    assert len(sample.jpegs) == len(sample.frame_times_s) == features.frames
    size = features.frame_size_px
    assert cv2.imdecode(np.frombuffer(sample.jpegs[0], np.uint8), cv2.IMREAD_COLOR).shape == (size, size, 3)
    hops = round(sample.duration_s * features.sample_rate_hz) // features.hop_length + 1
    assert sample.log_mel.shape == (features.mel_bins, hops)
    assert sample.frame_times_s == sorted(sample.frame_times_s)
    assert 0 <= sample.frame_times_s[0] < sample.frame_times_s[-1] < sample.duration_s


def test_red_stays_red(sandbox, clip_settings, tmp_path):
    run_ffmpeg("-f", "lavfi", "-i", "color=red:size=64x64:duration=1", tmp_path / "1_1.mp4")
    sample = extract_sample(tmp_path / "1_1.mp4", "1_1", clip_settings, sandbox)
    np.testing.assert_allclose(decode_jpeg(sample.jpegs[0], "1_1").mean((0, 1)), [255, 0, 0], atol=4)


def test_a_sample_says_what_is_suspect_of_its_clip(sandbox, one_clip, clip_settings, tmp_path):
    assert extract_sample(one_clip, one_clip.stem, clip_settings, sandbox).suspect == []
    run_ffmpeg(
        *("-f", "lavfi", "-i", "color=black:size=64x64:duration=1", "-f", "lavfi", "-i", "anullsrc", "-shortest"),
        tmp_path / "1_1.mp4",
    )
    assert extract_sample(tmp_path / "1_1.mp4", "1_1", clip_settings, sandbox).suspect == ["muted", "black"]
