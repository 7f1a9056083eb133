"""`python -m stages.extract` looks for the weights of the recipe before it works on clips."""

import os
import subprocess
import sys

import yaml
from helpers import REPOSITORY


def test_weights_that_are_missing_are_named_before_the_extraction(tmp_path, values):
    values["recipe"]["model"]["streams"]["sound"]["weights"] = "nowhere.safetensors"
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(values))
    done = subprocess.run(
        [sys.executable, "-m", "stages.extract"],
        cwd=tmp_path,  # without manifests, which the extraction would ask for first
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert "error: weights is nowhere.safetensors, which is not a file" in done.stderr
    assert "Traceback" not in done.stderr
