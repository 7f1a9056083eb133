"""What the clips of a split are like, for the report: from the index of its shards alone."""

import statistics
from collections import Counter
from typing import Any

from pipeline.shards.format import ShardIndex


def describe_clips(index: ShardIndex) -> dict[str, Any]:
    """Counts; the shortest, median and longest duration in seconds; how many clips have which frame rate in Hz."""
    entries = [entry for shard in index.shards for entry in shard.entries]
    durations = sorted(entry.duration_s for entry in entries)
    rates = Counter(round(entry.frame_rate_hz, 1) for entry in entries)
    return {
        "extracted": len(entries),
        "without_sound": sum(not entry.has_audio for entry in entries),
        "quarantined": dict(Counter(row.reason for row in index.quarantined).most_common()),
        "duration_s": [durations[0], statistics.median(durations), durations[-1]] if durations else [],
        "frame_rates_hz": [list(pair) for pair in rates.most_common()],
    }
