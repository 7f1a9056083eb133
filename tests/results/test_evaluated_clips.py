"""Which clips a run is evaluated on: those that it was not fitted on, whatever the split, and of its own classes."""

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
from accelerate import Accelerator
from short_trainings import train_and_evaluate, with_training

from pipeline.clips.manifest import SUMMARY_NAME, read_manifest
from pipeline.clips.splits import SPLITS_NAME, read_assignments, write_assignments
from pipeline.common.config import RunId
from pipeline.common.errors import UserError
from pipeline.loading.selection import clips_by_role
from pipeline.models.run_record import RUN_NAME
from pipeline.models.runs import open_run
from pipeline.models.scoring import Scorer
from pipeline.results import evaluation as evaluation_module
from pipeline.results.calibration import scale
from pipeline.results.evaluation import evaluate_seed, evaluate_split, open_matching_run
from pipeline.results.predictions import read_predictions
from pipeline.results.result_files import read_metrics
from pipeline.training.loop import train_model


def test_with_folds_each_clip_of_train_is_predicted_once_by_the_run_that_did_not_train_on_its_source(
    split_workspace, monkeypatch
):
    config = with_training(split_workspace(folds=3), epochs=1)
    monkeypatch.setattr(evaluation_module, "fit_temperature", lambda dev: 1.0 + dev.folds[0])
    evaluation = train_and_evaluate(config)
    predictions = evaluation.predictions
    assert sorted(predictions.clip_ids) == sorted(clip.clip_id for clip in read_manifest(config.manifests, "train"))
    assert [run.run.fold for run in evaluation.provenance.runs] == [1, 2, 3]
    assert evaluation.temperatures == [2.0, 3.0, 4.0]
    for fold in (1, 2, 3):
        rows = [row for row, predicted_by in enumerate(predictions.folds) if predicted_by == fold]
        held_out = {row.source_id for row in read_assignments(config.manifests, fold) if row.role != "fit"}
        assert {predictions.source_ids[row] for row in rows} <= held_out
        run = open_run(config.runs / f"seed-0/fold-{fold}")
        tested = clips_by_role(config, fold)[0]["test"].located
        scores = dict(
            zip(
                [clip.clip_id for clip in tested],
                Scorer(run.model, Accelerator(cpu=True)).score(tested, config),
                strict=True,
            )
        )
        assert set(scores) == {predictions.clip_ids[row] for row in rows}
        of_dev = {row.clip_id for row in read_assignments(config.manifests, fold) if row.role == "dev"}
        dev = zip(evaluation.dev.clip_ids, evaluation.dev.folds, strict=True)
        assert {clip_id for clip_id, predicted_by in dev if predicted_by == fold} == of_dev
        scaled = scale(predictions, 1.0 + fold).probabilities
        np.testing.assert_allclose(evaluation.scaled.probabilities[rows], scaled[rows], atol=1e-9)
        for row in rows:
            np.testing.assert_allclose(predictions.probabilities[row], scores[predictions.clip_ids[row]], atol=1e-6)


@pytest.fixture
def own(finished, monkeypatch):
    """The folder of a short run and its settings; the current folder is its workspace. Read only."""
    monkeypatch.chdir(finished[0].parents[3])
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    return finished[0], open_run(finished[0]).config


@pytest.mark.parametrize(("split", "clips"), [("dev", 3), ("train", 9), ("val", 9)])
def test_a_run_is_evaluated_on_each_split(own, stage, split, clips, tmp_path):
    folder, config = own
    done = stage("evaluate", "--run", folder, "--split", split, "--output", tmp_path / "out", folder=Path.cwd())
    assert done.returncode == 0, done.stderr
    assert f"on {clips} clips" in done.stdout
    assert ("the run was fitted on 6 of them" in done.stdout) == (split == "train")
    assert read_metrics(tmp_path / "out").clips == clips
    (predictions,) = read_predictions(tmp_path / "out/predictions.csv").values()
    if split == "dev":
        assert set(predictions.clip_ids) == {clip.clip_id for clip in clips_by_role(config, None)[0]["dev"].clips}
    assert (tmp_path / "out/dev_predictions.csv").exists() == (split != "dev")


def test_a_run_and_a_folder_for_its_result_are_named_together(own, stage):
    done = stage("evaluate", "--run", own[0], folder=Path.cwd())
    assert done.returncode == 2
    assert "--run and --output belong together" in done.stderr


@pytest.fixture
def other_set(split_workspace):
    """The settings of a workspace with a run, and with another data set of the same clips, `other`."""
    config = with_training(split_workspace(), epochs=1)
    train_and_evaluate(config)
    for folder in (Path("data/shards"), Path("data_manifests")):
        shutil.copytree(folder / "demo", folder / "other")
    return config


def test_a_run_is_evaluated_on_another_data_set_without_dev(other_set):
    run = open_run(other_set.runs / "seed-0")
    evaluation = evaluate_split(run, other_set.of_dataset("other"), "val", Accelerator(cpu=True))
    assert len(evaluation.predictions.clip_ids) == 9
    assert (evaluation.dev, evaluation.scaled, evaluation.provenance.roles) == (None, None, [])
    with pytest.raises(UserError, match="other has no dev clips for this run"):
        evaluate_split(run, other_set.of_dataset("other"), "dev", Accelerator(cpu=True))


def test_a_data_set_with_other_classes_is_refused(other_set):
    path = Path("data_manifests/other") / SUMMARY_NAME
    summary = path.read_text().replace('"neutral"', '"calm"')
    path.unlink()  # it is a link to that of all tests
    path.write_text(summary)
    run = open_run(other_set.runs / "seed-0")
    with pytest.raises(
        UserError, match=r"^other has the classes positive, calm, negative, and the run positive, neutral"
    ):
        evaluate_split(run, other_set.of_dataset("other"), "val", Accelerator(cpu=True))


def test_dev_of_other_splits_than_those_of_the_training_is_not_taken_for_held_out(split_workspace):
    config = with_training(split_workspace(), epochs=1)
    train_and_evaluate(config)
    assignments = read_assignments(config.manifests, None)
    fitted = next(row.source_id for row in assignments if row.role == "fit")
    moved = [dataclasses.replace(row, role="dev") if row.source_id == fitted else row for row in assignments]
    write_assignments(moved, config.manifests)
    run = open_run(config.runs / "seed-0")
    with pytest.raises(UserError, match="demo has no dev clips for this run"):
        evaluate_split(run, config, "dev", Accelerator(cpu=True))
    assert evaluate_split(run, config, "val", Accelerator(cpu=True)).dev is None


@pytest.mark.parametrize(("folds", "number"), [(None, 9), (3, r"\d")])
def test_val_clips_that_a_run_was_fitted_on_are_not_scored(split_workspace, folds, number, tmp_path):
    config = with_training(split_workspace(select_on="none", fit_on="train_and_val", folds=folds), epochs=1)
    run_id = RunId(0, folds and 1)
    train_model(config, run_id, Accelerator(cpu=True), tmp_path / "run", tmp_path / "checkpoints")
    run = open_run(tmp_path / "run")
    with pytest.raises(UserError, match=f"^the run was fitted on {number} of the val clips of demo, so"):
        evaluate_split(run, config, "val", Accelerator(cpu=True))
    (config.manifests / SPLITS_NAME).unlink()
    with pytest.raises(UserError, match=r"^the run was fitted on some of the val clips of demo, so"):
        evaluate_split(run, config, "val", Accelerator(cpu=True))


def test_without_a_clip_to_report_there_is_no_evaluation(split_workspace):
    config = split_workspace(select_on="none", fit_on="train_and_val")
    with pytest.raises(UserError, match="fit_on is train_and_val: every labelled clip is trained on"):
        evaluate_seed(config, 0, Accelerator(cpu=True))


def test_a_run_of_another_recipe_seed_data_set_or_split_is_not_evaluated(own, tmp_path, monkeypatch):
    _, config = own
    monkeypatch.chdir(shutil.copytree(Path.cwd(), tmp_path / "copy"))
    assignments = read_assignments(config.manifests, None)
    assert open_matching_run(config, RunId(0))
    shutil.copytree(config.runs / "seed-0", config.runs / "seed-3")
    for folder in (config.runs.parent, config.manifests):
        folder.with_name("other").symlink_to(folder.name)
    for name, settings, seed in (
        ("recipe", with_training(config, epochs=9), 0),
        ("seed or fold", config, 3),
        ("data set", config.of_dataset("other"), 0),
        ("split", config, 0),
    ):
        if name == "split":
            write_assignments([dataclasses.replace(row, role="fit") for row in assignments], config.manifests)
        with pytest.raises(
            UserError, match=f"{RUN_NAME} was made with another {name} than the settings name; run the train"
        ):
            open_matching_run(settings, RunId(seed))
