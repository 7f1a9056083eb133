"""A data set with six classes, from its training to what is served."""

import contextlib
import dataclasses
import io
import shutil
from contextlib import closing

import pytest
from accelerate import Accelerator
from helpers import write_whole_result
from short_trainings import train_and_evaluate, with_training

from pipeline.clips.manifest import SPLITS, SUMMARY_NAME, read_manifest, write_manifest
from pipeline.clips.splits import assign_roles, write_assignments
from pipeline.models.model import GroupEmotionModel
from pipeline.models.runs import open_run
from pipeline.results.report import render_report
from pipeline.results.result_files import read_class_measures
from pipeline.serving.export import export_run
from pipeline.serving.file_picture import draw_file
from pipeline.serving.predictor import Predictor

CLASSES = ("anger", "disgust", "fear", "joy, or relief", "sadness", r"$urpri\se$")


@pytest.fixture(scope="module")
def evaluated(workspace, tmp_path_factory):
    """A folder with the short run of a model of six classes, and its evaluation. Read only."""
    root, config = workspace
    folder = tmp_path_factory.mktemp("six")
    (folder / "data").symlink_to(root / "data")
    (folder / config.manifests).mkdir(parents=True)
    shutil.copy(root / config.manifests / SUMMARY_NAME, folder / config.manifests)
    relabelled = {}
    for split in SPLITS:
        clips = read_manifest(root / config.manifests, split)
        relabelled[split] = [dataclasses.replace(clip, label=CLASSES[number % 6]) for number, clip in enumerate(clips)]
        write_manifest(relabelled[split], folder / config.manifests / f"{split}.csv")
    dataset = config.dataset.model_copy(update={"classes": list(CLASSES)})
    config = with_training(config.model_copy(update={"dataset": dataset}), epochs=1)
    write_assignments(assign_roles(relabelled, config), folder / config.manifests)
    with contextlib.chdir(folder):
        evaluation = train_and_evaluate(config)
        write_whole_result(config.results, evaluation)
        (folder / "run").symlink_to(folder / config.runs / "seed-0")
    return folder, evaluation


def test_a_result_and_its_report_have_the_classes(evaluated):
    folder, evaluation = evaluated
    assert evaluation.predictions.classes == CLASSES
    assert tuple(row.label for row in read_class_measures(folder / "results")) == CLASSES
    header = (folder / "results/predictions.csv").read_text().splitlines()[0]
    assert header.endswith(',prediction,anger,disgust,fear,"joy, or relief",sadness,$urpri\\se$')
    assert evaluation.mistakes
    page = render_report(folder / "results", [0])
    assert page.count(f">{CLASSES[-1]}</text>") == 2
    assert "is anger, disgust, fear, joy, or relief, sadness or $urpri\\se$." in page


def test_a_clip_is_predicted_and_drawn(evaluated, one_clip):
    with closing(Predictor(open_run(evaluated[0] / "run"), Accelerator(cpu=True))) as predictor:
        answer = predictor.predict(one_clip)
        picture = draw_file("clip", [answer.row], answer.clip, predictor.scorer)
    picture.savefig(io.BytesIO())
    assert tuple(answer.row.probabilities) == CLASSES
    assert answer.row.prediction == max(CLASSES, key=answer.row.probabilities.get)
    assert [text.get_text() for text in picture.axes[-1].get_legend().get_texts()] == list(CLASSES)


def test_the_exported_model_has_the_classes(evaluated, monkeypatch, tmp_path):
    monkeypatch.setattr("pipeline.serving.export.write_onnx", lambda *_: None)
    monkeypatch.setattr("pipeline.serving.export.check_onnx", lambda *_: 0.0)
    export_run(evaluated[0] / "run", evaluated[0] / "results", tmp_path)
    assert GroupEmotionModel.from_pretrained(tmp_path, strict=True).labels == CLASSES
    assert open_run(tmp_path).model.labels == CLASSES
    assert "logits (B, 6)" in (tmp_path / "README.md").read_text()
