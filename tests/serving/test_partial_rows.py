"""`python -m stages.predict --output` that is interrupted goes on where it stopped."""

import json
import os
import shutil

import pytest
from helpers import files_of_at_most

import stages.predict
from pipeline.common.errors import UserError
from pipeline.serving.partial_rows import PartialRows
from pipeline.serving.rows import NoPrediction, Prediction, printable


@pytest.fixture
def predict(trained, one_clip, tmp_path, monkeypatch):
    """Predicts four files, one of them no clip, in this process; returns the names of those, and the exit code."""
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    for name in ("a.mp4", "b.mp4", "d.mp4"):
        shutil.copy(one_clip, tmp_path / name)
    (tmp_path / "c.mp4").write_text("not a video")
    show = stages.predict.show

    def predict(*options, stops_at=None):
        predicted = []

        def noted(path, *rest):
            if path.name == stops_at:
                raise KeyboardInterrupt
            predicted.append(path.name)
            return show(path, *rest)

        words = ["predict", str(tmp_path), "--run", str(trained), "--output", str(tmp_path / "p.jsonl"), *options]
        monkeypatch.setattr("sys.argv", words)
        monkeypatch.setattr(stages.predict, "show", noted)
        with pytest.raises(SystemExit) as end:
            stages.predict.main()
        return predicted, end.value.code

    return predict


def test_a_second_call_predicts_what_the_first_one_left(predict, tmp_path):
    output = tmp_path / "p.jsonl"
    assert predict() == (["a.mp4", "b.mp4", "c.mp4", "d.mp4"], 3)
    expected = output.read_text()
    output.unlink()
    assert predict(stops_at="d.mp4") == (["a.mp4", "b.mp4", "c.mp4"], 130)
    assert not output.exists()
    with (tmp_path / "p.jsonl.partial").open("a") as partial:
        partial.write('{"file": "torn')
    os.utime(tmp_path / "b.mp4", (0, 0))
    assert predict(stops_at="d.mp4") == (["b.mp4"], 130)
    assert predict() == (["d.mp4"], 3)
    assert output.read_text() == expected
    assert not (tmp_path / "p.jsonl.partial").exists()


def test_rows_of_other_windows_are_not_taken_for_those_of_files(predict, tmp_path):
    predict(stops_at="d.mp4")
    predicted, code = predict("--window", "1")
    assert (predicted, code) == (["a.mp4", "b.mp4", "c.mp4", "d.mp4"], 3)
    assert {json.loads(line).get("start_s") is None for line in (tmp_path / "p.jsonl").read_text().splitlines()} == {
        True,  # of the file that is no clip
        False,
    }


def test_a_file_of_another_kind_is_not_taken_for_rows_that_are_not_finished(tmp_path):
    (tmp_path / "p.csv.partial").write_text("my notes")
    with pytest.raises(UserError, match=r"p\.csv\.partial is needed for a while, and is another file"):
        PartialRows(tmp_path / "p.csv", {"models": ["a"]})
    assert (tmp_path / "p.csv.partial").read_text() == "my notes"


@pytest.mark.parametrize(("reason", "is_done"), [("too_long", True), ("timeout", False)])
def test_a_file_that_a_busy_machine_may_have_failed_on_is_tried_again(tmp_path, reason, is_done):
    path = tmp_path / "clip.mp4"
    rows = [
        Prediction("clip.mp4", 0.0, 1.0, "positive", {"positive": 1.0}),
        NoPrediction("clip.mp4", 1.0, 2.0, reason=reason, detail="it is"),
    ]
    PartialRows(tmp_path / "p.csv", {"model": "a"}).add(path, rows)
    assert (PartialRows(tmp_path / "p.csv", {"model": "a"}).rows_of(path) == rows) == is_done


def test_a_name_that_is_no_text_is_predicted_like_any_other(stage, trained, one_clip, tmp_path):
    names = [b"bad\xff.mp4", b"new\nline.mp4"]
    for name in names:
        shutil.copy(one_clip, os.path.join(os.fsencode(tmp_path), name))  # noqa: PTH118 - it takes bytes
    process = stage("predict", tmp_path, "--run", trained, "--output", tmp_path / "p.csv", "--explain", tmp_path / "e")
    assert process.returncode == 0, process.stderr
    assert [line.rpartition("/")[2] for line in process.stdout.splitlines()] == ["bad\\xff.mp4", "new\\nline.mp4"]
    assert len(list((tmp_path / "e").iterdir())) == 2
    assert printable("caf\u00e9 \U0001f600.mp4") == "caf\u00e9 \U0001f600.mp4"


def test_a_picture_on_a_full_disk_ends_in_a_sentence_and_leaves_nothing(stage, trained, one_clip, tmp_path):
    with files_of_at_most(20_000):
        done = stage("predict", one_clip, "--run", trained, "--explain", tmp_path)
    assert done.returncode == 2
    assert f"error: {tmp_path}/0000-{one_clip.stem}.png: File too large; free some space" in done.stderr
    assert list(tmp_path.iterdir()) == []
