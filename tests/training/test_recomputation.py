"""Recomputing activations saves memory, and changes nothing else."""

import torch
from short_trainings import train, with_model, with_training


def test_recomputed_activations_leave_the_weights_and_the_statistics_of_batch_norms_as_they_are(ready, tmp_path):
    config = with_training(with_model(ready, norm_clips=2), batch_size=4, epochs=1)  # two groups of clips in a step
    stored = train(config, tmp_path / "stored")
    recomputed = train(with_model(config, gradient_checkpointing=True), tmp_path / "recomputed")
    for name, value in stored.items():
        torch.testing.assert_close(recomputed[name], value)
