"""From shards to batches: which clips make a step, reading them, changing them at random."""
