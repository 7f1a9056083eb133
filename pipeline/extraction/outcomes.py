"""What became of the clips: the table of quarantined clips, the summary of a run, and when a run has failed."""

from collections import Counter
from pathlib import Path

from pipeline.clips.manifest import Clip
from pipeline.common.errors import UserError
from pipeline.common.records import write_table
from pipeline.extraction.splits import Extraction
from pipeline.shards.index import QuarantinedClip, ShardIndex, quarantined_clips

QUARANTINE_NAME = "quarantine.csv"


def check_failures(indexes: dict[str, ShardIndex], clips: dict[str, list[Clip]], limit: float) -> None:
    """Raise `UserError` for a split of which more than the share `limit` is quarantined."""
    for split, index in indexes.items():
        if len(index.quarantined) > limit * len(clips[split]):
            first = index.quarantined[0]
            raise UserError(
                f"{len(index.quarantined)} of {len(clips[split])} {split} clips were quarantined, more than "
                f"extract.max_failed_fraction = {limit} allows; the first is {first.clip_id}: {first.reason} "
                f"({first.detail}); {index.folder.parent / QUARANTINE_NAME} lists all of them"
            )


def write_quarantine(indexes: dict[str, ShardIndex], path: Path) -> None:
    """Write the table of quarantined clips of all splits as CSV."""
    write_table(QuarantinedClip, quarantined_clips(indexes), path)


def summary_table(run: Extraction) -> str:
    """A line per split (clips, outcomes, size of the shards), per kind of suspect clip, per reason, and for the speed.

    If faces were looked for, one more line says how many there are.
    """
    lines = [f"{'':8} {'clips':>8} {'extracted':>10} {'no sound':>9} {'quarantined':>12} {'shards':>7} {'MB':>9}"]
    total, suspect, faces = 0, Counter[str](), list[int]()
    for split, index in run.indexes.items():
        entries = [entry for shard in index.shards for entry in shard.entries]
        clips = len(entries) + len(index.quarantined)
        without_sound = sum(not entry.has_audio for entry in entries)
        size_mb = sum(shard.bytes for shard in index.shards) / 1e6
        lines.append(
            f"{split:8} {clips:8} {len(entries):10} {without_sound:9} {len(index.quarantined):12} "
            f"{len(index.shards):7} {size_mb:9.1f}"
        )
        total += clips
        faces += [entry.people for entry in entries]
        suspect.update(kind for entry in entries for kind in entry.suspect)
    if any(index.features.people.most for index in run.indexes.values()):
        lines.append(f"people: {sum(faces)} faces; none in {faces.count(0)} of {len(faces)} clips")
    reasons = Counter(clip.reason for index in run.indexes.values() for clip in index.quarantined)
    lines += [f"suspect, {kind}: {count}" for kind, count in suspect.most_common()]
    lines += [f"quarantined, {reason}: {count}" for reason, count in reasons.most_common()]
    kept = f"; {total - run.new_clips} kept from an earlier run" if total > run.new_clips else ""
    lines.append(f"{run.new_clips} clips in {run.seconds:.1f} s, {run.new_clips / run.seconds:.1f} clips/s{kept}")
    return "\n".join(lines)
