"""Scoring clips with a model: every clip once, whatever the number of processes."""

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from numpy.typing import NDArray
from torch import Tensor

from pipeline.common.config import Config
from pipeline.common.errors import UserError
from pipeline.loading.batch import Batch
from pipeline.loading.loader import Loader
from pipeline.loading.selection import ClipRef
from pipeline.models.model import GroupEmotionModel


@dataclass(frozen=True)
class ScoredClip:
    """A clip as a batch of one with the frames of all views, and the class probabilities (classes,) that a model gave.

    `labels` are the names of the classes. `waveform` (samples,) is None if the clip has no sound or it was not kept.
    """

    name: str
    duration_s: float
    batch: Batch
    labels: Sequence[str]
    probabilities: NDArray[np.float64]
    waveform: NDArray[np.float32] | None = None

    @property
    def label(self) -> str:
        """The most probable class."""
        return self.labels[int(self.probabilities.argmax())]


class Scorer:
    """A model in evaluation mode, on the device of an accelerator and, on a GPU, in its precision.

    On a CPU it is full precision: bf16 is slower there, and an exported model computes in full precision too.

    The model must be the bare network. The processes have different numbers of batches, so none of its calls may wait
    for another process.
    """

    def __init__(self, model: GroupEmotionModel, accelerator: Accelerator) -> None:
        self.model, self.accelerator = model.to(accelerator.device).eval(), accelerator
        self.autocast = nullcontext if accelerator.device.type == "cpu" else accelerator.autocast

    @torch.no_grad()
    def probabilities(self, batch: Batch) -> NDArray[np.float64]:
        """Class probabilities (clips, classes) of a batch on any device: their mean over the views of each clip."""
        views = self.model.sampling.views_of(batch.to(self.accelerator.device))
        with self.autocast():
            return np.mean([_softmax(self.model(view)) for view in views], axis=0)

    @torch.no_grad()
    def embed(self, batch: Batch) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
        """What the heads are given of the first view of a batch on any device, and the class probabilities of it.

        The first is (clips, streams * width): the pooled streams of the fusion side by side.
        """
        fusion, view = self.model.fusion, self.model.sampling.view_of(batch.to(self.accelerator.device), 0)
        with self.autocast():
            pooled = fusion.pool(self.model.tokens(view))
            probabilities = _softmax(fusion.classify(pooled))
        embeddings = torch.cat([stream.values for stream in pooled], dim=-1)
        return np.asarray(embeddings.float().cpu().numpy()), probabilities

    def batches(self, clips: Sequence[ClipRef], config: Config) -> Iterator[Batch]:
        """This process's share of the clips in batches, in their order, with the frames of all views."""
        rank, world = self.accelerator.process_index, self.accelerator.num_processes
        training = config.recipe.training
        batch_size = max(1, training.batch_size // (world * training.micro_batches))  # what fits in training fits here
        loader = Loader.for_config(config, self.accelerator.device)
        return loader.eval_batches(clips, self.model.sampling.evaluated, batch_size, rank, world)

    def score(self, clips: Sequence[ClipRef], config: Config) -> NDArray[np.float64]:
        """Class probabilities (clips, classes) in the order of `clips`, the same on every process.

        Raises `UserError` for a model that gives NaN.
        """
        scored: list[tuple[str, list[float]]] = []
        for batch in self.batches(clips, config):
            scored += zip(batch.clip_ids, self.probabilities(batch).tolist(), strict=True)
        return _in_order(clips, gather_object(scored), len(self.model.labels))


def _softmax(logits: Tensor) -> NDArray[np.float64]:
    return np.asarray(logits.double().softmax(dim=-1).cpu().numpy())


def _in_order(clips: Sequence[ClipRef], scored: list[tuple[str, list[float]]], classes: int) -> NDArray[np.float64]:
    by_id = dict(scored)
    if len(scored) != len(clips) or by_id.keys() != {clip.clip_id for clip in clips}:
        raise AssertionError(f"{len(scored)} scores of {len(by_id)} clips, expected {len(clips)}: this is a bug")
    probabilities = np.array([by_id[clip.clip_id] for clip in clips]).reshape(len(clips), classes)
    if not np.isfinite(probabilities).all():
        raise UserError("the model gives NaN, so the training diverged; lower recipe.training.learning_rate")
    return probabilities
