"""Noise over time: schedules, predictions, draws, solvers, guidance, frame windows.

Functions of tensors; nothing here knows a model's class.
"""
