"""What the clips of a split are like, according to the index of their shards."""

import statistics
from collections import Counter
from dataclasses import dataclass, field

from pipeline.shards.index import ShardIndex


@dataclass(frozen=True)
class DataCard:
    """The clips of a split. `quarantined` counts the clips that could not be extracted, by reason.

    `duration_s` is the shortest, the median and the longest duration, or empty without clips. `frame_rates_hz` are
    frame rates, rounded to 0.1 Hz, with their numbers of clips, the most frequent first. `suspect` are the ids of the
    muted, black and still clips, by kind; results of version 1.0.0 do not have it.
    """

    extracted: int
    without_sound: int
    quarantined: dict[str, int]
    duration_s: list[float]
    frame_rates_hz: list[tuple[float, int]]
    suspect: dict[str, list[str]] = field(default_factory=dict)


def describe_clips(index: ShardIndex) -> DataCard:
    """The data card of a split."""
    entries = [entry for shard in index.shards for entry in shard.entries]
    kinds = sorted({kind for entry in entries for kind in entry.suspect})
    durations = sorted(entry.duration_s for entry in entries)
    return DataCard(
        extracted=len(entries),
        without_sound=sum(not entry.has_audio for entry in entries),
        quarantined=dict(Counter(clip.reason for clip in index.quarantined).most_common()),
        duration_s=[durations[0], statistics.median(durations), durations[-1]] if durations else [],
        frame_rates_hz=Counter(round(entry.frame_rate_hz, 1) for entry in entries).most_common(),
        suspect={kind: [entry.clip_id for entry in entries if kind in entry.suspect] for kind in kinds},
    )
