"""What several tests need besides fixtures."""

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from dvc.utils.hydra import compose_and_dump

from pipeline.common.machine import ffmpeg_path
from pipeline.extraction import splits

REPOSITORY = Path(__file__).parent.parent


def run_ffmpeg(*arguments: str | Path) -> None:
    subprocess.run([ffmpeg_path(), "-y", "-loglevel", "error", *map(str, arguments)], check=True)


def composed(folder: Path, *overrides: str) -> dict:
    """The settings that `dvc exp run -S` with these overrides would write to params.yaml."""
    compose_and_dump(folder / "params.yaml", str(REPOSITORY / "configs"), None, "config", "", list(overrides))
    return yaml.safe_load((folder / "params.yaml").read_text())


@contextlib.contextmanager
def extraction_in_this_process() -> Iterator[None]:
    """Do shard tasks in this process. A pool of processes would first import librosa, which takes seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(splits, "run_on_this_machine", lambda extract, tasks, workers, preload: map(extract, tasks))
        yield
