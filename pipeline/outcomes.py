"""What became of the clips: the table of quarantined ones, the summary of a run, and when a run has failed (P3)."""

import csv
from collections import Counter
from pathlib import Path

from pipeline.errors import UserError
from pipeline.manifest import Clip
from pipeline.shards import ShardIndex

QUARANTINE_NAME = "quarantine.csv"


def check_failures(indexes: dict[str, ShardIndex], clips: dict[str, list[Clip]], limit: float) -> None:
    """Raise `UserError` for a split of which more than the share `limit` is quarantined."""
    for split, index in indexes.items():
        if len(index.quarantined) > limit * len(clips[split]):
            first = index.quarantined[0]
            raise UserError(
                f"{len(index.quarantined)} of {len(clips[split])} {split} clips were quarantined, more than "
                f"extract.max_failed_fraction = {limit} allows; the first is {first.clip_id}: {first.reason} "
                f"({first.detail}); all are in {index.folder.parent / QUARANTINE_NAME}"
            )


def write_quarantine(indexes: dict[str, ShardIndex], path: Path) -> None:
    """Write the table of quarantined clips of all splits as CSV."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["split", "clip_id", "reason", "detail"])
        for split, index in indexes.items():
            writer.writerows([split, row.clip_id, row.reason, row.detail] for row in index.quarantined)


def summary_table(indexes: dict[str, ShardIndex]) -> str:
    """A line a split: clips, extracted ones and those without sound, quarantined ones by reason, size of the shards."""
    lines = [f"{'':8} {'clips':>8} {'extracted':>10} {'no sound':>9} {'quarantined':>12} {'shards':>7} {'MB':>9}"]
    for split, index in indexes.items():
        entries = [entry for shard in index.shards for entry in shard.entries]
        silent = sum(not entry.has_audio for entry in entries)
        size_mb = sum(shard.bytes for shard in index.shards) / 1e6
        lines.append(
            f"{split:8} {len(entries) + len(index.quarantined):8} {len(entries):10} {silent:9} "
            f"{len(index.quarantined):12} {len(index.shards):7} {size_mb:9.1f}"
        )
    reasons = Counter(row.reason for index in indexes.values() for row in index.quarantined)
    return "\n".join(lines + [f"quarantined, {reason}: {count}" for reason, count in reasons.most_common()])
