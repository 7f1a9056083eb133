"""Copying files from a web server or an object store, whole or not at all."""

import errno
import tempfile
import time
from pathlib import Path
from typing import Any

import fsspec

from pipeline.common.errors import UserError, missing_extra
from pipeline.common.files import sha256_of, written_whole

ATTEMPTS, FIRST_PAUSE_S = 6, 0.5
# A connection that is silent for this long is given up. A slow connection is not.
SILENCE_S = 60.0


def fetch(url: str, path: Path, sha256: str | None = None) -> None:
    """Copy what is at `url` to `path`, whole or not at all; try again if a connection breaks or the bytes are wrong.

    Raises `UserError` if the file is missing or may not be read, if the disk is full, or after `ATTEMPTS` failures.
    """
    make_folder(path.parent)
    problem = ""
    with written_whole(path) as temporary:
        for attempt in range(ATTEMPTS):
            if attempt:
                time.sleep(FIRST_PAUSE_S * 2 ** (attempt - 1))
            problem = _try_once(url, temporary, sha256)
            if not problem:
                return
        raise UserError(f"{url} could not be fetched in {ATTEMPTS} attempts; the last one: {problem}")


def _try_once(url: str, temporary: Path, sha256: str | None) -> str:
    """Fetch to a temporary file; returns what went wrong, or nothing. Raises `UserError` if trying again is useless."""
    try:
        files = filesystem(url)
        files.get_file(url, str(temporary))
        return _wrong_bytes(temporary, sha256, None if sha256 else files.size(url))
    except (FileNotFoundError, PermissionError) as error:
        raise UserError(f"{url} cannot be read ({error}); see execution.shards_url") from None
    except UserError:
        raise
    except Exception as error:  # each of fsspec's back ends has its own exception for a broken connection
        if getattr(error, "errno", None) == errno.ENOSPC:
            raise UserError(f"no space is left in {temporary.parent} (execution.cache) for {url}") from None
        return f"{type(error).__name__}: {error}"


def _wrong_bytes(path: Path, sha256: str | None, size: int | None) -> str:
    """What is wrong with a fetched file, or nothing. (s3fs accepts half an answer as a whole one.)"""
    if sha256 and (actual := sha256_of(path)) != sha256:
        return f"its SHA-256 begins with {actual[:12]}, the index says {sha256[:12]}"
    if size is not None and path.stat().st_size != size:
        return f"only {path.stat().st_size} of {size} bytes arrived"
    return ""


def make_folder(folder: Path) -> None:
    """Make a folder of the cache; raises `UserError` if it cannot be written to."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise UserError(f"{folder} cannot be written to ({error.strerror}); see execution.cache") from None


def filesystem(url: str) -> Any:
    """fsspec's file system for http, https or s3; raises `UserError` if s3fs is needed and not installed."""
    protocol = url.partition("://")[0]
    if protocol != "s3":
        from aiohttp import ClientTimeout

        limits = ClientTimeout(total=None, sock_connect=SILENCE_S, sock_read=SILENCE_S)
        return fsspec.filesystem(protocol, client_kwargs={"timeout": limits})
    try:
        return fsspec.filesystem(protocol)
    except ImportError:
        raise missing_extra("s3fs, which execution.shards_url needs,", "s3") from None
