"""Locks and claims: one holder at a time, and what is left of one that was killed."""

from pathlib import Path

import pytest

from evalhpc.errors import StorageError
from evalhpc.storage.locks import claimed, exclusive


def test_a_lock_has_one_holder(tmp_path: Path) -> None:
    """The second is told so, and the lock is free afterwards."""
    with exclusive(tmp_path / "lock", "busy") as locked:
        assert locked
        with pytest.raises(StorageError, match="busy"), exclusive(tmp_path / "lock", "busy"):
            pass
    with exclusive(tmp_path / "lock", "busy"):
        pass


def test_a_claim_needs_no_locks_and_names_the_file_of_a_dead_holder(tmp_path: Path) -> None:
    """Two cannot hold the name; one that was left behind is named with what to do about it."""
    path = tmp_path / "claim"
    with claimed(path, "busy"):
        with pytest.raises(StorageError, match="busy") as refused, claimed(path, "busy"):
            pass
        assert f"rm {path}" in refused.value.hint
        assert path.exists()
    assert not path.exists()
