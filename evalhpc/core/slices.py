"""Cutting a benchmark's documents into slices, for harnesses that can be told which to run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

#: Task → indices of its documents, sorted.
Documents = dict[str, list[int]]


def cut_slices(documents: Mapping[str, Sequence[int]], wanted: int) -> list[Documents]:
    """At most `wanted` slices that hold every document of every task between them.

    Each takes every so many-th document, so that a data set in order of length is cut evenly.
    No slice lacks a task, because a harness evaluates a task without indices whole: where a task
    has fewer documents than there are slices, several have the same one, and ask the same.
    Raises ValueError for a task without documents.
    """
    empty = [task for task, indices in documents.items() if not indices]
    if empty:
        raise ValueError(f"no documents of {', '.join(empty)}")
    count = min(wanted, max(len(set(indices)) for indices in documents.values()))
    return [
        {task: _share(sorted(set(indices)), number, count) for task, indices in documents.items()}
        for number in range(count)
    ]


def _share(indices: list[int], number: int, count: int) -> list[int]:
    return indices[number::count] or [indices[number % len(indices)]]
