"""What a label file or a table says about the clips, before their files are read."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class ListedClip:
    """A labelled clip: a whole file, or its part from `start_s` to `end_s`.

    `path` is absolute, or relative to the folder of the data set's clips.
    """

    clip_id: str
    source_id: str
    label: str
    path: Path
    start_s: float | None = None
    end_s: float | None = None


@dataclass(frozen=True)
class Listing:
    """The clips that a file lists for a split; `file` is relative to the folder of the clips."""

    file: Path
    clips: list[ListedClip]
