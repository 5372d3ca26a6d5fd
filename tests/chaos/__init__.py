"""Whole runs on a real Slurm cluster while things go wrong: `python -m tests.chaos --help`."""
