"""The messages between a sandbox and its child process: JSON and raw bytes, never a pickle.

A request is JSON. An answer is one line of JSON, its header, and then the JPEGs of the frames and of the faces, and the
samples of the waveform.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from pipeline.extraction.clip_reader import ClipMedia
from pipeline.extraction.clip_settings import ClipSettings
from pipeline.extraction.reasons import REASONS, MediaError
from pipeline.extraction.timeline import Window
from pipeline.shards.format import Person, split_bytes

SAMPLE_TYPE = np.dtype("<f4")
HEADER_END = b"\n"


@dataclass(frozen=True)
class Request:
    """What a child is asked for: the media of a clip or window, or only how long a file lasts."""

    wanted: Literal["media", "duration"]
    path: Path
    settings: ClipSettings
    window: Window | None = None

    def to_bytes(self) -> bytes:
        """The request as JSON, with an absolute path: the child has another current folder."""
        fields = {
            "wanted": self.wanted,
            "path": str(self.path.absolute()),
            "settings": self.settings.model_dump(),
            "window": self.window and asdict(self.window),
        }
        return json.dumps(fields).encode()

    @staticmethod
    def from_bytes(content: bytes) -> "Request":
        """Undo `to_bytes`."""
        fields = json.loads(content)
        return Request(
            wanted=fields["wanted"],
            path=Path(fields["path"]),
            settings=ClipSettings.model_validate(fields["settings"]),
            window=fields["window"] and Window(**fields["window"]),
        )


def pack_media(media: ClipMedia) -> bytes:
    """The answer that holds what was read of a clip."""
    header = {
        "duration_s": media.duration_s,
        "frame_rate_hz": media.frame_rate_hz,
        "frame_times_s": media.frame_times_s,
        "jpeg_bytes": [len(jpeg) for jpeg in media.jpegs],
        "people": [person.facts() for person in media.people],
        "has_audio": media.waveform is not None,
        "suspect": media.suspect,
    }
    sound = b"" if media.waveform is None else media.waveform.astype(SAMPLE_TYPE).tobytes()
    return _pack(header, *media.jpegs, *(person.jpeg for person in media.people), sound)


def unpack_media(answer: bytes) -> ClipMedia:
    """Undo `pack_media`; raises `MediaError` if the child could not read the clip, another error for a wrong answer."""
    header, body = _unpack(answer)
    frames, people = header["jpeg_bytes"], header["people"]
    sizes = [*frames, *(facts["bytes"] for facts in people)]
    jpegs = split_bytes(body, sizes)
    return ClipMedia(
        duration_s=float(header["duration_s"]),
        frame_rate_hz=float(header["frame_rate_hz"]),
        frame_times_s=list(map(float, header["frame_times_s"])),
        jpegs=jpegs[: len(frames)],
        people=[Person.from_facts(facts, jpeg) for facts, jpeg in zip(people, jpegs[len(frames) :], strict=True)],
        waveform=np.frombuffer(body, SAMPLE_TYPE, offset=sum(sizes)) if header["has_audio"] else None,
        suspect=list(map(str, header["suspect"])),
    )


def pack_duration(duration_s: float) -> bytes:
    """The answer that holds how long a file lasts."""
    return _pack({"duration_s": duration_s})


def unpack_duration(answer: bytes) -> float:
    """Undo `pack_duration`; raises as `unpack_media` does."""
    header, _ = _unpack(answer)
    return float(header["duration_s"])


def pack_error(error: MediaError) -> bytes:
    """The answer that says why a file cannot be used."""
    return _pack({"reason": error.reason, "detail": error.detail})


def _pack(header: dict[str, Any], *body: bytes | memoryview) -> bytes:
    return b"".join([json.dumps(header).encode(), HEADER_END, *body])


def _unpack(answer: bytes) -> tuple[dict[str, Any], bytes]:
    """The header and the body of an answer; raises the `MediaError` that it may hold."""
    header, _, body = answer.partition(HEADER_END)
    fields = json.loads(header)
    if "reason" in fields:
        if fields["reason"] not in REASONS:
            raise ValueError(f"the reason is {fields['reason']}, expected one of {', '.join(REASONS)}")
        raise MediaError(fields["reason"], str(fields["detail"]))
    return fields, body
