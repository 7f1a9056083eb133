"""Reading a clip in a child process that may hang, grow or crash without harm (P6).

A clip is untrusted input to megabytes of native code. So a child process of its own session reads it, under limits of
the operating system; whoever asked waits no longer than the time limit (twice, if the child died) and then kills the
child's whole process group. Only data comes back: JSON and raw bytes, never a pickle. The child imports no more than
decoding needs.
"""

import contextlib
import json
import os
import queue
import resource
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass
from itertools import accumulate
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.common.config import Extract, Features
from pipeline.extraction.decoding import decode
from pipeline.extraction.timeline import MediaError, Window, open_clip, read_duration_s, sample_pts

PACKAGE_ROOT = Path(__file__).parents[2]
WAVEFORM = np.dtype("<f4")
CRASHES = {-signal.SIGSEGV, -signal.SIGABRT, -signal.SIGBUS, -signal.SIGILL, -signal.SIGFPE}


@dataclass(frozen=True)
class ClipMedia:
    """What is read of a clip: JPEG frames, when each is shown, and the mono waveform, None for one without sound."""

    duration_s: float
    frame_rate_hz: float
    frame_times_s: list[float]
    jpegs: list[bytes]
    waveform: NDArray[np.float32] | None


def read_clip(path: Path, features: Features, limits: Extract, window: Window | None = None) -> ClipMedia:
    """Read a clip, or a window of a file, in this very process, which must bear what happens; raises `MediaError`."""
    with open_clip(path, features, limits, window) as clip:
        pts = sample_pts(clip.timeline, features.frames) if clip.video else []
        decoded = decode(clip, pts, features, limits)
        quality = [cv2.IMWRITE_JPEG_QUALITY, features.jpeg_quality]
        return ClipMedia(
            duration_s=clip.timeline.duration_s,
            frame_rate_hz=clip.timeline.frame_rate_hz if clip.video else 0.0,
            frame_times_s=[clip.timeline.seconds(tick) for tick in pts],
            jpegs=[cv2.imencode(".jpg", frame, quality)[1].tobytes() for frame in decoded.frames],
            waveform=decoded.waveform,
        )


# ---------------------------------------------------------------------------------------------------- the asking side


class ChildDiedError(Exception):
    """The child ended in the midst of a clip; `code` is its exit code, negative for a signal."""

    def __init__(self, code: int) -> None:
        super().__init__(f"the process that read the clip ended with {code}")
        self.code = code


class Sandbox:
    """Reads clips in a child process, which is started when first needed and again whenever it died."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection | None = None

    def read_clip(self, path: Path, features: Features, limits: Extract, window: Window | None = None) -> ClipMedia:
        """Read a clip, or a window of a file, within the limits; raises `MediaError`."""
        answer, body = self._ask_again_if_it_dies("clip", path, features, limits, window)
        return _unpack(answer, body)

    def read_duration_s(self, path: Path, features: Features, limits: Extract) -> float:
        """How long a file lasts, which may be longer than a clip; raises `MediaError`."""
        answer, _ = self._ask_again_if_it_dies("duration", path, features, limits)
        return float(answer["duration_s"])

    def close(self) -> None:
        """Kill the child and all that it started."""
        if self._process is not None and self._connection is not None:
            self._connection.close()
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self._process = self._connection = None

    def _ask_again_if_it_dies(
        self, what: str, path: Path, features: Features, limits: Extract, window: Window | None = None
    ) -> tuple[dict[str, Any], bytes]:
        try:
            return self._ask(what, path, features, limits, window)
        except ChildDiedError as death:
            if death.code in CRASHES:
                # Decoded by ffmpeg, the video does not get into the child. One that was stopped is asked again.
                limits = limits.model_copy(update={"decoder": "ffmpeg"})
        try:
            return self._ask(what, path, features, limits, window)
        except ChildDiedError as death:
            raise MediaError("crashed", str(death)) from None

    def _ask(
        self, what: str, path: Path, features: Features, limits: Extract, window: Window | None
    ) -> tuple[dict[str, Any], bytes]:
        process, connection = self._child()
        request = {
            "what": what,
            "path": str(path.absolute()),
            "features": features.model_dump(),
            "limits": limits.model_dump(),
            "window": window and [window.start_s, window.end_s],
        }
        try:
            connection.send_bytes(json.dumps(request).encode())
            if not connection.poll(limits.timeout_s):
                self.close()
                raise MediaError("timeout", f"still reading after {limits.timeout_s} s")
            answer = json.loads(connection.recv_bytes())
            if "reason" not in answer:
                return answer, connection.recv_bytes()
        except (EOFError, ConnectionError):
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(1)
            self.close()
            raise ChildDiedError(process.returncode) from None
        if answer["reason"] == "out_of_memory":
            self.close()  # what is left of its memory is not worth having
        raise MediaError(answer["reason"], answer["detail"])

    def _child(self) -> tuple["subprocess.Popen[bytes]", Connection]:
        if self._process is None or self._connection is None:
            self._connection, theirs = Pipe()
            with theirs:
                self._process = subprocess.Popen(
                    [sys.executable, "-m", __name__, str(theirs.fileno())],
                    cwd=PACKAGE_ROOT,  # the same code as here, wherever the caller is
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    pass_fds=(theirs.fileno(),),
                    start_new_session=True,
                )
        return self._process, self._connection


def _unpack(answer: dict[str, Any], body: bytes) -> ClipMedia:
    sizes = answer.pop("jpeg_bytes")
    jpegs = [body[end - size : end] for end, size in zip(accumulate(sizes), sizes, strict=True)]
    waveform = np.frombuffer(body, WAVEFORM, offset=sum(sizes)) if answer.pop("has_audio") else None
    return ClipMedia(**answer, jpegs=jpegs, waveform=waveform)


# ---------------------------------------------------------------------------------------------------------- the child


def serve(connection: Connection) -> None:
    """Answer requests until the asking process goes away: then this one and its ffmpeg are killed at once."""
    cv2.setNumThreads(0)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    requests: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_receive, args=(connection, requests), daemon=True).start()
    own_bytes = _allocated_bytes()
    with contextlib.suppress(ConnectionError):  # nobody waits for the answer any more
        while True:
            for part in _answer(json.loads(requests.get()), own_bytes):
                connection.send_bytes(part)


def _receive(connection: Connection, requests: "queue.SimpleQueue[bytes]") -> None:
    try:
        while True:
            requests.put(connection.recv_bytes())
    except (EOFError, OSError):
        os.killpg(0, signal.SIGKILL)


def _answer(request: dict[str, Any], own_bytes: int) -> list[bytes]:
    features, limits = Features.model_validate(request["features"]), Extract.model_validate(request["limits"])
    _limit_this_process(features, limits, own_bytes)
    path, window = Path(request["path"]), request["window"] and Window(*request["window"])
    try:
        if request["what"] == "duration":
            return [json.dumps({"duration_s": read_duration_s(path, features, limits)}).encode(), b""]
        media = read_clip(path, features, limits, window)
    except MediaError as error:
        return [json.dumps({"reason": error.reason, "detail": error.detail}).encode()]
    except MemoryError:
        return [json.dumps({"reason": "out_of_memory", "detail": f"the limit is {limits.memory_mb} MiB"}).encode()]
    except Exception as error:  # a file can do what nobody thought of; its row says what, and the run goes on
        return [json.dumps({"reason": "crashed", "detail": f"{type(error).__name__}: {error}"[:200]}).encode()]
    header = {
        "duration_s": media.duration_s,
        "frame_rate_hz": media.frame_rate_hz,
        "frame_times_s": media.frame_times_s,
        "jpeg_bytes": [len(jpeg) for jpeg in media.jpegs],
        "has_audio": media.waveform is not None,
    }
    sound = b"" if media.waveform is None else media.waveform.astype(WAVEFORM).tobytes()
    return [json.dumps(header).encode(), b"".join(media.jpegs) + sound]


def _allocated_bytes() -> int:
    """What counts against RLIMIT_DATA: the private writable memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[5]) * resource.getpagesize()


def _limit_this_process(features: Features, limits: Extract, own_bytes: int) -> None:
    """Limits that hold here and are inherited by ffmpeg: memory, and the size of what it writes."""
    memory = own_bytes + limits.memory_mb * 2**20
    frames = features.frames * features.frame_size_px**2 * 3
    sound = round(features.max_duration_s * features.sample_rate_hz) * WAVEFORM.itemsize
    for kind, limit in ((resource.RLIMIT_DATA, memory), (resource.RLIMIT_FSIZE, max(frames, sound) + 2**20)):
        _, hard = resource.getrlimit(kind)
        resource.setrlimit(kind, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))


if __name__ == "__main__":
    serve(Connection(int(sys.argv[1])))
