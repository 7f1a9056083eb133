"""Which clips are trained on, which choose the epoch, which are scored."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from pipeline.clips.manifest import SPLITS, Clip, read_manifest
from pipeline.clips.splits import ROLES, Assignment, Role, read_current_assignments
from pipeline.common.config import Config
from pipeline.common.errors import UserError
from pipeline.common.files import sha256_of
from pipeline.shards.files import ShardFile, open_index
from pipeline.shards.format import Entry
from pipeline.shards.index import INDEX_NAME, ShardIndex, missing_clips

# The name under which the identity of a training holds the digest of its clips and their roles.
ROLES_KEY = "the clips and their roles"


@dataclass(frozen=True, slots=True)
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


@dataclass(frozen=True)
class Subset:
    """Clips of the manifests, and those of them that are in the shards; the others are quarantined."""

    clips: list[Clip]
    located: list[ClipRef]


def clips_of_split(config: Config, split: str) -> Subset:
    """All clips of a split."""
    index, clips = open_split(config, split)
    return Subset(clips, locate(index, clips, config.dataset.classes))


def clips_by_role(config: Config, fold: int | None) -> tuple[dict[Role, Subset], dict[str, str]]:
    """The clips of a training by their roles in `splits.csv`, and the SHA-256 of what names the clips and the roles.

    Raises `UserError` if `splits.csv` is older than the manifests.
    """
    opened = {split: open_split(config, split) for split in SPLITS}
    roles, digest = _current_roles(config, fold, {split: clips for split, (_, clips) in opened.items()})
    subsets: dict[Role, Subset] = {role: Subset([], []) for role in ROLES}
    for split, (index, clips) in opened.items():
        located = locate(index, clips, config.dataset.classes)
        for clip in clips:
            if role := roles.get((split, clip.clip_id)):
                subsets[role].clips.append(clip)
        for place in located:
            if role := roles.get((split, place.clip_id)):
                subsets[role].located.append(place)
    indexes = {f"the shards of {split}": sha256_of(index.folder / INDEX_NAME) for split, (index, _) in opened.items()}
    return subsets, {**indexes, ROLES_KEY: digest}


def select_clips(config: Config, fold: int | None = None) -> TrainingClips:
    """Select the clips of one training by their roles in `splits.csv`, from the shards and manifests.

    The epoch is chosen on the clips of dev, on the reported ones, or on none, as `training.select_on` says. Raises
    `UserError` if it says on which, and none of them is in the shards.
    """
    clips, digests = clips_by_role(config, fold)
    select_on = config.recipe.training.select_on
    selection: list[ClipRef] = []
    if select_on != "none":
        selection = clips["test" if select_on == "val" else "dev"].located
        if not selection:
            raise UserError(
                f"recipe.training.select_on is {select_on}, but no clip of {select_on} is in the shards: all are in "
                "quarantine; set select_on to none and patience to 0"
            )
    return TrainingClips(clips["fit"].located, selection, digests)


def _current_roles(
    config: Config, fold: int | None, clips: Mapping[str, Sequence[Clip]]
) -> tuple[dict[tuple[str, str], Role], str]:
    """The roles by split and clip id, and their digest; not the rows of `splits.csv`, which take more memory.

    `clips` are those of the manifests. Raises `UserError` if the file is older than they are.
    """
    rows = read_current_assignments(config, fold, clips)
    return {key: row.role for key, row in rows.items()}, roles_digest(rows.values())


def roles_digest(assignments: Iterable[Assignment]) -> str:
    """SHA-256 of the clips of a training, their labels and their roles."""
    rows = sorted("\t".join((each.split, each.clip_id, each.label, each.role)) for each in assignments)
    return hashlib.sha256("\n".join(rows).encode()).hexdigest()


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
