"""Batches from shards, in an order that follows from (seed, epoch) alone.

The plan of an epoch is a table of clips, made from the shard index before anything is read: every process knows all
steps of all processes, skipping to a step costs nothing, and no process waits for another's data (P7, P8). Neither the
number of processes nor that of threads changes which clips a step has. A clip is then read by its byte range and
decoded by a closed table of members, on threads: JPEG decoding releases the interpreter's lock.
"""

import functools
import weakref
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import simplejpeg
import torch
from numpy.typing import DTypeLike, NDArray
from torch import Tensor

from pipeline.clips.labels import CLASSES
from pipeline.clips.manifest import Clip
from pipeline.common.config import Features
from pipeline.common.errors import UserError
from pipeline.extraction.log_mel import LEVELS
from pipeline.shards.files import ShardFile, fetched_ahead
from pipeline.shards.format import Entry, Sample, ShardIndex, read_members

BATCHES_AHEAD = 4


@dataclass(frozen=True)
class ClipRef:
    """A labelled clip and where its members lie; `label` is the class's index in `CLASSES`."""

    clip_id: str
    source_id: str
    label: int
    file: ShardFile
    entry: Entry


@dataclass(frozen=True)
class Batch:
    """B clips, on one device, in the types in which they are stored. Frames are RGB; log-mels are padded.

    frames (B, N, 3, H, W) uint8; frame_times_s (B, N); has_video (B,); log_mel (B, mel_bins, T) float16;
    mel_frames (B,) hops that are not padding, 0 for a clip without audio; labels (B,) indices in `CLASSES`.
    """

    clip_ids: list[str]
    frames: Tensor
    frame_times_s: Tensor
    has_video: Tensor
    log_mel: Tensor
    mel_frames: Tensor
    labels: Tensor

    def to(self, device: torch.device) -> "Batch":
        """The same batch on `device`."""
        tensors = {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}
        moved = {name: to_device(value, device) for name, value in tensors.items()}
        return Batch(clip_ids=self.clip_ids, **moved)


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """A copy on a GPU without waiting for what the GPU still does: from pinned memory, which may be pinned already."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def locate(index: ShardIndex, clips: list[Clip]) -> list[ClipRef]:
    """The clips of a manifest that are in the shards, in the shards' order, with their labels."""
    by_id = {clip.clip_id: clip for clip in clips}
    files = [ShardFile(shard, index.folder, index.url) for shard in index.shards]
    located = [
        ClipRef(clip.clip_id, clip.source_id, CLASSES.index(clip.label), file, entry)
        for file in files
        for entry in file.shard.entries
        if (clip := by_id.get(entry.clip_id))
    ]
    if missing := by_id.keys() - {ref.clip_id for ref in located} - {row.clip_id for row in index.quarantined}:
        raise UserError(
            f"{len(missing)} clips of the manifest, {min(missing)} among them, are not in {index.folder}; "
            "run the extract stage (dvc repro extract)"
        )
    return located


def hold_out_sources(clips: Sequence[ClipRef], fraction: float, seed: int) -> tuple[list[ClipRef], list[ClipRef]]:
    """Split into (kept, held out) by source: about `fraction` of the sources, at least one, are held out whole."""
    sources = sorted({clip.source_id for clip in clips})
    if len(sources) < 2:
        raise UserError(f"select_on: dev holds sources out of train, which has {len(sources)}; expected two or more")
    count = min(max(1, round(fraction * len(sources))), len(sources) - 1)
    held = set(np.random.default_rng(seed).permutation(sources)[:count])
    kept = [clip for clip in clips if clip.source_id not in held]
    return kept, [clip for clip in clips if clip.source_id in held]


def plan_epoch(
    shards: NDArray[np.int64], batch_size: int, shuffle_shards: int, seed: int, epoch: int
) -> NDArray[np.int64]:
    """Positions of the clips of each optimisation step of an epoch: (steps, batch_size), each clip at most once.

    `shards` (clips,) is the number of the shard of each clip. The shards are shuffled, then the clips of each
    `shuffle_shards` successive ones: the order follows from (seed, epoch), and a step needs no more than that many
    shards, two times as many where it crosses over. The clips that do not fill a last step sit this epoch out.
    """
    steps = len(shards) // batch_size
    if not steps:
        raise UserError(f"training.batch_size is {batch_size}, more than the {len(shards)} training clips; lower it")
    rng = np.random.default_rng([seed, epoch])
    window = rng.permutation(shards.max() + 1)[shards] // shuffle_shards
    order = np.lexsort((rng.random(len(shards)), window))
    return order[: steps * batch_size].reshape(steps, batch_size)


def shard_numbers(clips: Sequence[ClipRef]) -> NDArray[np.int64]:
    """The number of the shard of each clip, for `plan_epoch`: (clips,)."""
    numbers: dict[ShardFile, int] = {}
    return np.array([numbers.setdefault(clip.file, len(numbers)) for clip in clips], np.int64)


def split_step(batch_size: int, rank: int, world: int, micro_batches: int) -> list[NDArray[np.int64]]:
    """Positions in a step of the clips of each micro-batch of one process; over all processes, each exactly once."""
    if batch_size % (world * micro_batches):
        raise UserError(
            f"training.batch_size is {batch_size}, expected a multiple of {world * micro_batches}: "
            f"{world} processes times training.micro_batches = {micro_batches}"
        )
    share = np.arange(batch_size)[rank::world]
    return [share[part::micro_batches] for part in range(micro_batches)]


def train_batches(
    clips: Sequence[ClipRef],
    plan: NDArray[np.int64],
    parts: Sequence[NDArray[np.int64]],
    features: Features,
    threads: int,
    pinned: bool = False,
) -> Iterator[Batch]:
    """The micro-batches of the planned steps, `parts` (`split_step`) of each step."""
    return load(
        ([clips[position] for position in step[part]] for step in plan for part in parts), features, threads, pinned
    )


def eval_batches(
    clips: Sequence[ClipRef],
    batch_size: int,
    features: Features,
    rank: int,
    world: int,
    threads: int,
    pinned: bool = False,
) -> Iterator[Batch]:
    """This process's share of a pass over all clips: over all processes, each clip exactly once."""
    share = clips[rank::world]
    starts = range(0, len(share), batch_size)
    return load((share[start : start + batch_size] for start in starts), features, threads, pinned)


def load(
    batches: Iterable[Sequence[ClipRef]], features: Features, threads: int, pinned: bool = False
) -> Iterator[Batch]:
    """Read and decode batches in order, a few ahead; `pinned` memory is what copies to a GPU without waiting."""
    memory = _memory(pinned)
    planned = list(batches)
    readers = ThreadPoolExecutor(threads)
    try:
        with fetched_ahead(clip.file for batch in planned for clip in batch):
            ahead: deque[Future[Batch]] = deque()
            for batch in planned:
                ahead.append(readers.submit(read_batch, batch, features, memory))
                if len(ahead) > max(BATCHES_AHEAD, threads):
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
    finally:
        readers.shutdown(wait=False, cancel_futures=True)


class Memory:
    """Memory for batches, used again as soon as no tensor lies in it any more.

    Touching a fresh page costs about as much as decoding into it. Pinned memory is kept by PyTorch itself, which also
    waits for copies to the GPU that are under way.
    """

    def __init__(self, pinned: bool = False) -> None:
        self._pinned = pinned
        self._free: dict[tuple[tuple[int, ...], str], list[NDArray[np.generic]]] = {}

    def take(self, shape: tuple[int, ...], dtype: DTypeLike) -> Tensor:
        """An uninitialised tensor."""
        if self._pinned:
            return torch.from_numpy(np.empty(0, dtype)).new_empty(shape, pin_memory=True)
        free = self._free.setdefault((shape, np.dtype(dtype).str), [])
        try:
            array = free.pop()
        except IndexError:
            array = np.empty(shape, dtype)
        # The tensor's storage holds this view and no one else does: it goes when the last tensor over it goes.
        lent = array.view()
        weakref.finalize(lent, free.append, array).atexit = False
        return torch.from_numpy(lent)


@functools.cache
def _memory(pinned: bool) -> Memory:
    """One for all passes of a process: a pass that began with fresh memory cost a tenth more."""
    return Memory(pinned)


def read_batch(clips: Sequence[ClipRef], features: Features, memory: Memory) -> Batch:
    """Read, decode and stack clips."""
    return collate((read_sample(clip) for clip in clips), [clip.label for clip in clips], features, memory)


def read_sample(clip: ClipRef) -> Sample:
    """Read one clip's members from its shard; raises `UserError` when they are not what the index says."""
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


def collate(samples: Iterable[Sample], labels: Sequence[int], features: Features, memory: Memory) -> Batch:
    """Decode samples made with `features` into one batch, on the CPU, one after the other as they come.

    Log-mels are padded with digital silence to the length of a clip of `max_duration_s`.
    """
    clips, count, size = len(labels), features.frames, features.frame_size_px
    frames = memory.take((clips, count, size, size, 3), np.uint8)
    log_mel = memory.take((clips, features.mel_bins, features.max_mel_frames), np.float16)
    times_s = np.zeros((clips, count), np.float32)
    ids: list[str] = []
    has_video, mel_frames = np.zeros(clips, bool), np.zeros(clips, np.int64)
    for row, (sample, pictures, bank) in enumerate(zip(samples, frames.numpy(), log_mel.numpy(), strict=True)):
        ids.append(sample.clip_id)
        if sample.jpegs:
            has_video[row], times_s[row] = True, sample.frame_times_s
            for jpeg, picture in zip(sample.jpegs, pictures, strict=True):
                decode_jpeg(jpeg, sample.clip_id, picture)
        else:
            pictures[:] = 0
        if sample.log_mel is not None:
            hops = mel_frames[row] = sample.log_mel.shape[1]
            bank[:, :hops] = sample.log_mel
        bank[:, mel_frames[row] :] = LEVELS[features.front_end].silence
    return Batch(
        clip_ids=ids,
        frames=frames.permute(0, 1, 4, 2, 3),
        frame_times_s=torch.from_numpy(times_s),
        has_video=torch.from_numpy(has_video),
        log_mel=log_mel,
        mel_frames=torch.from_numpy(mel_frames),
        labels=torch.tensor(labels),
    )


def decode_jpeg(jpeg: bytes | memoryview, clip_id: str, picture: NDArray[np.uint8] | None = None) -> NDArray[np.uint8]:
    """A frame (H, W, 3), RGB, into `picture` where it is given; raises `UserError` for what is none, or damaged."""
    try:
        decoded: NDArray[np.uint8] = simplejpeg.decode_jpeg(jpeg, "RGB", buffer=picture)
        if picture is not None and decoded.shape != picture.shape:
            raise ValueError(
                f"it has {decoded.shape[1]}x{decoded.shape[0]} pixels, expected {picture.shape[1]}x{picture.shape[0]}"
            )
    except ValueError as error:
        raise UserError(
            f"a frame of clip {clip_id} is not a whole JPEG ({error}): "
            "its shard is damaged; delete it and run the extract stage again"
        ) from None
    return decoded
