"""Rows of a prediction that is not finished, kept file by file, so that the same command goes on where it stopped."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pipeline.common.errors import UserError
from pipeline.extraction.reasons import RETRIED_REASONS
from pipeline.serving.rows import NoPrediction, Prediction

Row = Prediction | NoPrediction


class PartialRows:
    """The rows of the files that are done, in a file beside the output, whose name ends in `.partial`.

    Its first line, which begins with `models`, says what the rows depend on; rows of anything else are discarded. Each
    other line holds the rows of one file with its size and time of change, so a file that has changed is predicted
    again. So is one whose reason may have been a busy machine. Raises `UserError` for a file of that name which is
    something else.
    """

    def __init__(self, output: Path, depends_on: Mapping[str, Any]) -> None:
        self.path = output.with_name(f"{output.name}.partial")
        first = json.dumps(depends_on)
        before = self.path.read_text().splitlines() if self.path.exists() else []
        self._done: dict[str, list[Row]] = {}
        if before[:1] == [first]:
            self._done = dict(filter(None, map(_parse, before[1:])))
            self._append("")  # ends a line that was not written to its end
        elif before and not before[0].startswith('{"models": '):
            raise UserError(
                f"{self.path} is needed for a while, and is another file; move it, or name another --output"
            )
        else:
            self.path.write_text(first + "\n")

    def rows_of(self, path: Path) -> list[Row] | None:
        """The rows of a file, or None if it must be predicted."""
        rows = self._done.get(_state_of(path), [])
        is_done = bool(rows) and not any(
            isinstance(row, NoPrediction) and row.reason in RETRIED_REASONS for row in rows
        )
        return rows if is_done else None

    def add(self, path: Path, rows: Sequence[Row]) -> None:
        """Keep the rows of a file."""
        self._append(json.dumps({"file": _state_of(path), "rows": [asdict(row) for row in rows]}))

    def _append(self, line: str) -> None:
        with self.path.open("a") as file:
            file.write(line + "\n")

    def remove(self) -> None:
        """Remove the file, because the output has all rows."""
        self.path.unlink(missing_ok=True)


def _state_of(path: Path) -> str:
    try:
        state = path.stat()
    except OSError:
        return f"{path}"
    return f"{path} {state.st_size} {state.st_mtime_ns}"


def _parse(line: str) -> tuple[str, list[Row]] | None:
    """The rows of a file; None for a line that was not written to its end."""
    try:
        values = json.loads(line)
    except json.JSONDecodeError:
        return None
    return values["file"], [_row(row) for row in values["rows"]]


def _row(values: dict[str, Any]) -> Row:
    if values["prediction"] is not None:
        return Prediction(**values)
    return NoPrediction(**{key: value for key, value in values.items() if key != "prediction"})
