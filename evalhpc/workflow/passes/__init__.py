"""Passes: the harnesses, unmodified, over the answers that are there."""
