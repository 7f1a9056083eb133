"""Extraction and training on a full disk: one sentence, and no unfinished file that would fill it further."""

import os
import shutil
import subprocess
import sys

import pytest
import yaml
from helpers import REPOSITORY, files_of_at_most
from short_trainings import train

from pipeline.training.checkpoint import latest_step


def unfinished(folder):
    return [path.name for path in folder.rglob("*") if path.name.endswith(".tmp")]


def test_extraction(stage, drawn_root, tmp_path, values):
    shutil.copytree(drawn_root, tmp_path / "data/demo")
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(values))
    assert stage("index", folder=tmp_path).returncode == 0
    with files_of_at_most(20_000):  # in a process of its own: its workers' server lives on
        command = [sys.executable, "-m", "stages.extract"]
        environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 2
    assert "-000000.tar: File too large; free some space, then run the same command again" in done.stderr
    assert unfinished(tmp_path) == []
    assert stage("extract", folder=tmp_path).returncode == 0


def test_training(ready, tmp_path):
    with files_of_at_most(100_000), pytest.raises(OSError, match=r"File too large: '.*\.safetensors'"):
        train(ready, tmp_path)
    assert unfinished(tmp_path) == []
    assert latest_step(tmp_path / "checkpoints") is None
    train(ready, tmp_path)
