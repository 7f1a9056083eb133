"""The table of a split's clips: one row a clip, made from the label file and the folder of videos beside it.

`data_manifests/<dataset>/<split>.csv` has the columns of `Clip`; `summary.json` beside it records the label files'
SHA-256 and class counts, because two different `Val_labels.txt` of VGAF circulate.
"""

import csv
import hashlib
import json
from collections import Counter
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from pipeline.clips.labels import CLASSES, read_labels, source_of
from pipeline.common.errors import UserError

SPLITS = ("train", "val")
CLIP_SUFFIX = ".mp4"


@dataclass(frozen=True)
class Clip:
    """A labelled clip; `path` is relative to the data set's root, `bytes` and `sha256` are the file's."""

    clip_id: str
    source_id: str
    label: str
    path: str
    bytes: int
    sha256: str


def index_split(root: Path, split: str) -> tuple[list[Clip], dict[str, Any]]:
    """The clips of a split, sorted by id, and their summary; every label needs its video and every video its label."""
    base = find_root(root)
    label_file = label_path(base, split)
    labels = read_labels(label_file)
    folder = base / split.capitalize()
    videos = {path.stem: path for path in folder.glob(f"*{CLIP_SUFFIX}")}
    if not labels:
        raise UserError(f"{label_file} lists no clip of the {split} split; add a line for each clip in {folder}")
    if absent := sorted(labels.keys() - videos.keys()):
        raise UserError(
            f"{folder} lacks {_some(absent, CLIP_SUFFIX)} of {label_file.name}; add the videos or remove the lines"
        )
    if unlisted := sorted(videos.keys() - labels.keys()):
        raise UserError(
            f"{label_file} has no line for {_some(unlisted)}, found in {folder}; label the videos or remove them"
        )
    clips = [
        Clip(
            clip_id=clip_id,
            source_id=source_of(clip_id),
            label=labels[clip_id],
            path=videos[clip_id].relative_to(root).as_posix(),
            bytes=videos[clip_id].stat().st_size,
            sha256=sha256_of(videos[clip_id]),
        )
        for clip_id in sorted(labels)
    ]
    counts = Counter(clip.label for clip in clips)
    summary = {
        "label_file": label_file.relative_to(root).as_posix(),
        "label_sha256": sha256_of(label_file),
        "clips": len(clips),
        "sources": len({clip.source_id for clip in clips}),
        "class_counts": {name: counts[name] for name in CLASSES},
        "bytes": sum(clip.bytes for clip in clips),
    }
    return clips, summary


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def label_path(base: Path, split: str) -> Path:
    """VGAF's name for a split's label file."""
    return base / f"{split.capitalize()}_labels.txt"


def find_root(root: Path) -> Path:
    """`root`, or the one folder in it that holds the data set: some copies of VGAF nest it one folder deeper."""
    if not root.is_dir():
        raise UserError(
            f"data set folder {root} does not exist; link or unpack the data there, or set dataset.root to where it is"
        )
    if not label_path(root, SPLITS[0]).exists():
        nested = [folder for folder in sorted(root.iterdir()) if label_path(folder, SPLITS[0]).exists()]
        if len(nested) == 1:
            return nested[0]
    return root


def sources_in_both(train: list[Clip], val: list[Clip]) -> list[str]:
    """Sources with clips in train and in val: each is a leak from the one into the other."""
    return sorted({clip.source_id for clip in train} & {clip.source_id for clip in val})


def write_manifest(clips: list[Clip], path: Path) -> None:
    """Write the table as CSV."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Clip)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(clip) for clip in clips)


def read_manifest(folder: Path, split: str) -> list[Clip]:
    """Read a split's table; raises `UserError` when it was not made yet."""
    try:
        with (folder / f"{split}.csv").open(newline="") as file:
            return [Clip(**{**row, "bytes": int(row["bytes"])}) for row in csv.DictReader(file)]  # type: ignore[arg-type]
    except FileNotFoundError:
        raise UserError(f"manifest {folder / split}.csv is missing; run the index stage (dvc repro index)") from None


def write_summary(splits: dict[str, dict[str, Any]], shared_sources: list[str], folder: Path) -> None:
    """Record what `index_split` found of each split, and the sources that splits share."""
    summary = {**splits, "sources_in_both": shared_sources}
    (folder / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")


def read_summary(folder: Path) -> dict[str, Any]:
    """What `index` recorded of the data set: a summary a split, and the sources that splits share."""
    try:
        summary: dict[str, Any] = json.loads((folder / "summary.json").read_text())
    except FileNotFoundError:
        raise UserError(f"{folder / 'summary.json'} is missing; run the index stage (dvc repro index)") from None
    return summary


def _some(names: list[str], suffix: str = "") -> str:
    shown = ", ".join(name + suffix for name in names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"
