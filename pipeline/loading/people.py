"""The faces in the frames of a batch of clips."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.common.features import Features
from pipeline.loading.jpeg import decode_jpeg
from pipeline.loading.memory import Memory, to_device
from pipeline.shards.format import Person, Sample


@dataclass(frozen=True)
class People:
    """The faces in the N frames of B clips, at most K in a frame.

    crops (B, N, K, 3, S, S) uint8, RGB in 0..255, or float32 after augmentation; boxes (B, N, K, 4) float32, as in
    `Person`; present (B, N, K) bool. A place without a face has a crop of another face of the clip, if it has any:
    BatchNorm's statistics in training are over all crops, so they are those of faces.
    """

    crops: Tensor
    boxes: Tensor
    present: Tensor

    def to(self, device: torch.device) -> "People":
        """The same people on `device`."""
        return People(*(to_device(value, device) for value in (self.crops, self.boxes, self.present)))

    def in_frames(self, numbers: NDArray[np.int64] | slice) -> "People":
        """The people in some of the frames."""
        return People(*(value[:, numbers] for value in (self.crops, self.boxes, self.present)))

    def mirrored(self) -> "People":
        """The people as they are in frames that are mirrored left to right."""
        boxes = torch.cat([1 - self.boxes[..., :1], self.boxes[..., 1:]], dim=-1)
        return People(self.crops.flip(-1), boxes, self.present)


def allocate_people(clips: int, count: int, features: Features, memory: Memory) -> People:
    """The memory for the people in `count` frames of each clip; `fill_people` fills it."""
    most, size = features.people.most, features.people.size_px
    crops = memory.take((clips, count, most, size, size, 3), np.uint8).permute(0, 1, 2, 5, 3, 4)
    boxes, present = torch.zeros(clips, count, most, 4), torch.zeros(clips, count, most, dtype=torch.bool)
    return People(crops, boxes, present)


def fill_people(people: People, row: int, sample: Sample, numbers: NDArray[np.int64]) -> None:
    """Decode the faces in the frames `numbers` (N,) of a sample into the clip `row` of `people`."""
    # As NumPy arrays: setting one element of a tensor takes as long as decoding a small face.
    crops = people.crops[row].permute(0, 1, 3, 4, 2).numpy()
    boxes, present = people.boxes[row].numpy(), people.present[row].numpy()
    faces: dict[int, list[Person]] = {}
    for person in sample.people:
        faces.setdefault(person.frame, []).append(person)
    for place, number in enumerate(numbers.tolist()):
        for rank, person in enumerate(faces.get(number, ())[: present.shape[1]]):
            decode_jpeg(person.jpeg, sample.clip_id, crops[place, rank])
            boxes[place, rank], present[place, rank] = person.box, True
    filled = np.argwhere(present).tolist()
    for turn, (place, rank) in enumerate(np.argwhere(~present).tolist()):
        crops[place, rank] = crops[tuple(filled[turn % len(filled)])] if filled else 0
