"""Hostile input: what is made up (strategies), what must hold for it (checks), and how much of it.

`scripts/fuzz` runs any number of inputs; tests/unit and tests/integration run a few of each.
"""
