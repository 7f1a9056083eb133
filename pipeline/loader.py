"""Batches from shards, in an order that follows from (seed, epoch) alone.

The plan of an epoch is a table of clips, made from the shard index before anything is read: every process knows all
steps of all processes, skipping to a step costs nothing, and no process waits for another's data (P7, P8). A clip is
then read by its byte range, with WebDataset's own tar reader, checked, and decoded by a closed table of members.
"""

import io
import tarfile
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from webdataset.tariterators import group_by_keys, tar_file_expander

from pipeline.config import Features
from pipeline.errors import UserError
from pipeline.features import LEVELS
from pipeline.labels import CLASSES
from pipeline.manifest import Clip
from pipeline.shards import Entry, Sample, ShardIndex

DECODE_THREADS = 2
BATCHES_AHEAD = 4


@dataclass(frozen=True)
class ClipRef:
    """A labelled clip and where its members lie; `label` is the class's index in `CLASSES`."""

    clip_id: str
    source_id: str
    label: int
    shard: Path
    entry: Entry


@dataclass(frozen=True)
class Batch:
    """B clips, on one device. Frames are RGB in 0..255, log-mels are dB, padded to a common length.

    frames (B, N, 3, H, W) uint8; frame_times_s (B, N); log_mel (B, mel_bins, T); mel_frames (B,) hops that are not
    padding, 0 for a clip without audio; labels (B,) indices in `CLASSES`.
    """

    clip_ids: list[str]
    frames: Tensor
    frame_times_s: Tensor
    log_mel: Tensor
    mel_frames: Tensor
    labels: Tensor

    def to(self, device: torch.device) -> "Batch":
        """The same batch on `device`."""
        tensors = {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}
        moved = {name: value.to(device, non_blocking=True) for name, value in tensors.items()}
        return Batch(clip_ids=self.clip_ids, **moved)


def locate(index: ShardIndex, clips: list[Clip]) -> list[ClipRef]:
    """The clips of a manifest that are in the shards, in the shards' order, with their labels."""
    by_id = {clip.clip_id: clip for clip in clips}
    located = [
        ClipRef(clip.clip_id, clip.source_id, CLASSES.index(clip.label), index.folder / shard.name, entry)
        for shard in index.shards
        for entry in shard.entries
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


def plan_epoch(clips: int, batch_size: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """Positions of the clips of each optimisation step of an epoch: (steps, batch_size), each clip at most once.

    A permutation that follows from (seed, epoch). The clips that do not fill a last batch sit this epoch out.
    """
    steps = clips // batch_size
    if not steps:
        raise UserError(f"training.batch_size is {batch_size}, more than the {clips} training clips; lower it")
    order = np.random.default_rng([seed, epoch]).permutation(clips)
    return order[: steps * batch_size].reshape(steps, batch_size)


def train_batches(
    clips: Sequence[ClipRef], plan: NDArray[np.int64], features: Features, rank: int, world: int
) -> Iterator[Batch]:
    """This process's share of each planned step: clips rank, rank + world, ... of the step."""
    chosen = [[clips[position] for position in step[rank::world]] for step in plan]
    return load(chosen, features)


def eval_batches(
    clips: Sequence[ClipRef], batch_size: int, features: Features, rank: int, world: int
) -> Iterator[Batch]:
    """This process's share of a pass over all clips: over all processes, each clip exactly once."""
    share = clips[rank::world]
    chosen = [share[start : start + batch_size] for start in range(0, len(share), batch_size)]
    return load(chosen, features)


def load(batches: Sequence[Sequence[ClipRef]], features: Features) -> Iterator[Batch]:
    """Read and decode batches in order, a few ahead on threads (JPEG decoding releases the interpreter's lock)."""
    # OpenCV's own threads would only compete with these and with the training.
    cv2.setNumThreads(0)
    read = partial(read_batch, features=features)
    with ThreadPoolExecutor(DECODE_THREADS) as pool:
        ahead: deque[Future[Batch]] = deque()
        for batch in batches:
            ahead.append(pool.submit(read, batch))
            if len(ahead) > BATCHES_AHEAD:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()


def read_batch(clips: Sequence[ClipRef], features: Features) -> Batch:
    """Read, decode and stack clips; log-mels are padded to their longest with digital silence."""
    samples = [read_sample(clip) for clip in clips]
    return collate(samples, [clip.label for clip in clips], features)


def read_sample(clip: ClipRef) -> Sample:
    """Read one clip's members from its shard; raises `UserError` when they are not what the index says."""
    with clip.shard.open("rb") as file:
        file.seek(clip.entry.offset)
        content = io.BytesIO(file.read(clip.entry.size))
    try:
        (members,) = group_by_keys(tar_file_expander([{"url": clip.shard.name, "stream": content}]))
        sample = Sample.from_members(members)
        if sample.clip_id != clip.clip_id:
            raise ValueError(f"the clip there is {sample.clip_id}")
    except (ValueError, KeyError, EOFError, tarfile.TarError) as error:
        raise UserError(
            f"shard {clip.shard} does not hold clip {clip.clip_id} where its index says ({error}); "
            "delete the shard and run the extract stage again"
        ) from None
    return sample


def collate(samples: Sequence[Sample], labels: Sequence[int], features: Features) -> Batch:
    """Decode samples made with `features` into one batch, on the CPU."""
    frames = np.stack([np.stack([decode_jpeg(jpeg, sample.clip_id) for jpeg in sample.jpegs]) for sample in samples])
    silence = LEVELS[features.front_end].silence
    log_mel = np.full((len(samples), features.mel_bins, features.max_mel_frames), silence, np.float32)
    for row, sample in zip(log_mel, samples, strict=True):
        if sample.log_mel is not None:
            row[:, : sample.log_mel.shape[1]] = sample.log_mel
    return Batch(
        clip_ids=[sample.clip_id for sample in samples],
        frames=torch.from_numpy(frames).permute(0, 1, 4, 2, 3),
        frame_times_s=torch.tensor([sample.frame_times_s for sample in samples], dtype=torch.float32),
        log_mel=torch.from_numpy(log_mel),
        mel_frames=torch.tensor([0 if s.log_mel is None else s.log_mel.shape[1] for s in samples]),
        labels=torch.tensor(labels),
    )


def decode_jpeg(jpeg: bytes, clip_id: str) -> NDArray[np.uint8]:
    """A frame (H, W, 3), RGB; raises `UserError` for what is none."""
    picture = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR_RGB)
    if picture is None:
        raise UserError(f"a frame of clip {clip_id} is not a JPEG: its shard is damaged; delete it and extract again")
    return np.asarray(picture, np.uint8)
