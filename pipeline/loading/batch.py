"""Batches: what they hold, and decoding clips into them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.common.features import Features
from pipeline.loading.jpeg import decode_jpeg
from pipeline.loading.memory import Memory, to_device
from pipeline.loading.people import People, allocate_people, fill_people
from pipeline.shards.format import Sample
from pipeline.shards.log_mel_units import LEVELS


@dataclass(frozen=True)
class Batch:
    """B clips on one device. Frames are RGB in 0..255; log-mels are padded.

    frames (B, N, 3, H, W) uint8, or float32 after augmentation; frame_times_s (B, N) float32; has_video (B,) bool;
    log_mel (B, mel_bins, T) float16, or float32 after augmentation; mel_frames (B,) int64, how many hops are not
    padding, 0 for a clip without audio; labels (B,) int64, indices of classes, or after mixup (B, classes) float32,
    probabilities; people: None if the features have no faces; hidden, by stream, (B,) bool: in which clips the model
    hides the stream (`GroupEmotionModel.tokens`).
    """

    clip_ids: list[str]
    frames: Tensor
    frame_times_s: Tensor
    has_video: Tensor
    log_mel: Tensor
    mel_frames: Tensor
    labels: Tensor
    people: People | None = None
    hidden: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def available(self) -> dict[str, Tensor]:
        """For each input of streams, which clips have it: (B,) bool."""
        has_people = torch.zeros_like(self.has_video) if self.people is None else self.people.present.any(2).any(1)
        return {"frames": self.has_video, "people": has_people, "log_mel": self.mel_frames > 0}

    def in_frames(self, numbers: NDArray[np.int64] | slice) -> "Batch":
        """The batch with some of its frames, and the people in them."""
        return replace(
            self,
            frames=self.frames[:, numbers],
            frame_times_s=self.frame_times_s[:, numbers],
            people=self.people and self.people.in_frames(numbers),
        )

    def mirrored(self) -> "Batch":
        """The batch with its frames, and the people in them, mirrored left to right."""
        return replace(self, frames=self.frames.flip(-1), people=self.people and self.people.mirrored())

    def to(self, device: torch.device) -> "Batch":
        """The same batch on `device`."""
        tensors = {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}
        moved = {name: to_device(value, device) for name, value in tensors.items()}
        hidden = {name: to_device(value, device) for name, value in self.hidden.items()}
        return Batch(clip_ids=self.clip_ids, **moved, people=self.people and self.people.to(device), hidden=hidden)


def collate(
    samples: Iterable[Sample],
    labels: Sequence[int],
    chosen: NDArray[np.int64],
    features: Features,
    memory: Memory,
    hops: int | None = None,
) -> Batch:
    """Decode samples that were made with `features` into one batch on the CPU, one after the other.

    `chosen` (B, N) are the numbers of the stored frames that each clip has in the batch; (N,) if they are the same for
    all clips. No other frame is decoded. Log-mels are padded with digital silence to `hops`, by default to the length
    of a clip of `max_duration_s`. Raises `UserError` for a damaged picture (`decode_jpeg`).
    """
    clips, count, size = len(labels), chosen.shape[-1], features.frame_size_px
    frames = memory.take((clips, count, size, size, 3), np.uint8)
    log_mel = memory.take((clips, features.mel_bins, hops or features.max_mel_frames), np.float16)
    people = allocate_people(clips, count, features, memory) if features.people.most else None
    times_s = np.zeros((clips, count), np.float32)
    ids: list[str] = []
    has_video, mel_frames = np.zeros(clips, bool), np.zeros(clips, np.int64)
    rows = zip(samples, np.broadcast_to(chosen, (clips, count)), frames.numpy(), log_mel.numpy(), strict=True)
    for row, (sample, numbers, pictures, bank) in enumerate(rows):
        ids.append(sample.clip_id)
        has_video[row] = fill_frames(pictures, times_s[row], sample, numbers)
        if people:
            fill_people(people, row, sample, numbers)
        mel_frames[row] = fill_sound(bank, sample.log_mel, LEVELS[features.front_end].silence)
    return Batch(
        clip_ids=ids,
        frames=frames.permute(0, 1, 4, 2, 3),
        frame_times_s=torch.from_numpy(times_s),
        has_video=torch.from_numpy(has_video),
        log_mel=log_mel,
        mel_frames=torch.from_numpy(mel_frames),
        labels=torch.tensor(labels),
        people=people,
    )


def fill_frames(
    pictures: NDArray[np.uint8], times_s: NDArray[np.float32], sample: Sample, numbers: NDArray[np.int64]
) -> bool:
    """Decode the frames `numbers` (N,) of a sample into `pictures` (N, H, W, 3), and copy their times.

    Returns whether the sample has video. If it has none, the pictures are black.
    """
    if not sample.jpegs:
        pictures[:] = 0
        return False
    times_s[:] = [sample.frame_times_s[number] for number in numbers]
    for number, picture in zip(numbers, pictures, strict=True):
        decode_jpeg(sample.jpegs[number], sample.clip_id, picture)
    return True


def fill_sound(bank: NDArray[np.float16], log_mel: NDArray[np.float16] | None, silence: float) -> int:
    """Copy a log-mel to the start of `bank` (mel_bins, T), and fill the rest with silence; returns its hops."""
    hops = 0 if log_mel is None else log_mel.shape[1]
    if log_mel is not None:
        bank[:, :hops] = log_mel
    bank[:, hops:] = silence
    return hops
