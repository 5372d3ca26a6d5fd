"""Seals: what was merged once counts before all that comes later."""

from __future__ import annotations

import secrets
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from evalhpc.core.identity import Answer
from evalhpc.errors import IntegrityError, StorageError
from evalhpc.storage import merge, merge_bodies, merge_index, merge_order, seals, spool
from evalhpc.storage.atomic import remove_temporaries
from evalhpc.storage.journal import JournalWriter
from evalhpc.storage.seals import Seals, read_seals, seal, sealable
from evalhpc.storage.store import MergeReport, Store, merge_journals
from tests.storage_fixtures import KEYS, RUN, write_journal


def said(text: str) -> Answer:
    return Answer(200, "", text.encode())


def merged(folder: Path, paths: list[Path]) -> tuple[dict[bytes, bytes], MergeReport]:
    """What counts after sealing and merging these journals; and the report."""
    found = seal(folder / "seals", sealable(paths))
    report = merge_journals(paths, folder / "store.h5", RUN, seals=found)
    with Store.open(folder / "store.h5", RUN) as store:
        store.verify()
        answers = {key: store.get(key) for key in list(store.keys())}
    return {key: answer.body for key, answer in answers.items() if answer}, report


def test_a_later_answer_replaces_none_that_was_merged(tmp_path: Path) -> None:
    """A worker that wakes up and flushes into the first journal changes nothing."""
    sleeper = JournalWriter.create(tmp_path / "0.journal", RUN)
    thief = write_journal(tmp_path / "1.journal", [(KEYS[0], said("thief"))])
    paths = [tmp_path / "0.journal", thief]
    assert merged(tmp_path, paths)[0] == {KEYS[0]: b"thief"}
    sleeper.append(KEYS[0], said("sleeper"))
    sleeper.append(KEYS[1], said("new"))
    sleeper.close()
    answers, report = merged(tmp_path, paths)
    assert answers == {KEYS[0]: b"thief", KEYS[1]: b"new"}
    assert (report.duplicates, report.disagreements) == (1, 1)


pairs = st.tuples(st.sampled_from(KEYS[:4]), st.sampled_from(["a", "b", "c" * 70]))


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=20
)
@given(st.lists(st.tuples(st.integers(0, 2), pairs) | st.none(), max_size=25), st.integers(1, 9))
def test_what_counts_never_changes_as_journals_grow(
    tmp_path: Path, steps: list[tuple[int, tuple[bytes, str]] | None], size: int
) -> None:
    """However writes and merges (None) alternate: the first merge that had a key decides, by name
    and place; and through files and buckets of a few rows the store has the same bytes."""
    folder = tmp_path / secrets.token_hex(8)
    folder.mkdir()
    writers = [JournalWriter.create(folder / f"{n}.journal", RUN) for n in range(3)]
    paths = [folder / f"{n}.journal" for n in range(3)]
    since: list[tuple[int, int, bytes, str]] = []
    expected: dict[bytes, bytes] = {}
    for place, step in enumerate([*steps, None]):
        if step is not None:
            number, (key, text) = step
            writers[number].append(key, said(text))
            since.append((number, place, key, text))
            continue
        for writer in writers:
            writer.flush(sync=False)
        for _, _, key, text in sorted(since):
            expected.setdefault(key, text.encode())
        since.clear()
        assert merged(folder, paths)[0] == expected
    whole = (folder / "store.h5").read_bytes()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(spool, "SPOOL_BYTES", 1)
        for module in (spool, merge_order, merge_bodies, merge):
            patched.setattr(module, "CHUNK", size)
        patched.setattr(merge_index, "FRAMES", size)
        patched.setattr(merge_index, "WINDOW", 60 * size)
        patched.setattr(merge_order, "BUCKET", size)
        merged(folder, paths)
    assert (folder / "store.h5").read_bytes() == whole
    for writer in writers:
        writer.close()


def test_a_merge_reads_what_is_sealed_and_no_more(tmp_path: Path) -> None:
    """What is written between seal and merge waits for the next merge, a torn frame included."""
    path = tmp_path / "0.journal"
    writer = JournalWriter.create(path, RUN)
    writer.append(KEYS[0], said("first"))
    writer.flush()
    sizes = sealable([path])
    writer.append(KEYS[1], said("second"))
    writer.close()
    found = seal(tmp_path / "seals", {path.name: sizes[path.name] + 5})
    report = merge_journals([path], tmp_path / "store.h5", RUN, seals=found)
    assert (report.answers, [str(damage.reason) for _, damage in report.damaged]) == (
        1, ["torn tail"],
    )  # fmt: skip
    answers, report = merged(tmp_path, [path])
    assert answers == {KEYS[0]: b"first", KEYS[1]: b"second"}
    assert not report.damaged


def test_nothing_sealed_is_nothing_read(tmp_path: Path) -> None:
    """With seals, of which there is none yet, what comes just then does not count."""
    path = write_journal(tmp_path / "0.journal", [(KEYS[0], said("a"))])
    assert merge_journals([path], tmp_path / "store.h5", RUN, seals=Seals()).answers == 0


def test_a_seal_number_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two merges at once one takes the next number; neither is lost, nothing is left over."""
    folder = tmp_path / "seals"
    make = seals._try_seal
    raced: list[int] = []

    def slower(place: Path, number: int, grown: dict[str, int]) -> None:
        if not raced:
            raced.append(number)
            make(place, number, {"other.journal": 500})
        make(place, number, grown)

    monkeypatch.setattr(seals, "_try_seal", slower)
    found = seal(folder, {"mine.journal": 700})
    assert raced == [1]
    assert found.marks("other.journal") == ([500], [1])
    assert found.marks("mine.journal") == ([700], [2])
    assert sorted(path.name for path in folder.iterdir()) == ["1", "2"]


def test_seals_hold_what_has_grown_only(tmp_path: Path) -> None:
    """The same journals make no further seal; one that shrank is named, and its seal stays."""
    folder = tmp_path / "seals"
    assert seal(folder, {"a": 200}).count == 1
    assert seal(folder, {"a": 200}).count == 1
    found = seal(folder, {"a": 150, "b": 300})
    assert (found.marks("a"), found.marks("b")) == (([200], [1]), ([300], [2]))
    assert found.missing({"a": 150, "b": 300}) == ["a"]
    assert found.missing({"b": 300}) == ["a"]
    assert (found.number("a", 200), found.number("a", 201), found.number("c", 1)) == (1, None, None)


def test_a_damaged_seal_is_named(tmp_path: Path) -> None:
    """Without it another answer might count: no merge goes on."""
    seal(tmp_path, {"a": 200})
    (tmp_path / "1" / "journals.json").write_text("{")
    with pytest.raises(IntegrityError, match="does not say how far"):
        read_seals(tmp_path)


def test_a_seal_that_is_gone_is_named(tmp_path: Path) -> None:
    """Its journals would be sealed anew, behind answers that came later: no merge goes on."""
    for size in (200, 300, 400):
        seal(tmp_path, {"a": size})
    (tmp_path / "2").rename(tmp_path / "elsewhere")
    with pytest.raises(IntegrityError, match="2 is gone") as caught:
        seal(tmp_path, {"a": 500})
    assert f"ls -l {tmp_path}" in caught.value.hint
    (tmp_path / "elsewhere").rename(tmp_path / "2")
    assert seal(tmp_path, {"a": 500}).count == 4


def test_a_listing_during_which_seals_are_made_shows_no_gap(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may have the later of two and not the earlier; the next look has both."""
    for size in (200, 300):
        seal(tmp_path, {"a": size})
    looks = iter([frozenset({"2"}), frozenset({"1", "2"})])
    monkeypatch.setattr(seals, "look_anew", lambda _folder: next(looks))
    assert read_seals(tmp_path).count == 2


def test_a_folder_that_cannot_be_written_to_is_said_to_be_so(tmp_path: Path) -> None:
    """A file in the place of the folder of seals is an error with its path."""
    (tmp_path / "seals").write_text("")
    with pytest.raises(StorageError, match="seals"):
        seal(tmp_path / "seals", {"a": 200})


def test_what_a_killed_merge_left_is_removed(tmp_path: Path) -> None:
    """A seal without its name is a temporary folder."""
    left = tmp_path / ".1.0123456789ab.tmp"
    left.mkdir()
    (left / "journals.json").write_text("{}")
    remove_temporaries(tmp_path)
    assert not list(tmp_path.iterdir())
