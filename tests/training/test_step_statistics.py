"""BatchNorm's running statistics follow from a step's clips, not from how they were shared out."""

import copy

import pytest
import torch
from accelerate import Accelerator
from torch import nn

from pipeline.models.batch_norm import run_in_groups
from pipeline.training.step_statistics import StepStatistics

STEPS, CLIPS, GROUP = 3, 8, 2


@pytest.fixture
def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, momentum=0.3)).train()


def take_steps(network, micro_batches, process_share=slice(None), accelerator=None):
    """The running statistics after some steps on the same clips."""
    statistics = StepStatistics(network)
    for step in range(STEPS):
        clips = torch.randn(CLIPS, 3, 6, 6, generator=torch.Generator().manual_seed(step))[process_share]
        statistics.begin()
        for part in clips.chunk(micro_batches):
            run_in_groups(network, part, GROUP)
            statistics.collect()
        statistics.end(micro_batches, accelerator or Accelerator(cpu=True))
    return network.state_dict()


def test_one_group_updates_them_as_pytorch_does(network):
    expected = copy.deepcopy(network)
    for step in range(STEPS):
        expected(torch.randn(CLIPS, 3, 6, 6, generator=torch.Generator().manual_seed(step))[:GROUP])
    given = take_steps(network, 1, slice(GROUP))
    for name in ("1.running_mean", "1.running_var"):
        torch.testing.assert_close(given[name], expected.state_dict()[name])


@pytest.mark.parametrize("micro_batches", [2, 4])
def test_micro_batches_do_not_change_them(network, micro_batches):
    whole, parts = take_steps(copy.deepcopy(network), 1), take_steps(network, micro_batches)
    for name, value in whole.items():
        torch.testing.assert_close(parts[name], value)


def test_each_step_counts_once_and_by_the_layers_own_momentum(network):
    before = network[1].running_mean.clone()
    statistics = StepStatistics(network)
    statistics.begin()
    run_in_groups(network, torch.randn(CLIPS, 3, 6, 6), GROUP)
    mean = network[1].running_mean.clone()
    statistics.collect()
    run_in_groups(network, torch.randn(CLIPS, 3, 6, 6), GROUP)  # a recomputation of activations runs the layers again
    statistics.end(1, Accelerator(cpu=True))
    torch.testing.assert_close(network[1].running_mean, 0.7 * before + 0.3 * mean)


def test_frozen_networks_keep_them_to_the_last_bit(network):
    network[1].running_mean.uniform_()
    before = {name: value.clone() for name, value in network.eval().state_dict().items()}
    statistics = StepStatistics(network)
    statistics.begin()
    for _ in range(7):  # the mean of seven equal numbers is rounded
        run_in_groups(network, torch.randn(GROUP, 3, 6, 6), GROUP)
        statistics.collect()
    statistics.end(7, Accelerator(cpu=True))
    assert all(torch.equal(network.state_dict()[name], value) for name, value in before.items())
