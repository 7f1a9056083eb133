"""No training is done twice, and none takes the place of another."""

import shutil
from pathlib import Path

import pytest
from accelerate import Accelerator
from safetensors.torch import load_file
from short_trainings import (
    Killed,
    count_calls,
    equal,
    history,
    interrupt,
    kill,
    terminate,
    train,
    with_training,
)

from pipeline.common.config import RunId
from pipeline.common.errors import Stopped, UserError
from pipeline.common.workspace import link_folder
from pipeline.models.run_record import MODEL_NAME, RUN_NAME, read_run_record
from pipeline.training import loop
from pipeline.training.checkpoint import latest_step
from pipeline.training.experiment import STORE, checkpoints_of, train_seeds
from pipeline.training.finished_runs import place_in, reuse_run
from pipeline.training.loop import train_model


@pytest.fixture
def steps(monkeypatch):
    """The steps that are taken from now on."""
    taken = []
    monkeypatch.setattr(loop, "seed_dropout", count_calls(loop.seed_dropout, taken))
    return taken


@pytest.fixture
def config(split_workspace, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    return split_workspace()


def test_a_run_that_gave_way_to_another_comes_back_without_training(config, steps):
    folder, other = config.runs / "seed-0", with_training(config, weight_decay=0.5)
    train_seeds(config, [0], "exact")
    first = {path.name: path.read_bytes() for path in folder.iterdir()}
    train_seeds(other, [0], "exact")
    assert read_run_record(folder).config.recipe.training.weight_decay == 0.5
    assert len(steps) == 12
    train_seeds(config, [0], "exact")
    assert len(steps) == 12
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == first
    assert len(list(STORE.iterdir())) == 2


def test_kept_runs_whose_fingerprints_begin_alike_do_not_take_each_others_place():
    assert len({place_in(STORE, f"{'0' * 15}{digit}{'0' * 48}", []) for digit in "0123456789abcdef"}) == 16


def test_a_finished_run_that_no_store_has_is_kept_when_it_gives_way(finished, tmp_path):
    folder, store = shutil.copytree(finished[0], tmp_path / "run"), tmp_path / "store"
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert not reuse_run("the fingerprint of another training", folder, store)
    assert not list(folder.iterdir())
    assert reuse_run(read_run_record(finished[0]).fingerprint, folder, store)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_finished_run_lies_on_the_disk_once(config):
    train_seeds(config, [0], "exact")
    (kept,) = STORE.iterdir()
    assert {path.stat().st_ino for path in kept.iterdir()} == {
        path.stat().st_ino for path in (config.runs / "seed-0").iterdir()
    }


def test_a_seed_that_is_added_trains_alone(config, steps):
    train_seeds(config, [0], "exact")
    both = config.model_copy(update={"seeds": [0, 1]})
    for seed in both.seeds:
        train_seeds(both, [seed], "exact")
    assert len(steps) == 12
    assert read_run_record(config.runs / "seed-1").run == RunId(1)


def test_a_fold_trains_the_same_alone_and_after_others(split_workspace, tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    config = split_workspace(folds=3)
    train_seeds(config, [0], "exact")
    train_model(config, RunId(0, 3), Accelerator(cpu=True), tmp_path / "run", tmp_path / "checkpoints")
    alone, among = (
        load_file(folder / "model.safetensors") for folder in (tmp_path / "run", config.runs / "seed-0/fold-3")
    )
    assert equal(alone, among)


def test_a_run_without_folds_leaves_its_folder_when_a_fold_is_trained_and_comes_back(split_workspace, monkeypatch):
    """It would be taken for the newest run there, and its folder in the store would hold the folds."""
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    config = split_workspace()
    folder, first = config.runs / "seed-0", None
    for _ in range(2):  # when the runs are trained, and when they are found again
        train_seeds(split_workspace(), [0], "exact")
        files = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
        assert files == (first := first or files)
        train_seeds(split_workspace(folds=3), [0], "exact")
        assert sorted(path.name for path in folder.iterdir()) == ["fold-1", "fold-2", "fold-3"]
    assert not list(STORE.glob("*/fold-*"))


def test_a_run_that_was_exported_to_the_folder_of_all_seeds_stays_there(config, steps):
    train_seeds(config, [0], "exact")
    shutil.copytree(config.runs / "seed-0", config.runs, dirs_exist_ok=True)
    before = {path.name: path.read_bytes() for path in config.runs.iterdir() if path.is_file()}
    train_seeds(config, [0], "exact")
    train_seeds(with_training(config, weight_decay=0.5), [0], "exact")
    assert {path.name: path.read_bytes() for path in config.runs.iterdir() if path.is_file()} == before


def test_the_store_keeps_a_run_as_it_was_trained_whatever_became_of_its_folder(config, steps):
    folder = config.runs / "seed-0"
    train_seeds(config, [0], "exact")
    history = (folder / "history.csv").read_text()
    (folder / "history.csv").unlink()  # a link to the file in the store
    (folder / "history.csv").write_text("of another run")
    train_seeds(with_training(config, weight_decay=0.5), [0], "exact")
    train_seeds(config, [0], "exact")
    assert len(steps) == 12
    assert (folder / "history.csv").read_text() == history


def test_a_queued_experiment_finds_and_keeps_runs_in_the_workspace_that_it_was_copied_from(config, steps, monkeypatch):
    workspace = Path.cwd()
    copy = workspace / ".dvc/tmp/exps/tmp1"
    for name in ("data", "data_manifests"):
        link_folder(workspace / name, copy / name)
    train_seeds(config, [0], "exact")
    monkeypatch.chdir(copy)
    train_seeds(config, [0], "exact")
    assert len(steps) == 6, "the run of the workspace is taken"
    train_seeds(with_training(config, weight_decay=0.5), [0], "exact")
    assert len(steps) == 12
    assert (copy / config.runs / "seed-0" / RUN_NAME).exists()
    assert len(list((workspace / STORE).iterdir())) == 2


def test_queued_experiments_of_one_recipe_have_checkpoints_of_their_own(config, monkeypatch):
    workspace = Path.cwd()
    copy = workspace / ".dvc/tmp/exps/tmp1"
    copy.mkdir(parents=True)
    assert checkpoints_of(config, RunId(0)) == config.checkpoints / "seed-0"
    monkeypatch.chdir(copy)
    first, second = (checkpoints_of(each, RunId(0)) for each in (config, with_training(config, weight_decay=0.5)))
    assert first != second
    assert first.parent == workspace / config.checkpoints


def test_a_run_that_cannot_be_read_is_neither_taken_for_a_finished_one_nor_removed(ready, tmp_path):
    train(ready, tmp_path)
    (tmp_path / "run" / RUN_NAME).write_text("{}")
    with pytest.raises(UserError, match="run holds a run that this version cannot read; move it elsewhere"):
        train(ready, tmp_path)
    assert (tmp_path / "run" / MODEL_NAME).exists()


def test_a_run_that_was_continued_with_changes_is_kept_and_is_no_answer_to_a_training_without_them(
    config, steps, monkeypatch
):
    other = with_training(config, weight_decay=0.5)
    with monkeypatch.context() as patch:
        interrupt(patch, 1, terminate)
        with pytest.raises(Stopped):
            train_seeds(config, [0], "exact")
    train_seeds(other, [0], "changed")
    (kept,) = STORE.iterdir()
    assert read_run_record(kept).resumed_with_changes
    taken = len(steps)
    train_seeds(other, [0], "exact")
    assert len(steps) == taken, "its own folder still holds it"
    shutil.rmtree(config.runs / "seed-0")
    train_seeds(other, [0], "exact")
    assert len(steps) == taken + 6
    assert not read_run_record(config.runs / "seed-0").resumed_with_changes
    assert len(list(STORE.iterdir())) == 2


def test_an_unfinished_training_outlives_a_finished_one_that_is_found_again(config, steps, monkeypatch):
    other, checkpoints = with_training(config, weight_decay=0.5), config.checkpoints / "seed-0"
    train_seeds(config, [0], "exact")
    with monkeypatch.context() as patch:
        interrupt(patch, 1, terminate)
        with pytest.raises(Stopped):
            train_seeds(other, [0], "exact")
    train_seeds(config, [0], "exact")
    assert latest_step(checkpoints) == 2
    train_seeds(other, [0], "exact")
    assert len(steps) == 12, "no step of either is taken twice"
    assert not checkpoints.exists()


def test_a_training_that_starts_afresh_and_is_killed_is_not_taken_for_the_finished_one(ready, tmp_path, monkeypatch):
    first = train(ready, tmp_path)
    with monkeypatch.context() as patch:
        interrupt(patch, 4, kill)
        with pytest.raises(Killed):
            train(ready, tmp_path, resume="afresh")
    assert not (tmp_path / "run" / RUN_NAME).exists()
    assert equal(first, train(ready, tmp_path))
    assert len(history(tmp_path)) == 2
