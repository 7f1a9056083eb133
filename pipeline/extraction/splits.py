"""Extracting whole splits: what is already finished is kept, the rest is done, and each split gets its index."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing.pool import ThreadPool
from pathlib import Path

from pipeline.clips.manifest import Clip
from pipeline.common.files import UNFINISHED
from pipeline.common.machine import available_cores, exclusive_use
from pipeline.common.processes import run_on_this_machine
from pipeline.common.progress import Progress
from pipeline.extraction.clip_settings import ClipSettings
from pipeline.extraction.executors import run_on_dask
from pipeline.extraction.reasons import RETRIED_REASONS
from pipeline.extraction.tasks import ShardTask, extract_shard, plan_tasks
from pipeline.shards.format import Shard
from pipeline.shards.index import ShardIndex, finished_shards, is_intact, missing_clips, write_index

# What a worker should find imported.
PRELOADS = {"librosa": "pipeline.extraction.tasks", "kaldi": "torchaudio.compliance.kaldi"}


@dataclass(frozen=True)
class Extraction:
    """A finished run: each split's index, the number of clips it worked on (the others were kept), and its duration."""

    indexes: dict[str, ShardIndex]
    new_clips: int
    seconds: float


def extract_splits(
    splits: dict[str, list[Clip]], root: Path, folder: Path, settings: ClipSettings, workers: int, wait: bool = False
) -> Extraction:
    """Make the shards of all splits, in `folder/<split>/`, and their indexes; finished shards are kept.

    `workers` processes of this machine do the work, or the Dask cluster that the settings name. If another extraction
    writes to `folder`, it waits for that one, or raises `UserError` without `wait`. Raises `UserError` too if a worker
    fails, and `AssertionError` if the log-mel is not librosa's.
    """
    start = time.monotonic()
    with exclusive_use(folder, "extraction", wait):
        plans = {split: plan_tasks(split, clips, root, folder / split, settings) for split, clips in splits.items()}
        shard_by_name: dict[str, Shard] = {}
        for split, tasks in plans.items():
            shard_by_name |= _reusable_shards(tasks, folder / split)
        remaining = [task for tasks in plans.values() for task in tasks if task.name not in shard_by_name]
        total, new_clips = sum(map(len, splits.values())), sum(len(task.clips) for task in remaining)
        progress_line = Progress("extract", total, "clips", initial=total - new_clips)
        with _no_leftovers([folder / split for split in plans]), progress_line as progress:
            for shard in _run(remaining, settings, workers):
                shard_by_name[shard.name] = shard
                progress.advance(len(shard.entries) + len(shard.quarantined))
        indexes = {}
        for split, tasks in plans.items():
            shards = [shard_by_name[task.name] for task in tasks]
            indexes[split] = _write_index(ShardIndex(folder / split, settings.features, shards), splits[split])
    return Extraction(indexes, new_clips, time.monotonic() - start)


@contextmanager
def _no_leftovers(folders: list[Path]) -> Iterator[None]:
    """Remove what killed workers left unfinished: first those of an earlier run, at the end those of this one."""

    def remove() -> None:
        for folder in folders:
            for path in folder.glob(UNFINISHED):
                path.unlink(missing_ok=True)

    remove()
    try:
        yield
    finally:
        remove()


def _reusable_shards(tasks: list[ShardTask], folder: Path) -> dict[str, Shard]:
    """The shards of an earlier run that need not be made again, by name; all cores of this machine hash them."""
    finished = finished_shards(folder)
    shards = [
        shard
        for task in tasks
        if (shard := finished.get(task.name))
        and shard.fingerprint == task.fingerprint
        and not any(clip.reason in RETRIED_REASONS for clip in shard.quarantined)
    ]
    with ThreadPool(available_cores()) as pool:  # hashing releases the interpreter's lock
        intact = pool.map(partial(is_intact, folder), shards, chunksize=1)
    return {shard.name: shard for shard, is_kept in zip(shards, intact, strict=True) if is_kept}


def _run(tasks: list[ShardTask], settings: ClipSettings, workers: int) -> Iterator[Shard]:
    if tasks and settings.features.front_end == "librosa":
        # Imported here, because that takes seconds, for which a run with nothing to do need not wait.
        from pipeline.extraction.librosa_check import check_log_mel

        check_log_mel(settings.features)
    if settings.limits.executor == "dask" and settings.limits.scheduler is not None:
        return run_on_dask(extract_shard, tasks, settings.limits.scheduler)
    return run_on_this_machine(extract_shard, tasks, workers, PRELOADS[settings.features.front_end])


def _write_index(index: ShardIndex, clips: list[Clip]) -> ShardIndex:
    if missing := missing_clips(index, clips):
        raise AssertionError(f"{len(missing)} clips have no outcome, {missing[0]} among them: this is a bug")
    write_index(index)
    return index
