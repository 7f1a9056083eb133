"""The benchmark of the paper's claims: how its variants differ, and what it prints."""

import json
import sys
from dataclasses import asdict

import claims
import pytest

from pipeline.common.recipe import load_recipe


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
        "video": {"fusion": "video"},
        "audio": {"fusion": "audio"},
        "from_scratch": {name: common[name] | {"weights": "none"} for name in ("video", "audio")},
    }


def test_a_summary_has_the_interval_of_the_mean_unless_there_is_only_one_seed():
    summary = claims.summarise([0.8, 0.9, 1.0], [0, 1, 2])
    assert (summary.mean, summary.sd, summary.n, summary.seeds) == (0.9, 0.1, 3, [0, 1, 2])
    # 4.303 is Student's quantile for two degrees of freedom.
    assert summary.high - 0.9 == pytest.approx(4.303 * 0.1 / 3**0.5, abs=1e-4)
    assert json.loads(json.dumps(asdict(claims.summarise([0.8], [7])), allow_nan=False))["sd"] is None


@pytest.mark.slow
def test_the_benchmark_runs_from_pretraining_to_the_table(drawn_root, monkeypatch, capsys):
    small = claims.change_recipe(load_recipe("demo"), training={"batch_size": 2})
    monkeypatch.setattr(claims, "load_recipe", lambda name: small)
    monkeypatch.setattr(claims, "PRETRAINING", claims.PRETRAINING | {"train_clips": 9, "val_clips": 9})
    options = ["--epochs", "1", "--seeds", "3", "--variants", "frozen"]
    monkeypatch.setattr(sys, "argv", ["claims.py", f"drawn={drawn_root}", *options])
    claims.main()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("pretraining, seed 3: ")
    result = json.loads(lines[-1])
    assert 0 <= result["drawn"]["frozen"]["mean"] <= 1
    assert result["drawn"]["frozen"]["seeds"] == [3]
