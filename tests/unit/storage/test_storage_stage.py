"""The stage folder: one staging at a time, records, and whether what they name is still there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from evalhpc.errors import StorageError
from evalhpc.models.stage import StageRecord, record_name, stage_key
from evalhpc.models.suite import Benchmark, Params
from evalhpc.storage import opens as opens_module
from evalhpc.storage.opens import Opens
from evalhpc.storage.stage import StageFolder

SUMS = Benchmark(name="sums", harness="lm-eval", task="tiny/sums")
REPO = "huggingface/hub/datasets--tiny--sums"


def record(folder: StageFolder) -> StageRecord:
    """One of everything that the folder holds."""
    return StageRecord(
        benchmark="sums", harness="lm-eval", task="tiny/sums", key=stage_key(SUMS), requests=4,
        params=SUMS.params, model_id="m", tokenizer=None, endpoints={}, whole=False,
        digest="00", same=True, isolated=True, entries=folder.entries(), fetched_bytes=1,
        staged="2026-01-01T00:00:00+00:00", staged_by="me@here", evalhpc_version="0", seconds=1,
    )  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> StageFolder:
    """A stage folder with one data set of a known commit and two files, one of them cut."""
    made = StageFolder(tmp_path / "stage")
    made.make()
    repo = made.root / REPO
    for name, text in (("refs/main", "c1\n"), ("blobs/a", "12345"), ("blobs/b.incomplete", "1")):
        path = repo / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return made


def test_an_entry_tells_its_commit_and_its_whole_files(folder: StageFolder) -> None:
    """What a cut download left counts for nothing, nor do lock files beside the data sets."""
    (folder.root / "huggingface/datasets/x.lock").touch()
    (entry,) = folder.entries()
    assert (entry.name, entry.version, entry.files, entry.bytes) == (REPO, "c1", 2, 8)


def test_a_file_that_goes_during_the_look_counts_for_nothing(
    folder: StageFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Submissions look while another staging goes on and renames what it has fetched."""
    repo = str(folder.root / REPO)
    monkeypatch.setattr(os, "walk", lambda _path: [(repo, [], ["blobs/a", "blobs/renamed"])])
    (entry,) = folder.entries()
    assert (entry.files, entry.bytes) == (1, 5)


def test_a_record_is_found_by_what_decides_on_the_data(folder: StageFolder) -> None:
    """Another limit or seed needs the same data; another tokenizer by name needs more."""
    folder.write(SUMS, record(folder))
    again = SUMS.model_copy(update={"params": Params(limit=3, seed=7, tokenizer="/a/folder")})
    other = SUMS.model_copy(update={"params": Params(tokenizer="org/words")})
    assert folder.read(again) == folder.read(SUMS) == next(folder.all_records())
    assert folder.read(other) is None
    assert "/" not in record_name(SUMS)


def test_a_damaged_record_counts_as_none(folder: StageFolder) -> None:
    """Staging again writes it anew."""
    folder.write(SUMS, record(folder))
    (folder.records / f"{record_name(SUMS)}.json").write_text("{")
    assert folder.read(SUMS) is None
    assert list(folder.all_records()) == []


@pytest.mark.parametrize("harm", ["gone", "smaller", "without a version"])
def test_what_is_lost_since_is_named(folder: StageFolder, harm: str) -> None:
    """A data set that was removed, or cut, or that its name no longer leads to."""
    staged = record(folder)
    assert staged.lost(folder.by_name()) == ()
    if harm == "gone":
        (folder.root / REPO).rename(folder.root / "aside")
    elif harm == "smaller":
        (folder.root / REPO / "blobs/a").write_text("1")
    else:
        (folder.root / REPO / "refs/main").unlink()
    assert staged.lost(folder.by_name()) == (REPO,)
    assert staged.moved(folder.by_name()) == ()


def test_another_version_is_no_loss(folder: StageFolder) -> None:
    """Another staging fetched it, and it may be smaller; what came besides is nobody's loss."""
    staged = record(folder)
    assert staged.moved(folder.by_name()) == ()
    (folder.root / REPO / "refs/main").write_text("c2\n")
    (folder.root / REPO / "blobs/a").write_text("1")
    (folder.root / "tiktoken/words").write_text("x")
    assert staged.lost(folder.by_name()) == ()
    assert staged.moved(folder.by_name()) == (REPO,)


def test_one_staging_at_a_time(folder: StageFolder) -> None:
    """The second says who is at work, instead of writing into the same caches."""
    second = StageFolder(folder.root).locked(0)
    busy = pytest.raises(StorageError, match="another `evalhpc stage`")
    with folder.locked(0), busy, second:
        pass
    with folder.locked(0):
        pass


def test_a_workspace_leaves_nothing_and_clears_what_a_killed_one_left(folder: StageFolder) -> None:
    """It is private, too: a run directory is made in it."""
    host, gone = os.uname().nodename, 1 << 30  # above the largest number of a process
    left = folder.root / "work" / f"{host}-{gone}-abc"
    left.mkdir()
    with folder.workspace() as work:
        assert not left.exists()
        assert work.stat().st_mode & 0o77 == 0
    assert list((folder.root / "work").iterdir()) == []


def test_the_workspace_of_another_staging_stays(folder: StageFolder) -> None:
    """One that lives, and one of another machine: its lock may not have been seen here."""
    other = folder.root / "work" / "login2-77-abc"
    other.mkdir()
    with folder.workspace() as first, folder.workspace() as second:
        assert first != second
        assert first.is_dir()
    assert list((folder.root / "work").iterdir()) == [other]


def test_what_is_opened_is_told_by_entry(folder: StageFolder) -> None:
    """Through a link, in a folder, at the top of a cache; not what is only listed or counted."""
    repo, other = folder.root / REPO, folder.root / "huggingface/hub/models--other"
    (repo / "snapshots/c1").mkdir(parents=True)
    (repo / "snapshots/c1/a").symlink_to("../../blobs/a")
    (folder.root / "tiktoken" / "0123").write_text("x")
    other.mkdir()
    (other / "weights").touch()
    with folder.opens() as opens:
        (repo / "snapshots/c1/a").read_text()
        (folder.root / "tiktoken" / "0123").read_text()
        assert len(list(other.iterdir())) == 1
        assert len(folder.entries()) == 3
    assert opens.files is not None
    assert folder.root / REPO / "blobs" / "a" in opens.files
    # Counting reads the commit of an entry, so nothing is counted while a harness runs.
    assert folder.entries_of(opens.files) == {REPO, "tiktoken/0123"}


def test_where_opening_cannot_be_seen_nothing_is_claimed(
    folder: StageFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Too few watches, or a file system that does not tell: None, and no error."""
    monkeypatch.setattr(opens_module, "_OPEN", 0x800)  # IN_MOVE_SELF: of what nobody does
    with folder.opens() as opens:
        (folder.root / REPO / "blobs" / "a").read_text()
    assert opens.files is None
    (folder.root / "tiktoken").rmdir()
    monkeypatch.undo()
    with Opens([folder.root / "tiktoken"], folder.root) as opens:
        pass
    assert opens.files is None


def test_a_new_folder_is_its_users_alone(tmp_path: Path) -> None:
    """Whatever the umask; one that was there keeps its mode."""
    StageFolder(tmp_path / "new").make()
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o700
    (tmp_path / "group").mkdir(mode=0o750)
    StageFolder(tmp_path / "group").make()
    assert (tmp_path / "group").stat().st_mode & 0o777 == 0o750
