"""Audio-visual group emotion recognition: clips -> manifest -> shards -> batches -> logits -> metrics -> report.

Each module imports only from modules earlier in that line (docs/architecture.md).
"""
