"""What a decoder gives: frames and a waveform, and the check that the sound was decoded to its end."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.common.features import Features
from pipeline.extraction.reasons import MediaError
from pipeline.extraction.timeline import Timeline

# A waveform that ends more than this before its track's last packet was not decoded to the end. Codecs that signal
# padding end up to two of their frames early.
AUDIO_SLACK_S = 0.15
# Floating-point tracks can hold any number. A sample 40 dB above full scale means damage.
MAX_AMPLITUDE = 100.0


@dataclass(frozen=True)
class Decoded:
    """The sampled frames and the waveform of a clip.

    frames (N, size, size, 3) uint8, BGR, N = 0 for a clip without video; waveform (samples,), mono, None without sound;
    pictures: for each frame, the picture (H, W, 3) uint8, BGR, in which faces are looked for; empty if they are not.
    """

    frames: NDArray[np.uint8]
    waveform: NDArray[np.float32] | None
    pictures: Sequence[NDArray[np.uint8]] = ()


def check_sound(waveform: NDArray[np.float32], timeline: Timeline, features: Features) -> NDArray[np.float32]:
    """Return the waveform; raise `MediaError` if it is damaged or ends before its track does.

    Decoders report no error for much of the damage that a track can have.
    """
    if len(waveform) and not np.abs(waveform).max() <= MAX_AMPLITUDE:  # in this form, because NaN compares false
        raise MediaError("audio_undecodable", f"a sample is not a number, or beyond {MAX_AMPLITUDE} times full scale")
    decoded_s = len(waveform) / features.sample_rate_hz
    expected_s = min(timeline.audio_end_s or 0, timeline.duration_s)
    if not len(waveform) or decoded_s < expected_s - AUDIO_SLACK_S:
        raise MediaError("audio_undecodable", f"{decoded_s:.2f} of {expected_s:.2f} s of sound decoded")
    return waveform
