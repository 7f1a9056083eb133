"""Files that are written whole or not at all, and what identifies their content."""

import hashlib
from pathlib import Path
from uuid import uuid4


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def temporary_beside(path: Path) -> Path:
    """A new hidden name in the same folder: a worker that its scheduler gave up may still write to an earlier one."""
    return path.with_name(f".{path.name}.{uuid4().hex}.tmp")


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all."""
    temporary = temporary_beside(path)
    temporary.write_text(text)
    temporary.replace(path)
