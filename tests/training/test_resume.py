"""A training that is interrupted and started again."""

import contextlib
import itertools
import json
import os
import shutil
import signal
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from accelerate import Accelerator
from short_trainings import (
    Killed,
    count_calls,
    equal,
    history,
    interrupt,
    kill,
    terminate,
    train,
    with_all_checkpoints,
    with_model,
    with_training,
)

from pipeline.common.config import RunId
from pipeline.common.errors import Stopped, UserError
from pipeline.common.machine import exclusive_use
from pipeline.models.run_record import RUN_NAME, STREAMS_NAME
from pipeline.training import distributed, identity, loop
from pipeline.training.checkpoint import latest_step
from pipeline.training.setup import resume_training, start_training


@pytest.fixture(scope="module")
def uninterrupted(workspace, tmp_path_factory):
    """A training of six steps in which everything has a state or is drawn: its settings, its weights and its folder."""
    average = {"ema_decay": 0.5, "ema_warmup": True}
    balance = {"stream_loss": 0.3, "class_balance": "draws", "freeze_epochs": 1, "learning_rate_floor": 0.1}
    config = with_model(with_training(workspace[1], micro_batches=2, **average, **balance), frames=2)
    config = with_all_checkpoints(config)
    folder = tmp_path_factory.mktemp("uninterrupted")
    with contextlib.chdir(workspace[0]):
        return config, train(config, folder), folder


@pytest.mark.parametrize("step", range(6))
def test_a_training_killed_at_any_step_and_resumed_gives_the_same_weights(
    ready, uninterrupted, tmp_path, monkeypatch, step
):
    config, whole, folder = uninterrupted
    with monkeypatch.context() as patch:
        interrupt(patch, step, kill)
        with pytest.raises(Killed):
            train(config, tmp_path / "resumed")
    steps = []
    interrupt(monkeypatch, 5, lambda: steps.append(5))
    monkeypatch.setattr(loop, "seed_dropout", count_calls(loop.seed_dropout, steps))
    assert equal(whole, train(config, tmp_path / "resumed"))
    assert history(tmp_path / "resumed") == history(folder)
    assert (tmp_path / "resumed/run" / STREAMS_NAME).read_text() == (folder / "run" / STREAMS_NAME).read_text()
    assert len(steps) == 6 - step + 1, "no step was done twice"


def test_a_training_killed_while_it_saves_continues_from_the_checkpoint_before(ready, tmp_path, monkeypatch):
    config = with_all_checkpoints(ready)
    whole = train(config, tmp_path / "whole")
    original = Path.replace
    saved = []

    def replace(path, target):
        if path.name.startswith(".step-"):
            saved.append(path)
            if len(saved) == 3:
                raise Killed
        return original(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", replace)
        with pytest.raises(Killed):
            train(config, tmp_path / "resumed")
    assert sorted(path.name for path in (tmp_path / "resumed/checkpoints").iterdir()) == [
        ".step-00000003.tmp",
        "step-00000002",
    ]
    assert equal(whole, train(config, tmp_path / "resumed"))


@pytest.mark.parametrize("step", [1, 2])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_the_step_and_the_same_command_continues(ready, tmp_path, monkeypatch, number, step):
    whole = train(ready, tmp_path / "whole")
    with monkeypatch.context() as patch:
        interrupt(patch, step, lambda: os.kill(os.getpid(), number))
        with pytest.raises(Stopped, match="saved after"):
            train(ready, tmp_path / "resumed")
    assert latest_step(tmp_path / "resumed/checkpoints") == step + 1
    assert equal(whole, train(ready, tmp_path / "resumed"))


def test_a_second_ctrl_c_ends_a_training_at_once(ready, tmp_path, monkeypatch):
    def press_twice():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)  # as a launcher passes it on
        time.sleep(0.1)
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(distributed, "IMPATIENT_S", 0.05)
    interrupt(monkeypatch, 1, press_twice)
    with pytest.raises(KeyboardInterrupt):
        train(ready, tmp_path)
    assert latest_step(tmp_path / "checkpoints") is None


def test_a_checkpoint_is_saved_so_many_minutes_after_the_last_one(ready, tmp_path, monkeypatch):
    now_s = itertools.count(
        0, 20
    )  # the clock goes on whenever it is read: after a step, after an epoch, and when saving
    saved, save = [], loop.save_checkpoint
    monkeypatch.setattr(distributed, "time", SimpleNamespace(monotonic=lambda: next(now_s)))
    monkeypatch.setattr(
        loop,
        "save_checkpoint",
        lambda checkpoint, folder: (saved.append(checkpoint.record.position.step), save(checkpoint, folder)),
    )
    execution = ready.execution.model_copy(update={"checkpoint_minutes": 0.5})
    train(ready.model_copy(update={"execution": execution}), tmp_path)
    assert saved == [2, 3, 4, 6], "3 and 6 end their epochs"


def test_an_unfinished_training_of_something_else_is_not_continued(ready, unfinished):
    other = with_training(ready, weight_decay=0.5).model_copy(update={"seeds": [7]})
    with pytest.raises(UserError) as refused:
        train(other, unfinished)
    assert "recipe.training.weight_decay: 0.05 -> 0.5; seed: 0 -> 7" in str(refused.value)
    assert "--resume afresh" in str(refused.value)
    assert "--resume changed" in str(refused.value)


def test_changed_data_code_or_processes_make_another_training(ready, unfinished, split_workspace, monkeypatch):
    relabelled = split_workspace(split_seed=1)
    for resume in ("exact", "changed"):
        with pytest.raises(UserError, match=r"another value of the clips and their roles: it cannot be continued"):
            train(relabelled, unfinished, resume=resume)
    assert train(relabelled, shutil.copytree(unfinished, unfinished.with_name("copied")), resume="afresh")
    split_workspace()
    with monkeypatch.context() as patch:
        patch.setattr(identity, "code_digest", lambda _: "another")
        with pytest.raises(UserError, match=r"code: [0-9a-f]{12}\.\.\. -> another"):
            train(ready, unfinished)
    with monkeypatch.context() as patch:
        patch.setattr(Accelerator, "num_processes", 2)
        with pytest.raises(UserError, match="number of processes: 1 -> 2"):
            resume_training(
                start_training(ready, RunId(0), Accelerator(cpu=True), unfinished / "run", unfinished / "checkpoints"),
                "exact",
            )


def test_a_training_that_chose_on_other_clips_is_not_continued(ready, unfinished):
    other = with_training(ready, select_on="val")
    with pytest.raises(UserError, match=r"another value of recipe\.training\.select_on: it cannot be continued"):
        train(other, unfinished, resume="changed")


def test_a_changed_training_continues_or_starts_afresh_when_told_so(ready, unfinished, tmp_path_factory):
    other = with_training(ready, weight_decay=0.5)
    afresh = train(other, tmp_path_factory.mktemp("whole"))
    copy = tmp_path_factory.mktemp("copy") / "run"
    shutil.copytree(unfinished, copy)
    assert equal(afresh, train(other, copy, resume="afresh"))
    assert not equal(afresh, train(other, unfinished, resume="changed"))
    run = json.loads((unfinished / "run" / RUN_NAME).read_text())
    assert run["resumed_with_changes"] == ["recipe.training.weight_decay: 0.05 -> 0.5"]


def test_the_changes_of_a_training_are_remembered_when_it_is_resumed_again(ready, unfinished, monkeypatch):
    other = with_training(ready, weight_decay=0.5)
    with monkeypatch.context() as patch:
        interrupt(patch, 3, terminate)
        with pytest.raises(Stopped):
            train(other, unfinished, resume="changed")
    train(other, unfinished)
    run = json.loads((unfinished / "run" / RUN_NAME).read_text())
    assert run["resumed_with_changes"] == ["recipe.training.weight_decay: 0.05 -> 0.5"]


def test_another_number_of_steps_per_epoch_cannot_be_continued_with(ready, unfinished):
    with pytest.raises(UserError, match="a training run with 3 steps per epoch, now there are 6"):
        train(with_training(ready, batch_size=1), unfinished, resume="changed")


def test_fewer_epochs_than_are_finished_end_the_training(ready, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        interrupt(patch, 4, terminate)
        with pytest.raises(Stopped):
            train(ready, tmp_path)
    train(with_training(ready, epochs=1), tmp_path, resume="changed")
    assert len(history(tmp_path)) == 1


def test_a_checkpoint_of_another_network_is_named(ready, unfinished):
    other = with_model(ready, width=32)
    with pytest.raises(UserError, match="is of another network"):
        train(other, unfinished, resume="changed")


def test_a_finished_training_is_not_repeated(ready, tmp_path, monkeypatch, capsys):
    first = train(ready, tmp_path)
    steps = []
    monkeypatch.setattr(loop, "seed_dropout", count_calls(loop.seed_dropout, steps))
    assert equal(first, train(ready, tmp_path))
    assert steps == []
    assert "this training was finished before, and is kept" in capsys.readouterr().out
    train(ready, tmp_path, resume="afresh")
    assert len(steps) == 6, "all steps of the two epochs"
    train(with_training(ready, weight_decay=0.5), tmp_path)
    assert len(steps) == 12, "another training is not taken for it"


def test_two_trainings_do_not_share_a_folder(ready, tmp_path):
    with (
        exclusive_use(tmp_path / "checkpoints", "training"),
        pytest.raises(UserError, match="another training is writing"),
    ):
        train(ready, tmp_path)


def test_a_damaged_checkpoint_is_named(ready, unfinished):
    (unfinished / "checkpoints/step-00000002/model.safetensors").write_bytes(b"cut")
    with pytest.raises(UserError, match=r"step-00000002 cannot be read .*to start afresh"):
        train(ready, unfinished)
