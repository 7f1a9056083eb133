"""Random numbers for the augmentation of a step, the same on any number of processes."""

import zlib
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import betaincinv
from torch import Tensor

from pipeline.loading.memory import to_device


@dataclass(frozen=True)
class Draws:
    """Random numbers for the `clips` clips of a step; a batch holds the clips at `rows` of the step.

    They are drawn for the whole step, on the CPU, so a clip gets the same numbers on any number of processes and on any
    device.
    """

    generator: torch.Generator
    clips: int
    rows: NDArray[np.int64]
    device: torch.device

    def apart(self, name: str) -> "Draws":
        """Numbers that follow from the step's seed and `name` alone, whatever else is drawn."""
        seed = self.generator.initial_seed() ^ zlib.crc32(name.encode())
        return replace(self, generator=torch.Generator().manual_seed(seed))

    def uniform(self, *shape: int) -> Tensor:
        """Uniform numbers in [0, 1): (rows, *shape), on the device."""
        return self._of_rows(torch.rand(self.clips, *shape, generator=self.generator))

    def around(self, extent: float, *shape: int) -> Tensor:
        """Uniform numbers in [-extent, extent): (rows, *shape)."""
        return extent * (2 * self.uniform(*shape) - 1)

    def beta(self, alpha: float) -> Tensor:
        """Numbers from the distribution Beta(alpha, alpha): (rows,)."""
        quantiles = torch.rand(self.clips, generator=self.generator).double().numpy()
        return self._of_rows(torch.from_numpy(betaincinv(alpha, alpha, quantiles)).float())

    def normal(self, *shape: int) -> Tensor:
        """Numbers from the standard normal distribution: (rows, *shape).

        They may be many, so each clip has a generator of its own: a process draws no more than its own clips need.
        """
        seeds = torch.randint(2**32, (self.clips,), generator=self.generator)[self.rows]
        generators = [torch.Generator().manual_seed(seed) for seed in seeds.tolist()]
        return to_device(torch.stack([torch.randn(shape, generator=each) for each in generators]), self.device)

    def _of_rows(self, numbers: Tensor) -> Tensor:
        return to_device(numbers[self.rows], self.device)


def inside(length: int, span: Tensor) -> Tensor:
    """Which of the positions 0 .. length - 1 are in each clip's span (clips, 2), end excluded: (clips, length)."""
    position = torch.arange(length, device=span.device)
    return (position >= span[:, :1]) & (position < span[:, 1:])
