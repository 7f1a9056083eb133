"""The networks: from a batch to class logits, pretrained weights for them, and the folder of a finished run."""
