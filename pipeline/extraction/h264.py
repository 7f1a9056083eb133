"""Which packets of an H.264 stream the wanted pictures need (ITU-T H.264, section 7.4.1).

A group of pictures begins with an IDR picture. Pictures of a group refer to no picture of another one, so a group in
which no picture is wanted need not be decoded.
"""

from collections.abc import Sequence
from itertools import chain

from pipeline.extraction.timeline import Packet

# Types of NAL units.
IDR_SLICE = 5
PARAMETER_SETS = {7, 8, 13, 15}  # of the sequence, of a picture, and the extensions of the former
START_CODE = b"\x00\x00\x01"


def packets_to_decode(packets: Sequence[Packet], wanted: set[int], extradata: bytes | None) -> list[Packet]:
    """The packets of those groups in which a picture is wanted, each up to its last wanted picture.

    `wanted` are presentation timestamps. `extradata` is the configuration of the decoder, which says how NAL units are
    separated. The first packet is always among them, because it may name the encoder, to which FFmpeg's decoder adapts.
    Where the configuration changes, where the groups do not all bring the same parameter sets, and where a packet does
    not consist of whole NAL units, a group may need another group, and all packets are returned.
    """
    length_bytes = (extradata[4] & 3) + 1 if extradata and extradata[0] == 1 and len(extradata) > 4 else None
    groups: list[list[Packet]] = [[]]
    parameter_sets: set[tuple[bytes, ...]] = set()
    for packet in packets:
        units = _nal_units(bytes(packet), length_bytes)
        if units is None or packet.has_sidedata("new_extradata"):
            return list(packets)
        is_idr = any(unit[0] & 31 == IDR_SLICE for unit in units)
        parameters = tuple(unit for unit in units if unit[0] & 31 in PARAMETER_SETS)
        if is_idr:
            groups.append([])
        if is_idr or parameters:
            parameter_sets.add(parameters)
        groups[-1].append(packet)
    if len(parameter_sets) > 1:
        return list(packets)
    first, needed = list(packets[:1]), list(chain.from_iterable(_up_to_last_wanted(group, wanted) for group in groups))
    return needed if needed[:1] == first else first + needed


def _up_to_last_wanted(group: list[Packet], wanted: set[int]) -> list[Packet]:
    count = max((number for number, packet in enumerate(group, 1) if packet.pts in wanted), default=0)
    return group[:count]


def _nal_units(content: bytes, length_bytes: int | None) -> list[bytes] | None:
    """The NAL units of a packet, each after its length in `length_bytes` bytes; with None, after start codes.

    Empty ones are left out. None for a packet that does not consist of whole units.
    """
    if length_bytes is None:
        before, *units = content.split(START_CODE)
        # Zeros before a start code belong to no unit, which never ends in one.
        return None if before.strip(b"\0") else [unit for unit in (each.rstrip(b"\0") for each in units) if unit]
    units, start = [], 0
    while (end := start + length_bytes) <= len(content):
        start = end + int.from_bytes(content[start:end])
        units.append(content[end:start])
    return [unit for unit in units if unit] if start == len(content) else None
