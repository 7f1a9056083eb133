"""Where a result comes from: code, libraries, device (P14)."""

import hashlib
import platform
import shutil
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

LIBRARIES = ("torch", "accelerate", "webdataset", "librosa", "av", "imageio-ffmpeg", "opencv-python-headless", "numpy")


def code_version() -> str:
    """The commit, with `-dirty` where the library or a stage differs from it; `unknown` outside a repository."""
    folder = Path(__file__).parents[2]
    if not (git := shutil.which("git")):
        return "unknown"
    head = subprocess.run([git, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, cwd=folder)
    # Not the whole tree: DVC itself rewrites params.yaml and dvc.lock, and the settings are recorded anyway.
    status = [git, "status", "--porcelain", "--", "pipeline", "stages"]
    changes = subprocess.run(status, capture_output=True, text=True, cwd=folder)
    if head.returncode != 0:
        return "unknown"
    return head.stdout.strip() + ("-dirty" if changes.stdout.strip() else "")


def source_digest() -> str:
    """SHA-256 of the library's own source files: tells one code from another also where there is no repository."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parents[1].rglob("*.py")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def environment() -> dict[str, Any]:
    """Versions and the machine."""
    return {
        "code_version": code_version(),
        "python": platform.python_version(),
        "libraries": {name: version(name) for name in LIBRARIES},
        "machine": f"{platform.system()} {platform.machine()}",
    }
