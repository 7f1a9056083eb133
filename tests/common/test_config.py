import copy

import pytest
from helpers import REPOSITORY

from pipeline.common.config import RunId, load_config, parse_config, with_changes
from pipeline.common.errors import UserError
from pipeline.common.recipe import load_recipe


def refused(values) -> str:
    with pytest.raises(UserError) as error:
        parse_config(values, "params.yaml")
    return str(error.value)


@pytest.mark.parametrize(
    ("place", "key", "advice"),
    [
        (("recipe", "training"), "learning_rat", "did you mean learning_rate? "),
        (("recipe", "training", "augmentation"), "mixup_alhpa", "did you mean mixup_alpha? "),
        ((), "sedes", "did you mean seeds? "),
        (("recipe",), "colour", "remove it or correct its name "),
        (("dataset", "synthesize", "demo"), "sede", "remove it or correct its name "),
    ],
)
def test_an_unknown_key_is_named_and_the_key_that_it_resembles(values, place, key, advice):
    group = values
    for part in place:
        group = group[part]
    group[key] = 1
    assert refused(values).startswith(f"params.yaml: unknown key {'.'.join((*place, key))}; {advice}")


def test_a_missing_key_is_named(values):
    del values["recipe"]["features"]["frames"]
    assert "recipe.features.frames is missing" in refused(values)


def test_a_number_that_yaml_reads_as_text_is_refused_with_the_way_to_write_it(values):
    values["recipe"]["training"]["learning_rate"] = "1e-3"
    sentence = refused(values)
    assert "recipe.training.learning_rate is the text '1e-3'" in sentence
    assert "1.0e-3" in sentence


def test_a_value_out_of_range_is_named(values):
    values["recipe"]["training"]["label_smoothing"] = 1.5
    assert "recipe.training.label_smoothing is 1.5" in refused(values)


@pytest.mark.parametrize(("setting", "number"), [
    ("seeds", [2**32]),
    ("split_seed", 2**32),
    ("dataset.synthesize.demo.seed", -1),
    ("execution.process_timeout_s", 1.0e14),
])  # fmt: skip
def test_a_number_that_no_library_takes_is_refused(values, setting, number):
    assert setting in refused(with_changes(values, {setting: number}))


def test_heads_that_do_not_divide_the_width_are_refused(values):
    values["recipe"]["model"]["heads"] = 5
    assert "heads (5) must divide width" in refused(values)


def test_a_model_cannot_take_more_frames_than_are_stored(values):
    values["recipe"]["model"]["frames"] = 7
    assert refused(values).startswith(
        "params.yaml: recipe: model.frames (7) must not exceed features.frames (6), the frames that are stored; lower"
    )


@pytest.mark.parametrize(("frames", "most"), [(6, 2), (4, 4), (3, 4), (2, 6)])
def test_a_model_cannot_have_more_views_than_differ(values, frames, most):
    values["recipe"]["model"] |= {"frames": frames, "views": most}
    parse_config(values, "params.yaml")
    values["recipe"]["model"]["views"] = most + 1
    assert f"model.views ({most + 1}) must not exceed {most}" in refused(values)


def test_patience_without_scored_epochs_is_refused(values):
    values["recipe"]["training"] |= {"select_on": "none", "patience": 3}
    assert "patience (3) needs epochs that are scored" in refused(values)


def test_a_sha256_without_a_file_is_refused(values):
    values["recipe"]["model"]["streams"]["scene"]["sha256"] = "0" * 64
    assert "weights is none, so no file can have this sha256" in refused(values)


def test_frozen_networks_with_random_weights_are_refused(values):
    values["recipe"]["model"] |= {"freeze_backbones": True}
    assert "random networks would never learn" in refused(values)
    values["recipe"]["model"]["streams"]["sound"]["weights"] = "w.pth"
    values["recipe"]["model"]["use"] = ["sound"]  # the network that is not used may have random weights
    parse_config(values, "params.yaml")


def test_an_unknown_recipe_is_refused_with_the_names_of_the_known_ones():
    with pytest.raises(UserError, match="there is no recipe papr; expected one of demo, light, paper, small, strong"):
        load_recipe("papr", REPOSITORY / "configs/recipe")


def test_a_recipe_that_is_not_yaml_is_refused_with_its_file(tmp_path):
    (tmp_path / "mine.yaml").write_text("model: [")
    with pytest.raises(UserError, match=r"mine.yaml is not valid YAML: while parsing"):
        load_recipe("mine", tmp_path)


def test_a_window_longer_than_the_fft_is_refused(values):
    values["recipe"]["features"]["fft_size"] = 256
    assert "window_length (400) must not exceed fft_size (256)" in refused(values)


def test_random_networks_that_would_never_learn_are_refused(values):
    values["recipe"]["training"] |= {"epochs": 3, "freeze_epochs": 3}
    assert "training.freeze_epochs (3) must be below training.epochs (3) where weights is none" in refused(values)
    parse_config(with_changes(values, {"recipe.training.freeze_epochs": 2}), "test")
    parse_config(with_changes(values, {"recipe.init": "runs/acted/demo/seed-0"}), "test")


@pytest.mark.parametrize(("mask", "size", "largest"), [
    ("mask_mel_bins", 65, "mel_bins (64)"),
    ("mask_time_s", 5.6, "max_duration_s (5.5)"),
])  # fmt: skip
def test_a_mask_that_is_larger_than_the_sound_is_refused(values, mask, size, largest):
    values["recipe"]["training"]["augmentation"][mask] = size
    assert f"augmentation.{mask} ({size}) must not exceed features.{largest}" in refused(values)


@pytest.mark.parametrize("number", [float("inf"), float("nan")])
def test_numbers_are_finite(values, number):
    values["recipe"]["training"]["learning_rate"] = number
    assert "recipe.training.learning_rate" in refused(values)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"settings file .* is missing; run from the root of the repository"):
        load_config(tmp_path / "params.yaml")


def test_a_file_that_is_not_yaml_is_named(tmp_path):
    (tmp_path / "params.yaml").write_text("a: [")
    with pytest.raises(UserError, match="not valid YAML"):
        load_config(tmp_path / "params.yaml")


def test_the_longest_clip_fills_the_padded_log_mel(features):
    longest = round(features.max_duration_s * features.sample_rate_hz)
    assert features.max_mel_frames == 1 + longest // features.hop_length


def test_single_settings_can_be_changed(values):
    before = copy.deepcopy(values)
    changed = with_changes(values, {"recipe.training.epochs": 3, "split_seed": 7})
    assert (changed["recipe"]["training"]["epochs"], changed["split_seed"]) == (3, 7)
    assert values == before, "the original stays as it was"
    config = load_config(REPOSITORY / "params.yaml", {"recipe.training.epochs": 3})
    assert config.recipe.training.epochs == 3


def test_a_changed_setting_is_checked_like_any_other():
    with pytest.raises(UserError, match=r"params.yaml with recipe.training.epochs set: recipe.training.epochs is 0"):
        load_config(REPOSITORY / "params.yaml", {"recipe.training.epochs": 0})
    with pytest.raises(UserError, match=r"unknown key recipe\.trainin\b"):
        load_config(REPOSITORY / "params.yaml", {"recipe.trainin.epochs": 3})
    with pytest.raises(UserError, match=r"split_seed\.x is not a setting, because split_seed is a value"):
        load_config(REPOSITORY / "params.yaml", {"split_seed.x": 3})


def test_streams_that_are_used_but_not_there_or_used_twice_are_refused(values):
    values["recipe"]["model"]["use"] = ["scene", "people"]
    assert "use names people, but the streams are scene, sound" in refused(values)
    values["recipe"]["model"]["use"] = ["scene", "scene"]
    assert "use names a stream twice: scene, scene" in refused(values)


def test_the_dropout_of_streams_names_each_of_them(values):
    values["recipe"]["training"]["augmentation"]["drop"] = {"scene": 0.1, "video": 0.1}
    assert "drop names scene, video, expected each stream of model.streams: scene, sound" in refused(values)


@pytest.mark.parametrize(
    ("setting", "settings", "folders"),
    [
        ("recipe.name", ("one", "other"), ("checkpoints", "runs")),
        ("dataset.name", ("one", "other"), ("manifests", "shards", "cache", "checkpoints", "runs")),
        ("recipe.features.hop_length", (160, 200), ("shards", "cache")),
    ],
)
def test_two_recipes_data_sets_or_features_never_write_to_one_folder(setting, settings, folders, values):
    one, other = (parse_config(with_changes(values, {setting: value}), "test") for value in settings)
    for name in folders:
        assert getattr(one, name) != getattr(other, name)


def test_two_seeds_or_folds_never_write_to_one_folder(config):
    runs = [RunId(seed, fold) for seed in (0, 1) for fold in (None, 1, 2)]
    assert len({run.folder for run in runs}) == len(runs)
    assert config.results_of(0) != config.results_of(1)
