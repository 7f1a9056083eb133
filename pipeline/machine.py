"""What this machine offers: processor cores, the ffmpeg program, folders of which one has the use alone."""

import contextlib
import fcntl
import functools
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import imageio_ffmpeg

from pipeline.errors import UserError


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


@contextlib.contextmanager
def alone_in(folder: Path, work: str) -> Iterator[None]:
    """Hold the folder's lock; the system releases it when this process ends, however it ends."""
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"another {work} is writing to {folder}; wait for it, or stop it") from None
        yield
    finally:
        os.close(descriptor)
