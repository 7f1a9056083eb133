"""Trials that could not be compared belong to different studies."""

import pytest

from pipeline.common.config import parse_config, with_changes
from pipeline.training.search import study_name

DIGESTS = {"the shards of train": "a", "the clips and their roles": "b"}


@pytest.mark.parametrize("change", [
    {"seeds": [7]},
    {"dataset.classes": ["positive", "negative"]},
])  # fmt: skip
def test_another_seed_or_other_classes_make_another_study(change, values):
    space = {"recipe.model.layers": [1, 2]}
    name = study_name(parse_config(values, "test"), space, DIGESTS)
    assert study_name(parse_config(values, "test"), space, DIGESTS) == name
    assert study_name(parse_config(with_changes(values, change), "test"), space, DIGESTS) != name


@pytest.mark.parametrize("key", DIGESTS)
def test_other_shards_or_other_roles_of_clips_make_another_study(key, values):
    config = parse_config(values, "test")
    assert study_name(config, {}, DIGESTS | {key: "c"}) != study_name(config, {}, DIGESTS)
