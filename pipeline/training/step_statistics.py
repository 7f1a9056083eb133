"""BatchNorm's running statistics in training: the same on any number of processes and of micro-batches."""

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from pipeline.models.batch_norm import batch_norms


class StepStatistics:
    """Updates the running statistics once a step, with the mean over all groups of clips of the step.

    PyTorch would update them with one group after the other, so their order would matter, and each process would have
    its own.
    """

    def __init__(self, network: nn.Module) -> None:
        """`network` must not have run in training mode before: that changes what its layers state as their momentum."""
        self._momenta = {norm: 0.1 if norm.momentum is None else norm.momentum for norm in batch_norms(network)}

    def begin(self) -> None:
        """Remember the running statistics before the first micro-batch of a step."""
        self._norms = [norm for norm in self._momenta if norm.training]
        self._before = [value.clone() for value in self._running()]
        self._sums = [torch.zeros_like(value) for value in self._before]

    def collect(self) -> None:
        """Add the statistics of a micro-batch, after its forward pass and before the backward pass may recompute it."""
        if self._norms:
            torch._foreach_add_(self._sums, self._running())

    def end(self, micro_batches: int, accelerator: Accelerator) -> None:
        """Set the running statistics after a step; every process must call it."""
        if not self._norms:
            return
        flat = torch.cat([value.flatten() for value in self._sums]) / micro_batches
        if accelerator.num_processes > 1:
            flat = accelerator.reduce(flat, "mean")
        means = torch.split(flat, [value.numel() for value in self._sums])
        momenta = [self._momenta[norm] for norm in self._norms for _ in range(2)]
        for value, before, mean, momentum in zip(self._running(), self._before, means, momenta, strict=True):
            value.copy_(before.lerp(mean.view_as(before), momentum))
        for norm in self._norms:  # PyTorch counts groups in it, so processes would differ; nothing reads it
            norm.num_batches_tracked.zero_()  # type: ignore[union-attr]

    def undo(self) -> None:
        """Set the running statistics to what they were before the step."""
        for value, before in zip(self._running(), self._before, strict=True):
            value.copy_(before)

    def _running(self) -> list[Tensor]:
        return [value for norm in self._norms for value in (norm.running_mean, norm.running_var)]  # type: ignore[misc]
