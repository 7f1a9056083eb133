"""From a clip's file to the sample that is stored in a shard, and that a model sees."""

from pathlib import Path

import numpy as np

from pipeline.common.features import Features
from pipeline.extraction.clip_reader import ClipMedia
from pipeline.extraction.clip_settings import ClipSettings
from pipeline.extraction.log_mel import log_mel
from pipeline.extraction.sandbox import Sandbox
from pipeline.extraction.timeline import Window
from pipeline.shards.format import Sample


def extract_sample(
    path: Path, clip_id: str, settings: ClipSettings, sandbox: Sandbox, window: Window | None = None
) -> Sample:
    """Read a clip's file, or a window of it, in the sandbox; raises `MediaError` for a clip that cannot be used."""
    return to_sample(clip_id, sandbox.read_clip(path, settings, window), settings.features)


def to_sample(clip_id: str, media: ClipMedia, features: Features) -> Sample:
    """The sample of what was read of a clip: its frames, the faces in them, and the log-mel of its waveform."""
    return Sample(
        clip_id=clip_id,
        duration_s=media.duration_s,
        frame_rate_hz=media.frame_rate_hz,
        jpegs=media.jpegs,
        frame_times_s=media.frame_times_s,
        suspect=media.suspect,
        people=tuple(media.people),
        log_mel=None if media.waveform is None else log_mel(media.waveform, features).astype(np.float16),
    )
