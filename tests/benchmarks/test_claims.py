"""The benchmark of the paper's claims: how its variants differ, and what it prints."""

import json
import sys

import claims
import numpy as np
import pytest
import trainings

from pipeline.common.recipe import load_recipe
from pipeline.results.evaluation import Evaluation
from pipeline.results.predictions import with_probabilities
from pipeline.results.summary import SeedResult, calibrate


def test_variants_start_alike_and_differ_only_in_what_they_test():
    pretrained = claims.start_from(load_recipe("demo"), "w.safetensors")
    models = {variant: claims.recipe_of_variant(variant, pretrained).model.model_dump() for variant in claims.VARIANTS}
    common = models["end_to_end"]
    differences = {
        variant: {key: model[key] for key in model if model[key] != common[key]} for variant, model in models.items()
    }
    assert differences == {
        "end_to_end": {},
        "frozen": {"freeze_backbones": True},
        "concat": {"fusion": "concat"},
        "late": {"fusion": "late"},
        "scene": {"use": ["scene"]},
        "sound": {"use": ["sound"]},
        "from_scratch": {"streams": {name: each | {"weights": "none"} for name, each in common["streams"].items()}},
    }


def test_what_suits_pretrained_networks_does_not_hold_those_back_that_start_from_scratch():
    light = load_recipe("light")
    assert (light.model.norm_clips, light.training.rate_scales.backbones) == (0, 0.3)
    scratch = claims.recipe_of_variant("from_scratch", light)
    assert (scratch.model.norm_clips, scratch.training.rate_scales.backbones) == (8, 1.0)
    assert (light.training.ema_warmup, scratch.training.ema_warmup) == (False, True)
    assert claims.recipe_of_variant("end_to_end", light).training == light.training


def test_the_result_of_a_variant_has_intervals_over_seeds_and_over_sources(finished):
    rows = claims.rows_of({"end_to_end": seeds_of(finished[1], [9, 6]), "late": seeds_of(finished[1], [5, 4])})
    row = rows["end_to_end"]
    assert (row["mean"], row["n"], row["seeds"]) == (0.8333, 2, [0, 1])
    # 12.706 is Student's quantile for one degree of freedom; the seeds are 0.8333 +- 0.1667.
    assert row["high"] - row["mean"] == pytest.approx(12.706 * row["sd"] / 2**0.5, abs=1e-3)
    assert row["sources_low"] < row["mean"] < row["sources_high"]
    difference = rows["differences"]["late"]
    assert difference["difference"] == pytest.approx(3 / 9, abs=1e-4)
    assert difference["seeds_low"] < difference["difference"] < difference["seeds_high"]
    assert difference["sources_low"] <= difference["difference"] <= difference["sources_high"]


def test_what_a_single_seed_leaves_undefined_is_null_and_nothing_is_compared_without_the_papers_variant(finished):
    rows = json.loads(json.dumps(claims.rows_of({"late": seeds_of(finished[1], [5])}), allow_nan=False))
    assert (rows["late"]["sd"], rows["late"]["low"], rows["late"]["high"]) == (None, None, None)
    assert rows["differences"] == {}


def seeds_of(evaluation: Evaluation, right: list[int]) -> dict[int, SeedResult]:
    """A result for each number of clips that shall be right, from 9 clips."""
    results = {}
    for seed, count in enumerate(right):
        labels = evaluation.predictions.labels
        wrong = np.arange(len(labels)) >= count
        predicted = np.where(wrong, (labels + 1) % 3, labels)
        predictions = with_probabilities(evaluation.predictions, np.eye(3)[predicted])
        results[seed] = SeedResult(predictions, None, calibrate([], None), evaluation.provenance)
    return results


@pytest.mark.slow
def test_the_benchmark_runs_from_pretraining_to_the_table(drawn_root, monkeypatch, capsys):
    small = claims.change_recipe(load_recipe("demo"), model={"norm_clips": 2}, training={"batch_size": 2})
    monkeypatch.setattr(trainings, "load_recipe", lambda *_: small)
    monkeypatch.setattr(claims, "PRETRAINING", claims.PRETRAINING | {"train_clips": 9, "val_clips": 9})
    options = [
        "--set",
        "recipe.training.epochs=1",
        "--seeds",
        "3",
        "--folds",
        "3",
        "--variants",
        "end_to_end",
        "frozen",
    ]
    monkeypatch.setattr(sys, "argv", ["claims.py", f"drawn={drawn_root}", *options])
    claims.main()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("pretraining, seed 3: ")
    result = json.loads(lines[-1])
    assert 0 <= result["drawn"]["frozen"]["mean"] <= 1
    assert result["drawn"]["frozen"]["seeds"] == [3]
    difference = result["drawn"]["end_to_end"]["mean"] - result["drawn"]["frozen"]["mean"]
    assert result["drawn"]["differences"]["frozen"]["difference"] == pytest.approx(difference, abs=2e-4)
