"""Shards as files that can be trusted: checked against the index before the first read, fetched if they are elsewhere.

A tar file that was cut off between two members is a valid, shorter tar file, and a JPEG with a flipped bit often still
decodes. So a process compares each shard's SHA-256 with the index when it first reads from it, and again if the file
has changed since.
"""

import contextlib
import fcntl
import hashlib
import os
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path

from pipeline.common.config import Config
from pipeline.common.errors import UserError
from pipeline.shards.fetching import fetch, make_folder
from pipeline.shards.format import Entry, Shard
from pipeline.shards.index import INDEX_NAME, ShardIndex, read_index

FETCH_THREADS = 4
# A shard that is replaced so often in a row is not read.
ATTEMPTS = 5

# It differs if a file was replaced or changed.
FileIdentity = tuple[int, ...]


class ShardFile:
    """A shard in a folder, or one that is fetched to it from `url`. Threads may share it."""

    def __init__(self, shard: Shard, folder: Path, url: str | None) -> None:
        self.shard, self.path = shard, folder / shard.name
        self.is_remote = url is not None
        self._url = f"{url}/{shard.name}" if url else ""
        self._checked: FileIdentity | None = None
        self._lock = threading.Lock()

    def read(self, entry: Entry) -> bytes:
        """Read the byte range of a clip; raises `UserError` if the shard is not the one that the index describes."""
        for _ in range(ATTEMPTS):
            checked = self.prepare()
            with contextlib.suppress(FileNotFoundError), self.path.open("rb", buffering=0) as file:
                if _identity(file.fileno()) == checked:
                    return os.pread(file.fileno(), entry.size, entry.offset)
            self._checked = None  # it was replaced or removed after the check
        raise UserError(
            f"shard {self.path} was replaced or removed {ATTEMPTS} times between its check and its reading, and must "
            "stay as it is; end what writes to its folder, such as an extract stage or a cleaning of the cache"
        )

    def prepare(self) -> FileIdentity:
        """Check the shard, and fetch it if it is missing, unless that was done before; raises as `read` does.

        Returns the identity of the file that was checked.
        """
        if checked := self._checked:
            return checked
        with self._lock:
            if checked := self._checked:
                return checked
            digest, identity = _digest(self.path)
            if digest != self.shard.sha256 and self.is_remote:
                digest, identity = self._fetch()
            if digest != self.shard.sha256:
                raise UserError(
                    f"shard {self.path} is {'damaged' if digest else 'missing'}: its SHA-256 begins with "
                    f"{digest[:12] or 'nothing'}, the index says {self.shard.sha256[:12]}; delete it and run the "
                    "extract stage again (dvc repro --force extract)"
                )
            self._checked = identity
            return identity

    def _fetch(self) -> tuple[str, FileIdentity]:
        """Fetch the shard, unless another process has done so meanwhile; returns its SHA-256 and identity."""
        make_folder(self.path.parent)
        with _locked(self.path):  # only one process of a machine fetches it
            digest, identity = _digest(self.path)
            if digest == self.shard.sha256:
                return digest, identity
            fetch(self._url, self.path, self.shard.sha256)
            return self.shard.sha256, _identity(self.path)


@contextlib.contextmanager
def fetched_ahead(files: Iterable[ShardFile]) -> Iterator[None]:
    """Within this context, fetch the remote files in their order. A file that fails is left to its reader.

    Nobody waits for these threads: a server that does not answer must not hold up a process that is told to stop.
    """
    pending = deque(dict.fromkeys(file for file in files if file.is_remote))

    def work() -> None:
        with contextlib.suppress(IndexError):
            while True:
                file = pending.popleft()
                with contextlib.suppress(UserError):
                    file.prepare()

    for _ in range(FETCH_THREADS if pending else 0):
        threading.Thread(target=work, daemon=True).start()
    try:
        yield
    finally:
        pending.clear()


def open_index(config: Config, split: str) -> ShardIndex:
    """The index of a split's shards: those extracted here, or those at `execution.shards_url`.

    Raises `UserError` if it cannot be fetched, and as `read_index` does.
    """
    features, url = config.recipe.features, config.execution.shards_url
    if url is None:
        return read_index(config.shards / split, features)
    url, folder = f"{url.rstrip('/')}/{split}", config.cache / split
    fetch(f"{url}/{INDEX_NAME}", folder / INDEX_NAME)
    return read_index(folder, features, url)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Exclude other processes that fetch to `path`, and remove what earlier ones left behind when they were killed."""
    with path.with_name(f".{path.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for leftover in path.parent.glob(f".{path.name}.*.tmp"):
            leftover.unlink()
        yield


def _digest(path: Path) -> tuple[str, FileIdentity]:
    """SHA-256 and identity of a file; both are empty if it is missing."""
    try:
        with path.open("rb", buffering=0) as file:
            return hashlib.file_digest(file, "sha256").hexdigest(), _identity(file.fileno())
    except FileNotFoundError:
        return "", ()
    except OSError as error:
        raise UserError(f"shard {path} cannot be read ({error.strerror})") from None


def _identity(file: int | Path) -> FileIdentity:
    status = os.stat(file)  # noqa: PTH116 - a descriptor has no method for it
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
