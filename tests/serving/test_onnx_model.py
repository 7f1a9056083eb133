"""The network as ONNX: it gives what PyTorch gives, and is refused if it does not."""

import json
import math
import shutil
import warnings

import numpy as np
import onnxruntime
import pytest
import torch
from helpers import FUSIONS, REPOSITORY, with_four_streams

from pipeline.clips.labels import CLASSES
from pipeline.common.config import parse_config
from pipeline.common.errors import UserError
from pipeline.models.model import GroupEmotionModel
from pipeline.serving.onnx_model import INPUTS, PEOPLE_INPUTS, TensorModel, check_onnx, random_clips, write_onnx

pytestmark = pytest.mark.slow  # tracing a network takes seconds


def random_model(config, **changes):
    torch.manual_seed(0)
    return GroupEmotionModel(config.recipe.model.model_copy(update=changes), config.recipe.features, CLASSES)


@pytest.fixture(scope="module")
def written(workspace, tmp_path_factory):
    """A model, and the file that it was written to. Read only."""
    model, path = random_model(workspace[1]), tmp_path_factory.mktemp("onnx") / "model.onnx"
    with warnings.catch_warnings(record=True) as warned:
        write_onnx(model, path)
    assert [str(each.message) for each in warned] == []  # a user can do nothing about them
    return model, path


@pytest.fixture(scope="module")
def written_with_people(workspace, tmp_path_factory):
    """A model of four streams, one of them people, and the file that it was written to. Read only."""
    config = parse_config(with_four_streams(workspace[1].model_dump()), "four streams")
    model, path = random_model(config), tmp_path_factory.mktemp("people") / "model.onnx"
    write_onnx(model, path)
    return model, path


@pytest.mark.parametrize(
    ("fixture", "inputs"), [("written", INPUTS), ("written_with_people", (*INPUTS, *PEOPLE_INPUTS))]
)
def test_onnx_gives_what_pytorch_gives_for_any_number_of_clips(fixture, inputs, request):
    model, path = request.getfixturevalue(fixture)
    session = onnxruntime.InferenceSession(path)
    assert tuple(each.name for each in session.get_inputs()) == inputs
    for count in (1, 3, 4):
        clips = random_clips(model.inputs, count)
        with torch.no_grad():
            expected = TensorModel(model)(*clips.values())
        (logits,) = session.run(None, {name: clip.numpy() for name, clip in clips.items()})
        np.testing.assert_allclose(logits, expected, atol=1e-4)


def test_a_network_without_a_stream_for_people_has_no_inputs_for_faces(config):
    features = config.recipe.features
    stored = features.model_copy(update={"people": features.people.model_copy(update={"most": 2})})
    model = GroupEmotionModel(config.recipe.model, stored, CLASSES)
    assert tuple(random_clips(model.inputs, 2)) == INPUTS


def test_the_metadata_holds_labels_and_features_and_no_folder_of_this_machine(written):
    model, path = written
    metadata = onnxruntime.InferenceSession(path).get_modelmeta().custom_metadata_map
    assert json.loads(metadata["labels"]) == list(CLASSES)
    assert json.loads(metadata["features"]) == model.features.model_dump()
    assert str(REPOSITORY).encode() not in path.read_bytes()


@pytest.mark.parametrize(("change", "difference"), [(0.001, r"1\.0e-03"), (math.nan, "nan")])
def test_a_network_that_differs_as_onnx_is_refused(change, difference, written, config, tmp_path):
    shutil.copy(written[1], tmp_path)
    model = random_model(config)
    with torch.no_grad():
        model.fusion.heads[0][-1].bias += change
    with pytest.raises(UserError, match=f"differs from PyTorch by {difference}"):
        check_onnx(model, tmp_path / "model.onnx")
    assert not (tmp_path / "model.onnx").exists()


@pytest.mark.parametrize("kind", [kind for kind in FUSIONS if kind != "cross_attention"])
def test_every_fusion_can_be_exported(kind, config, tmp_path):
    model = random_model(config, **FUSIONS[kind], pooling="learned")
    write_onnx(model, tmp_path / "model.onnx")
    assert check_onnx(model, tmp_path / "model.onnx") < 1e-5


def test_a_model_of_three_streams_can_be_exported(config, tmp_path):
    streams = config.recipe.model.streams
    model = random_model(config, streams={**streams, "motion": streams["scene"]}, use=[*streams, "motion"])
    write_onnx(model, tmp_path / "model.onnx")
    assert check_onnx(model, tmp_path / "model.onnx") < 1e-5
