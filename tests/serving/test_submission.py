"""`python -m stages.submit`: the challenge's zip, with one word for each test clip."""

import shutil
import zipfile

import pytest

from pipeline.clips.labels import CLASSES
from pipeline.common.errors import UserError
from pipeline.serving.submission import check_submission, list_test_clips, write_submission

LABELS = {"Test_1": "positive", "Test_2": "neutral", "Test_10": "negative"}


def test_the_zip_has_one_file_per_clip_with_the_word_of_its_class_and_the_same_bytes_each_time(tmp_path):
    for name in ("a.zip", "b.zip"):
        write_submission(LABELS, tmp_path / name)
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        assert {name: archive.read(name) for name in archive.namelist()} == {
            "Test_1.txt": b"Positive", "Test_2.txt": b"Neutral", "Test_10.txt": b"Negative",
        }  # fmt: skip
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()
    check_submission(tmp_path / "a.zip", list(LABELS), CLASSES)


@pytest.mark.parametrize(("labels", "reason"), [
    ({"Test_1": "positive"}, "has 1 files, expected 3"),
    (LABELS | {"Test_3": "positive"}, "has 4 files, expected 3"),
    (LABELS | {"Test_2": "happy"}, "Test_2.txt holds 'Happy', expected one of Positive, Neutral, Negative"),
])  # fmt: skip
def test_a_wrong_zip_is_refused(labels, reason, tmp_path):
    write_submission(labels, tmp_path / "a.zip")
    with pytest.raises(UserError, match=reason):
        check_submission(tmp_path / "a.zip", list(LABELS), CLASSES)


def test_the_words_are_those_of_the_classes(tmp_path):
    write_submission({"Test_1": "joy"}, tmp_path / "a.zip")
    check_submission(tmp_path / "a.zip", ["Test_1"], ["anger", "joy"])
    with pytest.raises(UserError, match=r"Test_1\.txt holds 'Joy', expected one of Anger, Fear"):
        check_submission(tmp_path / "a.zip", ["Test_1"], ["anger", "fear"])


def test_clips_are_listed_in_the_order_of_their_numbers(tmp_path):
    for number in (10, *range(1, 10)):
        (tmp_path / f"Test_{number}.mp4").touch()
    assert [path.stem for path in list_test_clips(tmp_path)] == [f"Test_{number}" for number in range(1, 11)]
    (tmp_path / "Test_4.mp4").unlink()
    with pytest.raises(UserError, match=r"lacks Test_4\.mp4 \(1 missing below Test_10"):
        list_test_clips(tmp_path)
    assert len(list_test_clips(tmp_path, gaps=True)) == 9
    (tmp_path / "2_2.mp4").touch()
    with pytest.raises(UserError, match=r"2_2\.mp4 is not named Test_<n>\.mp4"):
        list_test_clips(tmp_path)
    with pytest.raises(UserError, match=r"holds no Test_<n>\.mp4"):
        list_test_clips(tmp_path / "nowhere")


def test_the_suffix_may_be_in_capitals_and_hidden_files_are_no_clips(tmp_path):
    """As in the folders of train and val: a last clip with `.MP4` would be missing without a word."""
    for name in ("Test_1.mp4", "Test_2.MP4", "._Test_1.mp4"):
        (tmp_path / name).touch()
    assert [path.name for path in list_test_clips(tmp_path)] == ["Test_1.mp4", "Test_2.MP4"]
    (tmp_path / "Test_1.MP4").touch()
    with pytest.raises(UserError, match=r"holds Test_1\.MP4 and Test_1\.mp4, which are one clip"):
        list_test_clips(tmp_path)


def test_the_command_answers_every_clip_or_writes_no_zip(stage, finished, one_clip, tmp_path):
    (tmp_path / "Test").mkdir()
    shutil.copy(one_clip, tmp_path / "Test/Test_1.mp4")
    (tmp_path / "Test/Test_2.mp4").write_text("not a video")

    def submit(*options):
        return stage("submit", "Test", "--run", finished[0], *options, folder=tmp_path)

    refused = submit()
    assert refused.returncode == 2
    assert "Test_2.mp4 cannot be used (unreadable" in refused.stderr
    assert not (tmp_path / "submission.zip").exists()
    unknown = submit("--unreadable", "happy")
    assert unknown.returncode == 2
    assert "error: --unreadable is happy, expected one of positive, neutral, negative\n" in unknown.stderr
    process = submit("--unreadable", "neutral")
    assert process.returncode == 0, process.stderr
    assert "submission.zip: 2 answers" in process.stdout
    with zipfile.ZipFile(tmp_path / "submission.zip") as archive:
        assert archive.read("Test_2.txt") == b"Neutral"
