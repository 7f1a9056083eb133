"""Records: frozen dataclasses that a JSON or CSV file holds. These functions write and read all of them."""

import csv
import functools
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from pipeline.common.errors import UserError
from pipeline.common.files import write_text, written_whole

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Kind = TypeVar("Kind", bound="DataclassInstance")


_cached_adapter = functools.cache(TypeAdapter)  # building one takes a millisecond


def _adapter(kind: Any) -> "TypeAdapter[Any]":
    return _cached_adapter(kind)


def to_json(record: Any, indent: int | None = 2) -> str:
    """A record as JSON."""
    return _adapter(type(record)).dump_json(record, indent=indent).decode() + "\n"


def parse_record(kind: type[Kind], content: str | bytes) -> Kind:
    """Undo `to_json`; raises `ValueError` with one sentence for content that is not such a record."""
    try:
        record: Kind = _adapter(kind).validate_json(content, strict=True)
        return record
    except ValidationError as error:
        raise ValueError(_sentence(kind, error)) from None


def write_record(record: Any, path: Path, indent: int | None = 2) -> None:
    """Write a record as JSON, whole or not at all."""
    write_text(path, to_json(record, indent))


def read_record(kind: type[Kind], path: Path) -> Kind:
    """Read a record; raises `FileNotFoundError`, or `ValueError` for content that is not such a record."""
    return parse_record(kind, path.read_bytes())


@contextmanager
def reading(path: Path, stage: str) -> Iterator[Path]:
    """Within this context, a file that is missing or damaged is a `UserError` that names the stage that writes it."""
    try:
        yield path
    except FileNotFoundError:
        raise UserError(f"{path} is missing; run the {stage} stage (dvc repro {stage})") from None
    except ValueError as error:
        raise UserError(
            f"{path} is damaged or of another version ({error}); run the {stage} stage again (dvc repro -f {stage})"
        ) from None


def write_table(kind: type[Kind], rows: Iterable[Kind], path: Path) -> None:
    """Write records as CSV, whole or not at all: one column per field, and an empty cell for None.

    All values are scalars, and no string is empty.
    """
    columns = [field.name for field in fields(kind)]
    with written_whole(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        # Not `asdict`, which copies every value: with it, a table takes five times as long.
        writer.writerows([getattr(row, column) for column in columns] for row in rows)


def read_table(kind: type[Kind], path: Path) -> list[Kind]:
    """Undo `write_table`; raises `FileNotFoundError`, or `ValueError` for a table of something else."""
    return list(table_rows(kind, path))


def table_rows(kind: type[Kind], path: Path) -> Iterator[Kind]:
    """Yield the records of a table one by one; raises like `read_table`, at the first row that is wrong."""
    with path.open(newline="") as file:
        try:
            for row in csv.DictReader(file):
                yield _adapter(kind).validate_python({key: cell or None for key, cell in row.items()})
        except (ValidationError, csv.Error, TypeError) as error:
            raise ValueError(_sentence(kind, error)) from None


def _sentence(kind: type[Any], error: Exception) -> str:
    if not isinstance(error, ValidationError):
        return str(error)
    first = error.errors(include_url=False)[0]
    place = ".".join(str(part) for part in first["loc"]) or kind.__name__
    return f"{place}: {first['msg'][:1].lower()}{first['msg'][1:]}"
