"""What this machine offers: processor cores, ffmpeg, exclusive use of a folder, the process that started this one."""

import contextlib
import ctypes
import fcntl
import functools
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import imageio_ffmpeg

from pipeline.common.errors import UserError

PR_SET_PDEATHSIG = 1  # linux/prctl.h


def available_cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0))


@functools.cache
def ffmpeg_path() -> str:
    """The ffmpeg program that imageio-ffmpeg ships, or the one that IMAGEIO_FFMPEG_EXE names."""
    return str(imageio_ffmpeg.get_ffmpeg_exe())


@functools.cache
def ffmpeg_version() -> str:
    """The first line that `ffmpeg -version` prints."""
    done = subprocess.run([ffmpeg_path(), "-version"], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()[0]


@contextlib.contextmanager
def exclusive_use(folder: Path, work: str, wait: bool = False) -> Iterator[None]:
    """Lock a folder while some work, named by `work` in the message, writes to it.

    If another process holds the lock, it waits for it, or raises `UserError` without `wait`. The operating system
    releases the lock when this process ends, however it ends.
    """
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            raise UserError(f"another {work} is writing to {folder}; wait for it, or stop it") from None
        yield
    finally:
        os.close(descriptor)


def launch_command() -> list[str] | None:
    """The words after `accelerate launch`, if that started this process, otherwise None. Linux only."""
    try:
        words = Path(f"/proc/{os.getppid()}/cmdline").read_bytes().decode(errors="replace").split("\0")[:-1]
    except OSError:
        return None
    names = [Path(word).name for word in words]
    if "accelerate" in names and "launch" in words:
        return words[words.index("launch") + 1 :]
    if module := {"accelerate-launch", "accelerate.commands.launch"}.intersection(names):
        return words[names.index(module.pop()) + 1 :]
    return None


def end_with_launcher() -> None:
    """Receive SIGTERM when `accelerate launch` ends: with a single process, the launcher does not pass it on.

    Receive Ctrl-C too: where dvc.yaml makes the launcher ignore it, its processes inherit that.
    """
    if launch_command() is not None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
