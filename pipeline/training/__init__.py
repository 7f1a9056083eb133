"""The training loop: its state, its checkpoints, its processes."""
