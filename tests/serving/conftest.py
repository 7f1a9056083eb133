"""A run without an evaluation."""

import contextlib

import pytest
from accelerate import Accelerator

from pipeline.common.config import RunId
from pipeline.models.runs import open_run
from pipeline.training.loop import train_model


@pytest.fixture(scope="session")
def trained(workspace, tmp_path_factory):
    """Folder of a short run in the workspace. Read only."""
    root, config = workspace
    folder = tmp_path_factory.mktemp("trained")
    with contextlib.chdir(root):
        train_model(config, RunId(0), Accelerator(cpu=True), folder / "run", folder / "checkpoints")
    return folder / "run"


@pytest.fixture
def run(trained):
    return open_run(trained)
