"""Slices of documents: every document, no task left out, nothing unsorted."""

from itertools import chain

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evalhpc.core.slices import cut_slices

INDICES = st.lists(st.integers(0, 500), min_size=1, max_size=60, unique=True)
DOCUMENTS = st.dictionaries(st.sampled_from("abcdef"), INDICES, min_size=1)


@given(DOCUMENTS, st.integers(1, 20))
def test_slices_hold_every_document_sorted_and_leave_no_task_out(
    documents: dict[str, list[int]], wanted: int
) -> None:
    """An unsorted list mislabels documents; an absent or empty one evaluates all of a task."""
    slices = cut_slices(documents, wanted)
    assert 1 <= len(slices) <= wanted
    for slice_ in slices:
        assert slice_.keys() == documents.keys()
        assert all(indices and indices == sorted(set(indices)) for indices in slice_.values())
    for task, indices in documents.items():
        found = list(chain.from_iterable(slice_[task] for slice_ in slices))
        assert set(found) == set(indices)
        if len(indices) >= len(slices):
            assert len(found) == len(indices)
            sizes = [len(slice_[task]) for slice_ in slices]
            assert max(sizes) - min(sizes) <= 1


def test_there_are_no_more_slices_than_documents() -> None:
    """Two documents for eight shards: two slices, and the short task is in both."""
    assert cut_slices({"long": [0, 1], "short": [0]}, 8) == [
        {"long": [0], "short": [0]},
        {"long": [1], "short": [0]},
    ]


def test_a_task_without_documents_is_an_error() -> None:
    """Nothing can be selected of it, and naming nothing means all."""
    with pytest.raises(ValueError, match="no documents of b"):
        cut_slices({"a": [0], "b": []}, 2)
