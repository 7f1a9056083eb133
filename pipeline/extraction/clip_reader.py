"""Reading a clip in this process: its sampled frames as JPEGs, their times, and the waveform."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.extraction.clip_file import open_clip
from pipeline.extraction.clip_settings import ClipSettings
from pipeline.extraction.decoding import decode
from pipeline.extraction.people import find_people
from pipeline.extraction.suspicion import suspicions
from pipeline.extraction.timeline import Window, sample_pts
from pipeline.shards.format import Person


@dataclass(frozen=True)
class ClipMedia:
    """What is read of a clip: JPEG frames, their times, the faces in them, and the mono waveform, None without sound.

    `suspect` says why it should not be trusted (`pipeline.extraction.suspicion`).
    """

    duration_s: float
    frame_rate_hz: float
    frame_times_s: list[float]
    jpegs: Sequence[bytes | memoryview]
    people: list[Person]
    waveform: NDArray[np.float32] | None
    suspect: list[str]


def read_clip(path: Path, settings: ClipSettings, window: Window | None = None) -> ClipMedia:
    """Read a clip, or a window of a file; raises `MediaError`.

    A hostile file can crash this process or make it hang. `pipeline.extraction.sandbox` reads files safely.
    """
    features = settings.features
    with open_clip(path, settings, window) as clip:
        pts = sample_pts(clip.timeline, features.frames) if clip.video else []
        decoded = decode(clip, pts, settings)
        quality = [cv2.IMWRITE_JPEG_QUALITY, features.jpeg_quality]
        return ClipMedia(
            duration_s=clip.timeline.duration_s,
            frame_rate_hz=clip.timeline.frame_rate_hz if clip.video else 0.0,
            frame_times_s=[clip.timeline.seconds(tick) for tick in pts],
            jpegs=[cv2.imencode(".jpg", frame, quality)[1].tobytes() for frame in decoded.frames],
            people=find_people(decoded.pictures, settings.limits.face_detector, features.people, features.jpeg_quality),
            waveform=decoded.waveform,
            suspect=suspicions(decoded),
        )
