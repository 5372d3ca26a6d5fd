"""The store of images: files, records, locks and what killed imports leave."""

from __future__ import annotations

from pathlib import Path

import pytest

from evalhpc.errors import StorageError
from evalhpc.models.image import ImageRecord
from evalhpc.storage.images import ImageStore, check_space, file_name, readable, record_of


def record(name: str = "x", digit: str = "a", size: int = 3, at: str = "2026-01-01") -> ImageRecord:
    """A record of `size` bytes whose digest is one digit over and over."""
    sha256 = digit * 64
    return ImageRecord(
        name=name, reference=f"team/{name}:1", file=file_name(name, sha256, ".sqsh"),
        sha256=sha256, bytes=size, format="squashfs", tool="copy", imported=at, imported_by="me@n1",
    )  # fmt: skip


def add(store: ImageStore, wanted: ImageRecord, data: bytes = b"abc") -> Path:
    """Publish `data` under the record."""
    with store.workspace(wanted.name) as work:
        (work / "image").write_bytes(data)
        store.add(work / "image", wanted)
    return store.path(wanted)


@pytest.fixture
def store(tmp_path: Path) -> ImageStore:
    made = ImageStore(tmp_path / "store")
    made.make()
    return made


def test_an_added_image_is_read_only_and_found_by_its_record(store: ImageStore) -> None:
    """Its name is its digest's; nothing else stays in the folder."""
    path = add(store, record())
    assert path.name == "x+aaaaaaaaaaaaaaaa.sqsh"
    assert path.stat().st_mode & 0o777 == 0o444
    assert store.records() == [record()] == [record_of(path)]
    assert store.present(record())
    assert store.leftovers() == store.unrecorded() == []


def test_an_image_that_is_there_is_left_alone(store: ImageStore) -> None:
    """Containers may run from it: adding it again neither replaces nor moves it."""
    inode = add(store, record()).stat().st_ino
    assert add(store, record()).stat().st_ino == inode


def test_a_damaged_image_is_replaced(store: ImageStore) -> None:
    """One of another size is no longer that image."""
    path = add(store, record())
    path.chmod(0o644)
    path.write_bytes(b"ab")
    assert not store.present(record())
    add(store, record())
    assert path.read_bytes() == b"abc"


def test_the_newest_record_comes_first(store: ImageStore) -> None:
    """A name means the image that was imported last."""
    add(store, record(digit="a", at="2026-01-02"))
    add(store, record(digit="b", at="2026-01-03"))
    add(store, record(digit="c", at="2026-01-01"))
    assert [r.sha256[0] for r in store.records()] == ["b", "a", "c"]


@pytest.mark.parametrize("text", ["", "{", '{"name": "x"}'])
def test_a_record_that_cannot_be_read_is_none(store: ImageStore, text: str) -> None:
    """Then the image has no known digest; it is not an error of every command."""
    path = add(store, record())
    path.with_name(f"{path.name}.json").write_text(text)
    assert record_of(path) is None
    assert store.unrecorded() == [path]


def test_a_failing_block_leaves_nothing(store: ImageStore) -> None:
    """The work folder goes however the block ends."""
    with pytest.raises(RuntimeError), store.workspace("x"):
        raise RuntimeError
    assert list(store.root.iterdir()) == []


def test_a_lock_has_one_holder_and_goes_with_it(store: ImageStore) -> None:
    """The second one is told who is at work; afterwards anybody can have it."""
    with store.locked("x") as certain, store.workspace("x") as work:
        assert certain
        assert store.leftovers() == sorted([work, store.root / ".x.lock"])
        with pytest.raises(StorageError, match="another import of x") as caught, store.locked("x"):
            pass
        assert work.name in caught.value.cause
        with store.locked("y"):
            pass
    with store.locked("x"):
        pass
    assert list(store.root.iterdir()) == []


def test_only_the_names_own_work_is_cleared(store: ImageStore) -> None:
    """`x.1` and `x` are different images, however alike their folders are called."""
    for name in ("x", "x.1", "x-n1.2"):
        (store.root / f".import-{name}.n1.4711.abc_d").mkdir()
    store.clear("x")
    assert sorted(path.name for path in store.leftovers()) == [
        ".import-x-n1.2.n1.4711.abc_d", ".import-x.1.n1.4711.abc_d",
    ]  # fmt: skip


def test_removing_an_image_removes_its_record(store: ImageStore) -> None:
    """And a record whose file is gone is a leftover."""
    path = add(store, record())
    store.remove(path)
    assert list(store.root.iterdir()) == []
    add(store, record()).unlink()
    assert [p.name for p in store.leftovers()] == [f"{path.name}.json"]


def test_too_little_space_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    """The folder need not exist yet; the error names both amounts."""
    check_space(tmp_path / "a" / "b", 1, "x", "h")
    with pytest.raises(StorageError, match=r"free in .*, 1000000.0 TB needed"):
        check_space(tmp_path / "a" / "b", 10**18, "x", "h")
    assert list(tmp_path.iterdir()) == []


def test_sizes_are_readable() -> None:
    """Powers of ten, as disks are sold."""
    sizes = [readable(n) for n in (0, 999, 1000, 12_300_000_000, 2 * 10**12)]
    assert sizes == ["0 B", "999 B", "1.0 kB", "12.3 GB", "2.0 TB"]
