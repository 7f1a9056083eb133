"""Files that are written whole or not at all, and what identifies their content."""

import hashlib
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from pipeline.common.errors import UserError


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def expand_home(path: Path) -> Path:
    """The path with ~ replaced by the user's home; raises `UserError` for a user who has none."""
    try:
        return path.expanduser()
    except RuntimeError as error:
        raise UserError(f"{path}: {error}; give the folder in full") from None


# What is named like this, or is in a folder that is named, is taken for a clip. Files of the containers of the second
# line are not accepted: they have a row that says so.
VIDEO_SUFFIXES = {
    *(".3g2", ".3gp", ".avi", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mts", ".ts", ".webm"),
    *(".asf", ".dv", ".flv", ".mpeg", ".mpg", ".mxf", ".ogv", ".vob", ".wmv"),
}


def check_output(path: Path, inputs: Iterable[Path] = ()) -> None:
    """Raise `UserError` for an `--output` that cannot become a file, or would overwrite a clip.

    It is called before the work, which may take hours.
    """
    if path.suffix.lower() in VIDEO_SUFFIXES or path.resolve() in {each.resolve() for each in inputs}:
        raise UserError(f"--output is {path}, which is a clip; name another file, and the clips before the options")
    if path.is_dir():
        raise UserError(f"--output is {path}, which is a folder; name a file")
    if not path.parent.is_dir():
        raise UserError(
            f"--output is {path}, but the folder {path.parent} does not exist; make it, or name another file"
        )


UNFINISHED = ".*.tmp"  # the pattern of the names that `temporary_beside` gives


def temporary_beside(path: Path) -> Path:
    """A new hidden name in the same folder: a worker that its scheduler gave up on may still write to an old one."""
    return path.with_name(f".{path.name}.{uuid4().hex}.tmp")


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """A new name beside `path` for a file or folder that becomes `path` at the end of this context.

    If writing fails, what was written is removed, so that a full disk does not get fuller; an `OSError` names `path`.
    """
    temporary = temporary_beside(path)
    try:
        yield temporary
        temporary.replace(path)
    except BaseException as error:
        if temporary.is_dir():
            shutil.rmtree(temporary)
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno is not None:
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all."""
    with written_whole(path) as temporary:
        temporary.write_text(text)
