"""Evaluators: pure functions from tensors to named numbers, units in the names."""
