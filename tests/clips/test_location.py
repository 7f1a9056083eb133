"""A data set that is not there is named before DVC looks for it, and a queued experiment finds it."""

from pathlib import Path

import pytest

from pipeline.clips.location import locate
from pipeline.common.errors import UserError


@pytest.fixture
def copy(tmp_path, monkeypatch):
    """The folder of a queued experiment, in a workspace whose data/vgaf is a relative link to ../VGAF."""
    (tmp_path / "VGAF").mkdir()
    (tmp_path / "VGAF/Train_labels.txt").touch()
    (tmp_path / "project/data").mkdir(parents=True)
    (tmp_path / "project/data/vgaf").symlink_to("../../VGAF")
    folder = tmp_path / "project/.dvc/tmp/exps/tmp1"
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def dataset(demo_config):
    """Makes the settings of a recorded data set."""
    return lambda **changes: demo_config.dataset.model_copy(update={"synthesize": {}, **changes})


def test_a_missing_data_set_and_a_broken_link_are_named_with_what_to_do(dataset, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"data set data/vgaf does not exist; link it \(mkdir -p data && ln -s"):
        locate(dataset(root="data/vgaf"))
    Path("data").mkdir()
    Path("data/vgaf").symlink_to("nowhere")
    with pytest.raises(UserError, match=r"data/vgaf does not exist \(the link is broken\)"):
        locate(dataset(root="data/vgaf"))


def test_a_set_that_is_drawn_need_not_exist_yet(demo_config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    locate(demo_config.dataset)


def test_a_queued_experiment_finds_what_a_relative_link_names(dataset, copy):
    locate(dataset(root="data/vgaf"))
    assert (copy / "data/vgaf/Train_labels.txt").exists()


def test_a_queued_experiment_finds_the_clips_of_a_table(dataset, copy):
    folder = copy.parents[3] / "data/mine"
    folder.mkdir()
    (folder / "clips.csv").touch()
    locate(dataset(root="data/mine/clips.csv", table="data/mine/clips.csv"))
    assert (copy / "data/mine/clips.csv").exists()


def test_a_path_that_leaves_the_workspace_is_asked_for_in_full(dataset, copy):
    with pytest.raises(UserError, match=r"name it by its full path, .*/project/\.\./VGAF"):
        locate(dataset(root="../VGAF"))
