"""Which streams of a file make the clip, and until when its container says that they last."""

import re
from dataclasses import dataclass
from typing import Literal

import av
from av.stream import Disposition

from pipeline.extraction.clip_settings import ClipSettings
from pipeline.extraction.reasons import MediaError
from pipeline.extraction.timeline import Stream

# 1,800 streams of whole files ended at most 0.04 s before the end that their containers state.
SLACK_S = 0.1
MATROSKA_DURATION = re.compile(r"(\d\d+):(\d\d):(\d\d(?:\.\d+)?)")


@dataclass(frozen=True)
class Streams:
    """The video and audio streams that make the clip."""

    video: av.VideoStream | None
    audio: av.AudioStream | None
    timed: Stream  # the stream that gives the timeline: the video if there is one

    @property
    def used(self) -> list[Stream]:
        """The streams whose packets are read, each once."""
        return [self.timed, self.audio] if self.audio and self.audio is not self.timed else [self.timed]


def choose_streams(container: "av.container.InputContainer", settings: ClipSettings) -> Streams:
    """The streams that make the clip; raises `MediaError` if there are none, or a video too large or undecodable."""
    video = _best(container, "video")
    audio = _best(container, "audio", video)
    assert not isinstance(video, av.AudioStream)
    assert not isinstance(audio, av.VideoStream)
    if video is None:
        if settings.features.require_video:
            raise MediaError("no_video", "no video stream")
        if audio is None:
            raise MediaError("no_video", "neither a video nor an audio stream")
        return Streams(None, audio, timed=audio)
    if video.codec_context is None:
        raise MediaError("video_undecodable", "no decoder for the video stream")
    if video.width * video.height > settings.limits.max_pixels:
        raise MediaError("too_large", f"{video.width}x{video.height} pixels, the limit is {settings.limits.max_pixels}")
    return Streams(video, audio, timed=video)


def _best(
    container: "av.container.InputContainer", kind: Literal["video", "audio"], related: Stream | None = None
) -> Stream | None:
    """The stream that FFmpeg's libraries choose: first the default one, then that with more pictures or a higher rate.

    They pass over sound whose format is unknown, and accept a cover picture as video. Where they find no stream, or a
    cover, this is the first stream that is not a cover.
    """
    streams = container.streams.video if kind == "video" else container.streams.audio
    usable = [stream for stream in streams if not stream.disposition & Disposition.attached_pic]
    best = container.streams.best(kind, related)
    return best if best in usable else next(iter(usable), None)


def lacks_display_times(stream: Stream) -> bool:
    """Whether the container states when each picture is decoded, but not when it is shown: H.264 in AVI.

    The n-th picture that is shown is then shown at the n-th of these times.
    """
    is_video = isinstance(stream, av.VideoStream)
    return is_video and stream.container.format.name == "avi" and stream.codec_context.name == "h264"


def check_end(
    container: "av.container.InputContainer", stream: Stream, first_pts: int, read_s: float, wanted_s: float
) -> None:
    """Raise `MediaError` if what was read of a stream ends before its container says that it does.

    `first_pts` is the timestamp of its first packet, `read_s` where it ends, and `wanted_s` how far it is wanted. An
    interrupted download or recording is such a file.
    """
    promised_s = _promised_end_s(container, stream, first_pts)
    if promised_s is not None and read_s < min(promised_s, wanted_s) - SLACK_S:
        raise MediaError(
            "truncated", f"the {stream.type} stream should last until {promised_s:.2f} s, but ends at {read_s:.2f} s"
        )


def _promised_end_s(container: "av.container.InputContainer", stream: Stream, first_pts: int) -> float | None:
    """When the container says that a stream ends; None if it does not say it.

    MPEG-TS and live WebM state nothing. For them, libavformat estimates a duration from what is there.
    """
    demuxer = container.format.name
    if "mp4" in demuxer and stream.duration is not None and stream.time_base is not None:
        # In fragments that were cut without encoding, a stream begins before its stated start.
        return float((min(stream.start_time or 0, first_pts) + stream.duration) * stream.time_base)
    if "matroska" in demuxer and (tag := MATROSKA_DURATION.fullmatch(stream.metadata.get("DURATION", ""))):
        return int(tag[1]) * 3600 + int(tag[2]) * 60 + float(tag[3])
    if demuxer == "avi" and isinstance(stream, av.VideoStream) and stream.average_rate:
        return float(stream.frames / stream.average_rate)  # its stated duration is guessed from the size of the file
    return None
