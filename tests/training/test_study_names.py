"""Trials that could not be compared belong to different studies."""

import pytest

from pipeline.common.config import parse_config, with_changes
from pipeline.training.search import study_name


@pytest.mark.parametrize("change", [
    {"split_seed": 1},  # other sources are held out
    {"seeds": [7]},
    {"dataset.classes": ["positive", "negative"]},
])  # fmt: skip
def test_other_clips_another_seed_or_other_classes_make_another_study(change, values):
    space = {"recipe.model.layers": [1, 2]}
    name = study_name(parse_config(values, "test"), space)
    assert study_name(parse_config(values, "test"), space) == name
    assert study_name(parse_config(with_changes(values, change), "test"), space) != name
