"""What a run's model says of any video file, by the code that extraction and evaluation use (P1)."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from threadpoolctl import threadpool_limits
from torch import nn

from pipeline.clips.labels import CLASSES
from pipeline.common.config import Config
from pipeline.common.errors import UserError
from pipeline.extraction.clip_reader import Sandbox
from pipeline.extraction.tasks import sample_of
from pipeline.extraction.timeline import MediaError, Window
from pipeline.loading.loader import Memory, collate
from pipeline.models.scoring import ScoredClip, probabilities_of

# In a folder, files with these names are taken for clips; a file that is named itself is tried whatever its name.
SUFFIXES = {".3gp", ".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mts", ".ts", ".webm"}


@dataclass(frozen=True)
class Prediction:
    """What is said of a file, or of a window of it."""

    path: Path
    clip: ScoredClip
    window: Window | None = None

    def row(self) -> dict[str, Any]:
        """A line of JSON."""
        named = {name: round(float(p), 6) for name, p in zip(CLASSES, self.clip.probabilities, strict=True)}
        return place(self.path, self.window) | {"prediction": self.clip.label, "probabilities": named}


@dataclass(frozen=True)
class NoPrediction:
    """A file or a window of it that cannot be used, and why: `reason` is one of `timeline.REASONS`."""

    path: Path
    reason: str
    detail: str
    window: Window | None = None

    def row(self) -> dict[str, Any]:
        """A line of JSON."""
        return place(self.path, self.window) | {"prediction": None, "reason": self.reason, "detail": self.detail}


def place(path: Path, window: Window | None) -> dict[str, Any]:
    """What a row is about."""
    return {"file": str(path)} | (vars(window) if window else {})


def files_of(paths: Iterable[Path]) -> list[Path]:
    """The files that paths stand for: of a folder, all that look like clips, in all folders in it, in order."""
    files: list[Path] = []
    for path in paths:
        found = [path]
        if path.is_dir():
            found = sorted(file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file())
            if not found:
                raise UserError(f"{path} holds no video ({', '.join(sorted(SUFFIXES))})")
        files += found
    return files


def windows_of(duration_s: float, length_s: float) -> Iterator[Window]:
    """Windows of that length that overlap by half and cover the whole duration: the last one ends where it ends."""
    last_s = max(0.0, duration_s - length_s)
    for number in range(math.ceil(last_s / (length_s / 2))):
        yield Window(number * length_s / 2, number * length_s / 2 + length_s)
    yield Window(last_s, duration_s)


class Predictor:
    """Predicts files with one model, with the features and within the limits of the settings that it was made with.

    Files are read in a child process, which `close` ends.
    """

    def __init__(self, model: nn.Module, config: Config, accelerator: Accelerator) -> None:
        self.model, self.accelerator = model.to(accelerator.device).eval(), accelerator
        self.features, self.limits = config.recipe.features, config.extract
        self.sandbox, self.memory = Sandbox(), Memory()

    def predict(self, path: Path, window: Window | None = None) -> Prediction | NoPrediction:
        """What there is to say of a file that is a clip, or of a window of one."""
        try:
            media = self.sandbox.read_clip(path, self.features, self.limits, window)
        except MediaError as error:
            return NoPrediction(path, error.reason, error.detail, window)
        with threadpool_limits(1):  # as in extraction: the sum's order, hence the last bits, depends on it
            sample = sample_of(path.stem, media, self.features)
        batch = collate([sample], [0], self.features, self.memory).to(self.accelerator.device)
        probabilities = probabilities_of(self.model, batch, self.accelerator)[0]
        return Prediction(path, ScoredClip(path.name, media.duration_s, batch, probabilities, media.waveform), window)

    def predict_windows(
        self, path: Path, length_s: float | None, limit_s: float = math.inf
    ) -> Iterator[Prediction | NoPrediction]:
        """What there is to say of each window of a file, in order; None: of the file, as one clip.

        A file that lasts longer than `limit_s` gets no prediction.
        """
        if length_s is None:
            yield self.predict(path)
            return
        if not 0 < length_s <= self.features.max_duration_s:
            raise UserError(
                f"windows of {length_s} s: expected more than 0 and at most features.max_duration_s, "
                f"{self.features.max_duration_s} s, as clips are"
            )
        try:
            duration_s = self.sandbox.read_duration_s(path, self.features, self.limits)
            if duration_s > limit_s:
                raise MediaError("too_long", f"it lasts {duration_s:.0f} s, more than {limit_s:.0f} s")
        except MediaError as error:
            yield NoPrediction(path, error.reason, error.detail)
            return
        for window in windows_of(duration_s, length_s):
            yield self.predict(path, window)

    def close(self) -> None:
        """End the process that reads files."""
        self.sandbox.close()
