"""What the processes of a training do between two steps, all after the same one: stop, or save a checkpoint."""

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed

IMPATIENT_S = 1.0  # a launcher passes Ctrl-C on, so a process can get it twice at once


class Pauses:
    """When a training stops or saves: at SIGTERM, at Ctrl-C, and so many minutes after the last checkpoint.

    A cluster sends SIGTERM before it takes a machine away.
    """

    def __init__(self, timeout_s: float, checkpoint_minutes: float) -> None:
        self._stopped_s: float | None = None
        self._checkpoint_s, self._saved_s = 60 * checkpoint_minutes, time.monotonic()
        self._group = None
        if torch.distributed.is_initialized():
            # A group of its own on the CPU, so that asking does not wait for the GPU.
            timeout = timedelta(seconds=timeout_s)
            self._group = torch.distributed.new_group(backend="gloo", timeout=timeout)

    @contextmanager
    def caught(self) -> Iterator[None]:
        """Within this context, note the signals instead of ending; Ctrl-C once more ends at once."""

        def note(number: int, _: object) -> None:
            now_s = time.monotonic()
            if number == signal.SIGINT and self._stopped_s is not None and now_s - self._stopped_s > IMPATIENT_S:
                raise KeyboardInterrupt
            self._stopped_s = self._stopped_s or now_s

        before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def due(self) -> tuple[bool, bool]:
        """Whether to stop, and whether to save; every process must call it, and all get the same answer.

        A signal that any of them received stops all.
        """
        save = time.monotonic() - self._saved_s >= self._checkpoint_s
        flags = torch.tensor([self._stopped_s is not None, save], dtype=torch.uint8)
        if self._group is not None:
            torch.distributed.all_reduce(flags, torch.distributed.ReduceOp.MAX, self._group)
        stop, save = flags.bool().tolist()
        return stop, stop or save

    def saved(self) -> None:
        """Count the minutes from now."""
        self._saved_s = time.monotonic()
