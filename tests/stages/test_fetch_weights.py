"""`python -m stages.fetch_weights`: what recipes need, said and checked, once, where there is a network."""

import pytest
import torch
from safetensors.torch import save_file

from pipeline.clips.manifest import sha256_of
from pipeline.common.config import Recipe, load_recipe
from pipeline.common.errors import UserError
from pipeline.models.model import GroupEmotionModel
from stages.fetch_weights import fetch_for


def paper(**changes):
    """The recipe, with some settings of its networks changed."""
    values = load_recipe("paper").model_dump()
    for modality, settings in changes.items():
        values["model"][modality] |= settings
    return Recipe.model_validate(values)


@pytest.fixture
def folder(tmp_path):
    """A place with the files of `paper`, as somebody has put them there by hand."""
    recipe = paper()
    with torch.device("meta"):
        model = GroupEmotionModel(recipe.model, recipe.features)
    for modality, network in model.backbones().items():
        published = network.published
        name = "model.safetensors" if published.repository else published.url.rpartition("/")[2]
        place = tmp_path / getattr(recipe.model, modality).name
        place.mkdir()
        save_file({"weight": torch.zeros(1)}, place / name)
    return tmp_path


def test_it_says_what_the_networks_take_and_give_and_which_files_they_start_from(folder, capsys):
    fetch_for(paper(video={"weights": "none"}), folder)
    said = capsys.readouterr().out
    assert "paper, video: r2plus1d_18 takes 16 x 112 x 112, gives tokens of 2 x 49 x 512 (time x space x D)" in said
    file = folder / "resnet18.tv_in1k/model.safetensors"
    assert f"{file}, 0 MB, SHA-256 {sha256_of(file)}" in said


def test_a_damaged_file_is_named_before_a_training_needs_it(folder):
    with pytest.raises(UserError, match=r"r2plus1d_18-91a641e6\.pth is damaged"):
        fetch_for(paper(), folder)


def test_a_pinned_file_is_checked_too(folder):
    recipe = paper(video={"weights": "none"}, audio={"sha256": "0" * 64})
    with pytest.raises(UserError, match=f"{'0' * 64} is pinned"):
        fetch_for(recipe, folder)
