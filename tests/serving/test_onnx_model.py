"""The network as ONNX: it gives what PyTorch gives, and is refused if it does not."""

import json
import math
import shutil

import numpy as np
import onnxruntime
import pytest
import torch
from helpers import FUSIONS, REPOSITORY

from pipeline.clips.labels import CLASSES
from pipeline.common.errors import UserError
from pipeline.models.model import GroupEmotionModel
from pipeline.serving.onnx_model import INPUTS, TensorModel, check_onnx, random_clips, write_onnx

pytestmark = pytest.mark.slow  # tracing a network takes seconds


def random_model(config, **changes):
    torch.manual_seed(0)
    return GroupEmotionModel(config.recipe.model.model_copy(update=changes), config.recipe.features, CLASSES)


@pytest.fixture(scope="module")
def written(workspace, tmp_path_factory):
    """A model, and the file that it was written to. Read only."""
    model, path = random_model(workspace[1]), tmp_path_factory.mktemp("onnx") / "model.onnx"
    write_onnx(model, path)
    return model, path


def test_onnx_gives_what_pytorch_gives_for_any_number_of_clips(written):
    model, path = written
    session = onnxruntime.InferenceSession(path)
    for count in (1, 3, 4):
        clips = random_clips(model.features, count)
        with torch.no_grad():
            expected = TensorModel(model)(*clips)
        (logits,) = session.run(None, {name: clip.numpy() for name, clip in zip(INPUTS, clips, strict=True)})
        np.testing.assert_allclose(logits, expected, atol=1e-4)


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
