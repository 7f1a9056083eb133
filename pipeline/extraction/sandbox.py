"""Reading a clip in a child process that may hang, grow or crash without harm.

A clip is untrusted input to megabytes of native code. So a child process in its own session reads it, under limits of
the operating system (`pipeline.extraction.sandbox_child`), and without the tokens and keys that are in the environment
of the asking process. The asking process waits no longer than the time limit, or twice that if the child died, and then
kills the child's whole process group. A file may have taken the child over, so any answer is expected.
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TypeVar

from pipeline.extraction.clip_reader import ClipMedia
from pipeline.extraction.clip_settings import ClipSettings
from pipeline.extraction.reasons import MediaError
from pipeline.extraction.sandbox_messages import Request, unpack_duration, unpack_media
from pipeline.extraction.timeline import Window

PACKAGE_ROOT = Path(__file__).parents[2]
# Started by name, not imported: it reads untrusted files, so it starts with as little as possible.
CHILD_MODULE = "pipeline.extraction.sandbox_child"
# The environment variables that the child gets: where programs, libraries and temporary files are, and the encoding.
PASSED_VARIABLES = (
    "PATH",
    "LD_LIBRARY_PATH",
    "PYTHONPATH",
    "LANG",
    "LC_ALL",
    "LC_CTYPE",
    "TMPDIR",
    "IMAGEIO_FFMPEG_EXE",
)
CRASHES = {-signal.SIGSEGV, -signal.SIGABRT, -signal.SIGBUS, -signal.SIGILL, -signal.SIGFPE}

Answer = TypeVar("Answer")


class ChildDiedError(Exception):
    """The child died while it read a clip; `code` is its exit code, negative for a signal."""

    def __init__(self, code: int) -> None:
        super().__init__(f"the process that read the clip ended with {code}")
        self.code = code


class Sandbox:
    """Reads clips in a child process, which is started when it is first needed, and again after it died."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection | None = None
        self._given_up = False

    def read_clip(self, path: Path, settings: ClipSettings, window: Window | None = None) -> ClipMedia:
        """Read a clip, or a window of a file, within the limits; raises `MediaError`."""
        return self._ask(Request("media", path, settings, window), unpack_media)

    def read_duration_s(self, path: Path, settings: ClipSettings) -> float:
        """How long a file lasts, which may be longer than a clip; raises `MediaError`."""
        return self._ask(Request("duration", path, settings), unpack_duration)

    def close(self) -> None:
        """Kill the child and everything that it started."""
        if self._process is not None and self._connection is not None:
            self._connection.close()
            _kill_group(self._process)
            self._process.wait()
        self._process = self._connection = None

    def give_up(self) -> None:
        """Kill the child for good: what another thread reads, now or later, ends with a `MediaError`."""
        self._given_up = True
        if (process := self._process) is not None:
            _kill_group(process)

    def _ask(self, request: Request, unpack: Callable[[bytes], Answer]) -> Answer:
        answer = self._exchange_again_if_it_dies(request)
        try:
            return unpack(answer)
        except MediaError as error:
            if error.reason == "out_of_memory":
                self.close()  # a fresh child starts with all of its memory
            raise
        except Exception as error:  # whatever the answer holds, it must not end the run
            self.close()
            message = f"the process that read the clip gave a wrong answer: {type(error).__name__}: {error}"
            raise MediaError("crashed", message[:200]) from None

    def _exchange_again_if_it_dies(self, request: Request) -> bytes:
        try:
            return self._exchange(request)
        except ChildDiedError as death:
            if death.code in CRASHES:
                # A process of ffmpeg decodes the video then. A child that was killed gets the same request again.
                limits = request.settings.limits.model_copy(update={"decoder": "ffmpeg"})
                request = replace(request, settings=request.settings.model_copy(update={"limits": limits}))
        try:
            return self._exchange(request)
        except ChildDiedError as death:
            raise MediaError("crashed", str(death)) from None

    def _exchange(self, request: Request) -> bytes:
        """Send a request and wait for its answer; raises `ChildDiedError`, or `MediaError` after the time limit."""
        process, connection = self._running_child()
        if self._given_up:  # asked after the start, because `give_up` sees no child that is being started
            self.close()
            raise ChildDiedError(-signal.SIGKILL)
        limits, start_s = request.settings.limits, time.monotonic()
        try:
            with _ended_after(limits.timeout_s, process, connection):
                connection.send_bytes(request.to_bytes())
                # The child makes its answer in its memory, so no answer is longer than that.
                return connection.recv_bytes(limits.memory_mb * 2**20)
        except (EOFError, OSError):
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(1)
            self.close()
            if time.monotonic() - start_s >= limits.timeout_s:
                raise MediaError("timeout", f"still reading after {limits.timeout_s} s") from None
            raise ChildDiedError(process.returncode) from None

    def _running_child(self) -> tuple["subprocess.Popen[bytes]", Connection]:
        if self._process is None or self._connection is None:
            self._connection, child_end = Pipe()
            with child_end:
                self._process = subprocess.Popen(
                    [sys.executable, "-m", CHILD_MODULE, str(child_end.fileno())],
                    # NumPy starts no threads, because only a process with a single one can be isolated.
                    env={name: os.environ[name] for name in PASSED_VARIABLES if name in os.environ}
                    | {"OPENBLAS_NUM_THREADS": "1"},
                    cwd=PACKAGE_ROOT,  # so that the child runs this code, whatever the current folder is
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    pass_fds=(child_end.fileno(),),
                    start_new_session=True,
                )
        return self._process, self._connection


@contextlib.contextmanager
def _ended_after(timeout_s: float, process: "subprocess.Popen[bytes]", connection: Connection) -> Iterator[None]:
    """Within this context, the child is killed after the time, even if it has begun to answer."""

    def end() -> None:
        _kill_group(process)
        # A process that left the group may hold the other end, so that the connection would stay open.
        with socket.socket(fileno=os.dup(connection.fileno())) as asking_end:
            asking_end.shutdown(socket.SHUT_RDWR)

    timer = threading.Timer(timeout_s, end)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()


def _kill_group(process: "subprocess.Popen[bytes]") -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
