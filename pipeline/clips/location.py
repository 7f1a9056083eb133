"""Checking where the clips are before DVC looks for them, because DVC's own error does not say what to do."""

from pathlib import Path

from pipeline.common.config import DatasetSettings
from pipeline.common.errors import UserError
from pipeline.common.workspace import is_copy, original_workspace


def locate(dataset: DatasetSettings) -> None:
    """Check that the data set exists; in the copy of a queued experiment, link the folder that its workspace has.

    Git does not track `data/`, so a copy lacks it. Raises `UserError` for a data set that does not exist, or that the
    copy cannot link.
    """
    root, folder = Path(dataset.root), dataset.clips_folder
    if dataset.synthesize or (root.exists() and folder.exists()):
        return
    original = original_workspace() / folder
    if is_copy() and original.is_dir():
        if folder == Path() or folder.is_absolute() or ".." in folder.parts:
            raise UserError(
                f"a queued experiment runs in another folder, where {root} is not; name it by its full path, "
                f"{original_workspace() / root}"
            )
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.symlink_to(original.resolve())
        return
    raise UserError(
        f"data set {root} does not exist{' (the link is broken)' if root.is_symlink() else ''}; "
        f"link it (mkdir -p {root.parent} && ln -s /where/it/is {root}), or set dataset.root to its place"
    )
