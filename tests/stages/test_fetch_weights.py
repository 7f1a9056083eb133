"""`python -m stages.fetch_weights`: describes, fetches and checks the weights that recipes need."""

from hashlib import sha256
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from pipeline.clips.labels import CLASSES
from pipeline.common.errors import UserError
from pipeline.common.files import sha256_of
from pipeline.common.recipe import Recipe, load_recipe
from pipeline.extraction import face_detector
from pipeline.models.model import GroupEmotionModel
from pipeline.models.recipe_weights import fetch_recipe_weights


def paper(**changes):
    """The recipe, with some settings of its networks changed."""
    values = load_recipe("paper").model_dump()
    for stream, settings in changes.items():
        values["model"]["streams"][stream] |= settings
    return Recipe.model_validate(values)


@pytest.fixture
def folder(tmp_path):
    """A folder into which somebody has put files for `paper` by hand; each has the right name and no weights."""
    recipe = paper()
    with torch.device("meta"):
        model = GroupEmotionModel(recipe.model, recipe.features, CLASSES)
    for stream, network in model.backbones().items():
        published = network.published
        name = "model.safetensors" if published.repository else published.url.rpartition("/")[2]
        place = tmp_path / recipe.model.used[stream].network
        place.mkdir()
        save_file({"weight": torch.zeros(1)}, place / name)
    return tmp_path


def test_it_describes_what_the_networks_take_and_give_and_the_files_that_they_start_from(folder):
    text = "\n".join(fetch_recipe_weights(paper(scene={"weights": "none"}), folder))
    assert "paper, scene: r2plus1d_18 takes 16 x 112 x 112, gives tokens of 2 x 49 x 512 (time x space x D)" in text
    file = folder / "resnet18.tv_in1k/model.safetensors"
    assert f"{file}, 0 MB, 1 tensors, SHA-256 {sha256_of(file)}" in text


def test_a_damaged_file_is_named_before_a_training_needs_it(folder):
    with pytest.raises(UserError, match=r"r2plus1d_18-91a641e6\.pth is damaged"):
        list(fetch_recipe_weights(paper(), folder))


def test_a_file_that_training_would_refuse_is_refused_before_the_clips_are_extracted(folder, tmp_path):
    torch.save(torch.nn.Linear(1, 1), tmp_path / "whole.pt")
    recipe = paper(scene={"weights": "none"}, sound={"weights": str(tmp_path / "whole.pt")})
    with pytest.raises(UserError, match=r"whole\.pt"):
        list(fetch_recipe_weights(recipe, folder))


def test_a_pinned_file_is_checked_too(folder):
    recipe = paper(scene={"weights": "none"}, sound={"sha256": "0" * 64})
    with pytest.raises(UserError, match=f"{'0' * 64} is pinned"):
        list(fetch_recipe_weights(recipe, folder))


def test_without_names_it_takes_the_recipe_of_the_settings(stage):
    done = stage("fetch_weights", "--set", "recipe.features.frames=4", "--set", "recipe.model.frames=3")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "demo, scene: small takes 3 x 64 x 64, gives tokens of 3 x 1 x 128 (time x space x D)",
        "demo, sound: small takes 64 x 551, gives tokens of 35 x 1 x 192 (time x space x D)",
    ]


def test_it_takes_the_recipes_that_are_named(stage):
    done = stage("fetch_weights", "small", "demo")
    assert (done.returncode, done.stderr) == (0, "")
    recipes = [line.partition(":")[0] for line in done.stdout.splitlines()]
    assert recipes == ["small, scene", "small, sound", "demo, scene", "demo, sound"]


def test_an_unknown_recipe_is_refused_with_the_known_ones(stage):
    done = stage("fetch_weights", "nobodys")
    assert done.returncode == 2
    assert "there is no recipe nobodys; expected one of demo, light, paper, small, strong" in done.stderr


@pytest.fixture
def with_people(tmp_path):
    """The options of a stage that looks for people with a detector in a folder of the test."""
    return [
        *("--set", "recipe.features.people.most=2"),
        *("--set", f"extract.face_detector={tmp_path / 'weights/detector.onnx'}"),
    ]


def download(content):
    """What stands in for torch.hub's download: it writes these bytes and checks nothing."""
    return lambda url, path, **_: Path(path).write_bytes(content)


def test_it_fetches_the_face_detector_if_the_recipe_looks_for_people(stage, with_people, monkeypatch, tmp_path):
    monkeypatch.setattr(torch.hub, "download_url_to_file", download(b"detector"))
    monkeypatch.setattr(face_detector, "DETECTOR_SHA256", sha256(b"detector").hexdigest())
    done = stage("fetch_weights", *with_people)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"demo, people: {tmp_path / 'weights/detector.onnx'}, SHA-256 " in done.stdout
    monkeypatch.setattr(torch.hub, "download_url_to_file", None)  # it is there now
    assert stage("fetch_weights", *with_people).returncode == 0


def test_another_file_in_its_place_is_refused(stage, with_people, monkeypatch):
    monkeypatch.setattr(torch.hub, "download_url_to_file", download(b"something else"))
    done = stage("fetch_weights", *with_people)
    assert done.returncode == 2
    assert "but YuNet's is" in done.stderr


def test_without_a_network_the_sentence_says_where_the_file_belongs(stage, with_people, monkeypatch, tmp_path):
    def refuse(*_, **__):
        raise OSError("no route to host")

    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    done = stage("fetch_weights", *with_people)
    assert done.returncode == 2
    assert "could not be fetched (no route to host)" in done.stderr
    assert f"by hand, to {tmp_path / 'weights/detector.onnx'}" in done.stderr
