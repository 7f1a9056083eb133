"""Shard tasks: independent slices of a manifest, each with the same bytes wherever it is done.

A task depends on its clips, the settings, the code, the libraries and ffmpeg, and on nothing else. Its fingerprint
covers all of these. A finished shard with the same fingerprint is kept, so an interrupted run continues where it was.
"""

import functools
import hashlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from threadpoolctl import threadpool_limits

from pipeline.clips.manifest import Clip
from pipeline.common.errors import UserError
from pipeline.common.machine import ffmpeg_version
from pipeline.common.provenance import code_digest
from pipeline.extraction.clip_settings import ClipSettings
from pipeline.extraction.face_detector import check_detector
from pipeline.extraction.reasons import MediaError
from pipeline.extraction.sample_extraction import extract_sample
from pipeline.extraction.sandbox import CHILD_MODULE, Sandbox
from pipeline.extraction.timeline import Window
from pipeline.shards.format import Quarantined, Sample, Shard, write_shard

# A worker runs this module and starts the child by name. What they import decides the bytes of a shard.
WORKER_MODULES = (__name__, CHILD_MODULE)
WORKER_ZONES = {"pipeline.extraction", "pipeline.shards"}
# Computed at the import, so that it is the digest of the code that this process runs. The files may have changed since:
# a Dask worker can be days old.
CODE_DIGEST = code_digest(WORKER_MODULES, WORKER_ZONES)
LIBRARIES = {
    "librosa": ("av", "imageio-ffmpeg", "numpy", "opencv-python-headless"),
    "kaldi": ("av", "imageio-ffmpeg", "numpy", "opencv-python-headless", "torch", "torchaudio"),
}
# Settings that change how the work is done, but not its result: a clip that took too long is tried again in any case.
NOT_IN_FINGERPRINT = {"max_failed_fraction", "timeout_s", "face_detector", "executor", "scheduler"}

_this_thread = threading.local()


@dataclass(frozen=True)
class ShardTask:
    """One shard to be made: its clips, where they are, and the settings."""

    name: str
    clips: list[Clip]
    root: Path
    folder: Path
    settings: ClipSettings
    fingerprint: str


def plan_tasks(split: str, clips: list[Clip], root: Path, folder: Path, settings: ClipSettings) -> list[ShardTask]:
    """Cut a manifest into shard tasks, in its order, and make the folder for the shards."""
    folder.mkdir(parents=True, exist_ok=True)
    size = settings.limits.clips_per_shard
    return [
        ShardTask(
            name=f"{split}-{start // size:06d}.tar",
            clips=clips[start : start + size],
            # Absolute, because a worker on another machine has another current folder.
            root=root.absolute(),
            folder=folder.absolute(),
            settings=settings,
            fingerprint=shard_fingerprint(clips[start : start + size], settings),
        )
        for start in range(0, len(clips), size)
    ]


def shard_fingerprint(clips: list[Clip], settings: ClipSettings) -> str:
    """SHA-256 of all that a shard follows from: its clips' ids, bytes and parts, the settings, code and libraries."""
    parts = {
        "clips": [(clip.clip_id, clip.sha256, clip.start_s, clip.end_s) for clip in clips],
        "features": settings.features.model_dump(),
        "limits": settings.limits.model_dump(exclude=NOT_IN_FINGERPRINT),
        "code": CODE_DIGEST,
        "libraries": library_versions(settings.features.front_end),
        "ffmpeg": ffmpeg_version(),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


@functools.cache  # like the code's digest, they are those that this process runs; looking them up takes a millisecond
def library_versions(front_end: str) -> dict[str, str]:
    """The versions of the libraries that decide the bytes of a shard, by name."""
    return {name: version(name) for name in LIBRARIES[front_end]}


def extract_shard(task: ShardTask) -> Shard:
    """Make one shard, in a worker that may be on another machine.

    Raises `UserError` if its code, libraries or ffmpeg differ from those of the process that planned the task, or if a
    face detector that it needs is missing or another file.
    """
    if shard_fingerprint(task.clips, task.settings) != task.fingerprint:
        raise UserError(
            f"a worker has other code, libraries or ffmpeg than the process that planned {task.name}; "
            "give all machines the same environment, and start the run again if files changed meanwhile"
        )
    check_detector(task.settings)
    if not hasattr(_this_thread, "sandbox"):
        _this_thread.sandbox = Sandbox()
    # The matrix product of a log-mel is too small to share: a second thread of BLAS would mostly wait, and wait busily.
    with threadpool_limits(1):
        return write_shard(task.folder, task.name, task.fingerprint, clip_outcomes(task, _this_thread.sandbox))


def clip_outcomes(task: ShardTask, sandbox: Sandbox) -> Iterator[Sample | Quarantined]:
    """Yield what becomes of each clip, in order: its sample, or the reason why it has none."""
    for clip in task.clips:
        try:
            yield extract_sample(task.root / clip.path, clip.clip_id, task.settings, sandbox, window_of(clip))
        except MediaError as error:
            yield Quarantined(clip.clip_id, error.reason, error.detail)


def window_of(clip: Clip) -> Window | None:
    """The part of its file that a clip is; None for the whole file."""
    return None if clip.start_s is None or clip.end_s is None else Window(clip.start_s, clip.end_s)
