"""Curved and flat spaces: pure functions on batches of points."""
