"""Files that are written whole or not at all."""

import pytest
from helpers import files_of_at_most

from pipeline.common.files import UNFINISHED, write_text, written_whole


def test_a_file_that_could_not_be_written_leaves_the_one_before_and_nothing_else(tmp_path):
    path = tmp_path / "notes.txt"
    write_text(path, "before")
    with files_of_at_most(1000), pytest.raises(OSError, match="File too large") as error:
        write_text(path, "after" * 1000)
    assert error.value.filename == str(path)
    assert [each.name for each in tmp_path.iterdir()] == ["notes.txt"]
    assert path.read_text() == "before"


def test_a_folder_that_was_not_finished_is_removed(tmp_path):
    def write():
        with written_whole(tmp_path / "run") as temporary:
            temporary.mkdir()
            (temporary / "weights").touch()
            assert [path.name for path in tmp_path.glob(UNFINISHED)] == [temporary.name]
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write()
    assert list(tmp_path.iterdir()) == []
