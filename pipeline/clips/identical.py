"""Clips that hold the same recording: in both splits they are a leak, and in one split it counts twice."""

from collections import defaultdict
from collections.abc import Iterator
from math import inf

from pipeline.clips.manifest import TRAIN, VAL, Clip, IdenticalClips
from pipeline.common.errors import UserError


def find_identical(clips: dict[str, list[Clip]]) -> list[IdenticalClips]:
    """The clips of all splits that share a recording with another one, a group for each recording.

    An empty file holds none; extraction refuses it.
    """
    same_bytes: dict[str, list[tuple[str, Clip]]] = defaultdict(list)
    for split, split_clips in clips.items():
        for clip in split_clips:
            if clip.bytes:
                same_bytes[clip.sha256].append((split, clip))
    return [
        IdenticalClips(
            train=[clip.clip_id for split, clip in group if split == TRAIN],
            val=[clip.clip_id for split, clip in group if split == VAL],
            labels=sorted({clip.label for _, clip in group}),
        )
        for candidates in same_bytes.values()
        for group in _overlapping(candidates)
        if len(group) > 1
    ]


def _overlapping(clips: list[tuple[str, Clip]]) -> Iterator[list[tuple[str, Clip]]]:
    """Yield the clips of one file in groups that overlap; a whole file overlaps all its parts."""
    group: list[tuple[str, Clip]] = []
    group_end_s = -inf
    for split, clip in sorted(clips, key=lambda item: item[1].start_s or 0.0):
        if group and (clip.start_s or 0.0) >= group_end_s:
            yield group
            group = []
        group.append((split, clip))
        group_end_s = max(group_end_s, inf if clip.end_s is None else clip.end_s)
    yield group


def check_identical(identical: list[IdenticalClips]) -> None:
    """Raise `UserError` if a recording is in train and in val: the accuracy on val would be too high."""
    if leaks := _leaks(identical):
        raise UserError(
            f"{_leak_sentence(leaks)}; remove the clips from one of the splits, or allow it with "
            "-S dataset.allow_identical=true"
        )


def identical_warnings(identical: list[IdenticalClips]) -> list[str]:
    """A sentence for leaks, one for each split that repeats recordings, one for recordings with different labels."""
    warnings = []
    if leaks := _leaks(identical):
        warnings.append(_leak_sentence(leaks))
    for split in (TRAIN, VAL):
        if repeated := [ids for group in identical if len(ids := getattr(group, split)) > 1]:
            warnings.append(
                f"recordings that {split} holds more than once: {len(repeated)}, "
                f"{repeated[0][0]} and {repeated[0][1]} among them"
            )
    if contradictory := [group for group in identical if len(group.labels) > 1]:
        ids, labels = [*contradictory[0].train, *contradictory[0].val], contradictory[0].labels
        warnings.append(
            f"recordings with different labels: {len(contradictory)}, "
            f"{ids[0]} and {ids[1]} among them ({', '.join(labels)})"
        )
    return warnings


def _leaks(identical: list[IdenticalClips]) -> list[IdenticalClips]:
    return [group for group in identical if group.train and group.val]


def _leak_sentence(leaks: list[IdenticalClips]) -> str:
    return (
        f"recordings with clips in train and in val: {len(leaks)}, "
        f"{leaks[0].train[0]} in train and {leaks[0].val[0]} in val among them"
    )
