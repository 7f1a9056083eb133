"""Audio-visual group emotion recognition: clips -> manifest -> shards -> batches -> logits -> metrics -> report.

Each module imports only from modules earlier in that line; `config` is the only one that reads a settings file.
"""
