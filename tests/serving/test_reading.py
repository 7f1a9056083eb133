"""Clips are read ahead by several processes, and arrive in order, as if they were read one after the other."""

import shutil
import time
from contextlib import closing

import numpy as np
import psutil
import pytest
from accelerate import Accelerator

from pipeline.extraction.reasons import MediaError
from pipeline.extraction.sandbox import Sandbox
from pipeline.models.runs import open_run
from pipeline.serving import reading
from pipeline.serving.predictor import Predictor
from pipeline.serving.reading import AHEAD


@pytest.fixture
def predictor(finished, monkeypatch):
    """Predicts files that three processes read."""
    monkeypatch.setattr(reading, "available_cores", lambda: 3)
    with closing(Predictor(open_run(finished[0]), Accelerator(cpu=True))) as predictor:
        yield predictor


@pytest.fixture
def clips(one_clip, workspace, tmp_path):
    """Ten files: different clips, and one that is none."""
    sources = sorted((workspace[0] / "data/demo/Train").glob("*.mp4"))[:9]
    for number, source in enumerate(sources):
        shutil.copy(source, tmp_path / f"{number}.mp4")
    (tmp_path / "4.mp4").write_text("not a video")
    shutil.copy(one_clip, tmp_path / "9.mp4")
    return sorted(tmp_path.glob("*.mp4"))


@pytest.fixture
def children():
    """Lists the processes that were started since the test began; the fixtures have some of their own."""
    before = set(psutil.Process().children())
    return lambda: [process for process in psutil.Process().children() if process not in before]


def test_answers_arrive_in_order_and_are_those_of_clips_that_are_read_one_by_one(
    predictor, clips, children, monkeypatch
):
    one_by_one = [predictor.predict(path) for path in clips]
    assert len(children()) == 1
    read_clip = Sandbox.read_clip

    def read_slowly(self, path, *rest):
        time.sleep(0.2 if path.name in ("0.mp4", "5.mp4") else 0)
        return read_clip(self, path, *rest)

    monkeypatch.setattr(Sandbox, "read_clip", read_slowly)
    answers = list(predictor.predict_clips((path, None) for path in clips))
    assert [answer.row.file for answer in answers] == list(map(str, clips))
    assert len(children()) == 3
    for answer, expected in zip(answers, one_by_one, strict=True):
        assert answer.row == expected.row
        if answer.clip:
            np.testing.assert_array_equal(answer.clip.probabilities, expected.clip.probabilities)
    assert [answer.clip is None for answer in answers] == [path.name == "4.mp4" for path in clips]


def test_only_a_few_clips_are_read_ahead(predictor, clips):
    asked_for = []

    def paths():
        for path in clips:
            asked_for.append(path)
            yield path, None

    answers = predictor.predict_clips(paths())
    next(answers)
    assert len(asked_for) == min(AHEAD * 3 + 1, len(clips))


def test_closing_ends_all_children_and_what_they_read(child, predictor, clips, children):
    child("sandbox_child.read_clip = lambda *_: time.sleep(60)")
    answers = list(predictor.reader.read_ahead([(clips[0], None), (clips[1], None)]))
    while len(before := children()) < 2:
        time.sleep(0.01)
    started = time.monotonic()
    predictor.close()
    assert time.monotonic() - started < 5
    assert psutil.wait_procs(before, timeout=2)[1] == []
    for answer in answers:
        with pytest.raises(MediaError):
            answer.result()


def test_what_nobody_waits_for_is_not_read(predictor, clips, monkeypatch):
    read_clip, read = Sandbox.read_clip, []

    def note(self, path, *rest):
        read.append(path)
        time.sleep(0.2)
        return read_clip(self, path, *rest)

    monkeypatch.setattr(Sandbox, "read_clip", note)
    answers = predictor.predict_clips((path, None) for path in clips)
    next(answers)
    answers.close()
    time.sleep(1)
    assert len(read) <= AHEAD * 3  # one more was asked for
