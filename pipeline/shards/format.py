"""The format of WebDataset shards: a clip's members, writing them reproducibly, reading those of one clip.

A sample is three or four members of a ustar file, in this order:

    <clip_id>.frames.mjpeg   the JPEG frames one after the other (a motion-JPEG stream, which a video player opens)
    <clip_id>.json           clip_id, duration_s, frame_rate_hz, has_audio, frame_times_s, frame_bytes (of each JPEG),
                             suspect, people (of each face: frame, box, score, bytes)
    <clip_id>.log_mel.npy    float16 (mel_bins, hops); (0, 0) if the clip has no audio track
    <clip_id>.people.mjpeg   the JPEG face crops one after the other; only if faces were looked for and found

Labels are not in the shards: the manifest is their only source, so a corrected label file needs no new extraction.
The byte range of a clip is a small tar file of its own, so reading a clip needs nothing else of its shard.
"""

import functools
import hashlib
import io
import json
import os
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from pipeline.common.files import written_whole
from pipeline.common.records import write_record

FRAMES, META, LOG_MEL, PEOPLE = "frames.mjpeg", "json", "log_mel.npy", "people.mjpeg"
TAR_BLOCK = 512


@dataclass(frozen=True)
class Person:
    """A face in a frame: the number of the frame, the face's box, the detector's score in 0..1, and its crop as a JPEG.

    The box is (centre x, centre y, width, height), as shares of the frame's sides, from its top left corner. It can
    reach beyond the frame.
    """

    frame: int
    box: tuple[float, float, float, float]
    score: float
    jpeg: bytes | memoryview

    def facts(self) -> dict[str, Any]:
        """All but the crop itself, for JSON: the box to a ten-thousandth of the frame."""
        box = [round(side, 4) for side in self.box]
        return {"frame": self.frame, "box": box, "score": round(self.score, 3), "bytes": len(self.jpeg)}

    @staticmethod
    def from_facts(facts: Mapping[str, Any], jpeg: bytes | memoryview) -> "Person":
        """Undo `facts`; raises `ValueError`, `KeyError` or `TypeError` for something else."""
        centre_x, centre_y, width, height = map(float, facts["box"])
        return Person(int(facts["frame"]), (centre_x, centre_y, width, height), float(facts["score"]), jpeg)


@dataclass(frozen=True)
class Sample:
    """What is extracted from a clip: N JPEG frames with the times they are shown at, and the log-mel spectrogram.

    `frame_rate_hz` is the clip's own: its mean if it varies, 0 without video. `log_mel` is float16 (mel_bins, hops), or
    None without sound. `suspect` names what the clip should not be trusted for (`pipeline.extraction.suspicion`).
    `people` are the faces in the order of the frames, the largest of a frame first; none if none were looked for.
    """

    clip_id: str
    duration_s: float
    frame_rate_hz: float
    jpegs: Sequence[bytes | memoryview]
    frame_times_s: list[float]
    log_mel: NDArray[np.float16] | None
    suspect: list[str] = field(default_factory=list)
    people: tuple[Person, ...] = ()

    def members(self) -> dict[str, bytes]:
        """Member name -> content, in the order in which they are written."""
        meta = {
            "clip_id": self.clip_id,
            "duration_s": self.duration_s,
            "frame_rate_hz": self.frame_rate_hz,
            "has_audio": self.log_mel is not None,
            "frame_times_s": self.frame_times_s,
            "frame_bytes": [len(jpeg) for jpeg in self.jpegs],
            "suspect": self.suspect,
            "people": [person.facts() for person in self.people],
        }
        log_mel = io.BytesIO()
        np.save(log_mel, np.zeros((0, 0), np.float16) if self.log_mel is None else self.log_mel, allow_pickle=False)
        members = {FRAMES: b"".join(self.jpegs), META: json.dumps(meta).encode(), LOG_MEL: log_mel.getvalue()}
        return members | ({PEOPLE: b"".join(person.jpeg for person in self.people)} if self.people else {})

    @staticmethod
    def from_members(members: Mapping[str, bytes | memoryview]) -> "Sample":
        """Undo `members` without running code; raises `ValueError`, `KeyError` or `TypeError` for other content."""
        meta = json.loads(bytes(members[META]))
        log_mel = _read_npy(members[LOG_MEL])
        people = meta.get("people", [])  # shards of version 1.0.0 have neither people nor suspect
        crops = split_bytes(members[PEOPLE], [facts["bytes"] for facts in people]) if people else []
        return Sample(
            clip_id=meta["clip_id"],
            duration_s=meta["duration_s"],
            frame_rate_hz=meta["frame_rate_hz"],
            jpegs=split_bytes(members[FRAMES], meta["frame_bytes"]),
            frame_times_s=meta["frame_times_s"],
            log_mel=log_mel if meta["has_audio"] else None,
            suspect=meta.get("suspect", []),
            people=tuple(Person.from_facts(facts, crop) for facts, crop in zip(people, crops, strict=True)),
        )


def split_bytes(content: bytes | memoryview, sizes: Sequence[int]) -> list[memoryview]:
    """The parts of these sizes that lie one after the other at the start of `content`, without copies."""
    view = memoryview(content)
    return [view[end - size : end] for end, size in zip(accumulate(sizes), sizes, strict=True)]


@dataclass(frozen=True, slots=True)
class Entry:
    """Where a clip's members lie in its shard (`offset` and `size` in bytes), and facts known without reading them.

    `people` is the number of faces in all frames together.
    """

    clip_id: str
    offset: int
    size: int
    has_audio: bool
    duration_s: float
    frame_rate_hz: float
    suspect: list[str] = field(default_factory=list)
    people: int = 0


@dataclass(frozen=True)
class Quarantined:
    """A clip that could not be extracted; `reason` is a key of `pipeline.extraction.reasons.REASONS`."""

    clip_id: str
    reason: str
    detail: str


@dataclass(frozen=True)
class Shard:
    """What the index records of a shard; `fingerprint` covers everything that its bytes follow from."""

    name: str
    fingerprint: str
    bytes: int
    sha256: str
    entries: list[Entry]
    quarantined: list[Quarantined]


def write_shard(folder: Path, name: str, fingerprint: str, outcomes: Iterable[Sample | Quarantined]) -> Shard:
    """Write the samples among the outcomes to `folder/name`, and the record of the shard to a `.json` beside it.

    Each file is written whole or not at all. Equal samples give equal bytes: ustar headers have owner 0, mode 0444 and
    time 0. (webdataset's own writer does this too, but it imports torch, which takes each extraction process seconds
    and half a gigabyte.)
    """
    with written_whole(folder / name) as temporary, temporary.open("w+b") as file:
        entries, quarantined = _write_members(file, outcomes)
        file.flush()
        os.fsync(file.fileno())
        size = file.tell()
        file.seek(0)
        digest = hashlib.file_digest(file, "sha256")
    shard = Shard(name, fingerprint, size, digest.hexdigest(), entries, quarantined)
    write_record(shard, folder / f"{name}.json")
    return shard


def _write_members(file: IO[bytes], outcomes: Iterable[Sample | Quarantined]) -> tuple[list[Entry], list[Quarantined]]:
    entries: list[Entry] = []
    quarantined: list[Quarantined] = []
    with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for outcome in outcomes:
            if isinstance(outcome, Quarantined):
                quarantined.append(outcome)
                continue
            offset = file.tell()
            for extension, content in outcome.members().items():
                info = tarfile.TarInfo(f"{outcome.clip_id}.{extension}")
                info.size, info.mode = len(content), 0o444
                tar.addfile(info, io.BytesIO(content))
            entries.append(
                Entry(
                    clip_id=outcome.clip_id,
                    offset=offset,
                    size=file.tell() - offset,
                    has_audio=outcome.log_mel is not None,
                    duration_s=outcome.duration_s,
                    frame_rate_hz=outcome.frame_rate_hz,
                    suspect=outcome.suspect,
                    people=len(outcome.people),
                )
            )
    return entries, quarantined


def read_members(content: bytes) -> dict[str, memoryview]:
    """Extension -> content of the members in the byte range of one clip, without copies.

    tarfile and webdataset could do this too. They take 50 times as long, up to half the time of decoding the frames,
    and hold the interpreter's lock meanwhile. Raises `ValueError` for anything but the ustar format written here.
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
    """Like `np.load`, whose parser of the header takes longer than everything else about a member."""
    shape, start = _npy_header(bytes(content[: 10 + int.from_bytes(content[8:10], "little")]))
    return np.frombuffer(content, np.float16, offset=start).reshape(shape)


@functools.lru_cache(maxsize=4096)
def _npy_header(header: bytes) -> tuple[tuple[int, ...], int]:
    """Shape, and the position of the first value. Clips of the same length have the same header."""
    stream = io.BytesIO(header)
    np.lib.format.read_magic(stream)
    shape, fortran_order, dtype = np.lib.format.read_array_header_1_0(stream)
    if fortran_order or dtype != np.float16:
        raise ValueError(f"the log-mel is of {dtype}, expected float16 in C order")
    return shape, stream.tell()
