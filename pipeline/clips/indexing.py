"""Making the manifest from the list of a data set's clips: hashing every file, and finding repeated recordings."""

from collections import Counter
from collections.abc import Iterable
from multiprocessing.pool import ThreadPool
from pathlib import Path

from pipeline.clips.identical import check_identical, find_identical
from pipeline.clips.listing import Listing
from pipeline.clips.manifest import SPLITS, TRAIN, VAL, Clip, DatasetSummary, SplitSummary
from pipeline.clips.table import list_table
from pipeline.clips.vgaf_layout import list_split
from pipeline.common.config import DatasetSettings
from pipeline.common.files import sha256_of
from pipeline.common.machine import available_cores


def index_dataset(dataset: DatasetSettings) -> tuple[dict[str, list[Clip]], DatasetSummary]:
    """The clips of each split, sorted by id, and the summary of the data set.

    Raises `UserError` for a label file, table or folder that breaks its format, and for a recording that is in both
    splits unless the settings allow it.
    """
    folder, listings = dataset.clips_folder, list_clips(dataset)
    digests = hash_files(
        folder / path
        for listing in listings.values()
        for path in (listing.file, *(clip.path for clip in listing.clips))
    )
    clips: dict[str, list[Clip]] = {}
    summaries: dict[str, SplitSummary] = {}
    for split, listing in listings.items():
        clips[split] = [
            Clip(
                clip_id=clip.clip_id,
                source_id=clip.source_id,
                label=clip.label,
                path=clip.path.as_posix(),
                bytes=(folder / clip.path).stat().st_size,
                sha256=digests[folder / clip.path],
                start_s=clip.start_s,
                end_s=clip.end_s,
            )
            for clip in sorted(listing.clips, key=lambda clip: clip.clip_id)
        ]
        summaries[split] = summarize_split(clips[split], listing.file, digests[folder / listing.file], dataset.classes)
    identical = find_identical(clips)
    if not dataset.allow_identical:
        check_identical(identical)
    shared = sources_in_both(clips[TRAIN], clips[VAL])
    return clips, DatasetSummary(summaries[TRAIN], summaries[VAL], shared, dataset.classes, identical)


def hash_files(paths: Iterable[Path]) -> dict[Path, str]:
    """SHA-256 by path, each file read once, in a thread per core, because hashing releases the interpreter's lock."""
    files = list(dict.fromkeys(paths))
    with ThreadPool(available_cores()) as pool:
        return dict(zip(files, pool.map(sha256_of, files), strict=True))


def list_clips(dataset: DatasetSettings) -> dict[str, Listing]:
    """The clips of each split, as the table or else the label files list them; raises `UserError` for a wrong file."""
    if dataset.table is not None:
        return list_table(Path(dataset.table), dataset.classes)
    return {split: list_split(dataset.clips_folder, split, dataset.classes) for split in SPLITS}


def summarize_split(clips: list[Clip], label_file: Path, label_sha256: str, classes: list[str]) -> SplitSummary:
    """Count the clips of a split, by class too, and the bytes of their files, each file once."""
    counts = Counter(clip.label for clip in clips)
    return SplitSummary(
        label_file=label_file.as_posix(),
        label_sha256=label_sha256,
        clips=len(clips),
        sources=len({clip.source_id for clip in clips}),
        class_counts={name: counts[name] for name in classes},
        bytes=sum({clip.path: clip.bytes for clip in clips}.values()),
    )


def sources_in_both(train: list[Clip], val: list[Clip]) -> list[str]:
    """Sources that have clips in train and in val, sorted."""
    return sorted({clip.source_id for clip in train} & {clip.source_id for clip in val})
