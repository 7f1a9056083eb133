"""The index of a split's shards: which clips are where, and the SHA-256 of each shard.

`index.json` lists the shards with their size, SHA-256 and clips, and the features they were made with. While an
extraction is unfinished, each finished shard has its record beside it instead (`<shard>.tar.json`).
"""

import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pipeline.clips.manifest import Clip
from pipeline.common.errors import UserError
from pipeline.common.features import Features
from pipeline.common.files import sha256_of
from pipeline.common.records import read_record, write_record
from pipeline.shards.format import Quarantined, Shard

INDEX_NAME = "index.json"
SHARD_NAME = re.compile(r"[A-Za-z0-9_-]+\.tar")
RECORD_PATTERN = "*.tar.json"


@dataclass(frozen=True)
class IndexRecord:
    """What `index.json` holds."""

    features: Features
    shards: list[Shard]


@dataclass(frozen=True)
class ShardIndex:
    """A split's shards, the features they were made with, and their folder.

    With a `url`, the folder is a cache: a shard that is not in it yet is fetched from `url/<name>`.
    """

    folder: Path
    features: Features
    shards: list[Shard]
    url: str | None = None

    @property
    def quarantined(self) -> list[Quarantined]:
        """The quarantined clips of all shards."""
        return [clip for shard in self.shards for clip in shard.quarantined]


@dataclass(frozen=True)
class QuarantinedClip:
    """A clip of a split that could not be extracted, why, and what was wrong with it: a row of `quarantine.csv`."""

    split: str
    clip_id: str
    reason: str
    detail: str


def quarantined_clips(indexes: Mapping[str, ShardIndex]) -> list[QuarantinedClip]:
    """The quarantined clips of all splits."""
    return [
        QuarantinedClip(split, clip.clip_id, clip.reason, clip.detail)
        for split, index in indexes.items()
        for clip in index.quarantined
    ]


def finished_shards(folder: Path) -> dict[str, Shard]:
    """Shards that earlier extractions finished in `folder`, by name, from its index and from the records beside them.

    A file that is cut off or of another version is passed over: its shards are made again.
    """
    shards: list[Shard] = []
    with suppress(FileNotFoundError, ValueError):
        shards += read_record(IndexRecord, folder / INDEX_NAME).shards
    for path in folder.glob(RECORD_PATTERN):
        with suppress(ValueError):
            shards.append(read_record(Shard, path))
    return {shard.name: shard for shard in shards}


def is_intact(folder: Path, shard: Shard) -> bool:
    """Whether the shard's file exists and has the bytes that were recorded."""
    path = folder / shard.name
    return path.exists() and sha256_of(path) == shard.sha256


def write_index(index: ShardIndex) -> None:
    """Write a split's index, and remove every file in its folder that the index does not name."""
    write_record(IndexRecord(index.features, index.shards), index.folder / INDEX_NAME, indent=1)
    named = {INDEX_NAME, *(shard.name for shard in index.shards)}
    for path in index.folder.iterdir():
        if path.name not in named and path.is_file():
            path.unlink(missing_ok=True)


def read_index(folder: Path, features: Features, url: str | None = None) -> ShardIndex:
    """Read a split's index.

    Raises `UserError` for an index that is missing or damaged, and for shards that are missing, have another size, or
    were made with other features. With a `url`, shards are fetched and checked later (`pipeline.shards.files`).
    """
    path = folder / INDEX_NAME
    try:
        record = read_record(IndexRecord, path)
    except FileNotFoundError:
        raise UserError(f"shard index {path} is missing; run the extract stage (dvc repro extract)") from None
    except ValueError as error:
        raise UserError(
            f"shard index {path} is damaged or of another version ({error}); "
            "run the extract stage again (dvc repro --force extract)"
        ) from None
    _check_features(path, record.features, features)
    for shard in record.shards:
        if not SHARD_NAME.fullmatch(shard.name):
            raise UserError(f"shard index {path} names {shard.name!r}, which is not a shard's name; extract again")
        if url is None:
            _check_size(folder / shard.name, shard.bytes)
    return ShardIndex(folder, features, record.shards, url)


def _check_features(path: Path, made_with: Features, wanted: Features) -> None:
    made, expected = made_with.model_dump(), wanted.model_dump()
    for key, value in expected.items():
        if made[key] != value:
            raise UserError(
                f"{path}: the shards were made with features.{key} = {made[key]}, the settings say {value}; "
                "run the extract stage again (dvc repro extract)"
            )


def _check_size(path: Path, expected: int) -> None:
    size = path.stat().st_size if path.exists() else None
    if size != expected:
        actual = "missing" if size is None else f"{size} bytes"
        raise UserError(f"shard {path} is {actual}, the index says {expected} bytes; run the extract stage again")


def missing_clips(index: ShardIndex, clips: list[Clip]) -> list[str]:
    """Clips of the manifest that are neither in a shard nor quarantined, sorted."""
    accounted = {entry.clip_id for shard in index.shards for entry in shard.entries}
    accounted |= {clip.clip_id for clip in index.quarantined}
    return sorted({clip.clip_id for clip in clips} - accounted)
