"""On which device a command computes."""

import contextlib

import pytest
import torch
from helpers import REPOSITORY

from pipeline.common import accelerator
from pipeline.common.accelerator import start_accelerator
from pipeline.common.errors import UserError


@pytest.fixture(autouse=True)
def in_the_repository(monkeypatch):
    """Where the settings of a launch are, started by no launcher."""
    monkeypatch.delenv("ACCELERATE_USE_CPU", raising=False)
    monkeypatch.setattr(accelerator, "launch_command", lambda: None)
    with contextlib.chdir(REPOSITORY):
        yield


@pytest.fixture
def asked(monkeypatch):
    """What Accelerate is asked for, on a machine that has a GPU."""
    calls = []

    class AskedError(Exception):
        pass

    def accelerate(**settings):
        calls.append(settings["cpu"])
        raise AskedError

    def ask(config, trains):
        with pytest.raises(AskedError):
            start_accelerator(config, trains)
        return calls[-1]

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(accelerator, "Accelerator", accelerate)
    return ask


@pytest.mark.parametrize("trains", [True, False])
def test_launch_names_the_device_of_every_command(config, asked, capsys, trains):
    assert asked(config.model_copy(update={"launch": "gpu"}), trains) is False
    assert not capsys.readouterr().err
    assert asked(config.model_copy(update={"launch": "cpu"}), trains) is True
    assert (
        "this machine has a GPU, which is not used: launch is cpu. Use it with -S launch=gpu" in capsys.readouterr().err
    )


def test_the_environment_overrules_launch(config, asked, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "false")
    assert asked(config.model_copy(update={"launch": "cpu"}), False) is False


def test_a_model_that_was_exported_uses_the_gpu_that_is_there(config, asked, tmp_path):
    with contextlib.chdir(tmp_path):
        assert asked(config, False) is False


def test_without_a_gpu_a_command_that_scores_uses_the_cpu_and_one_that_asks_for_it_is_refused(config, monkeypatch):
    assert start_accelerator(config.model_copy(update={"launch": "gpu"}), trains=False).device.type == "cpu"
    monkeypatch.setenv("ACCELERATE_USE_CPU", "false")
    with pytest.raises(UserError, match="ask for a GPU and this machine has none"):
        start_accelerator(config, trains=False)


def test_a_full_gpu_ends_in_a_sentence_that_names_what_saves_memory():
    message = r"no memory left \(CUDA out of memory\. Tried.*\); set .*micro_batches higher, .*gradient_checkpointing"
    with pytest.raises(UserError, match=message), accelerator.names_full_memory():
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nSee the documentation")


@pytest.mark.parametrize("deterministic", [True, False])
def test_a_gpu_computes_the_same_bits_or_as_fast_as_it_can(deterministic, monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    settings = [(owner, "allow_tf32") for owner in (torch.backends.cudnn, torch.backends.cuda.matmul)]
    before = [getattr(owner, name) for owner, name in settings]
    try:
        accelerator.choose_gpu_arithmetic(deterministic)
        assert [getattr(owner, name) for owner, name in settings] == [not deterministic] * 2
        assert not torch.backends.cudnn.benchmark  # it would begin anew for each length of a batch
        assert torch.are_deterministic_algorithms_enabled() == deterministic
    finally:
        torch.use_deterministic_algorithms(False)
        for (owner, name), value in zip(settings, before, strict=True):
            setattr(owner, name, value)
