"""What this machine offers: processor cores, and the ffmpeg program."""

import functools
import os

import imageio_ffmpeg


def available_cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0))


@functools.cache
def ffmpeg_path() -> str:
    """The ffmpeg program that imageio-ffmpeg ships, so that every machine decodes with the same one."""
    return str(imageio_ffmpeg.get_ffmpeg_exe())
