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


def plan_epoch(
    shards: NDArray[np.int64], batch_size: int, shuffle_shards: int, seed: int, epoch: int
) -> NDArray[np.int64]:
    """Positions of the clips of each step of an epoch: (steps, batch_size), each clip at most once.

    `shards` (clips,) is the number of each clip's shard. The shards are shuffled, then the clips of every
    `shuffle_shards` successive shards. So the order follows from (seed, epoch), and a step reads from at most two such
    groups of shards, if each has at least `batch_size` clips. Clips left over after the last full step are skipped in
    this epoch. Raises `UserError` for a batch that is larger than the number of clips.
    """
    steps = len(shards) // batch_size
    if not steps:
        raise UserError(f"training.batch_size is {batch_size}, more than the {len(shards)} training clips; lower it")
    rng = np.random.default_rng([seed, epoch])
    group = rng.permutation(shards.max() + 1)[shards] // shuffle_shards
    order = np.lexsort((rng.random(len(shards)), group))
    return order[: steps * batch_size].reshape(steps, batch_size)


def shard_numbers(clips: Sequence[ClipRef]) -> NDArray[np.int64]:
    """The number of each clip's shard, for `plan_epoch`: (clips,)."""
    numbers: dict[ShardFile, int] = {}
    return np.array([numbers.setdefault(clip.file, len(numbers)) for clip in clips], np.int64)


def split_step(batch_size: int, rank: int, world: int, micro_batches: int) -> list[NDArray[np.int64]]:
    """For each micro-batch of a process, the positions of its clips within a step.

    Over all processes, each position occurs exactly once. Raises `UserError` for a batch size that cannot be divided.
    """
    if batch_size % (world * micro_batches):
        raise UserError(
            f"training.batch_size is {batch_size}, expected a multiple of {world * micro_batches}: "
            f"{world} processes times training.micro_batches = {micro_batches}"
        )
    share = np.arange(batch_size)[rank::world]
    return [share[part::micro_batches] for part in range(micro_batches)]


def check_pairs(parts: Sequence[NDArray[np.int64]]) -> None:
    """Raise `UserError` unless each of a process's `parts` of a step consists of whole pairs of clips, as mixup needs.

    The pairs of a step are its clips 2k and 2k + 1.
    """
    for part in parts:
        if not np.array_equal(part // 2, np.repeat(part[::2] // 2, 2)):
            raise UserError(
                f"training.augmentation.mixup_alpha mixes clips in pairs, but a micro-batch has {len(part)} clips: "
                "expected an even number; change training.batch_size, training.micro_batches or the number of "
                "processes, or set mixup_alpha: 0.0"
            )
