"""Trials that could not be compared belong to different studies."""

import pytest

from pipeline.common.config import load_config
from pipeline.training.search import study_name


@pytest.mark.parametrize("change", [
    {"split_seed": 1},  # other sources are held out
    {"seeds": [7]},
    {"dataset.classes": ["positive", "negative"]},
])  # fmt: skip
def test_other_clips_another_seed_or_other_classes_make_another_study(change):
    space = {"recipe.model.layers": [1, 2]}
    assert study_name(load_config(), space) == study_name(load_config(), space)
    assert study_name(load_config(changes=change), space) != study_name(load_config(), space)
