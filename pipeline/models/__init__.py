"""The networks: from a batch to class probabilities, and a finished run of one."""
