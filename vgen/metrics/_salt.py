"""What evaluation scenes are drawn from. Nothing that trains may import this: tests/metrics/test_suite.py
proves it."""

SALT = 0x5A17_0E7A_1CE5
