"""What is random in a step follows from the seed, the step and, for dropout, the process."""

import itertools

import torch

from pipeline.training.loop import seed_dropout, step_generator


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
