"""Which clips are trained on, and which choose the epoch."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.clips.manifest import SPLITS, TRAIN, VAL, Clip, read_manifest
from pipeline.common.config import Config
from pipeline.common.errors import UserError
from pipeline.common.files import sha256_of
from pipeline.shards.files import ShardFile, open_index
from pipeline.shards.format import Entry
from pipeline.shards.index import INDEX_NAME, ShardIndex, missing_clips


@dataclass(frozen=True)
class ClipRef:
    """A labelled clip and where its members lie; `label` is the index of its class."""

    clip_id: str
    source_id: str
    label: int
    file: ShardFile
    entry: Entry


@dataclass(frozen=True)
class TrainingClips:
    """The clips that are trained on, those that choose the epoch, and the SHA-256 of the files that name them.

    `selection` is empty if nothing chooses the epoch.
    """

    training: list[ClipRef]
    selection: list[ClipRef]
    digests: dict[str, str]


def select_clips(config: Config) -> TrainingClips:
    """Select the training and selection clips, as `training.select_on` says, from the shards and manifests."""
    settings = config.recipe.training
    splits = {split: open_split(config, split) for split in SPLITS}
    digests = {f"the shards of {split}": sha256_of(index.folder / INDEX_NAME) for split, (index, _) in splits.items()}
    digests |= {f"the manifest of {split}": sha256_of(config.manifests / f"{split}.csv") for split in SPLITS}
    classes = config.dataset.classes
    train = locate(*splits[TRAIN], classes)
    match settings.select_on:
        case "val":
            return TrainingClips(train, locate(*splits[VAL], classes), digests)
        case "none":
            return TrainingClips(train, [], digests)
        case _:
            return TrainingClips(*hold_out_sources(train, settings.dev_fraction, config.seed), digests)


def open_split(config: Config, split: str) -> tuple[ShardIndex, list[Clip]]:
    """The shards and the manifest of a split."""
    return open_index(config, split), read_manifest(config.manifests, split)


def locate(index: ShardIndex, clips: list[Clip], classes: Sequence[str]) -> list[ClipRef]:
    """The clips of a manifest that are in the shards, in the order of the shards, with their labels.

    Raises `UserError` for a clip that is neither in the shards nor quarantined, or whose label is not in `classes`.
    """
    if other := [clip for clip in clips if clip.label not in classes]:
        raise UserError(
            f"clip {other[0].clip_id} of the manifest is labelled {other[0].label}, which is not in dataset.classes; "
            "run the index stage (dvc repro index)"
        )
    by_id = {clip.clip_id: clip for clip in clips}
    files = [ShardFile(shard, index.folder, index.url) for shard in index.shards]
    located = [
        ClipRef(clip.clip_id, clip.source_id, classes.index(clip.label), file, entry)
        for file in files
        for entry in file.shard.entries
        if (clip := by_id.get(entry.clip_id))
    ]
    if missing := missing_clips(index, clips):
        raise UserError(
            f"{len(missing)} clips of the manifest are not in {index.folder}, {missing[0]} among them; "
            "run the extract stage (dvc repro extract)"
        )
    return located


def hold_out_sources(clips: Sequence[ClipRef], fraction: float, seed: int) -> tuple[list[ClipRef], list[ClipRef]]:
    """Split clips by source into (kept, held out): about `fraction` of the sources, at least one, are held out whole.

    Raises `UserError` for clips of a single source.
    """
    sources = sorted({clip.source_id for clip in clips})
    if len(sources) < 2:
        raise UserError(
            f"training.select_on is dev, which holds sources out of train, but train has {len(sources)}; "
            "set it to val or none"
        )
    count = min(max(1, round(fraction * len(sources))), len(sources) - 1)
    held_out = set(np.random.default_rng(seed).permutation(sources)[:count])
    kept = [clip for clip in clips if clip.source_id not in held_out]
    return kept, [clip for clip in clips if clip.source_id in held_out]
