"""What is random follows from the seed, in a step from the step too, and for dropout from the process."""

import itertools

import torch
from accelerate import Accelerator
from short_trainings import equal

from pipeline.common.config import RunId
from pipeline.training.loop import seed_dropout, step_generator
from pipeline.training.setup import start_training
from pipeline.training.state import weights_of


def augmentation(seed, step):
    return tuple(torch.rand(4, generator=step_generator(seed, step)).tolist())


def dropout(seed, step, rank):
    seed_dropout(seed, step, rank)
    return tuple(torch.rand(4).tolist())


def test_each_step_of_each_seed_is_augmented_with_numbers_of_its_own():
    steps = list(itertools.product(range(3), range(3)))
    drawn = [augmentation(*step) for step in steps]
    assert len(set(drawn)) == len(steps)
    assert drawn == [augmentation(*step) for step in steps]


def test_the_dropout_of_each_step_of_each_seed_differs_and_that_of_each_process_too():
    steps = list(itertools.product(range(3), range(3), range(3)))
    drawn = [dropout(*step) for step in steps]
    assert len(set(drawn)) == len(steps)
    assert drawn == [dropout(*step) for step in steps]


def test_the_weights_begin_otherwise_for_each_seed(ready, tmp_path):
    def first_weights(seed):
        training = start_training(ready, RunId(seed), Accelerator(cpu=True), tmp_path / "run", tmp_path / "checkpoints")
        return weights_of(training.state.model)

    first, again, other = (first_weights(seed) for seed in (0, 0, 1))
    assert equal(first, again)
    kernels = [name for name, value in first.items() if value.dim() >= 2]
    assert not any(torch.equal(first[name], other[name]) for name in kernels)
