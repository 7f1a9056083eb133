"""An experiment that stops before it has a result shows none, least of all the figure that is committed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from helpers import REPOSITORY

DVC = str(Path(sys.executable).parent / "dvc")
COMMIT = ("git", "-c", "user.name=test", "-c", "user.email=test@localhost", "commit", "--quiet", "--all", "-m", "test")


def test_the_stage_that_forgets_the_figure_runs_after_a_change_of_any_setting_that_a_result_follows_from():
    stages = yaml.safe_load((REPOSITORY / "dvc.yaml").read_text())["stages"]
    assert "rm -f results/metrics.json" in stages["locate"]["cmd"]
    forgets = set(stages["locate"]["params"])
    for stage in ("index", "split", "extract", "train", "evaluate", "summarize", "report"):
        for setting in stages[stage]["params"]:
            groups = {setting, *(setting[:place] for place, letter in enumerate(setting) if letter == ".")}
            assert groups & forgets, f"{setting} of {stage}"


@pytest.mark.slow
def test_a_partial_experiment_shows_no_figure(tmp_path, monkeypatch):
    subprocess.run(["git", "clone", "--quiet", REPOSITORY, tmp_path / "clone"], check=True)
    monkeypatch.chdir(tmp_path / "clone")
    Path("dvc.yaml").write_bytes((REPOSITORY / "dvc.yaml").read_bytes())
    subprocess.run([*COMMIT, "--allow-empty"], check=True)
    Path("data/demo").mkdir(parents=True)
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "DVC_NO_ANALYTICS": "1"}

    def run(*arguments):
        done = subprocess.run([DVC, "exp", *arguments], env=environment, check=True, capture_output=True, text=True)
        return done.stdout

    run("run", "--name", "partial", "-S", "recipe.training.epochs=2", "locate")
    committed, partial = run("show", "--csv", "--drop", ".*", "--keep", "Experiment|^accuracy$").splitlines()[-2:]
    assert 0 < float(committed.removeprefix(",")) <= 1
    assert partial in {"partial,!", "partial,"}
