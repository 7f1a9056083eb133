"""What a run's model says of any video file, by the code that extraction and evaluation use (P1)."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import Accelerator
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits
from torch import nn

from pipeline.config import Config
from pipeline.errors import UserError
from pipeline.extraction import sample_of
from pipeline.inference import probabilities_of
from pipeline.labels import CLASSES
from pipeline.loader import Batch, Memory, collate
from pipeline.media import MediaError
from pipeline.sandbox import ClipMedia, Sandbox

# In a folder, files with these names are taken for clips; a file that is named itself is tried whatever its name.
SUFFIXES = {".3gp", ".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mts", ".ts", ".webm"}


@dataclass(frozen=True)
class Prediction:
    """Class probabilities (classes,) of a file, and what the model saw of it: a batch of one clip."""

    path: Path
    media: ClipMedia
    batch: Batch
    probabilities: NDArray[np.float64]

    @property
    def label(self) -> str:
        """The most probable class."""
        return CLASSES[int(self.probabilities.argmax())]

    def row(self) -> dict[str, Any]:
        """A line of JSON."""
        named = {name: round(float(p), 6) for name, p in zip(CLASSES, self.probabilities, strict=True)}
        return {"file": str(self.path), "prediction": self.label, "probabilities": named}


@dataclass(frozen=True)
class NoPrediction:
    """A file that cannot be used, and why: `reason` is a key of `pipeline.media.REASONS`."""

    path: Path
    reason: str
    detail: str

    def row(self) -> dict[str, Any]:
        """A line of JSON."""
        return {"file": str(self.path), "prediction": None, "reason": self.reason, "detail": self.detail}


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


def predict(
    files: Iterable[Path], model: nn.Module, config: Config, accelerator: Accelerator
) -> Iterator[Prediction | NoPrediction]:
    """What there is to say of each file, in order, with the features and within the limits of the run's settings."""
    features, memory, sandbox = config.recipe.features, Memory(), Sandbox()
    model.to(accelerator.device).eval()
    try:
        for path in files:
            try:
                media = sandbox.read_clip(path, features, config.extract)
            except MediaError as error:
                yield NoPrediction(path, error.reason, error.detail)
                continue
            with threadpool_limits(1):  # as in extraction: the sum's order, hence the last bits, depends on it
                sample = sample_of(path.stem, media, features)
            batch = collate([sample], [0], features, memory).to(accelerator.device)
            yield Prediction(path, media, batch, probabilities_of(model, batch, accelerator)[0])
    finally:
        sandbox.close()
