"""The plan of an epoch: which clips make each step, on any number of processes.

The plan is a table of clips that is made from the shard index before anything is read. Every process knows all steps of
all processes, so skipping to a step costs nothing, and no process waits for another's data. The number of processes and
of threads does not change which clips a step has.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pipeline.common.errors import UserError
from pipeline.loading.selection import ClipRef
from pipeline.shards.files import ShardFile


def count_steps(clips: int, batch_size: int) -> int:
    """The full steps that `clips` make; raises `UserError` if they make none."""
    if clips < batch_size:
        raise UserError(f"recipe.training.batch_size is {batch_size}, more than the {clips} training clips; lower it")
    return clips // batch_size


def plan_epoch(
    shards: NDArray[np.int64], batch_size: int, shuffle_shards: int, seed: int, epoch: int
) -> NDArray[np.int64]:
    """Positions of the clips of each step of an epoch: (steps, batch_size), each clip at most once.

    `shards` (clips,) is the number of each clip's shard. The shards are shuffled, then the clips of every
    `shuffle_shards` successive shards. So the order follows from (seed, epoch), and a step reads from at most two such
    groups of shards, if each has at least `batch_size` clips. Clips left over after the last full step are skipped in
    this epoch. Raises `UserError` for a batch that is larger than the number of clips.
    """
    steps = count_steps(len(shards), batch_size)
    rng = np.random.default_rng([seed, epoch])
    group = rng.permutation(shards.max() + 1)[shards] // shuffle_shards
    order = np.lexsort((rng.random(len(shards)), group))
    return order[: steps * batch_size].reshape(steps, batch_size)


def balanced_draw(labels: NDArray[np.int64], seed: int, epoch: int) -> NDArray[np.int64]:
    """Positions of as many clips as there are `labels`, in which all classes occur equally often, to within one clip.

    Clips of a class occur equally often too, to within one. Which occur more often follows from (seed, epoch).
    """
    rng = np.random.default_rng([seed, epoch, 1])
    present = rng.permutation(np.unique(labels))
    shares = [len(share) for share in np.array_split(labels, len(present))]
    draws = [
        np.resize(rng.permutation(np.flatnonzero(labels == label)), share)
        for label, share in zip(present, shares, strict=True)
    ]
    return np.concatenate(draws)


def shard_numbers(clips: Sequence[ClipRef]) -> NDArray[np.int64]:
    """The number of each clip's shard, for `plan_epoch`: (clips,)."""
    numbers: dict[ShardFile, int] = {}
    return np.array([numbers.setdefault(clip.file, len(numbers)) for clip in clips], np.int64)


def split_step(
    batch_size: int, rank: int, world: int, micro_batches: int, together: int = 1
) -> list[NDArray[np.int64]]:
    """For each micro-batch of a process, the positions of its clips within a step: successive ones.

    Over all processes, each position occurs exactly once. Groups of `together` successive clips stay together. Raises
    `UserError` for a batch size that cannot be divided so.
    """
    parts = world * micro_batches
    if batch_size % (parts * together):
        raise UserError(
            f"recipe.training.batch_size is {batch_size}, expected a multiple of {parts * together}: {world} processes "
            f"times recipe.training.micro_batches = {micro_batches} times {together} clips that stay together "
            "(BatchNorm takes recipe.model.norm_clips, mixup takes 2)"
        )
    return list(np.arange(batch_size).reshape(world, micro_batches, -1)[rank])
