"""The packets of a file as a timeline needs them: those that are shown, with the times at which they are."""

from collections.abc import Iterable, Iterator

import av

from pipeline.extraction.reasons import MediaError
from pipeline.extraction.streams import lacks_display_times
from pipeline.extraction.timeline import Packet, Stream

# The bit of a VP8 picture's first byte that is 0 if others refer to the picture, but it is never shown (RFC 6386, 9.1).
VP8_SHOW_FRAME = 0x10


def from_first_key_frame(packets: list[Packet], timed: Stream) -> list[Packet]:
    """The packets without the pictures that cannot be decoded because the file was cut between key frames.

    These precede the first key frame, in the file or on the screen.
    """
    key = next((n for n, p in enumerate(packets) if p.stream_index == timed.index and p.is_keyframe), 0)
    first = packets[key].pts if packets else None
    return [
        packet
        for number, packet in enumerate(packets)
        if packet.stream_index != timed.index
        or (number >= key and (first is None or packet.pts is None or packet.pts >= first))
    ]


def demux(container: "av.container.InputContainer", streams: list[Stream]) -> Iterator[Packet]:
    """Yield the packets of the streams that are shown, each with a time at which a picture is shown."""
    without_display_times = {stream.index for stream in streams if lacks_display_times(stream)}
    vp8 = {
        stream.index for stream in streams if isinstance(stream, av.VideoStream) and stream.codec_context.name == "vp8"
    }
    for packet in container.demux(*streams):
        if packet.size == 0:  # PyAV's mark of a stream's end
            continue
        if packet.stream_index in vp8 and not memoryview(packet)[0] & VP8_SHOW_FRAME:
            continue
        if packet.stream_index in without_display_times:
            packet.pts = packet.dts
        yield packet


def in_order(packets: Iterable[Packet], timed: Stream) -> Iterator[Packet]:
    """Yield the packets as they come; raise `MediaError` for a key frame of `timed` that follows a later one."""
    last_key = -(2**63)
    for packet in packets:
        is_key = packet.stream_index == timed.index and packet.is_keyframe and not packet.is_discard
        if is_key and packet.pts is not None:
            if packet.pts <= last_key:
                raise MediaError("bad_timestamps", f"a key frame at {packet.pts} follows one at {last_key}")
            last_key = packet.pts
        yield packet
