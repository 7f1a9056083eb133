"""From a manifest to shards: independent shard tasks, the same bytes whatever the number of workers (P3 to P6).

A task is a slice of the manifest. It depends on nothing but that slice, the settings and the code, all of which its
fingerprint covers; a finished shard with the same fingerprint is kept, so an interrupted run continues where it was.
"""

import csv
import hashlib
import json
import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import cv2
import numpy as np

from pipeline import features as features_module
from pipeline import media, shards
from pipeline.config import Extract, Features
from pipeline.errors import UserError
from pipeline.features import log_mel
from pipeline.machine import ffmpeg_version
from pipeline.manifest import Clip, sha256_of
from pipeline.media import MediaError, decode, read_timeline, sample_pts
from pipeline.progress import Progress
from pipeline.shards import Quarantined, Sample, Shard, ShardIndex, finished_shards, is_intact, write_index, write_shard

# What a shard's bytes follow from, besides the clips and the settings.
CODE = (media, features_module, shards)
# A full disk or a busy machine looks like these: a rerun tries such clips again.
RETRIED_REASONS = {"timeout", "decode_failed"}
QUARANTINE_NAME = "quarantine.csv"
LIBRARIES = ("av", "imageio-ffmpeg", "librosa", "numpy", "opencv-python-headless", "scipy")


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


def extract_split(
    split: str, clips: list[Clip], root: Path, folder: Path, features: Features, limits: Extract, workers: int
) -> ShardIndex:
    """Make the shards of a split with `workers` processes and write their index; finished shards are kept."""
    folder.mkdir(parents=True, exist_ok=True)
    tasks = plan_tasks(split, clips, root, folder, features, limits)
    made = {name: shard for name, shard in finished_shards(folder).items() if is_intact(folder, shard)}
    done = {task.name: made[task.name] for task in tasks if _is_made(task, made)}
    kept = sum(len(task.clips) for task in tasks if task.name in done)
    with Progress(f"extract {split}", len(clips), "clips", kept) as progress:
        for shard in _run_tasks([task for task in tasks if task.name not in done], workers):
            done[shard.name] = shard
            progress.advance(len(shard.entries) + len(shard.quarantined))
    index = ShardIndex(folder, features, [done[task.name] for task in tasks])
    if missing := shards.missing_clips(index, clips):
        raise AssertionError(f"{len(missing)} clips of {split} got no outcome, {missing[0]} among them: this is a bug")
    write_index(index)
    return index


def plan_tasks(
    split: str, clips: list[Clip], root: Path, folder: Path, features: Features, limits: Extract
) -> list[ShardTask]:
    """Cut the manifest into shard tasks, in its order."""
    size = limits.clips_per_shard
    slices = [clips[start : start + size] for start in range(0, len(clips), size)]
    return [
        ShardTask(
            f"{split}-{number:06d}.tar", part, root, folder, features, limits, fingerprint(part, features, limits)
        )
        for number, part in enumerate(slices)
    ]


def fingerprint(clips: list[Clip], features: Features, limits: Extract) -> str:
    """SHA-256 of all that a shard follows from: the clips' ids and bytes, the settings, the code, the libraries."""
    parts = {
        "clips": [(clip.clip_id, clip.sha256) for clip in clips],
        "features": features.model_dump(),
        "limits": limits.model_dump(exclude={"max_failed_fraction"}),
        "code": [sha256_of(Path(file)) for file in (__file__, *(str(module.__file__) for module in CODE))],
        "libraries": {name: version(name) for name in LIBRARIES},
        "ffmpeg": ffmpeg_version(),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def extract_shard(task: ShardTask) -> Shard:
    """Make one shard; runs in a worker process."""
    cv2.setNumThreads(0)
    return write_shard(task.folder, task.name, task.fingerprint, map_clips(task))


def map_clips(task: ShardTask) -> Iterator[Sample | Quarantined]:
    """Each clip's outcome, in order: a sample, or the reason why there is none."""
    for clip in task.clips:
        try:
            yield extract_clip(task.root / clip.path, clip.clip_id, task.features, task.limits)
        except MediaError as error:
            yield Quarantined(clip.clip_id, error.reason, error.detail)


def extract_clip(path: Path, clip_id: str, features: Features, limits: Extract) -> Sample:
    """What a model sees of a clip; raises `MediaError` when it cannot be had."""
    timeline = read_timeline(path, features.max_duration_s, limits.max_pixels)
    pts = sample_pts(timeline, features.frames)
    frames, waveform = decode(path, timeline, pts, features, limits)
    quality = [cv2.IMWRITE_JPEG_QUALITY, features.jpeg_quality]
    return Sample(
        clip_id=clip_id,
        duration_s=timeline.duration_s,
        jpegs=[cv2.imencode(".jpg", frame, quality)[1].tobytes() for frame in frames],
        frame_times_s=[timeline.seconds(tick) for tick in pts],
        log_mel=None if waveform is None else log_mel(waveform, features).astype(np.float16),
    )


def check_failures(indexes: dict[str, ShardIndex], clips: dict[str, list[Clip]], limit: float) -> None:
    """Raise `UserError` for a split of which more than the share `limit` is quarantined."""
    for split, index in indexes.items():
        if len(index.quarantined) > limit * len(clips[split]):
            first = index.quarantined[0]
            raise UserError(
                f"{len(index.quarantined)} of {len(clips[split])} {split} clips were quarantined, more than "
                f"extract.max_failed_fraction = {limit} allows; the first is {first.clip_id}: {first.reason} "
                f"({first.detail}); all are in {index.folder.parent / QUARANTINE_NAME}"
            )


def write_quarantine(indexes: dict[str, ShardIndex], path: Path) -> None:
    """Write the table of quarantined clips of all splits as CSV."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["split", "clip_id", "reason", "detail"])
        for split, index in indexes.items():
            writer.writerows([split, row.clip_id, row.reason, row.detail] for row in index.quarantined)


def _is_made(task: ShardTask, made: dict[str, Shard]) -> bool:
    """Whether a finished shard is this task's; one with a clip that may have failed for the machine's sake is not."""
    if (shard := made.get(task.name)) is None or shard.fingerprint != task.fingerprint:
        return False
    return not any(row.reason in RETRIED_REASONS for row in shard.quarantined)


def _run_tasks(tasks: list[ShardTask], workers: int) -> Iterator[Shard]:
    if not tasks:
        return
    # A fork server imports librosa and compiles its first call once; its workers inherit both.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["pipeline.warm_up"])
    with ProcessPoolExecutor(min(workers, len(tasks)), mp_context=context) as pool:
        futures = [pool.submit(extract_shard, task) for task in tasks]
        try:
            for future in as_completed(futures):
                yield future.result()
        except BrokenProcessPool:
            raise UserError(
                "an extraction worker was killed (out of memory, or by hand); finished shards are kept: run it again"
            ) from None
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
