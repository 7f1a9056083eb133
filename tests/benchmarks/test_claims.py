"""The benchmark of the paper's claims: how its variants differ, and what it prints."""

import json
import sys

import claims
import pytest

from pipeline.common.config import load_recipe


def test_variants_start_alike_but_for_what_they_are_about():
    started = claims.from_weights(load_recipe("demo"), "w.safetensors")
    models = {variant: claims.of_variant(variant, started).model.model_dump() for variant in claims.VARIANTS}
    common = models["end_to_end"]
    assert {
        variant: {key: model[key] for key in model if model[key] != common[key]} for variant, model in models.items()
    } == {
        "end_to_end": {},
        "frozen": {"freeze_backbones": True},
        "concat": {"fusion": "concat"},
        "late": {"fusion": "late"},
        "video": {"fusion": "video"},
        "audio": {"fusion": "audio"},
        "from_scratch": {name: common[name] | {"weights": "none"} for name in ("video", "audio")},
    }


def test_a_summary_has_the_interval_of_the_mean_or_says_that_it_has_none():
    row = claims.summary([0.8, 0.9, 1.0], [0, 1, 2])
    assert (row["mean"], row["sd"], row["n"], row["seeds"]) == (0.9, 0.1, 3, [0, 1, 2])
    assert row["high"] - 0.9 == pytest.approx(4.303 * 0.1 / 3**0.5, abs=1e-4)  # Student's quantile of two degrees
    assert json.loads(json.dumps(claims.summary([0.8], [7]), allow_nan=False))["sd"] is None


@pytest.mark.slow
def test_the_benchmark_runs_from_pretraining_to_the_table(drawn_root, monkeypatch, capsys):
    small = claims.changed(load_recipe("demo"), training={"batch_size": 2})
    monkeypatch.setattr(claims, "load_recipe", lambda name: small)
    monkeypatch.setattr(claims, "PRETRAINING", claims.PRETRAINING | {"train_clips": 9, "val_clips": 9})
    options = ["--epochs", "1", "--seeds", "3", "--variants", "frozen"]
    monkeypatch.setattr(sys, "argv", ["claims.py", f"drawn={drawn_root}", *options])
    claims.main()
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("pretraining, seed 3: ")
    result = json.loads(said[-1])
    assert 0 <= result["drawn"]["frozen"]["mean"] <= 1
    assert result["drawn"]["frozen"]["seeds"] == [3]
