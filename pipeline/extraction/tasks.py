"""From a manifest to shards: independent shard tasks, the same bytes whatever runs them (P3 to P6).

A task is a slice of the manifest. It depends on nothing but that slice, the settings and the code, all of which its
fingerprint covers; a finished shard with the same fingerprint is kept, so an interrupted run continues where it was.
"""

import hashlib
import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from pipeline.clips.manifest import Clip, sha256_of
from pipeline.common.config import Extract, Features
from pipeline.common.errors import UserError
from pipeline.common.machine import alone_in, ffmpeg_version
from pipeline.common.progress import Progress
from pipeline.extraction import clip_reader as sandbox
from pipeline.extraction import decoding
from pipeline.extraction import log_mel as features_module
from pipeline.extraction import timeline as media
from pipeline.extraction.clip_reader import ClipMedia, Sandbox
from pipeline.extraction.executors import run_on_dask, run_on_this_machine
from pipeline.extraction.log_mel import log_mel
from pipeline.extraction.timeline import MediaError
from pipeline.shards import format as shards
from pipeline.shards.format import (
    Quarantined,
    Sample,
    Shard,
    ShardIndex,
    finished_shards,
    is_intact,
    write_index,
    write_shard,
)

# What a shard's bytes follow from, besides the clips and the settings.
CODE = (media, decoding, sandbox, features_module, shards)
# Of what this process runs, not of what the files have become since: a Dask worker can be days old.
CODE_SHA256 = [sha256_of(Path(file)) for file in (__file__, *(str(module.__file__) for module in CODE))]
LIBRARIES = {
    "librosa": ("av", "imageio-ffmpeg", "librosa", "numpy", "opencv-python-headless", "scipy"),
    "kaldi": ("av", "imageio-ffmpeg", "numpy", "opencv-python-headless", "torch", "torchaudio"),
}
# Settings that change how the work is done, not what comes out.
NOT_IN_FINGERPRINT = {"max_failed_fraction", "executor", "scheduler"}
# A busy or small machine can look like these: a rerun tries such clips again.
RETRIED_REASONS = {"inaccessible", "timeout", "out_of_memory", "crashed"}

_this_thread = threading.local()


@dataclass(frozen=True)
class ShardTask:
    """One shard to be made: which clips, from where, how."""

    name: str
    clips: list[Clip]
    root: Path
    folder: Path
    features: Features
    limits: Extract
    fingerprint: str


@dataclass(frozen=True)
class Extraction:
    """A finished run: the splits' indexes, how many clips it worked on (the rest were kept), and how long it took."""

    indexes: dict[str, ShardIndex]
    new_clips: int
    seconds: float


def extract_splits(
    splits: dict[str, list[Clip]], root: Path, folder: Path, features: Features, limits: Extract, workers: int
) -> Extraction:
    """Make the shards of all splits, `folder/<split>/`, and their indexes; finished shards are kept.

    `workers` processes of this machine do the work, or the Dask cluster that `limits` names.
    """
    start = time.monotonic()
    with alone_in(folder, "extraction"):
        plans = {
            split: plan_tasks(split, clips, root, folder / split, features, limits) for split, clips in splits.items()
        }
        made: dict[str, Shard] = {}
        for split, tasks in plans.items():
            made |= _finished(tasks, folder / split)
        missing = [task for tasks in plans.values() for task in tasks if task.name not in made]
        total, new = sum(map(len, splits.values())), sum(len(task.clips) for task in missing)
        with Progress("extract", total, "clips", initial=total - new) as progress:
            for shard in _run(missing, features, limits, workers):
                made[shard.name] = shard
                progress.advance(len(shard.entries) + len(shard.quarantined))
        indexes = {s: _finish(splits[s], folder / s, features, tasks, made) for s, tasks in plans.items()}
    return Extraction(indexes, new, time.monotonic() - start)


def _finished(tasks: list[ShardTask], folder: Path) -> dict[str, Shard]:
    """What an earlier run made of the tasks; not shards with clips that may have failed for the machine's sake."""
    left = finished_shards(folder)
    return {
        task.name: shard
        for task in tasks
        if (shard := left.get(task.name))
        and shard.fingerprint == task.fingerprint
        and not any(row.reason in RETRIED_REASONS for row in shard.quarantined)
        and is_intact(folder, shard)
    }


def _run(tasks: list[ShardTask], features: Features, limits: Extract, workers: int) -> Iterator[Shard]:
    if limits.executor == "dask" and limits.scheduler is not None:
        return run_on_dask(extract_shard, tasks, limits.scheduler)
    # What a worker should find imported: librosa with its first call compiled, or torch.
    preload = "pipeline.extraction.warm_up" if features.front_end == "librosa" else "torchaudio.compliance.kaldi"
    return run_on_this_machine(extract_shard, tasks, workers, preload)


def _finish(
    clips: list[Clip], folder: Path, features: Features, tasks: list[ShardTask], made: dict[str, Shard]
) -> ShardIndex:
    index = ShardIndex(folder, features, [made[task.name] for task in tasks])
    if missing := shards.missing_clips(index, clips):
        raise AssertionError(f"{len(missing)} clips got no outcome, {missing[0]} among them: this is a bug")
    write_index(index)
    return index


def plan_tasks(
    split: str, clips: list[Clip], root: Path, folder: Path, features: Features, limits: Extract
) -> list[ShardTask]:
    """Cut the manifest into shard tasks, in its order."""
    folder.mkdir(parents=True, exist_ok=True)
    size = limits.clips_per_shard
    return [
        ShardTask(
            name=f"{split}-{start // size:06d}.tar",
            clips=clips[start : start + size],
            # Absolute: a worker on another machine has another current folder.
            root=root.absolute(),
            folder=folder.absolute(),
            features=features,
            limits=limits,
            fingerprint=fingerprint(clips[start : start + size], features, limits),
        )
        for start in range(0, len(clips), size)
    ]


def fingerprint(clips: list[Clip], features: Features, limits: Extract) -> str:
    """SHA-256 of all that a shard follows from: the clips' ids and bytes, the settings, the code, the libraries."""
    parts = {
        "clips": [(clip.clip_id, clip.sha256) for clip in clips],
        "features": features.model_dump(),
        "limits": limits.model_dump(exclude=NOT_IN_FINGERPRINT),
        "code": CODE_SHA256,
        "libraries": {name: version(name) for name in LIBRARIES[features.front_end]},
        "ffmpeg": ffmpeg_version(),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def extract_shard(task: ShardTask) -> Shard:
    """Make one shard; runs in a worker, which may be on another machine."""
    if fingerprint(task.clips, task.features, task.limits) != task.fingerprint:
        raise UserError(
            f"a worker has other code, libraries or ffmpeg than the one that planned {task.name}: "
            "give all machines the same environment, and restart the run if files changed meanwhile"
        )
    if not hasattr(_this_thread, "sandbox"):
        _this_thread.sandbox = Sandbox()
    # The matrix product of a log-mel is too small to share: a second thread of BLAS would mostly wait, and wait busily.
    with threadpool_limits(1):
        return write_shard(task.folder, task.name, task.fingerprint, map_clips(task, _this_thread.sandbox))


def map_clips(task: ShardTask, sandbox: Sandbox) -> Iterator[Sample | Quarantined]:
    """Each clip's outcome, in order: a sample, or the reason why there is none."""
    for clip in task.clips:
        try:
            yield extract_clip(task.root / clip.path, clip.clip_id, task.features, task.limits, sandbox)
        except MediaError as error:
            yield Quarantined(clip.clip_id, error.reason, error.detail)


def extract_clip(path: Path, clip_id: str, features: Features, limits: Extract, sandbox: Sandbox) -> Sample:
    """What a model sees of a clip; raises `MediaError` when it cannot be had."""
    return sample_of(clip_id, sandbox.read_clip(path, features, limits), features)


def sample_of(clip_id: str, clip: ClipMedia, features: Features) -> Sample:
    """What a model sees of what was read of a clip."""
    return Sample(
        clip_id=clip_id,
        duration_s=clip.duration_s,
        frame_rate_hz=clip.frame_rate_hz,
        jpegs=clip.jpegs,
        frame_times_s=clip.frame_times_s,
        log_mel=None if clip.waveform is None else log_mel(clip.waveform, features).astype(np.float16),
    )
