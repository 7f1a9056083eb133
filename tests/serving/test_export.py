"""`python -m stages.export`: a folder that says the same as the run it came from, also without this project."""

import json
import math
import shutil

import numpy as np
import onnxruntime
import pytest
import torch
from accelerate import Accelerator
from conftest import REPOSITORY

from pipeline.clips.labels import CLASSES
from pipeline.common.errors import UserError
from pipeline.models.model import GroupEmotionModel
from pipeline.models.runs import MODEL_NAME, open_run
from pipeline.results.evaluation import write_evaluation
from pipeline.serving.export import INPUTS, Logits, card, check_onnx, export_run, random_clips, write_onnx
from pipeline.serving.predictor import Predictor

pytestmark = pytest.mark.slow  # a trace of the network takes its time


@pytest.fixture(scope="module")
def exported(finished, tmp_path_factory):
    """The model folder of a short run. Read only."""
    run, evaluation = finished
    folder = tmp_path_factory.mktemp("exported")
    write_evaluation(evaluation, folder / "results")
    assert export_run(run, folder / "results", folder / "model") < 1e-4
    return folder / "model"


def test_who_can_read_one_file_of_the_folder_can_read_all(exported):
    assert len({path.stat().st_mode for path in exported.iterdir()}) == 1


def test_onnx_says_what_pytorch_says_for_any_number_of_clips(exported, finished):
    _, _, model = open_run(finished[0])
    session = onnxruntime.InferenceSession(exported / "model.onnx")
    assert str(REPOSITORY).encode() not in (exported / "model.onnx").read_bytes()
    metadata = session.get_modelmeta().custom_metadata_map
    assert json.loads(metadata["labels"]) == list(CLASSES)
    assert json.loads(metadata["features"]) == model.features.model_dump()
    for count in (1, 3, 4):
        clips = random_clips(model.features, count)
        with torch.no_grad():
            expected = Logits(model)(*clips)
        (logits,) = session.run(None, {name: clip.numpy() for name, clip in zip(INPUTS, clips, strict=True)})
        np.testing.assert_allclose(logits, expected, atol=1e-4)


@pytest.mark.parametrize(("change", "said"), [(0.001, r"1\.0e-03"), (math.nan, "nan")])
def test_a_network_that_onnx_has_otherwise_is_refused(change, said, exported, finished, tmp_path):
    _, _, model = open_run(finished[0])
    shutil.copy(exported / "model.onnx", tmp_path)
    with torch.no_grad():
        model.fusion.heads[0][-1].bias += change
    with pytest.raises(UserError, match=f"differs from PyTorch by {said}"):
        check_onnx(model, tmp_path / "model.onnx")
    assert not (tmp_path / "model.onnx").exists()


def test_the_card_of_a_set_with_one_source_and_of_one_modality_says_what_there_is(exported, finished, config):
    record = json.loads((exported / "run.json").read_text())
    record["interfaces"].pop("audio")
    metrics = finished[1].metrics | {"accuracy_sources_low": None, "accuracy_sources_high": None}
    said = card(record, metrics, config.recipe.features)
    assert "over sources" not in said
    assert "this modality alone" in said


def test_a_run_is_not_exported_over_itself(exported, tmp_path):
    (tmp_path / "file").touch()
    for run, folder in ((exported, exported), (exported, tmp_path / "file")):
        with pytest.raises(UserError, match="name another folder"):
            export_run(run, tmp_path, folder)


def test_the_folder_is_a_model_for_predict_and_for_the_hub(exported, finished, one_clip):
    probabilities = []
    for folder in (finished[0], exported):
        config, _, model = open_run(folder)
        found = Predictor(model, config, Accelerator(cpu=True)).predict(one_clip)
        probabilities.append(found.clip.probabilities)
    np.testing.assert_array_equal(*probabilities)
    of_hub = GroupEmotionModel.from_pretrained(exported, strict=True)
    with torch.no_grad():
        np.testing.assert_array_equal(of_hub(found.clip.batch).double().softmax(-1)[0], probabilities[0])
    settings = json.loads((exported / "config.json").read_text())
    assert settings["labels"] == list(CLASSES)
    assert settings["features"] == of_hub.features.model_dump()


def test_the_card_has_the_figures_of_this_run_and_of_no_other(exported, finished, tmp_path, monkeypatch):
    shown = f"Accuracy {100 * finished[1].metrics['accuracy']:.2f}%"
    card = (exported / "README.md").read_text()
    assert shown in card
    assert "Not for.** Surveillance" in card
    monkeypatch.setattr("pipeline.serving.export.write_onnx", lambda *_: None)
    monkeypatch.setattr("pipeline.serving.export.check_onnx", lambda *_: 0.0)
    results = exported.parent / "results"
    provenance = json.loads((results / "provenance.json").read_text())
    provenance["run"]["seconds"] += 1
    (tmp_path / "provenance.json").write_text(json.dumps(provenance))
    (tmp_path / "metrics.json").write_text((results / "metrics.json").read_text())
    for folder in (tmp_path, tmp_path / "nowhere"):
        export_run(finished[0], folder, tmp_path / "model")
        assert "has not been evaluated" in (tmp_path / "model/README.md").read_text()


def test_a_run_that_is_not_there_is_said_in_a_sentence(stage, tmp_path):
    done = stage("export", tmp_path / "model", "--run", tmp_path)
    assert done.returncode == 2
    assert f"{MODEL_NAME} is missing" in done.stderr or "run.json is missing" in done.stderr


@pytest.mark.parametrize("fusion", ["self_attention", "late", "video", "audio"])
def test_every_fusion_can_be_exported(fusion, config, tmp_path):
    settings = config.recipe.model.model_copy(update={"fusion": fusion, "pooling": "learned"})
    torch.manual_seed(0)
    model = GroupEmotionModel(settings, config.recipe.features).eval()
    write_onnx(model, tmp_path / "model.onnx")
    assert check_onnx(model, tmp_path / "model.onnx") < 1e-5
