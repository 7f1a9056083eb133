"""What this machine offers: processor cores, and the ffmpeg program."""

import functools
import os
import subprocess

import imageio_ffmpeg


def available_cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0))


@functools.cache
def ffmpeg_path() -> str:
    """The ffmpeg program that imageio-ffmpeg ships, or the one that IMAGEIO_FFMPEG_EXE names."""
    return str(imageio_ffmpeg.get_ffmpeg_exe())


@functools.cache
def ffmpeg_version() -> str:
    """What that program says of itself, in its first line."""
    done = subprocess.run([ffmpeg_path(), "-version"], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()[0]
