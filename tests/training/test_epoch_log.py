"""A training says after each epoch how good it is, and keeps what it said."""

import re
from unittest.mock import Mock

import pytest
from accelerate import Accelerator
from short_trainings import Killed, interrupt, kill, terminate, train, with_training

from pipeline.common.errors import Stopped
from pipeline.models.run_record import HISTORY_NAME, LOG_NAME, read_history
from pipeline.training import history, loop

EPOCH = re.compile(
    r"epoch (\d)/2  loss \d\.\d{3}  scene alone \d\.\d\d  sound alone \d\.\d\d  "
    r"dev accuracy \d\.\d{3}, loss \d+\.\d{3}  rate \d\.\de[+-]\d\d  \d+ clips/s  "
    r"\d+% waiting for data  best \d\.\d{3} \(epoch \d\)  \d+\.\d min left"
)


def test_each_epoch_is_a_line_on_the_screen_and_in_the_log(ready, tmp_path, capsys):
    train(ready, tmp_path)
    log = (tmp_path / "run" / LOG_NAME).read_text()
    assert "seed 0, from step 0 of 6: fitted on 6 clips, epoch chosen on 3 of dev" in log
    for text in (capsys.readouterr().err, log):
        assert EPOCH.findall(text) == ["1", "2"]


def test_the_log_says_that_no_split_chooses_the_epoch(ready, tmp_path):
    train(with_training(ready, select_on="none", epochs=1), tmp_path)
    assert "fitted on 6 clips, the last epoch is taken" in (tmp_path / "run" / LOG_NAME).read_text()


def test_a_network_without_a_gradient_is_named_with_what_to_do(ready, tmp_path, monkeypatch):
    monkeypatch.setattr(history, "DEAD_NORM", 2.0)  # now every network counts as one
    train(ready, tmp_path)
    for name in ("scene", "sound"):
        advice = f"no gradient in the network for {name}: lower recipe.training.rate_scales.backbones"
        assert advice in (tmp_path / "run" / LOG_NAME).read_text()


def test_who_stops_a_training_keeps_what_it_had(ready, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        interrupt(patch, 4, kill)
        with pytest.raises(Killed):
            train(ready, tmp_path)
    assert [epoch.epoch for epoch in read_history(tmp_path / "run")] == [1]
    assert EPOCH.findall((tmp_path / "run" / LOG_NAME).read_text()) == ["1"]
    train(ready, tmp_path)
    assert [epoch.epoch for epoch in read_history(tmp_path / "run")] == [1, 2]


def test_a_resumed_training_continues_the_log_and_another_one_begins_anew(ready, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        interrupt(patch, 1, terminate)
        with pytest.raises(Stopped):
            train(ready, tmp_path)
    train(ready, tmp_path)
    log = (tmp_path / "run" / LOG_NAME).read_text()
    assert "from step 0 of 6" in log
    assert "from step 2 of 6" in log
    train(ready, tmp_path, resume="afresh")
    log = (tmp_path / "run" / LOG_NAME).read_text()
    assert "from step 2" not in log
    assert len((tmp_path / "run" / HISTORY_NAME).read_text().splitlines()) == 3


def test_trackers_get_one_learning_rate_whatever_the_factors_of_the_parts(ready, tmp_path, monkeypatch):
    logged = {}

    def log(self, values, step):
        logged.setdefault(step, set()).add(values["learning_rate"])

    monkeypatch.setattr(loop, "TRACKED_STEPS", 1)
    monkeypatch.setattr(Accelerator, "log", log)
    monkeypatch.setattr(loop, "start_trackers", lambda training: training.accelerator.trackers.append(Mock()))
    train(with_training(ready, layer_decay=0.5), tmp_path)
    assert [len(rates) for rates in logged.values()] == [1] * 6
    assert logged[6] == {read_history(tmp_path / "run")[-1].learning_rate}
