"""Sounds on disk or from the built-in synthesiser -> packed clips -> batches."""
