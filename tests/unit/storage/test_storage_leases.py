"""Leases: one holder a unit, whatever the interleaving; the dead lose theirs."""

from __future__ import annotations

import errno
import json
import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evalhpc.errors import StorageError
from evalhpc.storage.leases import WINDOW, LeaseBook, is_stolen

TIMEOUT = 60.0
UNITS = list(range(6))


class Clock:
    """A worker's own clock; each starts somewhere else."""

    def __init__(self, start: float = 0.0) -> None:
        self.now = start

    def __call__(self) -> float:
        return self.now


def book(
    folder: Path, worker: str, clock: Clock | None = None, place: int = 0, workers: int = 1
) -> LeaseBook:
    return LeaseBook(folder, worker, TIMEOUT, clock or Clock(), place=place, workers=workers)


def test_one_claim_wins(tmp_path: Path) -> None:
    """Of two workers that claim one unit, one gets it, and nobody gets it twice."""
    a, b = book(tmp_path, "a"), book(tmp_path, "b")
    assert a.claim(1)
    assert not b.claim(1)
    assert not a.claim(1)
    assert a.still_mine(1)
    assert not b.still_mine(1)
    assert b.free_units(UNITS) == [0, 2, 3, 4, 5]


@pytest.mark.parametrize("thefts", [0, 1, 2])
def test_a_lease_tells_others_when_it_is_stolen(thefts: int, tmp_path: Path) -> None:
    """A process that works under it has no book of its own; the first and later holders alike."""
    clock = Clock()
    holder = book(tmp_path, "holder", clock)
    assert holder.claim(1)
    for number in range(thefts + 1):
        lease = holder.lease(1)
        assert not is_stolen(lease)
        thief = book(tmp_path, f"thief-{number}", clock)
        assert thief.steal_dead([1]) is None
        clock.now += TIMEOUT + 1
        assert thief.steal_dead([1]) == 1
        assert is_stolen(lease)
        holder = thief


def test_done_is_for_good(tmp_path: Path) -> None:
    """A unit that is done is not open, not free, and is not handed out again."""
    a, b = book(tmp_path, "a"), book(tmp_path, "b")
    a.claim(1)
    assert not b.is_done(1)
    a.done(1)
    a.done(1)
    assert b.is_done(1)
    assert not a.still_mine(1)
    assert b.open_units(UNITS) == [0, 2, 3, 4, 5]
    assert b.next_unit([1]) is None


def test_workers_take_turns_along_the_list(tmp_path: Path) -> None:
    """Workers with places of their own take units in order, each its own, without a clash."""
    a, b = (book(tmp_path, name, place=place, workers=2) for place, name in enumerate("ab"))
    taken = [(a.next_unit(UNITS), b.next_unit(UNITS)) for _ in range(3)]
    assert taken == [(0, 1), (2, 3), (4, 5)]
    assert a.next_unit(UNITS) is None


def test_units_are_taken_in_order_but_for_a_window(tmp_path: Path) -> None:
    """A worker that is alone takes all, none further from the first free one than the window."""
    many = list(range(100))
    alone = book(tmp_path, "alone", place=3, workers=4)
    taken: list[int] = []
    while (unit := alone.next_unit(many)) is not None:
        assert sum(1 for u in many if u < unit and u not in taken) < 4 * WINDOW
        taken.append(unit)
    assert sorted(taken) == many


def test_clashes_cost_few_looks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who is behind tries some units, then looks at the folder once and gets a free one."""
    many = list(range(200))
    late, quick = book(tmp_path, "late"), book(tmp_path, "quick")
    assert late.next_unit(many) == 0
    assert [quick.next_unit(many) for _ in range(100)] == list(range(1, 101))
    looks = []
    refresh = LeaseBook.refresh

    def counted(self: LeaseBook) -> None:
        looks.append(1)
        refresh(self)

    monkeypatch.setattr(LeaseBook, "refresh", counted)
    assert late.next_unit(many) == 101
    assert looks == [1]


def test_a_silent_worker_loses_its_unit(tmp_path: Path) -> None:
    """After `timeout` without a beat on the watcher's clock, and not before, a unit is stolen."""
    clock = Clock(1e6)
    dead, thief = book(tmp_path, "dead", Clock(5)), book(tmp_path, "thief", clock)
    dead.claim(1)
    assert thief.next_unit([1]) is None
    clock.now += TIMEOUT - 1
    assert thief.next_unit([1]) is None
    assert not thief.any_open([1])
    clock.now += 1
    assert thief.any_open([1])
    assert thief.next_unit([1]) == 1
    assert thief.still_mine(1)
    assert not dead.still_mine(1)


def test_a_unit_done_during_the_look_is_not_taken_from_who_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between another's listing and its look at the heartbeat a worker ends: nothing is stolen."""
    a, b = book(tmp_path, "a"), book(tmp_path, "b")
    a.claim(1)
    refresh = LeaseBook.refresh

    def then_a_ends(self: LeaseBook) -> None:
        refresh(self)
        a.done(1)
        a.end({})

    monkeypatch.setattr(LeaseBook, "refresh", then_a_ends)
    assert not b.any_open([1])
    assert b.steal_dead([1]) is None


def test_a_beating_worker_keeps_its_unit(tmp_path: Path) -> None:
    """As long as the counter moves within `timeout`, nothing is stolen."""
    clock = Clock()
    slow, thief = book(tmp_path, "slow"), book(tmp_path, "thief", clock)
    slow.claim(1)
    for _ in range(5):
        assert thief.next_unit([1]) is None
        clock.now += TIMEOUT - 1
        slow.beat({"answers": 3})
    assert slow.still_mine(1)


def test_only_one_thief_wins(tmp_path: Path) -> None:
    """Of thieves that all saw the same dead holder, one gets the unit, however late others try."""
    clock = Clock()
    book(tmp_path, "dead").claim(1)
    thieves = [book(tmp_path, f"thief-{number}", clock) for number in range(3)]
    for thief in thieves:
        assert thief.steal_dead([1]) is None
    clock.now += TIMEOUT
    # Each has listed and judged before any of them acts.
    assert all(thief._dead_units([1]) == [1] for thief in thieves)
    won = [thief._take(1, 1) for thief in thieves]
    assert won == [True, False, False]
    assert [thief.still_mine(1) for thief in thieves] == won


def test_a_dead_thief_is_robbed_in_turn(tmp_path: Path) -> None:
    """A thief that dies loses the unit like any holder."""
    clock = Clock()
    book(tmp_path, "first").claim(1)
    second, third = book(tmp_path, "second", clock), book(tmp_path, "third", clock)
    second.steal_dead([1])
    clock.now += TIMEOUT
    assert second.steal_dead([1]) == 1
    assert third.steal_dead([1]) is None
    clock.now += TIMEOUT
    assert third.steal_dead([1]) == 1
    assert not second.still_mine(1)


def test_a_worker_that_ends_gives_up_at_once(tmp_path: Path) -> None:
    """What a worker held when it said goodbye can be taken without waiting."""
    leaving, other = book(tmp_path, "leaving"), book(tmp_path, "other")
    leaving.claim(1)
    leaving.end({"answers": 0})
    assert not leaving.still_mine(1)
    assert other.any_open([1])
    assert other.next_unit([1]) == 1


def test_a_requeued_worker_gets_its_own_units_back(tmp_path: Path) -> None:
    """The next life of a worker of the same name does not keep its first life's leases alive."""
    book(tmp_path, "a").claim(1)
    reborn, other = book(tmp_path, "a"), book(tmp_path, "other")
    assert other.any_open([1])
    assert reborn.next_unit([1]) == 1
    assert other.next_unit([1]) is None


def test_nothing_to_do_is_seen_before_a_model_starts(tmp_path: Path) -> None:
    """With every unit held by the living or done, there is nothing open."""
    a, late = book(tmp_path, "a"), book(tmp_path, "late")
    a.claim(0)
    a.claim(1)
    a.done(1)
    assert not late.any_open([0, 1])
    assert late.any_open([0, 1, 2])


def test_a_heartbeat_carries_figures(tmp_path: Path) -> None:
    """Whoever watches reads the figures and a counter that rises."""
    a = book(tmp_path, "a")
    path = tmp_path / "workers" / "a.json"
    before = json.loads(path.read_bytes())["counter"]
    a.beat({"answers": 7})
    seen = json.loads(path.read_bytes())
    assert seen["stats"] == {"answers": 7}
    assert seen["counter"] > before
    assert not seen["ended"]


def no_links(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(source: Path, target: Path) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", refuse)


def test_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a file system without hard links a claim is as exclusive."""
    no_links(monkeypatch)
    a, b = book(tmp_path, "a"), book(tmp_path, "b")
    assert a.claim(1)
    assert not b.claim(1)
    a.end({})
    assert b.next_unit([1]) == 1


def test_a_lease_without_an_owner_is_taken_after_the_timeout(tmp_path: Path) -> None:
    """A lease that a crash left empty blocks its unit for `timeout`, not for ever."""
    clock = Clock()
    a = book(tmp_path, "a", clock)
    (tmp_path / "1.lease").touch()
    assert a.next_unit([1]) is None
    clock.now += TIMEOUT
    assert a.next_unit([1]) == 1


def test_a_lost_reply_is_no_lost_claim(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A link that worked but is reported as existing (NFS) is a claim all the same."""
    a = book(tmp_path, "a")
    real = os.link

    def repeated(source: Path, target: Path) -> None:
        real(source, target)
        real(source, target)

    monkeypatch.setattr(os, "link", repeated)
    assert a.claim(1)


def test_a_full_disk_is_a_storage_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that cannot be written says why."""
    a = book(tmp_path, "a")

    def full(source: Path, target: Path) -> None:
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

    monkeypatch.setattr(os, "link", full)
    with pytest.raises(StorageError, match="quota"):
        a.claim(1)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 2), st.sampled_from("ndbcw")), max_size=40))
def test_any_interleaving_has_one_holder(steps: list[tuple[int, str]]) -> None:
    """However workers claim, finish, beat, check and stall, a unit has at most one holder, and
    once all but one are silent, that one gets everything that is left.
    """  # fmt: skip
    with tempfile.TemporaryDirectory() as name:
        clocks = [Clock(1000.0 * number) for number in range(3)]
        books = [book(Path(name), f"w{number}", clocks[number]) for number in range(3)]
        held: list[set[int]] = [set(), set(), set()]
        for worker, action in steps:
            lease_book, mine = books[worker], held[worker]
            if action == "n" and (unit := lease_book.next_unit(UNITS)) is not None:
                mine.add(unit)
            elif action == "d" and mine and lease_book.still_mine(finished := mine.pop()):
                lease_book.done(finished)
            elif action == "b":
                lease_book.beat({})
            elif action == "w":
                clocks[worker].now += TIMEOUT / 2
            for unit in UNITS:
                assert sum(each.still_mine(unit) for each in books) <= 1
        left = set(books[0].open_units(UNITS))
        kept = {unit for unit in UNITS if books[0].still_mine(unit)}
        while (unit := books[0].next_unit(UNITS)) is not None or clocks[0].now < 1e4:
            clocks[0].now += TIMEOUT
            if unit is not None:
                kept.add(unit)
        assert kept == left
