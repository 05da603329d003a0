"""Attention while it runs: who supplies keys and values."""
