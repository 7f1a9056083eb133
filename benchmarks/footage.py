"""Clips for the benchmarks: H.264 and AAC as people upload it, cut from given recordings or drawn.

What is drawn moves like hand-held footage: a camera pans over a textured scene in which textured things move, with
grain. Encoded by x264's defaults (medium, CRF 23, high profile, one group of pictures), as PERF figures usually are.
"""

import subprocess
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.common.machine import ffmpeg_path

RATE_FPS, AUDIO_RATE_HZ = 25, 44_100
H264 = ("-c:v", "libx264", "-preset", "medium", "-crf", "23", "-g", "250", "-profile:v", "high", "-pix_fmt", "yuv420p")
AAC = ("-c:a", "aac", "-ar", f"{AUDIO_RATE_HZ}", "-ac", "2")


def run_ffmpeg(*arguments: str | Path, content: bytes | None = None) -> None:
    subprocess.run([ffmpeg_path(), "-y", "-loglevel", "error", *map(str, arguments)], input=content, check=True)


def cut_clip(recording: Path, start_s: float, seconds: float, height: int, target: Path) -> None:
    """A piece of a recording with sound, scaled to `height`."""
    piece = ("-ss", f"{start_s}", "-i", recording, "-t", f"{seconds}", "-vf", f"scale=-2:{height}")
    run_ffmpeg(*piece, *H264, *AAC, target)


def draw_clip(seed: int, seconds: float, height: int, target: Path) -> None:
    """A drawn clip of `height` and 16:9."""
    rng = np.random.default_rng(seed)
    width, count = 2 * round(height * 16 / 18), round(seconds * RATE_FPS)
    scene = _texture(rng, height * 5 // 4, width * 5 // 4)
    things = [_texture(rng, height // 3, height // 4) for _ in range(3)]
    raw = bytearray()
    for t in np.arange(count) / RATE_FPS:
        y, x = ((1 + np.sin(t * np.array([0.7, 0.5]) + seed)) / 2 * (height // 5, width // 5)).astype(int)
        frame = scene[y : y + height, x : x + width].copy()
        for i, thing in enumerate(things):
            top = round((0.3 + 0.2 * np.sin(1.3 * t + 2 * i)) * height)
            left = round((0.15 + 0.25 * i + 0.05 * np.sin(2.1 * t + i)) * width)
            frame[top : top + thing.shape[0], left : left + thing.shape[1]] = thing
        raw += np.clip(frame + rng.normal(0, 2, frame.shape), 0, 255).astype(np.uint8).tobytes()
    tone = f"aevalsrc=0.3*sin(500*t*t)+0.05*(random(0)-0.5)|0.3*sin(900*t):s={AUDIO_RATE_HZ}:d={seconds}"
    picture = ("-f", "rawvideo", "-pix_fmt", "bgr24", "-s", f"{width}x{height}", "-framerate", f"{RATE_FPS}", "-i", "-")
    run_ffmpeg(*picture, "-f", "lavfi", "-i", tone, *H264, *AAC, target, content=bytes(raw))


def _texture(rng: np.random.Generator, height: int, width: int) -> NDArray[np.float32]:
    """Noise at all scales, the coarse the stronger, as in photographs: (height, width, 3)."""
    texture = np.zeros((height, width, 3), np.float32)
    for octave in range(2, 9):
        cells = rng.normal(0, 90 / octave, (2**octave, 2**octave, 3)).astype(np.float32)
        texture += cv2.resize(cells, (width, height), interpolation=cv2.INTER_CUBIC)
    return np.asarray(128 + texture / 2, np.float32)
