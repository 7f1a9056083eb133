"""Shards as files that can be trusted: checked against the index before the first clip is read, fetched where needed.

A tar file that was cut off between two members is a valid, shorter tar file, and a JPEG with a flipped bit often still
decodes. So a process compares each shard's SHA-256 with the index when it first reads from it, and again when the file
has changed since.
"""

import contextlib
import errno
import fcntl
import hashlib
import os
import tempfile
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import fsspec

from pipeline.common.config import Config
from pipeline.common.errors import UserError
from pipeline.shards.format import INDEX_NAME, Entry, Shard, ShardIndex, read_index, unfinished

ATTEMPTS, FIRST_PAUSE_S = 6, 0.5
# A connection that says nothing for this long is given up; a slow one is not, however long the shard takes.
SILENCE_S = 60.0
FETCH_THREADS = 4

Identity = tuple[int, ...]


class ShardFile:
    """A shard in a folder, or on its way there from `url`. Threads may share it."""

    def __init__(self, shard: Shard, folder: Path, url: str | None) -> None:
        self.shard, self.path = shard, folder / shard.name
        self.is_remote = url is not None
        self._url = f"{url}/{shard.name}"
        self._checked: Identity | None = None
        self._lock = threading.Lock()

    def read(self, entry: Entry) -> bytes:
        """A clip's byte range, of a shard that is what the index says; raises `UserError` for another one."""
        self.prepare()
        with contextlib.suppress(FileNotFoundError), self.path.open("rb", buffering=0) as file:
            if _identity(file.fileno()) == self._checked:
                return os.pread(file.fileno(), entry.size, entry.offset)
        self._checked = None  # replaced or removed since it was checked
        return self.read(entry)

    def prepare(self) -> None:
        """Have the shard here and checked; returns at once for one that is."""
        if self._checked:
            return
        with self._lock:
            if self._checked:
                return
            found, identity = _digest(self.path)
            if found != self.shard.sha256 and self.is_remote:
                make_folder(self.path.parent)
                with _locked(self.path):  # one process of a machine fetches it
                    found, identity = _digest(self.path)
                    if found != self.shard.sha256:
                        fetch(self._url, self.path, self.shard)
                        found, identity = self.shard.sha256, _identity(self.path)
            if found != self.shard.sha256:
                raise UserError(
                    f"shard {self.path} is {'damaged' if found else 'missing'}: its SHA-256 begins with "
                    f"{found[:12] or 'nothing'}, the index says {self.shard.sha256[:12]}; delete it and run the "
                    "extract stage again (dvc repro --force extract)"
                )
            self._checked = identity


@contextlib.contextmanager
def fetched_ahead(files: Iterable[ShardFile]) -> Iterator[None]:
    """Meanwhile, fetch the remote ones of the files, in the order in which they come; what fails is left to its reader.

    On threads that nobody waits for: a server that does not answer must not hold up a process that is told to stop.
    """
    left = deque(dict.fromkeys(file for file in files if file.is_remote))

    def work() -> None:
        with contextlib.suppress(IndexError, UserError):
            while True:
                left.popleft().prepare()

    for _ in range(FETCH_THREADS if left else 0):
        threading.Thread(target=work, daemon=True).start()
    try:
        yield
    finally:
        left.clear()


def open_index(config: Config, split: str) -> ShardIndex:
    """The index of a split's shards: of those extracted here, or of those at `execution.shards_url`."""
    features, url = config.recipe.features, config.execution.shards_url
    if url is None:
        return read_index(config.shards / split, features)
    url, folder = f"{url.rstrip('/')}/{split}", config.cache / split
    fetch(f"{url}/{INDEX_NAME}", folder / INDEX_NAME)
    return read_index(folder, features, url)


def fetch(url: str, path: Path, shard: Shard | None = None) -> None:
    """Copy what is at `url` to `path`, whole or not at all; tried again when a connection breaks or bytes are wrong.

    Raises `UserError` when it is not there, may not be read, or is not `shard` after `ATTEMPTS` attempts.
    """
    make_folder(path.parent)
    temporary = unfinished(path)
    problem = ""
    try:
        for attempt in range(ATTEMPTS):
            if attempt:
                time.sleep(FIRST_PAUSE_S * 2 ** (attempt - 1))
            try:
                files = filesystem(url)
                files.get_file(url, str(temporary))
                problem = _wrong_bytes(temporary, shard, None if shard else files.size(url))
            except (FileNotFoundError, PermissionError) as error:
                raise UserError(f"{url} cannot be had ({error}); see execution.shards_url") from None
            except Exception as error:  # fsspec's back ends each have their own for a broken connection
                if getattr(error, "errno", None) == errno.ENOSPC:
                    raise UserError(f"no space is left in {path.parent} (execution.cache) for {url}") from None
                problem = f"{type(error).__name__}: {error}"
            if not problem:
                temporary.replace(path)
                return
        raise UserError(f"{url} could not be fetched in {ATTEMPTS} attempts; the last one: {problem}")
    finally:
        temporary.unlink(missing_ok=True)


def make_folder(folder: Path) -> None:
    """Make a folder of the cache that can be written to; raises `UserError` where it cannot."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise UserError(f"{folder} cannot be written to ({error.strerror}); see execution.cache") from None


def _wrong_bytes(path: Path, shard: Shard | None, size: int | None) -> str:
    """What is wrong with a fetched file, or nothing: s3fs takes half an answer for a whole one."""
    if shard and (found := _digest(path)[0]) != shard.sha256:
        return f"its SHA-256 begins with {found[:12]}, the index says {shard.sha256[:12]}"
    if size is not None and path.stat().st_size != size:
        return f"{path.stat().st_size} of {size} bytes came"
    return ""


def filesystem(url: str) -> Any:
    """fsspec's file system for http, https or s3."""
    protocol = url.partition("://")[0]
    if protocol != "s3":
        from aiohttp import ClientTimeout

        limits = ClientTimeout(total=None, sock_connect=SILENCE_S, sock_read=SILENCE_S)
        return fsspec.filesystem(protocol, client_kwargs={"timeout": limits})
    try:
        return fsspec.filesystem(protocol)
    except ImportError:
        raise UserError(
            "execution.shards_url is on s3, for which s3fs is not installed; install the extra: "
            "pip install 'group-emotion[s3]'"
        ) from None


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Alone among the processes that fetch to `path`; what those left that were killed meanwhile is removed."""
    with path.with_name(f".{path.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for left in path.parent.glob(f".{path.name}.*.tmp"):
            left.unlink()
        yield


def _digest(path: Path) -> tuple[str, Identity]:
    """SHA-256 of a file, and which file it was; of no file, nothing."""
    try:
        with path.open("rb", buffering=0) as file:
            return hashlib.file_digest(file, "sha256").hexdigest(), _identity(file.fileno())
    except FileNotFoundError:
        return "", ()
    except OSError as error:
        raise UserError(f"shard {path} cannot be read ({error.strerror})") from None


def _identity(file: int | Path) -> Identity:
    status = os.stat(file)  # noqa: PTH116 - a descriptor has no method for it
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
