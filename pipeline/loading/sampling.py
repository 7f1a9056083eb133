"""Which of the stored frames of a clip a model takes.

The stored frames are cut into as many parts as the model takes frames; the lengths of the parts differ by one frame at
most. One frame of each part is taken: in training a random one, in evaluation a fixed one.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.loading.batch import Batch


@dataclass(frozen=True)
class FrameSampling:
    """Takes `used` of the `stored` frames of a clip; in evaluation, a clip has `views` views."""

    stored: int
    used: int
    views: int

    @property
    def starts(self) -> NDArray[np.int64]:
        """The first frame of each part: (used,)."""
        return np.arange(self.used) * self.stored // self.used

    @property
    def lengths(self) -> NDArray[np.int64]:
        """How many frames each part has: (used,)."""
        return np.diff(self.starts, append=self.stored)

    def draw(self, seed: int, step: int, clips: int) -> NDArray[np.int64]:
        """The frames of each of the `clips` clips of a training step, one at random from each part: (clips, used).

        They follow from (seed, step) and the row of the clip in the step, so they are the same on any number of
        processes.
        """
        rng = np.random.default_rng(list(f"frames {seed} {step}".encode()))
        return self.starts + rng.integers(self.lengths, size=(clips, self.used))

    def of_view(self, view: int) -> NDArray[np.int64]:
        """The frames of a view in evaluation: (used,).

        Views 0 and 1 have the middle of each part. Each further pair of views has frames that are later by an equal
        share of the part; after the last frame of a part comes its first.
        """
        draws = -(-self.views // 2)
        return self.starts + (self.lengths // 2 + view // 2 * self.lengths // draws) % self.lengths

    @property
    def evaluated(self) -> NDArray[np.int64]:
        """The frames that a clip needs in evaluation: those of all views, each once, in order."""
        return np.unique([self.of_view(view) for view in range(self.views)])

    def view_of(self, batch: Batch, view: int) -> Batch:
        """A view of a batch that holds the frames `evaluated`. Odd views are mirrored; the sound is the same in all."""
        positions = np.searchsorted(self.evaluated, self.of_view(view))
        if len(self.evaluated) > self.used:
            batch = batch.in_frames(positions)
        return batch.mirrored() if view % 2 else batch

    def views_of(self, batch: Batch) -> Iterator[Batch]:
        """All views of a batch that holds the frames `evaluated`."""
        return (self.view_of(batch, view) for view in range(self.views))
