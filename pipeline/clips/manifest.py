"""The table of a split's clips: one row per clip, made from a label file or from a table of clips.

`data_manifests/<dataset>/<split>.csv` has the columns of `Clip`. `summary.json` beside it records the classes, their
counts, and the SHA-256 of the label files, because two different `Val_labels.txt` of VGAF circulate.
"""

from dataclasses import dataclass, field
from pathlib import Path

from pipeline.common.errors import UserError
from pipeline.common.records import read_record, read_table, write_record, write_table

SPLITS = TRAIN, VAL = ("train", "val")
SUMMARY_NAME = "summary.json"


@dataclass(frozen=True)
class Clip:
    """A labelled clip: a whole file, or its part from `start_s` to `end_s`, in seconds since the file's first frame.

    `path` is absolute, or relative to the folder of the data set's clips; `bytes` and `sha256` are those of the file.
    """

    clip_id: str
    source_id: str
    label: str
    path: str
    bytes: int
    sha256: str
    start_s: float | None = None
    end_s: float | None = None


@dataclass(frozen=True)
class SplitSummary:
    """What was indexed of a split; `bytes` is the size of all its files together.

    `label_file` is the file that lists the clips: VGAF's label file, or the table.
    """

    label_file: str
    label_sha256: str
    clips: int
    sources: int
    class_counts: dict[str, int]
    bytes: int


@dataclass(frozen=True)
class IdenticalClips:
    """The ids of clips that hold the same recording: files of equal bytes, or overlapping parts of such files.

    `labels` are the different labels that they have.
    """

    train: list[str]
    val: list[str]
    labels: list[str]


@dataclass(frozen=True)
class DatasetSummary:
    """What was indexed of a data set, and its classes in their order; results of version 1.0.0 do not state these.

    `sources_in_both` are sources with clips in train and in val: each is a leak.
    """

    train: SplitSummary
    val: SplitSummary
    sources_in_both: list[str]
    classes: list[str] = field(default_factory=list)
    identical: list[IdenticalClips] = field(default_factory=list)


def write_manifests(clips: dict[str, list[Clip]], summary: DatasetSummary, folder: Path) -> None:
    """Write the table of each split and the summary."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, split_clips in clips.items():
        write_manifest(split_clips, folder / f"{split}.csv")
    write_record(summary, folder / SUMMARY_NAME)


def write_manifest(clips: list[Clip], path: Path) -> None:
    """Write the table of a split as CSV."""
    write_table(Clip, clips, path)


def read_manifest(folder: Path, split: str) -> list[Clip]:
    """Read the table of a split; raises `UserError` if it is missing or damaged."""
    path = folder / f"{split}.csv"
    try:
        return read_table(Clip, path)
    except FileNotFoundError:
        raise UserError(f"manifest {path} is missing; run the index stage (dvc repro index)") from None
    except ValueError as error:
        raise UserError(f"manifest {path} is damaged ({error}); run the index stage again") from None


def read_summary(folder: Path) -> DatasetSummary:
    """Read `summary.json`; raises `UserError` if it is missing or damaged."""
    path = folder / SUMMARY_NAME
    try:
        return read_record(DatasetSummary, path)
    except FileNotFoundError:
        raise UserError(f"{path} is missing; run the index stage (dvc repro index)") from None
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}); run the index stage again") from None
