"""An experiment of several seeds, from its splits to its report: each stage finds what the one before wrote."""

from pathlib import Path

import numpy as np
import yaml

from pipeline.clips.splits import SPLITS_NAME
from pipeline.results.result_files import read_metrics


def test_two_seeds_are_trained_evaluated_and_summarized_one_stage_after_the_other(stage, split_workspace, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    config = split_workspace(seeds=[0, 3])
    here = Path.cwd()
    (here / "params.yaml").write_text(yaml.safe_dump(config.model_dump()))
    (config.manifests / SPLITS_NAME).unlink()
    steps = ["split", *(f"{name} --seed {seed}" for name in ("train", "evaluate") for seed in config.seeds)]
    printed = {}
    for step in (*steps, "summarize", "report"):
        done = stage(*step.split(), folder=here)
        assert done.returncode == 0, done.stderr
        printed[step] = done.stdout
    assert "fit: 6 clips of 2 sources (" in printed["split"]
    metrics = read_metrics(config.results)
    assert [row.seed for row in metrics.seeds] == [0, 3]
    assert metrics.accuracy == np.mean([read_metrics(config.results_of(seed)).accuracy for seed in (0, 3)])
    assert printed["summarize"] == f"accuracy {metrics.accuracy:.4f} on 9 clips, mean of 2 seeds\n"
    assert len(metrics.soup.weights) == len(metrics.weighted_vote.weights) == 2
    names = {path.relative_to(config.results).as_posix() for path in config.results.rglob("*.*")}
    of_all = {"predictions.csv", "per_class.csv", "per_source.csv", "reliability.csv", "curves.csv", "metrics.json"}
    of_seed = ("dev_predictions.csv", "stream_curves.csv", "provenance.json")
    of_one = {f"seeds/{seed}/{name}" for seed in (0, 3) for name in (*of_all, *of_seed)}
    assert names - {name for name in names if "/mistakes/" in name} == {*of_all, "report.html", *of_one}
    assert "over 2 seeds" in (config.results / "report.html").read_text()

    # Every clip of dev was quarantined: nothing chooses the soup's models or the vote's weights.
    for seed in (0, 3):
        (config.results_of(seed) / "dev_predictions.csv").unlink()
    done = stage("summarize", folder=here)
    assert done.returncode == 0, done.stderr
    without_dev = read_metrics(config.results)
    assert without_dev.soup is without_dev.weighted_vote is None
    assert without_dev.soft_vote == metrics.soft_vote
