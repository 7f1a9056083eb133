"""What a training starts from."""

import copy
import dataclasses
import json
import shutil

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file, save_file
from short_trainings import (
    Killed,
    interrupt,
    kill,
    train,
    with_all_checkpoints,
    with_backbones,
    with_model,
    with_training,
)
from torch import nn

from pipeline.common import provenance
from pipeline.common.config import RunId
from pipeline.common.errors import UserError
from pipeline.common.files import sha256_of
from pipeline.models.model import GroupEmotionModel
from pipeline.models.run_record import MODEL_NAME, RUN_NAME, read_run_record
from pipeline.training import loop, setup
from pipeline.training.setup import start_training, to_channels_last


@pytest.fixture
def pretrained(ready, tmp_path_factory):
    """The weights of a finished run."""
    folder = tmp_path_factory.mktemp("pretrained")
    train(ready, folder)
    return folder / "run" / MODEL_NAME


def test_training_starts_from_the_weights_of_a_file_and_says_so(ready, pretrained, tmp_path, capsys):
    config = with_backbones(ready, weights=str(pretrained))
    training = start_training(config, RunId(0), Accelerator(cpu=True), tmp_path / "run", tmp_path / "checkpoints")
    given = load_file(pretrained)
    backbones = [name for name in given if name.startswith("networks.") and not name.endswith("num_batches_tracked")]
    assert len(backbones) == 2 * 4 * 5, "four layers: a kernel, scale, shift and two statistics"
    assert all(torch.equal(training.state.model.state_dict()[name], given[name]) for name in backbones)
    assert "scene: 20 of 20 tensors from" in capsys.readouterr().out
    train(config, tmp_path)
    record = json.loads((tmp_path / "run" / RUN_NAME).read_text())
    assert record["pretrained"]["sound"]["sha256"] == sha256_of(pretrained)
    assert len(record["pretrained"]["sound"]["matched"]) == 20
    assert record["identity"]["the pretrained weights of scene"] == sha256_of(pretrained)


def test_a_run_names_the_commit_that_its_training_started_with(ready, tmp_path, monkeypatch):
    commits = iter(["at the start", "made while it trained"])
    monkeypatch.setattr(provenance, "code_version", lambda: next(commits))
    train(ready, tmp_path)
    assert read_run_record(tmp_path / "run").code_version == "at the start"


def test_other_pretrained_weights_make_another_training(ready, pretrained, tmp_path, monkeypatch):
    config = with_backbones(with_all_checkpoints(ready), weights=str(pretrained))
    with monkeypatch.context() as patch:
        interrupt(patch, 2, kill)
        with pytest.raises(Killed):
            train(config, tmp_path)
    save_file({name: value + 1 for name, value in load_file(pretrained).items()}, pretrained)
    with pytest.raises(UserError, match="the pretrained weights of scene"):
        train(config, tmp_path)


def test_classes_in_another_order_make_another_training(ready, unfinished):
    dataset = ready.dataset.model_copy(update={"classes": ready.dataset.classes[::-1]})
    with pytest.raises(UserError, match="another value of classes"):
        train(ready.model_copy(update={"dataset": dataset}), unfinished)


def test_frozen_backbones_stay_as_they_were_loaded_and_the_rest_learns(ready, pretrained, tmp_path):
    config = with_model(with_backbones(ready, weights=str(pretrained)), freeze_backbones=True)
    weights, given = train(config, tmp_path), load_file(pretrained)
    moved = {name for name in given if not torch.equal(weights[name], given[name])}
    assert moved
    assert all(name.startswith("fusion.") for name in moved)


def test_batch_norm_cannot_keep_statistics_that_were_not_loaded(ready, pretrained, tmp_path):
    nothing_loaded = with_model(ready, norm_clips=0)
    with pytest.raises(UserError, match=r"norm_clips is 0, .* 8 of 8 in the network for scene were not loaded: "):
        train(nothing_loaded, tmp_path)
    train(with_backbones(nothing_loaded, weights=str(pretrained)), tmp_path / "pretrained")
    initial = nothing_loaded.recipe.model_copy(update={"init": str(pretrained.parent)})
    train(nothing_loaded.model_copy(update={"recipe": initial}), tmp_path / "initial")
    shutil.copytree(pretrained.parent, tmp_path / "sound")
    sound = {name: value for name, value in load_file(pretrained).items() if ".scene." not in name}
    save_file(sound, tmp_path / "sound" / MODEL_NAME)
    initial = nothing_loaded.recipe.model_copy(update={"init": str(tmp_path / "sound")})
    with pytest.raises(UserError, match="8 of 8 in the network for scene were not loaded"):
        train(nothing_loaded.model_copy(update={"recipe": initial}), tmp_path / "without")


@pytest.mark.parametrize(
    ("settings", "weighted"), [({}, True), ({"ema_warmup": True}, False), ({"ema_decay": 0.5}, False)]
)
def test_a_moving_average_that_will_hold_random_weights_gives_a_warning(settings, weighted, ready, tmp_path, capsys):
    config = with_training(ready, **({"ema_decay": 0.99, "ema_warmup": False} | settings))
    start_training(config, RunId(0), Accelerator(cpu=True), tmp_path / "run", tmp_path / "checkpoints")
    warning = capsys.readouterr().err
    assert ("random weights that the networks for scene and sound start with" in warning) == weighted
    assert ("set recipe.training.ema_warmup to true" in warning) == weighted


def test_loaded_weights_may_stay_in_the_moving_average(ready, pretrained, tmp_path, capsys):
    config = with_backbones(with_training(ready, ema_decay=0.99, ema_warmup=False), weights=str(pretrained))
    start_training(config, RunId(0), Accelerator(cpu=True), tmp_path / "run", tmp_path / "checkpoints")
    assert "random weights" not in capsys.readouterr().err


@pytest.mark.parametrize("balance", ["none", "weights", "draws"])
def test_a_rare_class_weighs_as_much_or_is_drawn_as_often_as_the_others(balance, ready, tmp_path, monkeypatch):
    select = setup.select_clips

    def unbalanced(*arguments):
        clips = select(*arguments)
        common, rare = (next(clip for clip in clips.training if clip.label == label) for label in (0, 1))
        return dataclasses.replace(clips, training=[common] * 9 + [rare] * 3)

    monkeypatch.setattr(setup, "select_clips", unbalanced)
    config = with_training(ready, class_balance=balance)
    training = start_training(config, RunId(0), Accelerator(cpu=True), tmp_path / "run", tmp_path / "checkpoints")
    labels = [training.clips.training[position].label for position in training.plan_of_epoch(0).ravel()]
    assert [labels.count(0), labels.count(1)] == ([6, 6] if balance == "draws" else [9, 3])
    weights = training.state.objective.class_weights.tolist()
    assert weights == pytest.approx([12 / (2 * 9), 12 / (2 * 3), 0.0] if balance == "weights" else [1.0, 1.0, 1.0])


def test_backbones_that_are_frozen_at_first_learn_after_that(ready, pretrained, tmp_path, monkeypatch):
    config = with_training(with_backbones(ready, weights=str(pretrained)), freeze_epochs=1, epochs=2)
    ends = []
    finish = loop.finish_epoch
    monkeypatch.setattr(loop, "finish_epoch", lambda training: (finish(training), ends.append(weights_of(training))))
    train(config, tmp_path)
    given = load_file(pretrained)
    backbones = [name for name in given if name.startswith("networks.") and not name.endswith("num_batches_tracked")]
    assert all(torch.equal(ends[0][name], given[name]) for name in backbones), "with their running statistics"
    assert not any(torch.equal(ends[1][name], given[name]) for name in backbones)
    assert not torch.equal(ends[0]["fusion.heads.0.2.weight"], given["fusion.heads.0.2.weight"])


def weights_of(training):
    return {name: value.clone() for name, value in training.state.model.state_dict().items()}


def test_frozen_batch_norms_keep_their_statistics(ready, features):
    resnet = with_backbones(ready, network="resnet18", weights="resnet18.pth")
    model = with_model(resnet, freeze_backbones=True, use=["sound"]).recipe.model
    network = GroupEmotionModel(model, features, ready.dataset.classes).train()
    before = {name: value.clone() for name, value in network.state_dict().items() if "running" in name}
    network.backbones()["sound"](torch.randn(2, features.mel_bins, features.max_mel_frames))
    assert before
    assert all(torch.equal(network.state_dict()[name], value) for name, value in before.items())


def test_channels_last_is_the_layout_of_every_kernel_that_pytorch_gives_it():
    """Also of kernels with one input channel or one pixel, which are in either layout as far as PyTorch can tell."""
    inputs, groups, sizes = (1, 8, 8), (1, 8, 1), (3, 3, 1)
    layers = [
        nn.Conv2d(channels, 8, size, groups=each) for channels, each, size in zip(inputs, groups, sizes, strict=True)
    ]
    expected = copy.deepcopy(nn.Sequential(*layers)).to(memory_format=torch.channels_last)
    network = nn.Sequential(*layers)
    to_channels_last(network)
    assert [kernel.stride() for kernel in network.parameters()] == [kernel.stride() for kernel in expected.parameters()]
    for kernel, original in zip(network.parameters(), expected.parameters(), strict=True):
        assert torch.equal(kernel, original)
