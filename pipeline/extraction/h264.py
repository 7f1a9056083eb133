"""Which packets of an H.264 stream the wanted pictures need (ITU-T H.264, section 7.4.1).

A group of pictures begins with an IDR picture. Pictures of a group refer to no picture of another one, so a group in
which no picture is wanted need not be decoded.
"""

from collections.abc import Iterator, Sequence
from itertools import chain

from pipeline.extraction.timeline import Packet

# Types of NAL units.
IDR_SLICE = 5
PARAMETER_SETS = {7, 8, 13, 15}  # of the sequence, of a picture, and the extensions of the former
START_CODE = b"\x00\x00\x01"


def packets_to_decode(packets: Sequence[Packet], wanted: set[int], extradata: bytes | None) -> list[Packet]:
    """The packets of those groups in which a picture is wanted, each up to its last wanted picture.

    `wanted` are presentation timestamps. `extradata` is the configuration of the decoder, which says how NAL units are
    separated. Where the groups do not all bring the same parameter sets, a group may need those of an earlier one, and
    all packets are returned.
    """
    length_bytes = (extradata[4] & 3) + 1 if extradata and extradata[0] == 1 and len(extradata) > 4 else None
    groups: list[list[Packet]] = [[]]
    brought: set[tuple[bytes, ...]] = set()
    for packet in packets:
        units = _nal_units(bytes(packet), length_bytes)
        is_idr = any(unit[0] & 31 == IDR_SLICE for unit in units)
        parameters = tuple(unit for unit in units if unit[0] & 31 in PARAMETER_SETS)
        if is_idr:
            groups.append([])
        if is_idr or parameters:
            brought.add(parameters)
        groups[-1].append(packet)
    if len(brought) > 1:
        return list(packets)
    return list(chain.from_iterable(_up_to_last_wanted(group, wanted) for group in groups))


def _up_to_last_wanted(group: list[Packet], wanted: set[int]) -> list[Packet]:
    count = max((number for number, packet in enumerate(group, 1) if packet.pts in wanted), default=0)
    return group[:count]


def _nal_units(content: bytes, length_bytes: int | None) -> list[bytes]:
    """The NAL units of a packet, each after its length in `length_bytes` bytes, or with None after a start code."""
    units = content.split(START_CODE)[1:] if length_bytes is None else _after_lengths(content, length_bytes)
    return [unit for unit in units if unit]


def _after_lengths(content: bytes, length_bytes: int) -> Iterator[bytes]:
    start = 0
    while (end := start + length_bytes) < len(content):
        start = end + int.from_bytes(content[start:end])
        yield content[end:start]
