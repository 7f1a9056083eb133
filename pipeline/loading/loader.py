"""Reading planned batches from shards, some ahead of need.

A clip is one read of its byte range. Threads decode it, because JPEG decoding releases the interpreter's lock.
"""

import functools
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.common.config import Config
from pipeline.common.errors import UserError
from pipeline.common.recipe import Features
from pipeline.loading.batch import Batch, Memory, collate
from pipeline.loading.selection import ClipRef
from pipeline.shards.files import fetched_ahead
from pipeline.shards.format import Sample, read_members

BATCHES_AHEAD = 4


@dataclass(frozen=True)
class Loader:
    """How a process reads batches: the features the shards were made with, decoding threads, and kind of memory.

    A copy from `pinned` memory to a GPU does not wait for the GPU's earlier work.
    """

    features: Features
    threads: int
    pinned: bool = False

    @staticmethod
    def for_config(config: Config, device: torch.device) -> "Loader":
        """The loader of a process that computes on `device`."""
        return Loader(config.recipe.features, config.execution.decode_threads, device.type == "cuda")

    def train_batches(
        self,
        clips: Sequence[ClipRef],
        plan: NDArray[np.int64],
        frames: NDArray[np.int64],
        parts: Sequence[NDArray[np.int64]],
    ) -> Iterator[Batch]:
        """The micro-batches of the planned steps, `parts` (`plan.split_step`) of each step.

        `frames` (steps, clips of a step, N) are the numbers of the stored frames that each clip has in a step.
        """
        return self.load(
            ([clips[position] for position in step[part]], chosen[part])
            for step, chosen in zip(plan, frames, strict=True)
            for part in parts
        )

    def eval_batches(
        self, clips: Sequence[ClipRef], frames: NDArray[np.int64], batch_size: int, rank: int, world: int
    ) -> Iterator[Batch]:
        """One process's share of a pass over all clips; over all processes, each clip occurs exactly once.

        `frames` (N,) are the numbers of the stored frames that every clip has.
        """
        share = clips[rank::world]
        starts = range(0, len(share), batch_size)
        return self.load((share[start : start + batch_size], frames) for start in starts)

    def load(self, batches: Iterable[tuple[Sequence[ClipRef], NDArray[np.int64]]]) -> Iterator[Batch]:
        """Read and decode batches in order, a few ahead of need. Each is given as its clips and their frames."""
        memory = _shared_memory(self.pinned)
        planned = list(batches)
        readers = ThreadPoolExecutor(self.threads)
        try:
            with fetched_ahead(clip.file for clips, _ in planned for clip in clips):
                ahead: deque[Future[Batch]] = deque()
                for batch in planned:
                    ahead.append(readers.submit(read_batch, *batch, self.features, memory))
                    if len(ahead) > max(BATCHES_AHEAD, self.threads):
                        yield ahead.popleft().result()
                while ahead:
                    yield ahead.popleft().result()
        finally:
            readers.shutdown(wait=False, cancel_futures=True)


@functools.cache
def _shared_memory(pinned: bool) -> Memory:
    """The memory of all passes of a process: a pass that began with fresh memory took a tenth longer."""
    return Memory(pinned)


def read_batch(clips: Sequence[ClipRef], frames: NDArray[np.int64], features: Features, memory: Memory) -> Batch:
    """Read, decode and stack clips, with the frames that are chosen as in `collate`."""
    return collate((read_sample(clip) for clip in clips), [clip.label for clip in clips], frames, features, memory)


def read_sample(clip: ClipRef) -> Sample:
    """Read the members of one clip from its shard; raises `UserError` if they are not what the index says."""
    content = clip.file.read(clip.entry)
    try:
        sample = Sample.from_members(read_members(content))
        if sample.clip_id != clip.clip_id:
            raise ValueError(f"the clip there is {sample.clip_id}")
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"shard {clip.file.path} does not hold clip {clip.clip_id} where its index says ({error}); "
            "delete the shard and run the extract stage again"
        ) from None
    return sample
