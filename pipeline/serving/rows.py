"""The rows that `predict` prints, one per file or one per window of a file, as JSON, as CSV and as text."""

import csv
import io
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from pipeline.extraction.reasons import MediaError
from pipeline.extraction.timeline import Window
from pipeline.models.scoring import ScoredClip

SPAN_KEYS = ("start_s", "end_s")


@dataclass(frozen=True)
class Prediction:
    """The prediction of a file, or of its window from `start_s` to `end_s`, which are None for a whole file.

    `prediction` is the most probable class; `probabilities` are by class, to six decimals.
    """

    file: str
    start_s: float | None
    end_s: float | None
    prediction: str
    probabilities: dict[str, float]


@dataclass(frozen=True)
class NoPrediction:
    """A file, or a window of it, that cannot be used: `reason` is a key of `pipeline.extraction.reasons.REASONS`."""

    file: str
    start_s: float | None
    end_s: float | None
    prediction: None = field(default=None, init=False)
    reason: str
    detail: str


def printable(path: Path | str) -> str:
    """A path as text that can be printed, drawn and written anywhere.

    Line breaks, bytes that are not UTF-8, and whatever else cannot be shown, are escaped.
    """
    text = os.fsencode(path).decode(errors="backslashreplace")
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


def prediction_row(path: Path, window: Window | None, clip: ScoredClip) -> Prediction:
    """The row of a clip that was scored."""
    start_s, end_s = _span(window)
    probabilities = {label: round(float(p), 6) for label, p in zip(clip.labels, clip.probabilities, strict=True)}
    return Prediction(printable(path), start_s, end_s, clip.label, probabilities)


def no_prediction_row(path: Path, window: Window | None, error: MediaError) -> NoPrediction:
    """The row of a file that cannot be used."""
    start_s, end_s = _span(window)
    return NoPrediction(printable(path), start_s, end_s, reason=error.reason, detail=error.detail)


def json_line(row: Prediction | NoPrediction) -> str:
    """A row as one line of JSON. The row of a whole file has no `start_s` and no `end_s`."""
    values = asdict(row)
    if row.start_s is None:
        values = {key: value for key, value in values.items() if key not in SPAN_KEYS}
    return json.dumps(values) + "\n"


def csv_table(rows: Iterable[Prediction | NoPrediction], classes: Sequence[str]) -> str:
    """Rows as CSV with the columns file, start_s, end_s, prediction, one per class, reason and detail.

    Cells that a row has no value for are empty: the times of a whole file, the reason of a prediction.
    """
    table = io.StringIO()
    columns = ("file", *SPAN_KEYS, "prediction", *classes, "reason", "detail")
    writer = csv.DictWriter(table, columns, restval="", lineterminator="\n")
    writer.writeheader()
    for row in rows:
        values = asdict(row)
        probabilities = values.pop("probabilities", {})
        writer.writerow(values | probabilities)
    return table.getvalue()


def text_line(row: Prediction | NoPrediction) -> str:
    """A row as text for a person to read."""
    span = "" if row.start_s is None else f"{row.start_s:7.1f} to {row.end_s:.1f} s  "
    if isinstance(row, NoPrediction):
        return f"{span}{'-':9} {row.reason}: {row.detail}  {row.file}"
    shares = "  ".join(f"{label} {share:6.1%}" for label, share in row.probabilities.items())
    return f"{span}{row.prediction:9} {shares}  {row.file}"


def _span(window: Window | None) -> tuple[float, float] | tuple[None, None]:
    return (window.start_s, window.end_s) if window else (None, None)
