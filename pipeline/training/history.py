"""The history of a training: what each epoch is measured by, which one is kept, when there is no point in going on."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pipeline.common.metrics import accuracy, log_loss
from pipeline.loading.selection import ClipRef
from pipeline.models.run_record import Epoch, StreamEpoch

DEAD_NORM, SMALL_LOSS = 1e-3, 0.05


def selection_measures(clips: Sequence[ClipRef], probabilities: NDArray[np.float64]) -> tuple[float, float]:
    """Accuracy, which chooses the epoch, and log loss in nats, which decides between equally accurate ones."""
    labels = np.array([clip.label for clip in clips])
    return accuracy(labels, probabilities.argmax(axis=1)), log_loss(labels, probabilities)


def dead_streams(epoch: Epoch, rows: Sequence[StreamEpoch]) -> list[str]:
    """The streams whose network had a gradient in an earlier epoch and has none in the last one: it learns no more.

    Its norm is then below `DEAD_NORM` times its largest one. In 94 networks that did not die, it stayed above 0.02
    times that. A loss below `SMALL_LOSS`, which is possible without label smoothing, leaves no gradient either, so with
    it no stream is named.
    """
    if epoch.train_loss < SMALL_LOSS:
        return []
    largest: dict[str, float] = {}
    for row in rows:
        largest[row.stream] = max(largest.get(row.stream, 0.0), row.gradient_norm)
    last = [row for row in rows if row.epoch == epoch.epoch]
    return [row.stream for row in last if row.gradient_norm < DEAD_NORM * largest[row.stream]]


def best_epoch(history: Sequence[Epoch]) -> Epoch:
    """The chosen epoch: highest selection accuracy, then lowest log loss; the last one if it was not scored."""
    if history[-1].selection_accuracy is None:
        return history[-1]
    return max(history, key=_rank)


def _rank(epoch: Epoch) -> tuple[float, float]:
    if epoch.selection_accuracy is None or epoch.selection_log_loss is None:
        return -np.inf, -np.inf
    return epoch.selection_accuracy, -epoch.selection_log_loss


def ran_out_of_patience(history: Sequence[Epoch], patience: int) -> bool:
    """Whether none of the last `patience` epochs was better than the best one before them; never with patience 0."""
    return bool(patience and history) and len(history) - best_epoch(history).epoch >= patience
