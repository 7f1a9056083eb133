"""From clips to shards: which frames and which sound are taken, within which limits, on how many processes."""
