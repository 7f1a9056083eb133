"""Imported once by the fork server of the extraction, so that its workers inherit librosa, imported and compiled."""

import numpy as np

import pipeline.extraction.tasks  # noqa: F401 - the workers run this module, so they inherit it too
from pipeline.common.features import Features
from pipeline.common.people_settings import PeopleSettings
from pipeline.extraction.log_mel import log_mel

log_mel(
    np.zeros(16_000, np.float32),
    Features(
        frames=1,
        frame_size_px=16,
        framing="full_frame",
        jpeg_quality=90,
        front_end="librosa",
        sample_rate_hz=16_000,
        fft_size=512,
        window_length=400,
        hop_length=160,
        mel_bins=8,
        max_duration_s=1.0,
        require_video=True,
        people=PeopleSettings(
            most=0, size_px=16, margin=0, aligned=False, smallest_px=1, confidence=1, longest_side_px=16
        ),
    ),
)
