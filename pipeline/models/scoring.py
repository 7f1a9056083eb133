"""Scoring clips with a model: every clip once, whatever the number of processes (P7)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from numpy.typing import NDArray
from torch import Tensor, nn

from pipeline.clips.labels import CLASSES
from pipeline.common.config import Config
from pipeline.common.errors import UserError
from pipeline.loading.loader import Batch, ClipRef, eval_batches


@dataclass(frozen=True)
class ScoredClip:
    """A clip as a model saw it, a batch of one, and the class probabilities (classes,) that it gave.

    waveform (samples,) is None where there is no sound, or where it was not kept.
    """

    name: str
    duration_s: float
    batch: Batch
    probabilities: NDArray[np.float64]
    waveform: NDArray[np.float32] | None = None

    @property
    def label(self) -> str:
        """The most probable class."""
        return CLASSES[int(self.probabilities.argmax())]


@torch.no_grad()
def score_clips(
    model: nn.Module, clips: Sequence[ClipRef], config: Config, accelerator: Accelerator
) -> NDArray[np.float64]:
    """Class probabilities (clips, classes) in the order of `clips`, the same on every process.

    `model` is the bare network, on the accelerator's device: as the processes have different numbers of batches, none
    of its calls may wait for another process.
    """
    model.eval()
    rank, world, device = accelerator.process_index, accelerator.num_processes, accelerator.device
    training, threads = config.recipe.training, config.execution.decode_threads
    batch_size = max(1, training.batch_size // (world * training.micro_batches))  # what fits when training, fits here
    batches = eval_batches(clips, batch_size, config.recipe.features, rank, world, threads, device.type == "cuda")
    scored: list[tuple[str, list[float]]] = []
    for batch in batches:
        scored += zip(batch.clip_ids, probabilities_of(model, batch.to(device), accelerator).tolist(), strict=True)
    gathered = gather_object(scored)
    by_id = dict(gathered)
    if len(gathered) != len(clips) or by_id.keys() != {clip.clip_id for clip in clips}:
        raise AssertionError(f"{len(gathered)} scores of {len(by_id)} clips, expected {len(clips)}: this is a bug")
    probabilities = np.array([by_id[clip.clip_id] for clip in clips]).reshape(len(clips), len(CLASSES))
    if not np.isfinite(probabilities).all():
        raise UserError("the model gives NaN: the training diverged; lower training.learning_rate")
    return probabilities


@torch.no_grad()
def probabilities_of(model: nn.Module, batch: Batch, accelerator: Accelerator) -> NDArray[np.float64]:
    """Class probabilities (clips, classes) of a batch on the accelerator's device, at the accelerator's precision."""
    with accelerator.autocast():
        logits: Tensor = model(batch)
    return np.asarray(logits.double().softmax(dim=-1).cpu().numpy())
