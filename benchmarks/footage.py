"""Clips for the benchmarks: H.264 and AAC as in usual uploads, cut from given recordings or drawn.

A drawn clip moves like hand-held footage: a camera pans over a grainy, textured scene in which textured objects move.
All clips are encoded by x264's defaults (medium, CRF 23, high profile, and groups of pictures of up to 250 frames).
"""

import subprocess
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.common.machine import ffmpeg_path

RATE_FPS, AUDIO_RATE_HZ = 25, 44_100
H264 = ("-c:v", "libx264", "-preset", "medium", "-crf", "23", "-profile:v", "high", "-pix_fmt", "yuv420p")
GROUP = 250
AAC = ("-c:a", "aac", "-ar", f"{AUDIO_RATE_HZ}", "-ac", "2")


def run_ffmpeg(*arguments: str | Path, content: bytes | None = None) -> None:
    subprocess.run([ffmpeg_path(), "-y", "-loglevel", "error", *map(str, arguments)], input=content, check=True)


def cut_clip(recording: Path, start_s: float, seconds: float, height: int, target: Path, group: int = GROUP) -> None:
    """Cut a piece out of a recording with sound, and scale it to `height`."""
    piece = ("-ss", f"{start_s}", "-i", recording, "-t", f"{seconds}", "-vf", f"scale=-2:{height}")
    run_ffmpeg(*piece, *H264, "-g", f"{group}", *AAC, target)


def draw_clip(seed: int, seconds: float, height: int, target: Path, group: int = GROUP) -> None:
    """Draw a clip of `height`, with the aspect ratio 16:9, in groups of pictures of up to `group` frames."""
    rng = np.random.default_rng(seed)
    width, count = 2 * round(height * 16 / 18), round(seconds * RATE_FPS)
    scene = noise_texture(rng, height * 5 // 4, width * 5 // 4)
    objects = [noise_texture(rng, height // 3, height // 4) for _ in range(3)]
    raw = bytearray()
    for t in np.arange(count) / RATE_FPS:
        y, x = ((1 + np.sin(t * np.array([0.7, 0.5]) + seed)) / 2 * (height // 5, width // 5)).astype(int)
        frame = scene[y : y + height, x : x + width].copy()
        for i, texture in enumerate(objects):
            top = round((0.3 + 0.2 * np.sin(1.3 * t + 2 * i)) * height)
            left = round((0.15 + 0.25 * i + 0.05 * np.sin(2.1 * t + i)) * width)
            frame[top : top + texture.shape[0], left : left + texture.shape[1]] = texture
        raw += np.clip(frame + rng.normal(0, 2, frame.shape), 0, 255).astype(np.uint8).tobytes()
    tone = f"aevalsrc=0.3*sin(500*t*t)+0.05*(random(0)-0.5)|0.3*sin(900*t):s={AUDIO_RATE_HZ}:d={seconds}"
    picture = ("-f", "rawvideo", "-pix_fmt", "bgr24", "-s", f"{width}x{height}", "-framerate", f"{RATE_FPS}", "-i", "-")
    encoding = (*H264, "-g", f"{group}", *AAC)
    run_ffmpeg(*picture, "-f", "lavfi", "-i", tone, *encoding, target, content=bytes(raw))


def noise_texture(rng: np.random.Generator, height: int, width: int) -> NDArray[np.float32]:
    """Noise at all scales, stronger at coarser scales, as in photographs: (height, width, 3)."""
    texture = np.zeros((height, width, 3), np.float32)
    for octave in range(2, 9):
        cells = rng.normal(0, 90 / octave, (2**octave, 2**octave, 3)).astype(np.float32)
        texture += cv2.resize(cells, (width, height), interpolation=cv2.INTER_CUBIC)
    return np.asarray(128 + texture / 2, np.float32)
