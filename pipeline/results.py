"""A folder of results: what `evaluate` writes, and reading the tables in it."""

import csv
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

METRICS_NAME, PREDICTIONS_NAME, PROVENANCE_NAME = "metrics.json", "predictions.csv", "provenance.json"
PER_CLASS_NAME, PER_SOURCE_NAME, RELIABILITY_NAME = "per_class.csv", "per_source.csv", "reliability.csv"
MISTAKES_NAME = "mistakes"


def write_table(rows: Sequence[dict[str, Any]], columns: Sequence[str], path: Path) -> None:
    """Write rows as CSV; None as nothing."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def read_table(path: Path) -> list[dict[str, Any]]:
    """The rows of a CSV file, numbers as numbers, None where nothing is stated."""

    def value(text: str) -> Any:
        for kind in (int, float):
            with suppress(ValueError):
                return kind(text)
        return text or None

    with path.open(newline="") as file:
        return [{key: value(text) for key, text in row.items()} for row in csv.DictReader(file)]
