"""Predicting any video file with a run's model, by the code that extraction and evaluation use."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from accelerate import Accelerator
from threadpoolctl import threadpool_limits

from pipeline.common.errors import UserError
from pipeline.common.features import Features
from pipeline.extraction.clip_reader import ClipMedia
from pipeline.extraction.clip_settings import ClipSettings
from pipeline.extraction.face_detector import check_detector
from pipeline.extraction.reasons import MediaError
from pipeline.extraction.sample_extraction import to_sample
from pipeline.extraction.sandbox import Sandbox
from pipeline.extraction.timeline import Window
from pipeline.loading.batch import Batch, collate
from pipeline.loading.memory import Memory
from pipeline.models.runs import FinishedRun
from pipeline.models.scoring import ScoredClip, Scorer
from pipeline.serving.rows import NoPrediction, Prediction, no_prediction_row, prediction_row, printable

# In a folder, only files with these suffixes are taken for clips. A file that is named itself may have any suffix.
# Those of the second line are of containers that are not accepted: such a file has a row that says so.
SUFFIXES = {
    *(".3gp", ".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mts", ".ts", ".webm"),
    *(".asf", ".dv", ".flv", ".mpeg", ".mpg", ".mxf", ".ogv", ".vob", ".wmv"),
}


@dataclass(frozen=True)
class Answer:
    """The row of a file or of a window of it, and the clip as the model saw it; None if it cannot be used."""

    row: Prediction | NoPrediction
    clip: ScoredClip | None


class Predictor:
    """Predicts files with the model of a run, with the features and within the limits that the run was made with.

    With `voters`, the probabilities are the mean over the models of all runs. A child process reads the files; `close`
    ends it. Raises `UserError` for a voter that takes something else of a clip, or has other classes, and if a face
    detector that is needed is missing.
    """

    def __init__(self, run: FinishedRun, accelerator: Accelerator, voters: Sequence[FinishedRun] = ()) -> None:
        self.scorer = Scorer(run.model, accelerator)
        self._voters = [Scorer(_like(voter, run).model, accelerator) for voter in voters]
        self._settings = ClipSettings(features=run.config.recipe.features, limits=run.config.extract)
        check_detector(self._settings)
        self._sandbox, self._memory = Sandbox(), Memory()

    @property
    def features(self) -> Features:
        """What is taken from a clip."""
        return self._settings.features

    def read(self, path: Path, window: Window | None = None) -> tuple[ClipMedia, Batch]:
        """Read a file that is a clip, or a window of a file, as a batch of one, as evaluation does.

        Raises `MediaError`.
        """
        media = self._sandbox.read_clip(path, self._settings, window)
        with threadpool_limits(1):  # as in extraction: the order of a sum, hence its last bits, depends on the threads
            sample = to_sample(path.stem, media, self.features)
        return media, collate([sample], [0], self.scorer.model.sampling.evaluated, self.features, self._memory)

    def predict(self, path: Path, window: Window | None = None) -> Answer:
        """Predict a file that is a clip, or a window of a file."""
        try:
            media, batch = self.read(path, window)
        except MediaError as error:
            return Answer(no_prediction_row(path, window, error), None)
        probabilities = np.mean([scorer.probabilities(batch)[0] for scorer in (self.scorer, *self._voters)], axis=0)
        clip = ScoredClip(
            printable(path.name), media.duration_s, batch, self.scorer.model.labels, probabilities, media.waveform
        )
        return Answer(prediction_row(path, window, clip), clip)

    def predict_windows(self, path: Path, length_s: float | None, longest_s: float = math.inf) -> Iterator[Answer]:
        """Predict each window of `length_s` of a file, in order; with None, predict the file as one clip.

        A file that lasts longer than `longest_s` gets no prediction. Raises `UserError` for a length that is not
        positive or exceeds that of a clip.
        """
        if length_s is None:
            yield self.predict(path)
            return
        if not 0 < length_s <= self.features.max_duration_s:
            raise UserError(
                f"windows of {length_s} s: expected more than 0 and at most features.max_duration_s, "
                f"{self.features.max_duration_s} s, as for clips"
            )
        try:
            duration_s = self._sandbox.read_duration_s(path, self._settings)
            if duration_s > longest_s:
                raise MediaError("too_long", f"it lasts {duration_s:.0f} s, more than {longest_s:.0f} s")
        except MediaError as error:
            yield Answer(no_prediction_row(path, None, error), None)
            return
        for window in split_into_windows(duration_s, length_s):
            yield self.predict(path, window)

    def close(self) -> None:
        """End the process that reads files."""
        self._sandbox.close()


def _like(voter: FinishedRun, run: FinishedRun) -> FinishedRun:
    """The voter, which is given the batches of the run."""
    for what, theirs, ours in (
        ("recipe.features", voter.config.recipe.features, run.config.recipe.features),
        ("recipe.model.frames", voter.config.recipe.model.frames, run.config.recipe.model.frames),
        ("recipe.model.views", voter.config.recipe.model.views, run.config.recipe.model.views),
        ("classes", list(voter.model.labels), list(run.model.labels)),
    ):
        if theirs != ours:
            raise UserError(f"the runs cannot vote: {what} is {theirs} in one and {ours} in another; leave one out")
    return voter


def list_files(paths: Iterable[Path]) -> list[Path]:
    """The files among `paths`, and all files in their folders and subfolders that look like clips, sorted by folder.

    Hidden files are left out: macOS puts `._clip.mp4` beside `clip.mp4` on other systems' disks. Raises `UserError` for
    a folder without files that look like clips.
    """
    files: list[Path] = []
    for path in paths:
        if not path.is_dir():
            files.append(path)
            continue
        videos = sorted(
            file
            for file in path.rglob("*")
            if file.suffix.lower() in SUFFIXES and not file.name.startswith(".") and file.is_file()
        )
        if not videos:
            raise UserError(f"{path} holds no video ({', '.join(sorted(SUFFIXES))}); name another folder, or files")
        files += videos
    return files


def split_into_windows(duration_s: float, length_s: float) -> Iterator[Window]:
    """Windows of `length_s` that overlap by half and cover the whole duration. The last one ends with the file."""
    last_s = max(0.0, duration_s - length_s)
    for number in range(math.ceil(last_s / (length_s / 2))):
        yield Window(number * length_s / 2, number * length_s / 2 + length_s)
    yield Window(last_s, duration_s)
