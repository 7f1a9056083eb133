"""WebDataset shards: writing them byte for byte reproducibly, the index that vouches for them, reading one sample.

A sample is three members of a ustar file, in this order:

    <clip_id>.frames.mjpeg   the JPEG frames one after the other (a motion-JPEG stream: a video player opens it)
    <clip_id>.json           clip_id, duration_s, frame_rate_hz, has_audio, frame_times_s, frame_bytes (of each JPEG)
    <clip_id>.log_mel.npy    float16 (mel_bins, hops), of `log_mel`; (0, 0) when the clip has no audio track

Labels are not in the shards: the manifest is their one source, so a corrected label file needs no new extraction.
`index.json` lists the shards with their bytes, SHA-256 and clips. Each clip has its byte range, which is a small tar of
its own: a training order needs no more of a shard than the clips it names, wherever they lie.
"""

import functools
import hashlib
import io
import json
import os
import re
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

from pipeline.clips.manifest import Clip, sha256_of
from pipeline.common.config import Features
from pipeline.common.errors import UserError

FRAMES, META, LOG_MEL = "frames.mjpeg", "json", "log_mel.npy"
INDEX_NAME = "index.json"
TAR_BLOCK = 512
SHARD_NAME = re.compile(r"[A-Za-z0-9_-]+\.tar")
# Beside a shard of an unfinished run: its line of the index to be. The index replaces all of them in the end.
RECORD_PATTERN = "*.tar.json"
# What reading JSON that is cut off, or of another make, raises.
NOT_AN_INDEX = (ValueError, TypeError, KeyError, AttributeError)


@dataclass(frozen=True)
class Sample:
    """What is extracted from a clip: N JPEG frames with the times they are shown, and the log-mel spectrogram.

    frame_rate_hz is the clip's own, the mean of it where it varies; 0 without video.
    """

    clip_id: str
    duration_s: float
    frame_rate_hz: float
    jpegs: Sequence[bytes | memoryview]
    frame_times_s: list[float]
    log_mel: NDArray[np.float16] | None

    def members(self) -> dict[str, bytes]:
        """Member name to content, in the order in which they are written."""
        meta = {
            "clip_id": self.clip_id,
            "duration_s": self.duration_s,
            "frame_rate_hz": self.frame_rate_hz,
            "has_audio": self.log_mel is not None,
            "frame_times_s": self.frame_times_s,
            "frame_bytes": [len(jpeg) for jpeg in self.jpegs],
        }
        log_mel = io.BytesIO()
        np.save(log_mel, np.zeros((0, 0), np.float16) if self.log_mel is None else self.log_mel, allow_pickle=False)
        return {FRAMES: b"".join(self.jpegs), META: json.dumps(meta).encode(), LOG_MEL: log_mel.getvalue()}

    @staticmethod
    def from_members(members: Mapping[str, bytes | memoryview]) -> "Sample":
        """Undo `members`; raises `ValueError` or `KeyError` for what is not a sample. Runs no code from the members."""
        meta = json.loads(bytes(members[META]))
        log_mel = _read_npy(members[LOG_MEL])
        frames, ends = memoryview(members[FRAMES]), accumulate(meta["frame_bytes"])
        return Sample(
            clip_id=meta["clip_id"],
            duration_s=meta["duration_s"],
            frame_rate_hz=meta["frame_rate_hz"],
            jpegs=[frames[end - size : end] for end, size in zip(ends, meta["frame_bytes"], strict=True)],
            frame_times_s=meta["frame_times_s"],
            log_mel=log_mel if meta["has_audio"] else None,
        )


@dataclass(frozen=True)
class Entry:
    """Where a clip's members lie in its shard, in bytes, and what is worth knowing of it without reading them."""

    clip_id: str
    offset: int
    size: int
    has_audio: bool
    duration_s: float
    frame_rate_hz: float


@dataclass(frozen=True)
class Quarantined:
    """A clip that could not be extracted, and why (`pipeline.extraction.timeline.REASONS`)."""

    clip_id: str
    reason: str
    detail: str


@dataclass(frozen=True)
class Shard:
    """A shard's line in the index; `fingerprint` covers all that its bytes follow from."""

    name: str
    fingerprint: str
    bytes: int
    sha256: str
    entries: list[Entry]
    quarantined: list[Quarantined]

    @staticmethod
    def from_json(values: dict[str, Any]) -> "Shard":
        """Undo `asdict`."""
        entries = [Entry(**entry) for entry in values["entries"]]
        return Shard(**{**values, "entries": entries, "quarantined": [Quarantined(**q) for q in values["quarantined"]]})


@dataclass(frozen=True)
class ShardIndex:
    """A split's shards, the settings they were made with, and the folder they are in.

    With a `url` the folder is a cache: a shard that is not there yet is fetched from `url/<name>`.
    """

    folder: Path
    features: Features
    shards: list[Shard]
    url: str | None = None

    @property
    def quarantined(self) -> list[Quarantined]:
        """The clips that ended in quarantine, of all shards."""
        return [row for shard in self.shards for row in shard.quarantined]


def write_shard(folder: Path, name: str, fingerprint: str, results: Iterable[Sample | Quarantined]) -> Shard:
    """Write samples to `folder/name`, and their index line to a `.json` beside it, each whole or not at all.

    The same samples give the same bytes: ustar headers with owner 0, mode 0444 and time 0. (webdataset's own writer
    does this too, but importing it costs each extraction process torch: half a gigabyte and seconds.)
    """
    entries: list[Entry] = []
    quarantined: list[Quarantined] = []
    temporary = unfinished(folder / name)
    with temporary.open("w+b") as file:
        with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar:
            for result in results:
                if isinstance(result, Quarantined):
                    quarantined.append(result)
                    continue
                offset = file.tell()
                for extension, content in result.members().items():
                    info = tarfile.TarInfo(f"{result.clip_id}.{extension}")
                    info.size, info.mode = len(content), 0o444
                    tar.addfile(info, io.BytesIO(content))
                size = file.tell() - offset
                has_audio = result.log_mel is not None
                entry = Entry(result.clip_id, offset, size, has_audio, result.duration_s, result.frame_rate_hz)
                entries.append(entry)
        file.flush()
        os.fsync(file.fileno())
        size = file.tell()
        file.seek(0)
        digest = hashlib.file_digest(file, "sha256")
    temporary.replace(folder / name)
    shard = Shard(name, fingerprint, size, digest.hexdigest(), entries, quarantined)
    write_json(folder / f"{name}.json", asdict(shard))
    return shard


def read_members(content: bytes) -> dict[str, memoryview]:
    """Extension -> content of the members of one clip, from its byte range of a shard, without copies.

    Not with tarfile or webdataset, though both can: they take 50 times as long, holding the interpreter's lock, which
    is up to half of what decoding the frames takes. Raises `ValueError` for what is not the ustar that is written here.
    """
    members: dict[str, memoryview] = {}
    view, start = memoryview(content), 0
    while start < len(content):
        header = content[start : start + TAR_BLOCK]
        if header[257:262] != b"ustar":
            raise ValueError(f"no tar header at byte {start}")
        name, size = header[:100].rstrip(b"\0").decode(), int(header[124:135], 8)
        start += TAR_BLOCK
        members[name.partition(".")[2]] = view[start : start + size]
        start += -(-size // TAR_BLOCK) * TAR_BLOCK
    return members


def _read_npy(content: bytes | memoryview) -> NDArray[np.float16]:
    """`np.load` without its parser of the header, which takes longer than all the rest of a member."""
    shape, start = _npy_header(bytes(content[: 10 + int.from_bytes(content[8:10], "little")]))
    return np.frombuffer(content, np.float16, offset=start).reshape(shape)


@functools.lru_cache(maxsize=4096)
def _npy_header(header: bytes) -> tuple[tuple[int, ...], int]:
    """Shape, and where the values begin; clips of one length have one header."""
    stream = io.BytesIO(header)
    np.lib.format.read_magic(stream)
    shape, fortran_order, dtype = np.lib.format.read_array_header_1_0(stream)
    if fortran_order or dtype != np.float16:
        raise ValueError(f"the log-mel is of {dtype}, expected float16 in C order")
    return shape, stream.tell()


def finished_shards(folder: Path) -> dict[str, Shard]:
    """Shards that earlier runs left in `folder`, by name: of its index, and those that an unfinished run recorded."""
    shards: dict[str, Shard] = {}
    for path in (folder / INDEX_NAME, *folder.glob(RECORD_PATTERN)):
        try:
            values = json.loads(path.read_text())
            found = [Shard.from_json(shard) for shard in values.get("shards", [values])]
        except (FileNotFoundError, *NOT_AN_INDEX):
            continue  # absent, cut off by a power failure, or of another version: its shards are made again
        shards |= {shard.name: shard for shard in found}
    return shards


def is_intact(folder: Path, shard: Shard) -> bool:
    """Whether the shard's file is there and has the bytes that were recorded."""
    path = folder / shard.name
    return path.exists() and sha256_of(path) == shard.sha256


def unfinished(path: Path) -> Path:
    """A name that nobody else writes to: a worker that its scheduler lost may still be at the same shard."""
    return path.with_name(f".{path.name}.{uuid4().hex}.tmp")


def write_json(path: Path, values: Any) -> None:
    """Write JSON whole or not at all."""
    temporary = unfinished(path)
    temporary.write_text(json.dumps(values, indent=1) + "\n")
    temporary.replace(path)


def write_index(index: ShardIndex) -> None:
    """Write a split's index, and remove from its folder all that the index does not name."""
    values = {"features": index.features.model_dump(), "shards": [asdict(shard) for shard in index.shards]}
    write_json(index.folder / INDEX_NAME, values)
    named = {INDEX_NAME, *(shard.name for shard in index.shards)}
    for path in index.folder.iterdir():
        if path.name not in named and path.is_file():
            path.unlink(missing_ok=True)


def read_index(folder: Path, features: Features, url: str | None = None) -> ShardIndex:
    """Read a split's index; refuses shards that are missing, changed in size, or made with other settings.

    With a `url`, missing shards are fetched from there later (`pipeline.shards.files`).
    """
    path = folder / INDEX_NAME
    try:
        values = json.loads(path.read_text())
        made_with = dict(values["features"])
        shards = [Shard.from_json(shard) for shard in values["shards"]]
    except FileNotFoundError:
        raise UserError(f"shard index {path} is missing; run the extract stage (dvc repro extract)") from None
    except NOT_AN_INDEX as error:
        raise UserError(
            f"shard index {path} is damaged or of another version ({type(error).__name__}: {error}); "
            "run the extract stage again (dvc repro --force extract)"
        ) from None
    wanted = features.model_dump()
    for key in wanted.keys() | made_with.keys():
        if (found := made_with.get(key)) != (expected := wanted.get(key)):
            raise UserError(
                f"{path}: the shards were made with features.{key} = {found}, the config says {expected}; "
                "run the extract stage again (dvc repro extract)"
            )
    for shard in shards:
        file = folder / shard.name
        if not SHARD_NAME.fullmatch(shard.name):
            raise UserError(f"shard index {path} names {shard.name!r}, which is no shard's name; extract again")
        if url is None and (size := file.stat().st_size if file.exists() else None) != shard.bytes:
            found_size = "absent" if size is None else f"{size} bytes"
            raise UserError(
                f"shard {file} is {found_size}, the index says {shard.bytes} bytes; run the extract stage again"
            )
    return ShardIndex(folder, features, shards, url)


def missing_clips(index: ShardIndex, clips: list[Clip]) -> list[str]:
    """Clips of the manifest that are neither in a shard nor quarantined: empty unless something went wrong (P3)."""
    accounted = {entry.clip_id for shard in index.shards for entry in shard.entries}
    accounted |= {row.clip_id for row in index.quarantined}
    return sorted({clip.clip_id for clip in clips} - accounted)
