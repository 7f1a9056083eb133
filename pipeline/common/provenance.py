"""Where a result comes from: code, libraries, machine."""

import ast
import hashlib
import platform
import shutil
import subprocess
from collections.abc import Collection
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

# The libraries that decide what a model is given and what it computes.
LIBRARIES = (
    *("torch", "torchvision", "timm", "accelerate", "numpy", "webdataset", "simplejpeg"),
    *("librosa", "av", "imageio-ffmpeg", "opencv-python-headless"),
)
PROJECT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Environment:
    """Versions and machine. `code_version` is what the function of that name returns."""

    code_version: str
    python: str
    libraries: dict[str, str]
    machine: str


def environment() -> Environment:
    """The versions and the machine of this process."""
    return Environment(
        code_version=code_version(),
        python=platform.python_version(),
        libraries={name: version(name) for name in LIBRARIES},
        machine=f"{platform.system()} {platform.machine()}",
    )


def code_version() -> str:
    """The commit, with `-dirty` if the library or a stage differs from it; `unknown` without git or a repository."""
    if not (git := shutil.which("git")):
        return "unknown"
    head = subprocess.run([git, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, cwd=PROJECT)
    # Not the whole tree: DVC itself rewrites params.yaml and dvc.lock, and the settings are recorded anyway.
    status = [git, "status", "--porcelain", "--", "pipeline", "stages"]
    changes = subprocess.run(status, capture_output=True, text=True, cwd=PROJECT)
    if head.returncode != 0:
        return "unknown"
    return head.stdout.strip() + ("-dirty" if changes.stdout.strip() else "")


def code_digest(modules: Collection[str], zones: Collection[str] | None = None) -> str:
    """SHA-256 of the code of modules, and of all modules of this project that they import, directly or not.

    Only the syntax trees count: comments, docstrings and layout may change. With `zones`, modules of other zones
    (`pipeline.<zone>`) are left out, and what these import.
    """
    digest = hashlib.sha256()
    for name, tree in sorted(imported_modules(modules, zones).items()):
        digest.update(name.encode() + b"\0" + _without_docstrings(tree).encode())
    return digest.hexdigest()


def imported_modules(modules: Collection[str], zones: Collection[str] | None = None) -> dict[str, ast.Module]:
    """The syntax trees, by dotted name, of modules and of all that they import, as in `code_digest`."""
    trees: dict[str, ast.Module] = {}
    pending = list(modules)
    while pending:
        name = pending.pop()
        path = PROJECT / f"{name.replace('.', '/')}.py"
        if name in trees or not path.exists() or (zones is not None and name.rpartition(".")[0] not in zones):
            continue
        trees[name] = ast.parse(path.read_bytes())
        pending += project_imports(trees[name])
    return trees


def project_imports(tree: ast.Module) -> set[str]:
    """Dotted names of all imports, also inside functions, that may be modules of this project."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return {name for name in names if name.startswith(("pipeline.", "stages."))}


def _without_docstrings(tree: ast.Module) -> str:
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0] if node.body else None
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
                del node.body[0]
    return ast.dump(tree)
