"""Merging journals into a store, and reading it."""

from __future__ import annotations

import os
import random
import struct
import time
from itertools import pairwise
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from evalhpc.core.frames import payload_digest
from evalhpc.core.identity import Answer
from evalhpc.core.merkle import merkle_root
from evalhpc.errors import FrameError, IntegrityError, StorageError
from evalhpc.storage.journal import answer_meta, read_journal
from evalhpc.storage.store import Store, merge_journals
from tests.storage_fixtures import KEYS, RUN, SmallDisk, write_journal

answers = st.builds(
    Answer,
    status=st.sampled_from([200, 201, 400]),
    content_type=st.sampled_from(["application/json", "text/plain", "\ud800"]),
    body=st.binary(max_size=30),
    latency=st.floats(0, 10),
    attempts=st.integers(1, 3),
)
#: Keys that differ in NUL bytes only are the hard ones for numpy's byte strings.
keys = (
    st.sampled_from(KEYS[:6])
    | st.binary(min_size=20, max_size=20)
    | st.lists(st.sampled_from([0, 1]), min_size=20, max_size=20).map(bytes)
)
journals = st.lists(st.lists(st.tuples(keys, answers), max_size=5), max_size=4)
slow = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60
)


def written(folder: Path, contents: list[list[tuple[bytes, Answer]]]) -> list[Path]:
    return [
        write_journal(folder / f"{number:04d}.journal", items)
        for number, items in enumerate(contents)
    ]


@slow
@given(journals, st.randoms())
def test_merge_is_the_first_answer_of_each_key(
    tmp_path: Path, contents: list[list[tuple[bytes, Answer]]], order: random.Random
) -> None:
    """A store holds the first answer to each key, and its bytes do not depend on listing order."""
    out = tmp_path / "store.h5"
    out.unlink(missing_ok=True)
    paths = written(tmp_path, contents)
    expected: dict[bytes, Answer] = {}
    for key, answer in (pair for items in contents for pair in items):
        expected.setdefault(key, answer)
    report = merge_journals(paths, out, RUN)
    first = out.read_bytes()
    order.shuffle(paths)
    merge_journals([*paths, *paths[:1]], out, RUN)
    assert out.read_bytes() == first
    total = sum(map(len, contents))
    assert (report.answers, report.duplicates) == (len(expected), total - len(expected))
    assert report.bytes == sum(len(answer.body) for answer in expected.values())
    with Store.open(out, RUN) as store:
        assert {key: store.get(key) for key in store.keys()} == expected  # noqa: SIM118  # not a dict
        assert len(store) == len(expected)
        store.verify()


def test_duplicates_that_disagree_are_counted(tmp_path: Path) -> None:
    """A second answer with another body disagrees; one that was only slower does not."""
    first, slower, other = (
        Answer(200, "", b"a", 1.0),
        Answer(200, "", b"a", 2.0),
        Answer(200, "", b"b", 1.0),
    )
    paths = written(tmp_path, [[(KEYS[0], first)], [(KEYS[0], slower), (KEYS[0], other)]])
    report = merge_journals(paths, tmp_path / "store.h5", RUN)
    assert (report.answers, report.duplicates, report.disagreements) == (1, 2, 1)


def test_damage_costs_one_answer_and_is_told(tmp_path: Path) -> None:
    """A flipped byte in a journal loses that answer only, and report and log name it."""
    pairs = [(key, Answer(200, "", b"body")) for key in KEYS[:3]]
    [path] = written(tmp_path, [pairs])
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    lines: list[str] = []
    report = merge_journals([path], tmp_path / "store.h5", RUN, log=lines.append)
    assert report.answers == 2
    assert [(where, damage.reason) for where, damage in report.damaged] == [
        (path, "payload does not match its checksum")
    ]
    assert len(lines) == 1
    assert path.name in lines[0]
    assert path.read_bytes() == data


def test_a_better_journal_wins_over_a_damaged_one(tmp_path: Path) -> None:
    """Where the first copy of an answer is damaged, a later good one is taken."""
    paths = written(tmp_path, [[(KEYS[0], Answer(200, "", b"a"))]] * 2)
    data = bytearray(paths[0].read_bytes())
    data[-1] ^= 1
    paths[0].write_bytes(data)
    merge_journals(paths, tmp_path / "store.h5", RUN)
    with Store.open(tmp_path / "store.h5", RUN) as store:
        assert store.get(KEYS[0]) == Answer(200, "", b"a")
        assert store.journal(KEYS[0]) == paths[1].name


def test_a_damaged_duplicate_is_told_too(tmp_path: Path) -> None:
    """Every payload is checked, also that of an answer that would not have been taken."""
    paths = written(tmp_path, [[(KEYS[0], Answer(200, "", b"a"))]] * 2)
    data = bytearray(paths[1].read_bytes())
    data[-1] ^= 1
    paths[1].write_bytes(data)
    report = merge_journals(paths, tmp_path / "store.h5", RUN)
    assert (report.answers, report.duplicates) == (1, 0)
    assert [path for path, _ in report.damaged] == [paths[1]]


def test_a_journal_that_is_cut_meanwhile_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the journal ends before the end that it had when it was opened, the merge stops."""
    paths = written(tmp_path, [[(KEYS[0], Answer(200, "", b"a"))]])
    monkeypatch.setattr(os, "preadv", lambda fd, buffers, at: 0)
    with pytest.raises(IntegrityError, match="became shorter"):
        merge_journals(paths, tmp_path / "store.h5", RUN)
    assert list(tmp_path.iterdir()) == paths


def test_many_large_bodies(tmp_path: Path) -> None:
    """More answers than one system call takes, and bodies past the mapped window, arrive whole."""
    source = random.Random(0)
    small = [(source.randbytes(20), Answer(200, "", source.randbytes(9))) for _ in range(2500)]
    large = [(source.randbytes(20), Answer(200, "", source.randbytes(9 << 20))) for _ in range(5)]
    merge_journals(written(tmp_path, [small, large, small]), tmp_path / "store.h5", RUN)
    with Store.open(tmp_path / "store.h5", RUN) as store:
        assert all(store.get(key) == answer for key, answer in small + large)
        store.verify()


def test_another_runs_data_is_refused(tmp_path: Path) -> None:
    """Neither a journal nor a store of another run is merged or opened."""
    paths = written(tmp_path, [[(KEYS[0], Answer(200, "", b"a"))]])
    out = tmp_path / "store.h5"
    merge_journals(paths, out, RUN)
    before = out.read_bytes()
    with pytest.raises(IntegrityError, match="belongs to run ababababab"):
        merge_journals([], out, "cd" * 32)
    with pytest.raises(IntegrityError, match="belongs to run ababababab"):
        Store.open(out, "cd" * 32)
    with pytest.raises(IntegrityError, match="belongs to run ababababab"):
        merge_journals(paths, tmp_path / "other.h5", "cd" * 32)
    assert out.read_bytes() == before


def test_a_full_disk_keeps_the_old_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ENOSPC while bodies are copied raises StorageError; the present store stays."""
    paths = written(tmp_path, [[(key, Answer(200, "", b"x" * 50))] for key in KEYS[:2]])
    out = tmp_path / "store.h5"
    merge_journals(paths[:1], out, RUN)
    before = out.read_bytes()
    disk = SmallDisk(monkeypatch)
    disk.room = 0
    monkeypatch.setattr(os, "pwritev", lambda fd, pieces, at: 10)
    with pytest.raises(StorageError, match="full"):
        merge_journals(paths, out, RUN)
    assert out.read_bytes() == before
    assert not list(tmp_path.glob(".*"))


def test_a_short_gathering_write_is_completed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the kernel takes part of a batch, the rest follows in its place."""
    pairs = [(key, Answer(200, "", bytes([key[0]]) * 10)) for key in KEYS]
    paths = written(tmp_path, [pairs])
    real = os.pwritev
    monkeypatch.setattr(
        os, "pwritev", lambda fd, pieces, at: real(fd, [pieces[0], pieces[1][:3]], at)
    )
    merge_journals(paths, tmp_path / "store.h5", RUN)
    with Store.open(tmp_path / "store.h5", RUN) as store:
        assert [store.get(key) for key in KEYS] == [answer for _, answer in pairs]


def test_an_absent_store_is_empty(tmp_path: Path) -> None:
    """Before the first merge there is a store without answers."""
    with Store.open(tmp_path / "store.h5", RUN) as store:
        assert len(store) == 0
        assert store.get(KEYS[0]) is None
        assert not store.has(KEYS[0])
        store.verify()


def test_an_open_store_survives_the_next_merge(tmp_path: Path) -> None:
    """A gateway reads on from the store that it opened while a new one takes the name."""
    paths = written(
        tmp_path, [[(KEYS[0], Answer(200, "", b"a"))], [(KEYS[1], Answer(200, "", b""))]]
    )
    out = tmp_path / "store.h5"
    merge_journals(paths[:1], out, RUN)
    with Store.open(out, RUN) as store:
        merge_journals(paths, out, RUN)
        assert store.get(KEYS[0]) == Answer(200, "", b"a")
        assert store.get(KEYS[1]) is None


def test_verify_finds_a_changed_byte(tmp_path: Path) -> None:
    """A byte changed in a body or a column of the store is found."""
    out = tmp_path / "store.h5"
    pairs = [(key, Answer(200, "text/plain", b"body")) for key in KEYS[:3]]
    merge_journals(written(tmp_path, [pairs]), out, RUN)
    whole = out.read_bytes()
    out.write_bytes(whole.replace(b"body", b"bodY", 1))
    with Store.open(out, RUN) as store, pytest.raises(FrameError, match=r"1 of 3 .* 00000000"):
        store.verify()
    out.write_bytes(whole.replace(b"text/plain", b"text/plaiN", 1))
    with Store.open(out, RUN) as store, pytest.raises(FrameError, match="3 of 3"):
        store.verify()


def test_what_is_no_store_is_said_to_be_none(tmp_path: Path) -> None:
    """A cut store, another file, and a foreign HDF5 file are IntegrityErrors, not crashes."""
    out = tmp_path / "store.h5"
    merge_journals(written(tmp_path, [[(KEYS[0], Answer(200, "", b"a" * 5000))]]), out, RUN)
    whole = out.read_bytes()
    for bad in (whole[:-1000], b"hello", b""):
        out.write_bytes(bad)
        with pytest.raises(IntegrityError, match="not a store"):
            Store.open(out, RUN)
    for name, bad_table in (("journals", b"[]"), ("content_types", b"1.5e0"), ("journals", b"[5]")):
        out.write_bytes(whole)
        with h5py.File(out, "r+") as file:
            del file[name]
            file[name] = np.frombuffer(bad_table, "u1")
        with pytest.raises(IntegrityError, match="not a store"):
            Store.open(out, RUN)
    with h5py.File(out, "w") as file:
        file["x"] = 1
    with pytest.raises(IntegrityError, match="not a store"):
        Store.open(out, RUN)


def test_digests_prove_content(tmp_path: Path) -> None:
    """The store's digest is that of key, status, type and body, and gives one root per content."""
    pairs = [(key, Answer(200, "a/b", bytes(key[:1]), float(key[0]))) for key in KEYS]
    faster = [(key, Answer(a.status, a.content_type, a.body, 0.0)) for key, a in reversed(pairs)]
    roots = []
    for number, items in enumerate((pairs, faster)):
        out = tmp_path / f"{number}.h5"
        merge_journals([write_journal(tmp_path / f"{number}.journal", items)], out, RUN)
        with Store.open(out, RUN) as store:
            roots.append(merkle_root(store.pairs()))
            key, answer = pairs[3]
            meta = answer_meta(answer.status, answer.content_type)
            assert store.digest(key) == payload_digest(key, meta, answer.body)
    assert roots[0] == roots[1]


def test_a_plain_h5py_reader_finds_the_answers(tmp_path: Path) -> None:
    """The documented layout is enough to read the store without evalhpc."""
    out = tmp_path / "store.h5"
    pairs = [(key, Answer(200, "", key[:3])) for key in KEYS[:4]]
    merge_journals(written(tmp_path, [pairs]), out, RUN)
    assert [key for key, _ in pairs] == [
        item[0] for item in read_journal(tmp_path / "0000.journal", RUN) if isinstance(item, tuple)
    ]
    with h5py.File(out, "r") as file:
        blob, offsets = file["blob"][()].tobytes(), file["offsets"][()].tolist()
        assert [blob[a:b] for a, b in pairwise(offsets)] == [answer.body for _, answer in pairs]
        assert [row.tobytes() for row in file["keys"][()]] == [key for key, _ in pairs]
        assert file["blob"].chunks is None


def test_a_store_does_not_know_when_it_was_made(tmp_path: Path) -> None:
    """No second of these days stands in the file, so merging tomorrow gives the same bytes."""
    out = tmp_path / "store.h5"
    before = int(time.time())
    merge_journals(written(tmp_path, [[(KEYS[0], Answer(200, "", b"a"))]]), out, RUN)
    data, after = out.read_bytes(), int(time.time())
    assert not any(struct.pack("<I", second) in data for second in range(before, after + 1))
