"""Clips that the tests make: frames that show their own number, and pictures that move."""

from dataclasses import dataclass

import numpy as np
import pytest
from helpers import run_ffmpeg

from pipeline.extraction.clip_file import open_clip
from pipeline.extraction.decoding import decode
from pipeline.extraction.pyav_decoder import decode_in_process
from pipeline.extraction.reasons import REASONS, MediaError
from pipeline.extraction.timeline import Timeline, sample_pts

BITS = 8


def numbered_frames(count, height=64, width=128):
    """Frames that show their own number as eight bars, black or white, the lowest bit on the left."""
    bits = (np.arange(count)[:, None] >> np.arange(BITS)) & 1
    bars = np.repeat(bits, width // BITS, axis=1).astype(np.uint8) * 255
    return np.broadcast_to(bars[:, None, :, None], (count, height, width, 3))


def read_number(frame):
    """The number that a decoded frame shows."""
    middle = frame[frame.shape[0] // 2, :, 0].reshape(BITS, -1).mean(axis=1)
    return int(((middle > 127) << np.arange(BITS)).sum())


def write_numbered(path, count=100, rate="25", *options):
    """Write a clip of numbered frames, without sound unless the options say otherwise."""
    raw = path.with_name("frames.raw")
    numbered_frames(count).tofile(raw)
    run_ffmpeg(
        *("-f", "rawvideo", "-pix_fmt", "bgr24", "-s", "128x64", "-framerate", rate, "-i", raw),
        *("-c:v", "libx264", "-g", "250", "-bf", "3", "-pix_fmt", "yuv420p"),
        *(options or ("-an",)),
        path,
    )


def write_picture(path, *options, size="320x180", seconds=2, sound=False):
    """Write a clip of a moving, grainy picture: all frames differ, and an encoder makes use of B-frames."""
    video = f"testsrc2=size={size}:rate=25:duration={seconds},noise=alls=8:allf=t"
    tone = ("-f", "lavfi", "-i", f"aevalsrc=0.4*sin(500*t*t)|0.3*sin(900*t):s=44100:d={seconds}") if sound else ()
    run_ffmpeg("-f", "lavfi", "-i", video, *tone, *options, path)


def frames_with_damage(path, packets, first_byte, pts, settings):
    """The frames at `pts` of a copy of a clip in which these packets hold zeros from their byte `first_byte` on."""
    content = bytearray(path.read_bytes())
    for packet in packets:
        content[packet.pos + first_byte : packet.pos + packet.size] = bytes(packet.size - first_byte)
    damaged = path.with_name(f"damaged{path.suffix}")
    damaged.write_bytes(content)
    with open_clip(damaged, settings) as clip:
        decoded = decode_in_process(clip, pts, settings)
    assert decoded is not None
    return decoded.frames


@dataclass(frozen=True)
class SampledClip:
    """What was decoded of a clip: the sampled frames, their timestamps, and the waveform."""

    timeline: Timeline
    pts: list
    frames: np.ndarray
    waveform: np.ndarray | None

    @property
    def numbers(self):
        """The numbers that the frames show."""
        return [read_number(frame) for frame in self.frames]

    @property
    def times_s(self):
        """When the frames are shown, by the timeline."""
        return [self.timeline.seconds(tick) for tick in self.pts]


def sample_clip(path, settings, window=None):
    """Sample and decode a clip, or a window of a file."""
    with open_clip(path, settings, window) as clip:
        pts = sample_pts(clip.timeline, settings.features.frames) if clip.video else []
        decoded = decode(clip, pts, settings)
    return SampledClip(clip.timeline, pts, decoded.frames, decoded.waveform)


def reason_of(path, settings):
    """Why a clip is refused."""
    with pytest.raises(MediaError) as error:
        sample_clip(path, settings)
    assert error.value.reason in REASONS
    return error.value.reason


def with_features(settings, **changes):
    """The clip settings with some features changed."""
    return settings.model_copy(update={"features": settings.features.model_copy(update=changes)})


def with_limits(settings, **changes):
    """The clip settings with some limits changed."""
    return settings.model_copy(update={"limits": settings.limits.model_copy(update=changes)})
