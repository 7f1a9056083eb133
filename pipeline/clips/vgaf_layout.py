"""VGAF's layout: Train/ and Val/ with one mp4 file per clip, and a label file beside each.

Hidden files are ignored, because macOS leaves some beside the clips, and `.mp4` may be written in any case.
"""

from collections.abc import Sequence
from pathlib import Path

from pipeline.clips.labels import CLIP_SUFFIX, read_labels, source_of
from pipeline.clips.listing import ListedClip, Listing
from pipeline.clips.manifest import TRAIN
from pipeline.common.errors import UserError


def list_split(root: Path, split: str, classes: Sequence[str]) -> Listing:
    """The clips of a split, with paths relative to `root`.

    Raises `UserError` if a label has no video, a video has no label, or the label file breaks the format.
    """
    base = find_root(root)
    label_file = label_path(base, split)
    labels = read_labels(label_file, classes)
    videos = _find_videos(base / split.capitalize(), label_file, labels)
    clips = [
        ListedClip(clip_id, source_of(clip_id), label, videos[clip_id].relative_to(root))
        for clip_id, label in labels.items()
    ]
    return Listing(label_file.relative_to(root), clips)


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


def _find_videos(folder: Path, label_file: Path, labels: dict[str, str]) -> dict[str, Path]:
    """The video of each label, by clip id; raises `UserError` unless there is exactly one for each."""
    videos: dict[str, Path] = {}
    for path in sorted(folder.glob("[!.]*")):
        if path.suffix.lower() == CLIP_SUFFIX:
            if other := videos.get(path.stem):
                raise UserError(f"{folder} holds {other.name} and {path.name}, which are one clip; remove one of them")
            videos[path.stem] = path
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


def _first_names(names: list[str], suffix: str = "") -> str:
    shown = ", ".join(name + suffix for name in names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"
