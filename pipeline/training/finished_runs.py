"""Finished runs are kept by the fingerprint of their training, so that none is trained twice, or lost to another one.

A store has a folder for each of them. The folder of the current run holds hard links to its files, so a run lies on the
disk once.
"""

import hashlib
from pathlib import Path

from pipeline.common.errors import UserError
from pipeline.common.workspace import link_folder
from pipeline.models.run_record import RUN_NAME, RunRecord, read_run_record

FOLDS = "fold-*"  # folders of the runs of folds; they lie in that of the run without folds


def reuse_run(fingerprint: str, folder: Path, store: Path | None) -> bool:
    """Make `folder` that of the finished run with this fingerprint; returns whether there is such a run.

    Finished runs of other trainings leave the folder (`clear_folder`). What an unfinished one left there stays.
    """
    if _fingerprint_of(folder) == fingerprint:
        _clear_parent_of_fold(folder, store)
        return True
    clear_folder(folder, store)
    if store is None or _fingerprint_of(kept := place_in(store, fingerprint, [])) != fingerprint:
        return False
    link_folder(kept, folder)
    return True


def clear_folder(folder: Path, store: Path | None) -> None:
    """Remove the finished run in the folder after keeping it in the store, if there is one.

    For the run of a fold, the run without folds leaves the parent too: it would be taken for the newest there. The
    runs of folds stay. Raises `UserError` for a run that cannot be read: it may be of a later version, and is not in
    the store.
    """
    _clear_parent_of_fold(folder, store)
    if not (folder / RUN_NAME).exists():
        return
    if (record := _record_of(folder)) is None:
        raise UserError(f"{folder} holds a run that this version cannot read; move it elsewhere, or remove it")
    # A run that the store has already is whole there, and may have been changed here.
    if store is None or _fingerprint_of(place_of(record, store)) != record.fingerprint:
        keep_run(folder, store)
    for path in [each for each in folder.iterdir() if each.is_file()]:
        path.unlink()


def keep_run(folder: Path, store: Path | None) -> None:
    """Keep a finished run beyond the next training in its folder, if there is a store."""
    if store is not None and (record := _record_of(folder)):
        link_folder(folder, place_of(record, store), FOLDS)


def place_of(record: RunRecord, store: Path) -> Path:
    """The folder of a finished run in the store."""
    return place_in(store, record.fingerprint, record.resumed_with_changes)


def place_in(store: Path, fingerprint: str, changes: list[str]) -> Path:
    """The folder of a run in the store.

    A training that was continued with changes is not what its fingerprint says. It has a place of its own, where the
    trainings without the changes do not find it.
    """
    suffix = f"-{hashlib.sha256(repr(changes).encode()).hexdigest()[:8]}" if changes else ""
    return store / f"{fingerprint[:16]}{suffix}"


def _clear_parent_of_fold(folder: Path, store: Path | None) -> None:
    if folder.match(FOLDS):
        clear_folder(folder.parent, store)


def _fingerprint_of(folder: Path) -> str | None:
    """The fingerprint of the finished run in a folder; None without one that this version can read."""
    return record.fingerprint if (record := _record_of(folder)) else None


def _record_of(folder: Path) -> RunRecord | None:
    try:
        return read_run_record(folder)
    except UserError:
        return None
