"""What an epoch measures, as sums over its steps: one tensor, which is added over the processes and saved as a whole.

It has the shape (processes, 1 + streams, 4). A process adds to its own part and leaves the others 0. The first row
begins with the loss of the model and the number of steps. Each of the others is that of a stream: `StepLoss.streams`,
then the norm of its network's gradient.
"""

from collections.abc import Iterable

import torch
from torch import Tensor

from pipeline.models.run_record import StreamEpoch
from pipeline.training.objective import MEASURES


def no_sums(processes: int, streams: int, device: torch.device) -> Tensor:
    """The sums before the first step of an epoch: (processes, 1 + streams, 4)."""
    return torch.zeros(processes, 1 + streams, MEASURES + 1, device=device)


def sums_of_step(fused: Tensor, streams: Tensor, norms: Tensor, processes: int) -> Tensor:
    """The part of one of several processes in the sums of a step: (1 + streams, 4).

    `fused` is the mean of its `StepLoss.fused`, `streams` (streams, 3) the sum of its `StepLoss.streams`, and `norms`
    (streams,) are those of the networks' gradients.
    """
    sums = no_sums(1, len(streams), fused.device)[0]
    sums[0, 0], sums[0, 1] = fused, 1.0
    sums[1:, MEASURES] = norms
    sums /= processes  # so far, all values are means over the processes
    sums[1:, :MEASURES] = streams
    return sums


def loss_and_steps(sums: Tensor) -> tuple[float, int]:
    """The mean loss of the model in an epoch, and the number of its steps, from the sums of all processes together."""
    return (sums[0, 0] / sums[0, 1]).item(), round(sums[0, 1].item())


def stream_rows(epoch: int, streams: Iterable[str], sums: Tensor) -> list[StreamEpoch]:
    """What each stream alone learnt in an epoch, from the sums of all processes together."""
    steps = sums[0, 1].item()
    return [
        StreamEpoch(
            epoch=epoch,
            stream=name,
            train_loss=loss / clips if clips else None,
            train_accuracy=right / clips if clips else None,
            gradient_norm=norm / steps,
        )
        for name, (loss, right, clips, norm) in zip(streams, sums[1:].tolist(), strict=True)
    ]
