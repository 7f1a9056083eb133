"""From clips to shards: which frames, which sound, within which limits, on how many processes."""
