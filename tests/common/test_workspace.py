"""What the copies of queued experiments share with their workspace."""

from pathlib import Path

import pytest

from pipeline.common.workspace import is_copy, link_folder, original_workspace


def test_a_copy_knows_its_workspace(tmp_path, monkeypatch):
    copy = tmp_path / "project/.dvc/tmp/exps/tmpab12/"
    copy.mkdir(parents=True)
    for folder, original, expected in (
        (copy, tmp_path / "project", True),
        (tmp_path / "project", tmp_path / "project", False),
        (tmp_path / "project/.dvc/tmp", tmp_path / "project/.dvc/tmp", False),
    ):
        monkeypatch.chdir(folder)
        assert original_workspace() == original
        assert is_copy() is expected


def test_a_linked_folder_takes_no_space_and_does_not_depend_on_the_other(tmp_path):
    source, target = tmp_path / "source", tmp_path / "deep/target"
    (source / "inner").mkdir(parents=True)
    (source / "inner/file").write_text("first")
    link_folder(source, target)
    assert (target / "inner/file").stat().st_ino == (source / "inner/file").stat().st_ino
    (source / "new").write_text("second")
    (source / "new").replace(source / "inner/file")
    assert (target / "inner/file").read_text() == "first"
    link_folder(source, target)
    assert (target / "inner/file").read_text() == "second"
    assert [path.name for path in target.parent.iterdir()] == ["target"]


def test_a_link_that_fails_leaves_the_earlier_folder(tmp_path, monkeypatch):
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    (source / "file").write_text("new")
    target.mkdir()
    (target / "file").write_text("old")
    monkeypatch.setattr(Path, "replace", lambda *_: pytest.fail("not reached"))
    (source / "file").unlink()
    (source / "file").symlink_to("missing")
    with pytest.raises(BaseException):  # noqa: B017, PT011 - whatever it is, the folder stays
        link_folder(source / "absent", target)
    assert (target / "file").read_text() == "old"
