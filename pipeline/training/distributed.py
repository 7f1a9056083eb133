"""What several processes share while they train: the wish to stop, and the statistics of BatchNorm."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed


class StopSignal:
    """SIGTERM, which a cluster sends before it takes a machine away. All processes act on it after the same step."""

    def __init__(self, timeout_s: float) -> None:
        self._received = False
        self._group = None
        if torch.distributed.is_initialized():
            # A group of its own on the CPU, so that asking does not wait for the GPU.
            timeout = timedelta(seconds=timeout_s)
            self._group = torch.distributed.new_group(backend="gloo", timeout=timeout)

    @contextmanager
    def caught(self) -> Iterator[None]:
        """Within this context, note the signal instead of ending."""

        def note(*_: object) -> None:
            self._received = True

        before = signal.signal(signal.SIGTERM, note)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, before)

    def received(self) -> bool:
        """Whether any of the processes received the signal; every process must ask."""
        if self._group is None:
            return self._received
        flag = torch.tensor(int(self._received))
        torch.distributed.all_reduce(flag, torch.distributed.ReduceOp.MAX, self._group)
        return bool(flag.item())
