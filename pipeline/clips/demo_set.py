"""The demo set: drawn clips in VGAF's layout, whose label needs both modalities.

Each clip has a visual valence v and an audio valence a. Both are -1, 0 or +1, independent and uniform. v is how the
faces of the group look (frown, straight mouth, smile), a is how the pitch of the sounds glides (down, level, up), and
the label is the sign of v + a. A model that knows only v is right with probability 5/9 = 55.6% at best: given v = +1,
the label is positive with probability 2/3 and neutral with 1/3; given v = 0, all three labels have probability 1/3. The
same holds for a. Every pair (v, a) occurs equally often in each split, so these limits are exact. Faces, places,
colours, sizes, noise, loudness, times, frame rates and durations vary, and train and val have different sources. About
one clip in fifty has no audio track, always one with a = 0.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.clips.labels import CLASSES, HEADER
from pipeline.clips.manifest import SPLITS
from pipeline.clips.vgaf_layout import label_path
from pipeline.common.config import DemoSettings
from pipeline.common.errors import UserError

VALENCES = (-1, 0, 1)
SILENT_SHARE = 0.02
# Marks a folder as a drawn set, which may be replaced. Recordings may not.
MARKER = "DRAWN.txt"


@dataclass(frozen=True)
class DemoClip:
    """A clip to be drawn; `has_audio` is False only where `audio_valence` is 0."""

    clip_id: str
    split: str
    visual_valence: int
    audio_valence: int
    has_audio: bool

    @property
    def label(self) -> str:
        """The class of sign(v + a)."""
        return {1: "positive", 0: "neutral", -1: "negative"}[int(np.sign(self.visual_valence + self.audio_valence))]

    @property
    def source(self) -> int:
        """The number of the source video, which is the scene that the clip is drawn in."""
        return int(self.clip_id.split("_")[0])


def plan_clips(settings: DemoSettings) -> list[DemoClip]:
    """All clips of the set: in each split, every pair of valences is equally frequent. Splits share no source.

    Raises `UserError` for a number of clips that is not a multiple of 9.
    """
    clips, first_source = [], 1
    for split, count in zip(SPLITS, (settings.train_clips, settings.val_clips), strict=True):
        if count % len(VALENCES) ** 2:
            raise UserError(
                f"dataset.synthesize: {split}_clips is {count}, expected a multiple of 9, the number of valence pairs"
            )
        pairs = [(v, a) for v in VALENCES for a in VALENCES] * (count // 9)
        order = np.random.default_rng([settings.seed, first_source]).permutation(count)
        silent_every = count // len(VALENCES) // max(1, round(SILENT_SHARE * count))
        level_sounds = 0
        for position, pair in enumerate(order):
            visual, audio = pairs[pair]
            level_sounds += audio == 0
            silent = audio == 0 and level_sounds % silent_every == 0
            source = first_source + position // settings.clips_per_source
            clip_id = f"{source}_{1 + position % settings.clips_per_source}"
            clips.append(DemoClip(clip_id, split, visual, audio, not silent))
        first_source = 1 + clips[-1].source
    return clips


def prepare_root(root: Path) -> None:
    """Make `root` with empty folders for the clips. An earlier drawn set in it is removed.

    Raises `UserError` if `root` holds any other files.
    """
    marker = root / MARKER
    if root.exists() and any(root.iterdir()) and not marker.exists():
        raise UserError(
            f"dataset.root {root} holds files that are not a drawn set, and drawing would delete them; "
            "for a recorded set add -S dataset=vgaf, or set dataset.root to another folder"
        )
    # The root itself stays, which may be a link. The marker comes first and stays too: if this is killed, a later run
    # still knows the folder as a drawn set.
    root.mkdir(parents=True, exist_ok=True)
    marker.write_text("This data set is drawn by the synthesize stage, which replaces the folder when it runs again.\n")
    for path in root.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path != marker:
            path.unlink()
    for split in SPLITS:
        (root / split.capitalize()).mkdir()


def write_label_files(clips: list[DemoClip], root: Path) -> None:
    """Write Train_labels.txt and Val_labels.txt in VGAF's format: one space, no final newline."""
    for split in SPLITS:
        lines = [f"{clip.clip_id} {CLASSES.index(clip.label) + 1}" for clip in clips if clip.split == split]
        label_path(root, split).write_text("\n".join([" ".join(HEADER), *lines]))
