"""Progress of long work: a bar in a terminal, a line every few seconds in a log."""

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

BAR_INTERVAL_S, LOG_INTERVAL_S = 1.0, 15.0

T = TypeVar("T")


class Progress:
    """Counts `total` units of work, of which `initial` were finished earlier. It is a context manager.

    With `shown` false it prints nothing: of many processes, one reports.
    """

    def __init__(self, description: str, total: int, unit: str, initial: int = 0, shown: bool = True) -> None:
        self._description, self._unit, self._total = description, unit, total
        self._shown, self._interactive = shown, sys.stderr.isatty()
        disabled = not (shown and self._interactive)
        self._bar = tqdm(total=total, initial=initial, desc=description, unit=f" {unit}", disable=disabled)
        self._initial, self._done, self._start = initial, initial, time.monotonic()
        self._last_note = self._start

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()
        if self._shown and not self._interactive:
            self._log()

    def advance(self, count: int = 1, note: Callable[[], str] | None = None) -> None:
        """Record `count` more finished units. `note` is called when its text is shown beside the rate."""
        self._done += count
        self._bar.update(count)
        interval_s = BAR_INTERVAL_S if self._interactive else LOG_INTERVAL_S
        if not self._shown or time.monotonic() - self._last_note < interval_s:
            return
        self._last_note = time.monotonic()
        text = note() if note else ""
        if self._interactive:
            self._bar.set_postfix_str(text)
        else:
            self._log(text)

    def say(self, line: str) -> None:
        """Print a line above the bar."""
        if self._shown:
            tqdm.write(line, file=sys.stderr)
            sys.stderr.flush()

    def _log(self, note: str = "") -> None:
        seconds = time.monotonic() - self._start
        rate = (self._done - self._initial) / max(seconds, 1e-9)
        remaining = f"{(self._total - self._done) / rate:.0f} s left" if rate else "time left unknown"
        line = f"{self._description}: {self._done}/{self._total} {self._unit}, {rate:.1f}/s, {remaining}"
        print(f"{line}  {note}".rstrip(), file=sys.stderr, flush=True)


def track(items: Iterable[T], description: str, total: int, unit: str) -> Iterator[T]:
    """Yield from `items` and show the progress through them."""
    with Progress(description, total, unit) as progress:
        for item in items:
            yield item
            progress.advance()
