"""Predicting any video file with a run's model, by the code that extraction and evaluation use."""

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import tee
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import Accelerator
from numpy.typing import NDArray

from pipeline.common.errors import UserError
from pipeline.common.files import VIDEO_SUFFIXES
from pipeline.extraction.clip_reader import ClipMedia
from pipeline.extraction.clip_settings import ClipSettings
from pipeline.extraction.face_detector import check_detector
from pipeline.extraction.reasons import MediaError
from pipeline.extraction.timeline import Window
from pipeline.loading.batch import Batch
from pipeline.models.runs import FinishedRun
from pipeline.models.scoring import ScoredClip, Scorer
from pipeline.serving.reading import Reader
from pipeline.serving.rows import NoPrediction, Prediction, no_prediction_row, prediction_row, printable


@dataclass(frozen=True)
class Answer:
    """The row of a file or of a window of it, and the clip as the model saw it; None if it cannot be used."""

    row: Prediction | NoPrediction
    clip: ScoredClip | None


class Predictor:
    """Predicts files with the model of a run, with the features and within the limits that the run was made with.

    With `voters`, the probabilities are the mean over the models of all runs, of which some may take people and some
    not. `close` ends the processes that read the files. Raises `UserError` for a voter that takes something else of a
    clip, or has other classes, and if a face detector that is needed is missing.
    """

    def __init__(self, run: FinishedRun, accelerator: Accelerator, voters: Sequence[FinishedRun] = ()) -> None:
        self.scorer = Scorer(run.model, accelerator)
        self._voters = [Scorer(voter.model, accelerator) for voter in voters]
        # What is read is what the run needs that takes people and pictures, if one does: the others take some of it.
        most = max((run, *voters), key=lambda each: (each.model.features.people.most, each.model.sampling.views))
        for each in (run, *voters):
            refuse_other_inputs(each, most)
        settings = ClipSettings(features=most.model.features, limits=most.config.extract)
        check_detector(settings)
        self.features, self.reader = settings.features, Reader(settings, most.model.sampling)

    def predict(self, path: Path) -> Answer:
        """Predict a file that is a clip."""
        return next(self.predict_clips([(path, None)]))

    def predict_clips(self, clips: Iterable[tuple[Path, Window | None]]) -> Iterator[Answer]:
        """Predict files that are clips, or windows of files, in order; some are read ahead."""
        clips, to_read = tee(clips)
        with closing(self.reader.read_ahead(to_read)) as reads:
            for (path, window), read in zip(clips, reads, strict=True):
                try:
                    media, batch = read.result()
                except MediaError as error:
                    yield Answer(no_prediction_row(path, window, error), None)
                else:
                    clip = self._score(path, media, batch)
                    yield Answer(prediction_row(path, window, clip), clip)

    def predict_files(self, paths: Sequence[Path], window_s: float | None = None) -> Iterator[Iterable[Answer]]:
        """The answers of each file, in order: one for each window of `window_s`, with None one for the whole file."""
        if window_s is None:
            yield from ([answer] for answer in self.predict_clips((path, None) for path in paths))
        else:
            yield from (self.predict_windows(path, window_s) for path in paths)

    def predict_windows(self, path: Path, length_s: float, longest_s: float = math.inf) -> Iterator[Answer]:
        """Predict each window of `length_s` of a file, in order.

        A file that lasts longer than `longest_s` gets no prediction. Raises `UserError` for a length that is not
        positive or exceeds that of a clip.
        """
        if not 0 < length_s <= self.features.max_duration_s:
            raise UserError(
                f"windows of {length_s} s: expected more than 0 and at most features.max_duration_s, "
                f"{self.features.max_duration_s} s, as for clips"
            )
        try:
            duration_s = self.reader.read_duration_s(path)
            if duration_s > longest_s:
                raise MediaError("too_long", f"it lasts {duration_s:.0f} s, more than {longest_s:.0f} s")
        except MediaError as error:
            yield Answer(no_prediction_row(path, None, error), None)
            return
        yield from self.predict_clips((path, window) for window in split_into_windows(duration_s, length_s))

    def _score(self, path: Path, media: ClipMedia, batch: Batch) -> ScoredClip:
        probabilities = np.mean([each.probabilities(batch)[0] for each in (self.scorer, *self._voters)], axis=0)
        refuse_nan(probabilities, path)
        labels = self.scorer.model.labels
        return ScoredClip(printable(path.name), media.duration_s, batch, labels, probabilities, media.waveform)

    def close(self) -> None:
        """End the processes that read files."""
        self.reader.close()


def refuse_other_inputs(voter: FinishedRun, run: FinishedRun) -> None:
    """Raise `UserError` if a voter takes something else of a clip than the run whose batches it is given."""
    theirs, ours = map(_inputs_of, (voter, run))
    shared = [name for name in ours if name in theirs]
    if changes := [f"{name} {theirs[name]} and {ours[name]}" for name in shared if theirs[name] != ours[name]]:
        raise UserError(
            f"the runs cannot vote: {voter.config.recipe.name}, {voter.record.run}, takes something else than "
            f"{run.config.recipe.name}, {run.record.run}: {'; '.join(changes)}; leave one out"
        )


def _inputs_of(run: FinishedRun) -> dict[str, Any]:
    """What a run takes of a clip, and its classes, by the names of the settings; no people if it takes none."""
    settings, left_out = run.config.recipe.model, set() if run.model.features.people.most else {"people"}
    return {
        **{f"features.{name}": value for name, value in run.model.features.model_dump(exclude=left_out).items()},
        "model.frames": settings.frames,
        "model.views": settings.views,
        "the list of classes": list(run.model.labels),
    }


def refuse_nan(probabilities: NDArray[np.float64], path: Path | str) -> None:
    """Raise `UserError` if a model gives NaN for a clip: the first class would be its answer, and JSON has no NaN."""
    if not np.isfinite(probabilities).all():
        raise UserError(
            f"the model gives NaN for {printable(path)}; its training diverged or its file is damaged; name another run"
        )


def list_files(paths: Iterable[Path]) -> list[Path]:
    """The files among `paths`, and those in its folders and subfolders that look like clips, sorted in each folder.

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
            if file.suffix.lower() in VIDEO_SUFFIXES and not file.name.startswith(".") and file.is_file()
        )
        if not videos:
            raise UserError(
                f"{path} holds no video ({', '.join(sorted(VIDEO_SUFFIXES))}); name another folder, or files"
            )
        files += videos
    return files


def split_into_windows(duration_s: float, length_s: float) -> Iterator[Window]:
    """Windows of `length_s` that overlap by half and cover the whole duration. The last one ends with the file.

    Times are whole microseconds: the rounding of a sum must neither show in a row nor give the last window twice. The
    last window begins at the microsecond before, so that a frame that appears at its very start is in it.
    """
    last_s = math.floor(round(max(0.0, duration_s - length_s) * 1e6, 3)) / 1e6
    step_s = length_s / 2
    starts_s = [number * step_s for number in range(math.ceil(round(last_s / step_s, 6)))]
    for start_s in [*starts_s, last_s]:
        yield Window(round(start_s, 6), round(start_s + min(length_s, duration_s), 6))
