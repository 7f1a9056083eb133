"""A temporary folder for the caches of libraries that have no other folder to write to."""

import atexit
import os
import shutil
import sysconfig
import tempfile
from pathlib import Path

NUMBA = "NUMBA_CACHE_DIR"


def use_writable_caches() -> None:
    """Give numba, which librosa uses, a temporary folder if it could write neither beside the libraries nor at home.

    Without a folder, numba refuses to be imported. Child processes inherit the temporary one, which is removed when
    this process ends.
    """
    at_home = Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser())
    if NUMBA not in os.environ and not any(map(_can_write_to, (Path(sysconfig.get_path("purelib")), at_home))):
        # For this user alone, because numba runs what it finds there.
        folder = tempfile.mkdtemp(prefix="group-emotion-")
        os.environ[NUMBA] = folder
        atexit.register(shutil.rmtree, folder, ignore_errors=True)


def _can_write_to(folder: Path) -> bool:
    """Whether files can be made in a folder, which may have to be made first."""
    first = next(each for each in (folder, *folder.absolute().parents) if each.exists())
    return os.access(first, os.W_OK | os.X_OK)
