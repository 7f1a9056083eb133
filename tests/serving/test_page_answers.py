"""What the page shows of a clip, a long file and a file that cannot be used, without a browser."""

from contextlib import closing

import pytest
from accelerate import Accelerator
from helpers import run_ffmpeg

from pipeline.clips.labels import CLASSES
from pipeline.models.runs import open_run
from pipeline.serving.predictor import Predictor

pytest.importorskip("gradio")
pytestmark = pytest.mark.slow  # importing Gradio takes seconds


@pytest.fixture
def answer(finished):
    """Answers an upload with the run."""
    from pipeline.serving.page import answer_upload

    with closing(Predictor(open_run(finished[0]), Accelerator(cpu=True))) as predictor:
        yield lambda path: answer_upload(path, predictor)


def test_a_clip_has_probabilities_and_a_picture_and_no_message(answer, one_clip):
    message, shares, picture = answer(one_clip)
    assert message == ""
    assert list(shares) == list(CLASSES)
    assert sum(shares.values()) == pytest.approx(1, abs=1e-5)
    assert "waveform" in [axes.get_ylabel() for axes in picture.axes]


def test_a_file_that_cannot_be_used_has_only_a_message(answer, tmp_path):
    (tmp_path / "damaged.mp4").write_text("not a video")
    message, shares, picture = answer(tmp_path / "damaged.mp4")
    assert message.startswith("This clip cannot be used:")
    assert message.endswith("(unreadable).")
    assert (shares, picture) == (None, None)


def test_a_long_file_has_the_mean_of_its_windows(answer, one_clip, tmp_path):
    run_ffmpeg("-stream_loop", "3", "-i", one_clip, "-c", "copy", tmp_path / "long.mp4")
    message, shares, picture = answer(tmp_path / "long.mp4")
    assert message.startswith("The mean of")
    assert sum(shares.values()) == pytest.approx(1, abs=1e-5)
    assert [axes.get_ylabel() for axes in picture.axes] == ["probability"]


def test_a_file_that_is_longer_than_the_page_allows_is_refused(answer, one_clip, tmp_path):
    run_ffmpeg("-stream_loop", "30", "-i", one_clip, "-c", "copy", tmp_path / "longer.mp4")
    message, shares, picture = answer(tmp_path / "longer.mp4")
    assert "more than 60 s (too_long)" in message
    assert (shares, picture) == (None, None)
