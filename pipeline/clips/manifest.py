"""The table of a split's clips: one row per clip, made from the label file and the folder of videos beside it.

`data_manifests/<dataset>/<split>.csv` has the columns of `Clip`. `summary.json` beside it records the SHA-256 and the
class counts of the label files, because two different `Val_labels.txt` of VGAF circulate.
"""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from pipeline.clips.labels import CLASSES, read_labels, source_of
from pipeline.common.errors import UserError
from pipeline.common.files import sha256_of
from pipeline.common.records import read_record, read_table, write_record, write_table

SPLITS = TRAIN, VAL = ("train", "val")
CLIP_SUFFIX = ".mp4"
SUMMARY_NAME = "summary.json"


@dataclass(frozen=True)
class Clip:
    """A labelled clip. `path` is relative to the data set's root; `bytes` and `sha256` are those of the file."""

    clip_id: str
    source_id: str
    label: str
    path: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class SplitSummary:
    """What was indexed of a split; `bytes` is the size of all its clips together."""

    label_file: str
    label_sha256: str
    clips: int
    sources: int
    class_counts: dict[str, int]
    bytes: int


@dataclass(frozen=True)
class DatasetSummary:
    """What was indexed of a data set. `sources_in_both` are sources with clips in train and in val: each is a leak."""

    train: SplitSummary
    val: SplitSummary
    sources_in_both: list[str]


def index_dataset(root: Path) -> tuple[dict[str, list[Clip]], DatasetSummary]:
    """The clips of each split, and the summary of the data set; raises `UserError` as `index_split` does."""
    indexed = {split: index_split(root, split) for split in SPLITS}
    clips = {split: split_clips for split, (split_clips, _) in indexed.items()}
    shared = sources_in_both(clips[TRAIN], clips[VAL])
    return clips, DatasetSummary(train=indexed[TRAIN][1], val=indexed[VAL][1], sources_in_both=shared)


def index_split(root: Path, split: str) -> tuple[list[Clip], SplitSummary]:
    """The clips of a split, sorted by id, and their summary.

    Raises `UserError` if a label has no video or a video has no label.
    """
    base = find_root(root)
    label_file = label_path(base, split)
    labels = read_labels(label_file)
    videos = _find_videos(base / split.capitalize(), label_file, labels)
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
    summary = SplitSummary(
        label_file=label_file.relative_to(root).as_posix(),
        label_sha256=sha256_of(label_file),
        clips=len(clips),
        sources=len({clip.source_id for clip in clips}),
        class_counts={name: counts[name] for name in CLASSES},
        bytes=sum(clip.bytes for clip in clips),
    )
    return clips, summary


def _find_videos(folder: Path, label_file: Path, labels: dict[str, str]) -> dict[str, Path]:
    """The video of each label, by clip id; raises `UserError` unless there is exactly one for each."""
    videos = {path.stem: path for path in folder.glob(f"*{CLIP_SUFFIX}")}
    if not labels:
        raise UserError(f"{label_file} lists no clip; add one line for each clip in {folder}")
    if absent := sorted(labels.keys() - videos.keys()):
        raise UserError(
            f"{folder} lacks {_first_names(absent, CLIP_SUFFIX)} of {label_file.name}; "
            "add the videos or remove the lines"
        )
    if unlisted := sorted(videos.keys() - labels.keys()):
        raise UserError(
            f"{label_file} has no line for {_first_names(unlisted)}, which {folder} holds; "
            "label the videos or remove them"
        )
    return videos


def label_path(base: Path, split: str) -> Path:
    """VGAF's name for the label file of a split."""
    return base / f"{split.capitalize()}_labels.txt"


def find_root(root: Path) -> Path:
    """The folder that holds the label files: `root`, or the only folder inside it that does.

    Some copies of VGAF are nested one folder deeper. Raises `UserError` if `root` does not exist.
    """
    if not root.is_dir():
        raise UserError(
            f"data set folder {root} does not exist; link or unpack the data there, or set dataset.root to its place"
        )
    if not label_path(root, TRAIN).exists():
        nested = [folder for folder in sorted(root.iterdir()) if label_path(folder, TRAIN).exists()]
        if len(nested) == 1:
            return nested[0]
    return root


def sources_in_both(train: list[Clip], val: list[Clip]) -> list[str]:
    """Sources that have clips in train and in val, sorted."""
    return sorted({clip.source_id for clip in train} & {clip.source_id for clip in val})


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
    """Read the table of a split; raises `UserError` if `index` has not written it."""
    path = folder / f"{split}.csv"
    try:
        return read_table(Clip, path)
    except FileNotFoundError:
        raise UserError(f"manifest {path} is missing; run the index stage (dvc repro index)") from None
    except ValueError as error:
        raise UserError(f"manifest {path} is damaged ({error}); run the index stage again") from None


def read_summary(folder: Path) -> DatasetSummary:
    """Read `summary.json`; raises `UserError` if `index` has not written it."""
    path = folder / SUMMARY_NAME
    try:
        return read_record(DatasetSummary, path)
    except FileNotFoundError:
        raise UserError(f"{path} is missing; run the index stage (dvc repro index)") from None
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}); run the index stage again") from None


def _first_names(names: list[str], suffix: str = "") -> str:
    shown = ", ".join(name + suffix for name in names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"
