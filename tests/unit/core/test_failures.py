"""Which requests are given up for good, and when that is too many."""

from __future__ import annotations

from collections.abc import Set

from hypothesis import given
from hypothesis import strategies as st

from evalhpc.core.failures import PATIENCE, Attempt, above_limit, given_up

A, B = b"a" * 20, b"b" * 20
ATTEMPTS = st.lists(
    st.builds(
        Attempt,
        round=st.integers(1, 6),
        key=st.sampled_from([A, B]),
        benchmark=st.just("x"),
        fault=st.sampled_from(["failed", "transient", "unreachable"]),
        reason=st.just("HTTP 500"),
    )
)


def attempts(fault: str, *rounds: int, key: bytes = A) -> list[Attempt]:
    return [Attempt(round_, key, "x", fault, f"reason {round_}") for round_ in rounds]


def always(_round: int, _suspects: Set[bytes]) -> bool:
    return True


def test_a_reply_that_will_not_change_counts_at_once() -> None:
    """An odd 4xx is asked for once."""
    found = given_up(attempts("failed", 2), always)
    assert (found[A].rounds, found[A].reason) == ((2,), "reason 2")


def test_a_failure_that_may_pass_counts_in_three_rounds() -> None:
    """Several failures in one round are one; the last reason is told."""
    assert not given_up(attempts("transient", 1, 1, 1, 2), always)
    found = given_up(attempts("transient", 4, 1, 2), always)
    assert (found[A].rounds, found[A].reason) == ((1, 2, 4), "reason 4")


def test_a_server_that_was_not_there_blames_nobody() -> None:
    """However often: nothing is known of the request."""
    assert not given_up(attempts("unreachable", *range(1, 13)), always)


def test_a_round_of_a_broken_server_does_not_count() -> None:
    """Only rounds that tell something; those before are handed on as suspects."""
    asked: list[tuple[int, Set[bytes]]] = []

    def telling(round_: int, suspects: Set[bytes]) -> bool:
        asked.append((round_, suspects))
        return round_ != 2

    assert not given_up(attempts("transient", 1, 2, 3), telling)
    assert asked == [(1, set()), (2, {A}), (3, {A})]


@given(ATTEMPTS)
def test_who_is_given_up_has_earned_it(found: list[Attempt]) -> None:
    """Either a reply that will not change, or PATIENCE different rounds; never absence alone."""
    for key, failed in given_up(found, always).items():
        own = [a for a in found if a.key == key and a.fault != "unreachable"]
        assert set(failed.rounds) <= {a.round for a in own}
        assert any(a.fault == "failed" for a in own) or len(failed.rounds) >= PATIENCE


def test_the_limit_is_a_share_of_each_benchmark() -> None:
    """Exactly the limit is allowed; with 0 nothing is."""
    assert above_limit({"x": 1, "y": 1}, {"x": 8, "y": 7}, 0.125) == ["y"]
    assert above_limit({"x": 1}, {"x": 10**6}, 0.0) == ["x"]
    assert above_limit({"x": 3}, {"x": 3}, 1.0) == []
