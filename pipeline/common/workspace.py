"""The copies of the workspace in which DVC runs queued experiments, and what they share with it.

DVC removes a copy when its experiment ends. Shards, finished runs and checkpoints are worth more than that, so a copy
keeps them in the workspace that it was made from. Both lie on one file system, so a hard link shares a file at no cost.
"""

import os
import shutil
from pathlib import Path

from pipeline.common.files import written_whole

COPIES = Path(".dvc/tmp/exps")


def original_workspace(folder: Path | None = None) -> Path:
    """The workspace that `folder` is a copy of, or `folder` itself if it is none; by default the current folder."""
    folder = (folder or Path.cwd()).absolute()
    for parent in folder.parents:
        if parent.parts[-len(COPIES.parts) :] == COPIES.parts:
            return parent.parents[len(COPIES.parts) - 1]
    return folder


def is_copy() -> bool:
    """Whether the current folder is a copy that DVC made for a queued experiment."""
    return original_workspace() != Path.cwd()


def link_folder(source: Path, target: Path, *ignored: str) -> None:
    """Make `target` a folder with hard links to the files of `source`, whole or not at all; an earlier one is removed.

    Files and folders whose names match a pattern of `ignored` are left out. Files are never changed in place, only
    replaced, so the two folders do not depend on each other afterwards.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(target) as temporary:
        shutil.copytree(source, temporary, copy_function=os.link, ignore=shutil.ignore_patterns(*ignored))
        shutil.rmtree(target, ignore_errors=True)
