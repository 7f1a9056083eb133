"""The sums of an epoch: over its steps and over the processes, whatever their number."""

import pytest
import torch

from pipeline.training.epoch_sums import loss_and_steps, no_sums, stream_rows, sums_of_step

# Of two clips, one lacks the second stream: losses, clips that are right, clips that have the stream.
FIRST, SECOND = torch.tensor([[0.5, 1.0, 1.0], [0.25, 1.0, 1.0]]), torch.tensor([[1.5, 0.0, 1.0], [0.0, 0.0, 0.0]])
NORMS = torch.tensor([3.0, 4.0])


@pytest.mark.parametrize("processes", [1, 2])
def test_an_epoch_measures_the_same_on_any_number_of_processes(processes):
    sums = no_sums(processes, 2, torch.device("cpu"))
    for fused in (2.0, 1.0):
        for process in range(processes):
            streams = FIRST + SECOND if processes == 1 else (FIRST, SECOND)[process]
            losses = fused if processes == 1 else fused + (0.5, -0.5)[process]  # the mean over processes is `fused`
            sums[process] += sums_of_step(torch.tensor(losses), streams, NORMS, processes)
    total = sums.sum(dim=0)
    assert loss_and_steps(total) == (1.5, 2)
    scene, sound = stream_rows(7, ["scene", "sound"], total)
    assert (scene.epoch, scene.stream, scene.train_loss, scene.train_accuracy) == (7, "scene", 1.0, 0.5)
    assert (sound.stream, sound.train_loss, sound.train_accuracy) == ("sound", 0.25, 1.0)
    assert (scene.gradient_norm, sound.gradient_norm) == (3.0, 4.0)


def test_a_stream_that_no_clip_has_was_not_measured():
    sums = sums_of_step(torch.tensor(1.0), torch.zeros(1, 3), torch.zeros(1), 1)
    (row,) = stream_rows(1, ["sound"], sums)
    assert (row.train_loss, row.train_accuracy, row.gradient_norm) == (None, None, 0.0)
