"""On a real GPU: what the other tests hold on the CPU. `make test-gpu` runs these tests, on a machine with one."""

import numpy as np
import psutil
import pytest
import torch
from launches import Place, end

from pipeline.loading.memory import Memory, to_device
from pipeline.models.run_record import read_run_record

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU (torch.cuda.is_available() is false)"),
]


@pytest.fixture
def places(workspace, tmp_path_factory):
    """Makes folders with shards, in which stages are launched."""
    made = []

    def make(**training):
        made.append(place := Place(tmp_path_factory.mktemp("place"), *workspace))
        place.set(**{"epochs": 2, "deterministic": True, **training})
        return place

    yield make
    for place in made:
        end(place)


def killed_and_resumed(place):
    """Kill a training after its first checkpoint, and run the same command again; returns what that prints."""
    launcher = place.launch("gpu", "train")
    place.wait_for_checkpoint()
    for process in [*psutil.Process(launcher.pid).children(recursive=True), launcher]:
        process.kill()
    launcher.communicate(timeout=60)
    return place.run("gpu", "train")


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("precision", ["no", "bf16", "fp16"])
def test_a_training_that_was_killed_and_resumed_has_the_same_weights(places, precision):
    whole, resumed = places(mixed_precision=precision), places(mixed_precision=precision)
    whole.run("gpu", "train")
    assert read_run_record(whole.folder / "runs/demo/demo/seed-0").device == torch.cuda.get_device_name()
    assert "continuing after step" in killed_and_resumed(resumed)
    assert same(whole.weights, resumed.weights)


def test_a_gpu_computes_what_a_cpu_computes(places):
    on_cpu, on_gpu = places(), places()
    on_cpu.run("cpu", "train")
    on_gpu.run("gpu", "train")
    assert on_gpu.losses == pytest.approx(on_cpu.losses, abs=1e-3)


def test_channels_last_changes_no_result(places):
    plain, channels_last = places(), places(channels_last=True)
    plain.run("gpu", "train")
    channels_last.run("gpu", "train")
    assert channels_last.losses == pytest.approx(plain.losses, abs=1e-3)


def test_a_compiled_model_with_a_moving_average_is_resumed(places):
    plain, compiled = places(ema_decay=0.5), places(ema_decay=0.5, compile=True)
    plain.run("gpu", "train")
    assert "continuing after step" in killed_and_resumed(compiled)
    assert compiled.losses == pytest.approx(plain.losses, abs=1e-2)


def test_batches_arrive_whole_while_the_gpu_is_busy():
    """Pinned memory must not be written again before the GPU has read it."""
    gpu, rng, memory = torch.device("cuda"), np.random.default_rng(0), Memory(pinned=True)
    matrix, sent, expected = torch.randn(4096, 4096, device=gpu), [], []
    for _ in range(50):
        matrix = matrix @ matrix / 64  # so that the copy has to wait
        values = memory.take((2**22,), np.uint8)
        values.copy_(torch.from_numpy(rng.integers(0, 256, len(values), np.uint8)))
        expected.append(values.sum(dtype=torch.int64).item())
        sent.append(to_device(values, gpu))
        del values  # its memory may be taken by the next one
    assert [each.sum(dtype=torch.int64).item() for each in sent] == expected


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_two_gpus_give_what_one_gives(places):
    one, two = places(), places()
    one.run("gpu", "train")
    two.run("multi_gpu", "train")
    assert two.losses == pytest.approx(one.losses, abs=1e-4)
