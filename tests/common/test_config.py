import pytest
from conftest import REPOSITORY

from pipeline.common.config import load_config, load_recipe, parse_config
from pipeline.common.errors import UserError


def refused(values) -> str:
    with pytest.raises(UserError) as error:
        parse_config(values, "params.yaml")
    return str(error.value)


def test_an_unknown_key_is_named(values):
    values["recipe"]["training"]["learning_rat"] = 1.0e-3
    assert "unknown key recipe.training.learning_rat" in refused(values)


def test_a_missing_key_is_named(values):
    del values["recipe"]["features"]["frames"]
    assert "recipe.features.frames is missing" in refused(values)


def test_a_learning_rate_given_as_text_is_refused_with_the_way_to_write_it(values):
    values["recipe"]["training"]["learning_rate"] = "1e-3"
    sentence = refused(values)
    assert "recipe.training.learning_rate is the text '1e-3'" in sentence
    assert "1.0e-3" in sentence


def test_a_value_out_of_range_is_named(values):
    values["recipe"]["training"]["label_smoothing"] = 1.5
    assert "recipe.training.label_smoothing is 1.5" in refused(values)


def test_heads_that_do_not_divide_the_width_are_refused(values):
    values["recipe"]["model"]["heads"] = 5
    assert "heads (5) must divide width" in refused(values)


def test_patience_without_epochs_that_are_scored_is_refused(values):
    values["recipe"]["training"] |= {"select_on": "none", "patience": 3}
    assert "patience (3) needs epochs that are scored" in refused(values)


def test_a_pinned_file_that_is_not_read_is_refused(values):
    values["recipe"]["model"]["video"]["sha256"] = "0" * 64
    assert "weights is none, so there is no file" in refused(values)


def test_frozen_networks_that_start_from_nothing_are_refused(values):
    values["recipe"]["model"] |= {"freeze_backbones": True}
    assert "random networks would never learn" in refused(values)
    values["recipe"]["model"]["audio"]["weights"] = "w.pth"
    values["recipe"]["model"]["fusion"] = "audio"  # what is not used may be random
    parse_config(values, "params.yaml")


def test_a_recipe_that_is_not_there_is_refused_with_those_that_are():
    with pytest.raises(UserError, match="there is no recipe papr; expected one of demo, paper, small, strong"):
        load_recipe("papr", REPOSITORY / "configs/recipe")


def test_a_window_longer_than_the_fft_is_refused(values):
    values["recipe"]["features"]["fft_size"] = 256
    assert "window_length (400) must not exceed fft_size (256)" in refused(values)


@pytest.mark.parametrize("number", [float("inf"), float("nan")])
def test_numbers_are_finite(values, number):
    values["recipe"]["training"]["learning_rate"] = number
    assert "recipe.training.learning_rate" in refused(values)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match="run from the repository's root"):
        load_config(tmp_path / "params.yaml")


def test_a_file_that_is_not_yaml_is_named(tmp_path):
    (tmp_path / "params.yaml").write_text("a: [")
    with pytest.raises(UserError, match="not valid YAML"):
        load_config(tmp_path / "params.yaml")


def test_the_longest_clip_fills_the_padded_log_mel(features):
    longest = round(features.max_duration_s * features.sample_rate_hz)
    assert features.max_mel_frames == 1 + longest // features.hop_length
