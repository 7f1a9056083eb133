"""The child process of a sandbox: it reads one clip after the other, under limits of the operating system.

Where the kernel permits it, this process has no network, and all disks are read-only for it.

`pipeline.extraction.sandbox` starts it: `python -m pipeline.extraction.sandbox_child DESCRIPTOR`, with its end of a
pipe. It imports no more than decoding needs, so that it starts fast and small.
"""

import contextlib
import os
import queue
import resource
import signal
import sys
import threading
from multiprocessing.connection import Connection
from pathlib import Path

import cv2

from pipeline.extraction.clip_file import read_duration_s
from pipeline.extraction.clip_reader import read_clip
from pipeline.extraction.clip_settings import ClipSettings
from pipeline.extraction.isolation import isolate_this_process
from pipeline.extraction.reasons import MediaError
from pipeline.extraction.sandbox_messages import SAMPLE_TYPE, Request, pack_duration, pack_error, pack_media


def serve(connection: Connection) -> None:
    """Answer requests until the asking process ends; then this process and its ffmpeg are killed at once."""
    cv2.setNumThreads(0)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    requests: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_receive, args=(connection, requests), daemon=True).start()
    initial_bytes = _allocated_bytes()
    with contextlib.suppress(ConnectionError):  # the asking process no longer waits for the answer
        while True:
            request = Request.from_bytes(requests.get())
            _limit_this_process(request.settings, initial_bytes)
            connection.send_bytes(_answer(request))


def _receive(connection: Connection, requests: "queue.SimpleQueue[bytes]") -> None:
    try:
        while True:
            requests.put(connection.recv_bytes())
    except (EOFError, OSError):
        os.killpg(0, signal.SIGKILL)


def _answer(request: Request) -> bytes:
    try:
        if request.wanted == "duration":
            return pack_duration(read_duration_s(request.path, request.settings))
        media = read_clip(request.path, request.settings, request.window)
    except MediaError as error:
        return pack_error(error)
    except MemoryError:
        return pack_error(MediaError("out_of_memory", f"the limit is {request.settings.limits.memory_mb} MiB"))
    except Exception as error:  # an unforeseen file must not end the run: it is quarantined with this message
        return pack_error(MediaError("crashed", f"{type(error).__name__}: {error}"[:200]))
    return pack_media(media)


def _allocated_bytes() -> int:
    """What counts against RLIMIT_DATA: the private writable memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[5]) * resource.getpagesize()


def _limit_this_process(settings: ClipSettings, initial_bytes: int) -> None:
    """Limit the memory, and the size of files that are written. ffmpeg inherits both limits."""
    features = settings.features
    memory = initial_bytes + settings.limits.memory_mb * 2**20
    frames = features.frames * features.frame_size_px**2 * 3
    pictures = features.frames * features.people.longest_side_px**2 * 3 if features.people.most else 0
    sound = round(features.max_duration_s * features.sample_rate_hz) * SAMPLE_TYPE.itemsize
    for kind, limit in ((resource.RLIMIT_DATA, memory), (resource.RLIMIT_FSIZE, max(frames, pictures, sound) + 2**20)):
        _, hard = resource.getrlimit(kind)
        resource.setrlimit(kind, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))


if __name__ == "__main__":
    isolate_this_process()
    serve(Connection(int(sys.argv[1])))
