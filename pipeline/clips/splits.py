"""What each clip is for: fitting weights, choosing the epoch, or being reported. Whole sources stay together.

`data_manifests/<dataset>/splits.csv` has one row per clip, or one row per clip and fold, with the columns of
`Assignment`. It follows from the manifests and the settings alone, so all seeds share it, and others can use the very
same splits.
"""

import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.clips.manifest import SPLITS, TRAIN, VAL, Clip
from pipeline.common.config import Config
from pipeline.common.errors import UserError
from pipeline.common.records import reading, table_rows, write_table

SPLITS_NAME = "splits.csv"
# fit: the weights are fitted on the clip; dev: it is held out, and may choose the epoch; test: the result is about it.
Role = Literal["fit", "dev", "test"]
ROLES: tuple[Role, ...] = ("fit", "dev", "test")


@dataclass(frozen=True, slots=True)
class Assignment:
    """The role of a clip in a training, or in the training of one fold. `split` is that of the manifest."""

    fold: int | None
    role: Role
    split: str
    clip_id: str
    source_id: str
    label: str


@dataclass(frozen=True)
class RoleSummary:
    """How many clips and sources have a role, in one fold or without folds, and how many clips of each class."""

    fold: int | None
    role: Role
    clips: int
    sources: int
    class_counts: dict[str, int]


def assign_roles(clips: Mapping[str, Sequence[Clip]], config: Config) -> list[Assignment]:
    """The role of each clip, by the manifests of both splits and `folds`, `split_seed`, `fit_on`, `dev_fraction`.

    Raises `UserError` if val is to be reported and has no clips, if there are too few sources or clips, or if two clips
    that are reported together have one id.
    """
    train, val = ([(split, clip) for clip in clips[split]] for split in (TRAIN, VAL))
    pool = train + val if config.fit_on == "train_and_val" else train
    if config.folds is None:
        if not val and config.fit_on != "train_and_val":
            raise UserError(
                f"data set {config.dataset.name} has no val clips to report; set folds=5, or add a column split to "
                "its table"
            )
        return _assign_one_training(None, pool, [] if config.fit_on == "train_and_val" else val, config)
    _check_ids(clip for _, clip in pool)
    parts = part_sources([clip for _, clip in pool], config.folds, config.split_seed)
    rows: list[Assignment] = []
    for part in range(config.folds):
        kept, tested = ([pool[row] for row in np.flatnonzero(chosen)] for chosen in (parts != part, parts == part))
        rows += _assign_one_training(part + 1, kept, tested, config)
    return rows


def _check_ids(clips: Iterable[Clip]) -> None:
    """Raise `UserError` for an id that train and val both have: results name clips by their ids alone."""
    shared = [clip_id for clip_id, count in Counter(clip.clip_id for clip in clips).items() if count > 1]
    if shared:
        raise UserError(
            f"{len(shared)} ids are in train and in val, the first is {shared[0]}; folds over both report all clips "
            "together, which needs an id for each: rename the clips of one split, or set fit_on=train"
        )


def _assign_one_training(
    fold: int | None, kept: list[tuple[str, Clip]], tested: list[tuple[str, Clip]], config: Config
) -> list[Assignment]:
    """`kept` are fitted on, apart from the sources of dev; `tested` are reported."""
    dev: set[str] = set()
    if config.fit_on == "train":
        dev = choose_dev_sources([clip for _, clip in kept], config.recipe.training.dev_fraction, config.split_seed)
    roles: list[Role] = ["dev" if clip.source_id in dev else "fit" for _, clip in kept] + ["test"] * len(tested)
    return [
        Assignment(fold, role, split, clip.clip_id, clip.source_id, clip.label)
        for role, (split, clip) in zip(roles, kept + tested, strict=True)
    ]


def choose_dev_sources(clips: Sequence[Clip], fraction: float, seed: int) -> set[str]:
    """Sources with about `fraction` of the clips of each class, as far as whole sources allow.

    The sources are cut into 1 / `fraction` parts, and the part that comes closest is taken. Raises `UserError` for
    clips of a single source, and if no class has two clips.
    """
    sources = np.array([clip.source_id for clip in clips])
    if (count := len(np.unique(sources))) < 2:
        raise UserError(
            f"fit_on is train, which holds whole sources out as dev, but the clips to choose from are of {count} "
            "source; set fit_on=train_and_dev and recipe.training.select_on=none"
        )
    labels = np.array([clip.label for clip in clips])
    if (largest_class := max(Counter(labels).values())) < 2:
        raise UserError(
            "fit_on is train, which holds clips of each class out as dev, but no class has two clips to choose from; "
            "set fit_on=train_and_dev and recipe.training.select_on=none"
        )
    parts = part_sources(clips, min(max(2, round(1 / fraction)), count, largest_class), seed)
    distances = {
        part: sum(abs(np.mean(parts[labels == label] == part) - fraction) for label in np.unique(labels))
        for part in np.unique(parts)
    }
    return set(sources[parts == min(distances, key=lambda part: distances[part])])


def part_sources(clips: Sequence[Clip], count: int, seed: int) -> NDArray[np.int64]:
    """Cut the clips into `count` parts of whole sources with similar classes: the part of each clip, (clips,), from 0.

    Raises `UserError` for fewer sources, or fewer clips of every class, than parts.
    """
    from sklearn.model_selection import StratifiedGroupKFold  # takes a second to import

    sources, labels = [clip.source_id for clip in clips], [clip.label for clip in clips]
    if len(set(sources)) < count:
        if len(set(sources)) == 1:  # no number of folds would do
            raise UserError(
                f"all clips are of the source {sources[0]}, and a source is never cut, so no clip could be held out to "
                "test on; name the person or recording that each clip shows (in a table: the column source)"
            )
        raise UserError(f"{len(set(sources))} sources cannot be cut into {count} parts; lower folds")
    if max(Counter(labels).values()) < count:
        raise UserError(f"no class has {count} clips, so they cannot be cut into {count} parts; lower folds")
    splitter = StratifiedGroupKFold(count, shuffle=True, random_state=seed)
    parts = np.zeros(len(clips), np.int64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # about a class that is rarer than the parts
        for part, (_, rows) in enumerate(splitter.split(labels, labels, sources)):
            parts[rows] = part
    return parts


def summarize_roles(assignments: Iterable[Assignment], classes: Sequence[str]) -> list[RoleSummary]:
    """How clips, sources and classes are spread over folds and roles."""
    groups: dict[tuple[int | None, Role], list[Assignment]] = {}
    for each in assignments:
        groups.setdefault((each.fold, each.role), []).append(each)
    summaries = []
    for (fold, role), group in sorted(groups.items(), key=lambda pair: (pair[0][0] or 0, ROLES.index(pair[0][1]))):
        counts = Counter(each.label for each in group)
        sources = len({each.source_id for each in group})
        summaries.append(RoleSummary(fold, role, len(group), sources, {name: counts[name] for name in classes}))
    return summaries


def write_assignments(assignments: Iterable[Assignment], folder: Path) -> None:
    """Write `splits.csv` into the folder of the manifests."""
    write_table(Assignment, assignments, folder / SPLITS_NAME)


def read_assignments(folder: Path, fold: int | None) -> list[Assignment]:
    """Read the rows of one fold, or those without folds; raises `UserError` if they are missing or damaged."""
    with reading(folder / SPLITS_NAME, "split") as path:
        rows = [row for row in table_rows(Assignment, path) if row.fold == fold]
    if not rows:
        missing = f"fold {fold}" if fold else "rows without folds"
        raise UserError(f"{path} has no {missing}; run the split stage (dvc repro split)")
    return rows


def read_current_assignments(
    config: Config, fold: int | None, clips: Mapping[str, Sequence[Clip]]
) -> dict[tuple[str, str], Assignment]:
    """Read the rows of one fold, or those without folds, by split and clip id; `clips` are those of the manifests.

    Raises `UserError` as `read_assignments` does, and if the rows were not made from these clips and `fit_on`. Other
    ones would let a training fit on clips that its record says it never saw.
    """
    rows = {(row.split, row.clip_id): row for row in read_assignments(config.manifests, fold)}
    if difference := _difference(rows, clips, config):
        raise UserError(
            f"{config.manifests / SPLITS_NAME} is older than the manifests: {difference}; run the split stage again "
            "(dvc repro split)"
        )
    if not _are_of(config, rows.values(), val_is_empty=not clips[VAL]):
        raise UserError(
            f"{config.manifests / SPLITS_NAME} was made with another fit_on than {config.fit_on}; set fit_on to what "
            "it was made with, or run the split stage again (dvc repro split)"
        )
    return rows


def _are_of(config: Config, rows: Iterable[Assignment], val_is_empty: bool) -> bool:
    """Whether roles of one training can be those that `fit_on` gives."""
    has_dev = uses_val = False
    for row in rows:
        has_dev |= row.role == "dev"
        uses_val |= row.split == VAL and (config.folds is not None or row.role != "test")
    return has_dev == (config.fit_on == "train") and uses_val == (config.fit_on == "train_and_val" and not val_is_empty)


def _difference(
    rows: Mapping[tuple[str, str], Assignment], clips: Mapping[str, Sequence[Clip]], config: Config
) -> str | None:
    """The first thing by which the rows differ from the clips; None if they fit."""
    val_has_roles = config.folds is None or config.fit_on == "train_and_val"
    fitting = 0
    for split in SPLITS:
        for clip in clips[split]:
            row = rows.get((split, clip.clip_id))
            if row is not None and (row.label, row.source_id) == (clip.label, clip.source_id):
                fitting += 1
            elif row is not None:
                known, current = (f"{each.label} of source {each.source_id}" for each in (row, clip))
                return f"it holds clip {clip.clip_id} of {split} as {known}, and the manifest as {current}"
            elif split == TRAIN or val_has_roles:
                return f"it lacks clip {clip.clip_id} of {split}"
    return f"{len(rows) - fitting} of its clips are not in the manifests" if fitting < len(rows) else None
