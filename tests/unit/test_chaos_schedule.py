"""Schedules of `scripts/chaos`: repeatable, and every kind of failure has its turn."""

from __future__ import annotations

from tests.chaos.deeds import DEEDS
from tests.chaos.schedule import KINDS, make_schedule
from tests.integration.test_chaos import SCHEDULES, SEED


def test_a_seed_gives_the_same_schedule_every_time() -> None:
    """A schedule that went wrong can be run again."""
    assert make_schedule(7, 3) == make_schedule(7, 3)
    assert make_schedule(7, 3) != make_schedule(8, 3)


def test_every_kind_of_failure_has_its_turn() -> None:
    """As many schedules as there are kinds are enough, and each kind has its deed."""
    begun_with = [make_schedule(1, number)[0].kind for number in range(len(KINDS))]
    assert sorted(begun_with) == sorted(KINDS) == sorted(DEEDS)


def test_the_short_form_has_several_kinds() -> None:
    """Servers, gateways, nodes, workers and the disk in several ways are among what fails in CI."""
    kinds = {event.kind for number in SCHEDULES for event in make_schedule(SEED, number)}
    wanted = {"kill_worker", "kill_gateway", "kill_server", "crash_node", "preempt", "fill_disk"}
    wanted |= {"corrupt_journal", "over_quota", "slow_disk", "stale_handles"}
    assert wanted <= kinds
