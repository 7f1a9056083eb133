"""Shards as files that can be trusted: checked against the index before the first clip is read, fetched where needed.

A tar file that was cut off between two members is a valid, shorter tar file, and a JPEG with a flipped bit often still
decodes. So a process compares each shard's SHA-256 with the index when it first reads from it, and again when the file
has changed since.
"""

import fcntl
import hashlib
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import fsspec

from pipeline.config import Config
from pipeline.errors import UserError
from pipeline.shards import INDEX_NAME, Entry, Shard, ShardIndex, read_index

ATTEMPTS, FIRST_PAUSE_S = 6, 0.5
# A connection that says nothing for this long is given up; a slow one is not, however long the shard takes.
SILENCE_S = 60.0


class ShardFile:
    """A shard in a folder, or on its way there from `url`. Threads may share it."""

    def __init__(self, shard: Shard, folder: Path, url: str | None) -> None:
        self.shard, self.path = shard, folder / shard.name
        self._url = None if url is None else f"{url}/{shard.name}"
        self._checked: tuple[int, ...] | None = None
        self._lock = threading.Lock()

    @property
    def is_remote(self) -> bool:
        """Whether it is fetched from a URL."""
        return self._url is not None

    def read(self, entry: Entry) -> bytes:
        """A clip's byte range, of a shard that is what the index says; raises `UserError` for another one."""
        self.prepare()
        with self.path.open("rb", buffering=0) as file:
            if _identity(file.fileno()) != self._checked:  # replaced since it was checked
                self._checked = None
                return self.read(entry)
            return os.pread(file.fileno(), entry.size, entry.offset)

    def prepare(self) -> None:
        """Have the shard here and checked; returns at once for one that is."""
        if self._checked:
            return
        with self._lock:
            if self._checked:
                return
            if self._url is not None:
                with _locked(self.path):  # one process of a machine fetches it
                    if not self.path.exists() or _digest(self.path)[0] != self.shard.sha256:
                        fetch(self._url, self.path, self.shard)
            self._checked = self._check()

    def _check(self) -> tuple[int, ...]:
        try:
            found, identity = _digest(self.path)
        except OSError as error:
            raise UserError(f"shard {self.path} cannot be read ({error.strerror}); run the extract stage") from None
        if found != self.shard.sha256:
            raise UserError(
                f"shard {self.path} is damaged: its SHA-256 begins with {found[:12]}, the index says "
                f"{self.shard.sha256[:12]}; delete it and run the extract stage again (dvc repro --force extract)"
            )
        return identity


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
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid4().hex}.tmp")
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
                problem = f"{type(error).__name__}: {error}"
            if not problem:
                temporary.replace(path)
                return
        raise UserError(f"{url} could not be fetched in {ATTEMPTS} attempts; the last one: {problem}")
    finally:
        temporary.unlink(missing_ok=True)


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


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Alone among the processes that fetch to `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(f".{path.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _digest(path: Path) -> tuple[str, tuple[int, ...]]:
    """SHA-256 of a file, and which file it was."""
    with path.open("rb", buffering=0) as file:
        return hashlib.file_digest(file, "sha256").hexdigest(), _identity(file.fileno())


def _identity(descriptor: int) -> tuple[int, ...]:
    status = os.fstat(descriptor)
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
