import errno
from dataclasses import replace
from pathlib import Path

import torch

from pipeline.models.run_record import Epoch, StreamEpoch
from pipeline.training import checkpoint as checkpoints
from pipeline.training.checkpoint import (
    Checkpoint,
    CheckpointRecord,
    load_checkpoint,
    remove_own_checkpoints,
    save_checkpoint,
)
from pipeline.training.identity import differences
from pipeline.training.state import Position, optimizer_tensors, restore_optimizer


def checkpoint(step):
    position = Position(
        step,
        [Epoch(1, 4, 0.5, 0.9, None, 1e-3, 1.5, 0.25, 0, 8.0)],
        [StreamEpoch(1, "scene", 0.5, None, 0.25)],
        ["seed: 0 -> 1"],
        1.0,
        0.5,
    )
    return Checkpoint(CheckpointRecord({"seed": 0}, 4, position), {"model": {"a": torch.randn(3)}, "average": {}})


def test_a_checkpoint_is_read_as_it_was_written_and_older_ones_go(tmp_path):
    (tmp_path / ".step-00000007.tmp").mkdir()
    for step in (9, 10):
        save_checkpoint(saved := checkpoint(step), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000010"]
    loaded = load_checkpoint(tmp_path)
    assert loaded.record == saved.record
    assert torch.equal(loaded.tensors["model"]["a"], saved.tensors["model"]["a"])
    assert loaded.tensors["average"] == {}


def with_best(step, epochs, weights):
    """A checkpoint after epochs with these accuracies, with these best weights."""
    history = [Epoch(1 + i, 4, 0.5, accuracy, 0.7, 1e-3, 1.5, 0.25, 0, 8.0) for i, accuracy in enumerate(epochs)]
    record = CheckpointRecord({"seed": 0}, 4, Position(step, history))
    return Checkpoint(record, {"model": {"a": torch.randn(3)}, "best": {"a": torch.tensor(weights)}})


def test_the_best_weights_are_written_again_only_after_a_better_epoch(tmp_path):
    files, best = [], []
    for step, (epochs, weights) in enumerate([([0.5], 1.0), ([0.5, 0.4], 1.0), ([0.5, 0.4, 0.6], 2.0)]):
        save_checkpoint(with_best(step, epochs, weights), tmp_path)
        files.append((tmp_path / f"step-{step:08d}/best.safetensors").stat().st_ino)
        best.append(load_checkpoint(tmp_path).tensors["best"]["a"].item())
    assert files[0] == files[1] != files[2]
    assert best == [1.0, 1.0, 2.0]


def test_another_training_takes_no_weights_over(tmp_path):
    save_checkpoint(with_best(1, [0.5], 1.0), tmp_path)
    other = with_best(2, [0.5], 3.0)
    save_checkpoint(Checkpoint(replace(other.record, identity={"seed": 1}), other.tensors), tmp_path)
    assert load_checkpoint(tmp_path).tensors["best"]["a"] == 3.0


def test_a_damaged_earlier_checkpoint_does_not_end_a_training(tmp_path):
    save_checkpoint(with_best(1, [0.5], 1.0), tmp_path)
    (tmp_path / "step-00000001/state.json").write_text("{")
    save_checkpoint(with_best(2, [0.5], 1.0), tmp_path)
    assert load_checkpoint(tmp_path).tensors["best"]["a"] == 1.0


def test_the_best_weights_are_written_on_a_disk_without_links(tmp_path, monkeypatch):
    def without_links(path, target):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(Path, "hardlink_to", without_links)
    for step in (1, 2):
        save_checkpoint(with_best(step, [0.5], 1.0), tmp_path)
    assert load_checkpoint(tmp_path).tensors["best"]["a"] == 1.0


def test_a_half_written_checkpoint_is_not_seen(tmp_path):
    (tmp_path / ".step-00000003.tmp").mkdir()
    assert load_checkpoint(tmp_path) is None
    assert load_checkpoint(tmp_path / "absent") is None


def test_a_checkpoint_is_read_into_memory(tmp_path):
    """A file that is still mapped cannot be removed from a network disk, where its blocks would be lost."""
    save_checkpoint(checkpoint(1), tmp_path)
    loaded = load_checkpoint(tmp_path)
    assert str(tmp_path) not in Path("/proc/self/maps").read_text()
    assert torch.isfinite(loaded.tensors["model"]["a"]).all()


def test_what_cannot_be_removed_gives_a_warning_and_is_tried_again(tmp_path, monkeypatch, capsys):
    def busy(path, ignore_errors=False):
        if not ignore_errors:
            raise OSError(errno.EBUSY, "Device or resource busy")

    save_checkpoint(checkpoint(1), tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(checkpoints.shutil, "rmtree", busy)
        save_checkpoint(checkpoint(2), tmp_path)
        remove_own_checkpoints({"seed": 0}, tmp_path)
    assert "step-00000001.old cannot be removed yet (Device or resource busy)" in capsys.readouterr().err
    assert load_checkpoint(tmp_path) is None
    remove_own_checkpoints({"seed": 0}, tmp_path)
    assert not tmp_path.exists()


def test_a_checkpoint_holds_nothing_that_could_be_run(tmp_path):
    save_checkpoint(checkpoint(1), tmp_path)
    names = {path.suffix for path in (tmp_path / "step-00000001").iterdir()}
    assert names == {".safetensors", ".json"}


def test_a_checkpoint_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    flushed = []
    named = tmp_path / "step-00000001"
    monkeypatch.setattr(checkpoints, "_flush", lambda path: flushed.append((path.name, named.exists())))
    save_checkpoint(checkpoint(1), tmp_path)
    assert {name for name, has_name in flushed if not has_name} == {
        ".step-00000001.tmp",
        *(path.name for path in named.iterdir()),
    }
    assert flushed[-1] == (tmp_path.name, True), "so that the name is on the disk too"


def test_a_checkpoint_can_be_read_by_those_who_can_read_any_new_file(tmp_path):
    save_checkpoint(checkpoint(1), tmp_path)
    (tmp_path / "new").touch()
    files = (tmp_path / "step-00000001").iterdir()
    assert {path.stat().st_mode for path in files} == {(tmp_path / "new").stat().st_mode}


def test_an_optimizer_is_restored_by_parameter_names_whatever_its_groups(tmp_path):
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Linear(4, 2)).to(memory_format=torch.channels_last)

    def optimizer(groups):
        return torch.optim.AdamW([{"params": group} for group in groups])

    first = optimizer([list(model.parameters())])
    model[1](model[0](torch.randn(2, 3, 8, 8)).mean((2, 3))).sum().backward()
    first.step()
    second = optimizer([list(model[1].parameters()), list(model[0].parameters())])
    restore_optimizer(second, model, optimizer_tensors(first, model))
    for parameter in model.parameters():
        for key, value in first.state[parameter].items():
            assert torch.equal(value, second.state[parameter][key])
            assert value.stride() == second.state[parameter][key].stride()


def test_differences_are_named_and_long_values_cut():
    assert differences({"a": 1, "b": "x" * 64, "c": 0}, {"a": 2, "b": "y" * 64, "c": 0}) == [
        "a: 1 -> 2",
        f"b: {'x' * 12}... -> {'y' * 12}...",
    ]
