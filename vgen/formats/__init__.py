"""Checkpoint formats in the wild. A format is a pair of total functions over state dicts:
``import_(export(s)) == s``."""
