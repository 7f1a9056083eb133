"""A table of clips: a CSV file that says where each clip is, what it is labelled with, and who or what is its source.

The columns `path`, `label` and `source` are required. `split` (train or val), `start_s` and `end_s` (a part of the
file, in seconds), and `clip_id` are optional; other columns are ignored. Relative paths are relative to the table.
"""

import csv
import math
import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.clips.labels import check_classes, class_of, expected_labels
from pipeline.clips.listing import ListedClip, Listing
from pipeline.clips.manifest import SPLITS, TRAIN
from pipeline.common.errors import UserError

REQUIRED = ("path", "label", "source")
COLUMNS = (*REQUIRED, "split", "start_s", "end_s", "clip_id")
MAX_ID = 64
TABLE_CLIP_ID = re.compile(rf"[A-Za-z0-9_-]{{1,{MAX_ID}}}")


@dataclass(frozen=True)
class Row:
    """The cells of a line, by column, without blanks at their ends; `table` and `line` name it in error messages."""

    table: Path
    line: int
    cells: dict[str, str]

    def error(self, message: str) -> UserError:
        """The error that names the table and the line."""
        return UserError(f"table {self.table}: line {self.line}: {message}")


def list_table(table: Path, classes: Sequence[str]) -> dict[str, Listing]:
    """The clips that a table lists for each split; all are in train if it has no column `split`.

    Raises `UserError` if the table is missing or lists no clip of train, if there are no classes, and for a line that
    breaks the format or names a file that does not exist.
    """
    rows = read_rows(table)
    check_classes(classes, {row.cells["label"] for row in rows}, f"table {table}")
    _refuse_missing_files(rows)
    _refuse_repetitions(rows)
    listings: dict[str, Listing] = {split: Listing(Path(table.name), []) for split in SPLITS}
    for row, clip_id in zip(rows, clip_ids(rows), strict=True):
        path, label, source = (row.cells[column] for column in REQUIRED)
        if (name := class_of(label, classes)) is None:
            raise row.error(f"the label is {label[:40]!r}, expected one of {expected_labels(classes)}")
        listings[split_of(row)].clips.append(ListedClip(clip_id, source, name, Path(path), *span_of(row)))
    if not listings[TRAIN].clips:
        raise UserError(f"table {table} lists no clip of train; add a line for each clip")
    return listings


def read_rows(table: Path) -> list[Row]:
    """The lines of a table; raises `UserError` if it is missing, is no CSV, or lacks a column or a required cell."""
    try:
        with table.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            header = [cell.strip() for cell in next(reader, [])]
            _check_header(table, header)
            return [_row(table, reader.line_num, header, cells) for cells in reader if any(map(str.strip, cells))]
    except FileNotFoundError:
        raise UserError(
            f"table {table} does not exist; set dataset.table to a CSV file with the columns {', '.join(REQUIRED)}"
        ) from None
    except UnicodeDecodeError as error:
        raise UserError(f"table {table} is not UTF-8 text ({error.reason}); save it as CSV UTF-8") from None
    except csv.Error as error:
        raise UserError(f"table {table}: line {reader.line_num}: {error}; save the table as CSV again") from None


def _check_header(table: Path, header: list[str]) -> None:
    if not set(REQUIRED) <= set(header):
        raise UserError(
            f"table {table}: the first line is {','.join(header)[:80]!r}, expected columns with the names "
            f"{', '.join(REQUIRED)}, separated by commas"
        )
    if repeated := [column for column in COLUMNS if header.count(column) > 1]:
        raise UserError(f"table {table} has several columns {repeated[0]}; keep one of them")


def _row(table: Path, line: int, header: list[str], cells: list[str]) -> Row:
    row = Row(table, line, {column: cell.strip() for column, cell in zip(header, cells, strict=False)})
    if len(cells) != len(header):
        raise row.error(f"{len(cells)} cells, expected {len(header)} as in the header; quote a cell that has commas")
    for column in REQUIRED:
        if not row.cells[column]:
            raise row.error(f"the {column} is empty; fill it in or remove the line")
    return row


def split_of(row: Row) -> str:
    """The split of a line, train if the table has no column for it; raises `UserError` for another name."""
    split = row.cells.get("split", TRAIN)
    if split.lower() not in SPLITS:
        raise row.error(f"the split is {split[:40]!r}, expected {' or '.join(SPLITS)}")
    return split.lower()


def span_of(row: Row) -> tuple[float | None, float | None]:
    """From when to when a clip is a part of its file, in seconds; None and None for the whole file.

    Raises `UserError` unless the cells hold two increasing numbers or are both empty.
    """
    cells = row.cells.get("start_s", ""), row.cells.get("end_s", "")
    if cells == ("", ""):
        return None, None
    try:
        start_s, end_s = map(float, cells)
    except ValueError:
        start_s, end_s = math.nan, math.nan
    if not 0 <= start_s < end_s < math.inf:
        raise row.error(
            f"start_s is {cells[0][:20]!r} and end_s is {cells[1][:20]!r}, expected two numbers of seconds, "
            "the first one smaller, or two empty cells for the whole file"
        )
    return start_s, end_s


def clip_ids(rows: list[Row]) -> list[str]:
    """The id of each line's clip: the column `clip_id`, or else the file's name, or its path if that name repeats.

    Raises `UserError` for an id that is malformed or is that of another line too.
    """
    if rows and "clip_id" in rows[0].cells:
        ids = [row.cells["clip_id"] for row in rows]
    else:
        ids = [_make_id(row, Path(row.cells["path"]).stem) for row in rows]
        counts = Counter(ids)
        ids = [
            clip_id if counts[clip_id] == 1 else _make_id(row, Path(row.cells["path"]).with_suffix("").as_posix())
            for row, clip_id in zip(rows, ids, strict=True)
        ]
    first: dict[str, Row] = {}
    for row, clip_id in zip(rows, ids, strict=True):
        if not TABLE_CLIP_ID.fullmatch(clip_id):
            raise row.error(f"the clip_id is {clip_id[:80]!r}, expected 1 to {MAX_ID} letters, digits, _ and -")
        if other := first.get(clip_id):
            raise row.error(
                f"its clip would have the id {clip_id}, as that of line {other.line}; "
                "give each line its own id in a column clip_id"
            )
        first[clip_id] = row
    return ids


def _make_id(row: Row, name: str) -> str:
    """A file's name or path as an id, with the part in milliseconds; of a long name it keeps the end."""
    start_s, end_s = span_of(row)
    part = "" if start_s is None or end_s is None else f"-{round(start_s * 1000)}-{round(end_s * 1000)}"
    return re.sub(r"[^A-Za-z0-9_-]", "-", name)[-(MAX_ID - len(part)) :] + part


def _refuse_missing_files(rows: list[Row]) -> None:
    for row in rows:
        if not (path := row.table.parent / row.cells["path"]).is_file():
            raise row.error(f"file {path} does not exist; correct the path or remove the line")


def _refuse_repetitions(rows: list[Row]) -> None:
    first: dict[tuple[str, float | None, float | None], Row] = {}
    for row in rows:
        clip = (os.path.normpath(row.cells["path"]), *span_of(row))
        if other := first.get(clip):
            raise row.error(f"it lists the same part of the same file as line {other.line}; keep only one of them")
        first[clip] = row
