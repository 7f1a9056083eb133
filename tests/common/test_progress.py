import io
import sys
from types import SimpleNamespace

import pytest

from pipeline.common import progress
from pipeline.common.progress import Progress, track


@pytest.fixture
def clock(monkeypatch):
    """The time in seconds, which stands still unless a test moves it."""
    clock = SimpleNamespace(now_s=0.0)
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: clock.now_s))
    return clock


def work(clock, progress, seconds):
    """Finishes one unit per second."""
    for _ in range(seconds):
        clock.now_s += 1
        progress.advance(note=lambda: "loss 0.5")


def test_a_log_gets_a_line_every_few_seconds_with_the_rate_and_an_estimate(clock, capsys):
    with Progress("extract", 100, "clips", initial=40) as progress:
        work(clock, progress, 35)
    assert capsys.readouterr().err.splitlines() == [
        "extract: 55/100 clips, 1.0/s, 45 s left  loss 0.5",
        "extract: 70/100 clips, 1.0/s, 30 s left  loss 0.5",
        "extract: 75/100 clips, 1.0/s, 25 s left",
    ]


def test_a_process_that_is_not_shown_prints_nothing(clock, capsys):
    with Progress("train", 40, "steps", shown=False) as progress:
        work(clock, progress, 40)
    assert capsys.readouterr().err == ""


def test_a_terminal_gets_a_bar_with_a_rate(clock, monkeypatch):
    monkeypatch.setattr(sys, "stderr", terminal := io.StringIO())
    terminal.isatty = lambda: True
    with Progress("train", 40, "steps") as progress:
        work(clock, progress, 20)
    shown = terminal.getvalue().split("\r")[-1]
    assert "50%" in shown
    assert "20/40" in shown
    assert "steps/s, loss 0.5]" in shown


def test_tracked_items_are_counted(clock, capsys):
    assert list(track("abc", "draw", 3, "clips")) == ["a", "b", "c"]
    assert capsys.readouterr().err.startswith("draw: 3/3 clips")
