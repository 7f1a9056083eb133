"""Progress of long work: a bar in a terminal, a line now and then in a log (P18)."""

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

LOG_INTERVAL_S = 15.0

T = TypeVar("T")


class Progress:
    """Counts `total` units of work; use as a context manager and call `advance`."""

    def __init__(self, description: str, total: int, unit: str) -> None:
        self._description, self._unit, self._total = description, unit, total
        self._interactive = sys.stderr.isatty()
        self._bar = tqdm(total=total, desc=description, unit=f" {unit}", disable=not self._interactive)
        self._done, self._start = 0, time.monotonic()
        self._last_line = self._start

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()
        if not self._interactive:
            self._log()

    def advance(self, count: int = 1, note: str = "") -> None:
        """Record `count` more finished units; `note` (a loss, say) is shown beside the rate."""
        self._done += count
        self._bar.update(count)
        if note:
            self._bar.set_postfix_str(note)
        if not self._interactive and time.monotonic() - self._last_line > LOG_INTERVAL_S:
            self._log(note)

    def _log(self, note: str = "") -> None:
        self._last_line = time.monotonic()
        seconds = self._last_line - self._start
        rate = self._done / max(seconds, 1e-9)
        left = (self._total - self._done) / rate if rate else float("inf")
        line = f"{self._description}: {self._done}/{self._total} {self._unit}, {rate:.1f}/s, {left:.0f} s left"
        print(f"{line}  {note}".rstrip(), file=sys.stderr, flush=True)


def track(items: Iterable[T], description: str, total: int, unit: str) -> Iterator[T]:
    """Yield from `items` and show the progress."""
    with Progress(description, total, unit) as progress:
        for item in items:
            yield item
            progress.advance()
