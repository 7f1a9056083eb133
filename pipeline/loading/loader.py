"""Reading planned batches from shards, some ahead of need.

A clip is one read of its byte range. Threads decode it, because JPEG decoding releases the interpreter's lock.
"""

import functools
import math
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.common.config import Config
from pipeline.common.errors import UserError
from pipeline.common.features import Features
from pipeline.loading.batch import Batch, collate
from pipeline.loading.memory import Memory
from pipeline.loading.selection import ClipRef
from pipeline.shards.files import fetched_ahead
from pipeline.shards.format import Sample, read_members

BATCHES_AHEAD = 4
LENGTH_STEP_S = 0.5  # of log-mels in training: kernels are chosen for a length, so few lengths are used


@dataclass(frozen=True)
class PlannedBatch:
    """The clips of a batch, the stored frames that they have in it, and the length of their log-mels (`collate`)."""

    clips: Sequence[ClipRef]
    frames: NDArray[np.int64]
    hops: int | None = None


@dataclass(frozen=True)
class Loader:
    """How a process reads batches: the features the shards were made with, decoding threads, and kind of memory.

    A copy from `pinned` memory to a GPU does not wait for the GPU's earlier work. With `any_length`, the log-mels of a
    training step end soon after its longest clip. Otherwise all have the length of a clip of `max_duration_s`.
    """

    features: Features
    threads: int
    pinned: bool = False
    any_length: bool = False

    @staticmethod
    def for_config(config: Config, device: torch.device, any_length: bool = False) -> "Loader":
        """The loader of a process that computes on `device`."""
        features = config.recipe.model.features_to_read(config.recipe.features)
        return Loader(features, config.execution.decode_threads, device.type == "cuda", any_length)

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
            batch
            for step, chosen in zip(plan, frames, strict=True)
            for batch in self._batches_of_step([clips[position] for position in step], chosen, parts)
        )

    def _batches_of_step(
        self, clips: Sequence[ClipRef], frames: NDArray[np.int64], parts: Sequence[NDArray[np.int64]]
    ) -> list[PlannedBatch]:
        hops = self.hops_of(clips)
        return [PlannedBatch([clips[row] for row in part], frames[part], hops) for part in parts]

    def hops_of(self, clips: Sequence[ClipRef]) -> int | None:
        """The length of the log-mels of a step, in hops; it is the same in all processes. None: the default.

        At least one `LENGTH_STEP_S` of silence follows the longest clip, as far as `max_duration_s` allows, because
        silence follows it in evaluation too.
        """
        if not self.any_length:
            return None
        longest_s = max(clip.entry.duration_s for clip in clips)
        padded_s = LENGTH_STEP_S * (math.ceil(longest_s / LENGTH_STEP_S) + 1)
        samples = round(padded_s * self.features.sample_rate_hz)
        return min(self.features.mel_frames(samples), self.features.max_mel_frames)

    def eval_batches(
        self, clips: Sequence[ClipRef], frames: NDArray[np.int64], batch_size: int, rank: int, world: int
    ) -> Iterator[Batch]:
        """One process's share of a pass over all clips; over all processes, each clip occurs exactly once.

        `frames` (N,) are the numbers of the stored frames that every clip has.
        """
        share = clips[rank::world]
        starts = range(0, len(share), batch_size)
        return self.load(PlannedBatch(share[start : start + batch_size], frames) for start in starts)

    def load(self, batches: Iterable[PlannedBatch]) -> Iterator[Batch]:
        """Read and decode batches in order, a few ahead of need."""
        memory = _shared_memory(self.pinned)
        planned = list(batches)
        readers = ThreadPoolExecutor(self.threads)
        try:
            with fetched_ahead(clip.file for batch in planned for clip in batch.clips):
                ahead: deque[Future[Batch]] = deque()
                for batch in planned:
                    ahead.append(readers.submit(read_batch, batch, self.features, memory))
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


def read_batch(planned: PlannedBatch, features: Features, memory: Memory) -> Batch:
    """Read, decode and stack the clips of a batch."""
    samples, labels = (read_sample(clip) for clip in planned.clips), [clip.label for clip in planned.clips]
    return collate(samples, labels, planned.frames, features, memory, planned.hops)


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
