"""A folder of results: what `evaluate` writes, and reading the tables in it."""

import csv
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

METRICS_NAME, PREDICTIONS_NAME, PROVENANCE_NAME = "metrics.json", "predictions.csv", "provenance.json"
PER_CLASS_NAME, PER_SOURCE_NAME, RELIABILITY_NAME = "per_class.csv", "per_source.csv", "reliability.csv"
MISTAKES_NAME = "mistakes"
NAMES = {"source_id", "class"}  # a source may be called 12_3, which Python reads as 123


def write_table(rows: Sequence[dict[str, Any]], columns: Sequence[str], path: Path) -> None:
    """Write rows as CSV; None as nothing."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def read_table(path: Path) -> list[dict[str, Any]]:
    """The rows of a CSV file, numbers as numbers but for names, None where nothing is stated."""

    def value(key: str, text: str) -> Any:
        if key not in NAMES:
            for kind in (int, float):
                with suppress(ValueError):
                    return kind(text)
        return text or None

    with path.open(newline="") as file:
        return [{key: value(key, text) for key, text in row.items()} for row in csv.DictReader(file)]


def mistake_name(place: int, clip_id: str) -> str:
    """The file name of a picture of a mistake; the first place is that of the most confident one."""
    return f"{place:02d}-{clip_id}.jpg"


def clip_of_mistake(picture: Path) -> str:
    """The clip that the picture of a mistake is of."""
    return picture.stem.partition("-")[2]
