"""What became of the clips: the table of quarantined ones, the summary of a run, and when a run has failed (P3)."""

import csv
from collections import Counter
from pathlib import Path

from pipeline.clips.manifest import Clip
from pipeline.common.errors import UserError
from pipeline.extraction.tasks import Extraction
from pipeline.shards.format import ShardIndex

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


def summary_table(run: Extraction) -> str:
    """A line a split: clips, extracted ones and those without sound, size of the shards; the reasons; the speed."""
    lines = [f"{'':8} {'clips':>8} {'extracted':>10} {'no sound':>9} {'quarantined':>12} {'shards':>7} {'MB':>9}"]
    total = 0
    for split, index in run.indexes.items():
        entries = [entry for shard in index.shards for entry in shard.entries]
        clips = len(entries) + len(index.quarantined)
        silent = sum(not entry.has_audio for entry in entries)
        size_mb = sum(shard.bytes for shard in index.shards) / 1e6
        lines.append(
            f"{split:8} {clips:8} {len(entries):10} {silent:9} {len(index.quarantined):12} {len(index.shards):7} "
            f"{size_mb:9.1f}"
        )
        total += clips
    reasons = Counter(row.reason for index in run.indexes.values() for row in index.quarantined)
    lines += [f"quarantined, {reason}: {count}" for reason, count in reasons.most_common()]
    kept = f"; {total - run.new_clips} kept of an earlier run" if total > run.new_clips else ""
    lines.append(f"{run.new_clips} clips in {run.seconds:.1f} s, {run.new_clips / run.seconds:.1f} clips/s{kept}")
    return "\n".join(lines)
