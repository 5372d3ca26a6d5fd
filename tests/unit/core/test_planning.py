"""Units cover a plan exactly; occurrences keep identical prompts apart."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from evalhpc.core.identity import make_key, request_hash, split_key
from evalhpc.core.planning import (
    Entry,
    Occurrences,
    cut_units,
    unit_size,
    unused_answers,
    unused_repeats,
)

ITEMS = st.tuples(st.sampled_from("abc"), st.sampled_from(["model", "judge"]), st.integers(1, 50))


@given(st.lists(ITEMS, max_size=60), st.integers(1, 10))
def test_units_cover_every_request_once_in_order(
    items: list[tuple[str, str, int]], size: int
) -> None:
    """Whatever the sizes, nothing is lost, doubled, mixed or too large."""
    entries, offset = [], 0
    for name, endpoint, length in items:
        entries.append(Entry(name, endpoint, offset, offset + length))
        offset += length
    units = cut_units(entries, size)
    assert sum(unit.count for unit in units) == len(entries)
    assert [unit.id for unit in units] == list(range(len(units)))
    edges = [edge for unit in units for edge in (unit.start, unit.end)]
    assert edges == sorted(edges)
    assert all(a.end == b.start for a, b in pairwise(units))
    for unit in units:
        inside = [e for e in entries if unit.start <= e.start < unit.end]
        assert len(inside) == unit.count <= size
        assert {e[:2] for e in inside} == {(unit.benchmark, unit.endpoint)}


@given(st.integers(1, 100_000), st.integers(1, 512))
def test_unit_sizes_give_every_shard_several_units(requests: int, shards: int) -> None:
    """A unit is never empty, never large, and never bigger than a shard's even share."""
    size = unit_size(requests, shards, None)
    assert 1 <= size <= 32
    assert size == 1 or (size - 1) * shards < requests


def test_a_wanted_unit_size_is_taken() -> None:
    """The user's word wins."""
    assert unit_size(1000, 4, 7) == 7


def test_identical_requests_are_distinct_occurrences() -> None:
    """Sampling the same prompt twice gives two keys with one hash."""
    counter = Occurrences()
    hash_ = request_hash("b", "model", "POST", "/completions", b"{}")
    first, second = counter.next_key(hash_), counter.next_key(hash_)
    assert (split_key(first), split_key(second)) == ((hash_, 0), (hash_, 1))
    assert counter.count(hash_) == 2


def test_the_hash_ignores_order_space_and_tracing_ids_only() -> None:
    """Two spellings of one question are one request; another seed is another."""

    def hash_of(body: bytes) -> bytes:
        return request_hash("b", "model", "POST", "/completions", body)

    same = hash_of(b'{"seed":1,"prompt":"x"}')
    assert hash_of(b'{ "prompt": "x", "seed": 1, "user": "me", "request_id": "7" }') == same
    assert hash_of(b'{"seed":2,"prompt":"x"}') != same
    assert hash_of(b'{"seed":1.0,"prompt":"x"}') != same


def test_places_that_a_request_goes_to_keep_it_apart() -> None:
    """Benchmark, endpoint, method and path all count."""
    base = ("b", "model", "POST", "/completions")
    hashes = {request_hash(*base, b"{}")}
    for position in range(4):
        a, b, c, d = (part + "x" * (index == position) for index, part in enumerate(base))
        hashes.add(request_hash(a, b, c, d, b"{}"))
    assert len(hashes) == 5


def test_a_volatile_field_of_the_harness_is_dropped_on_request() -> None:
    """Only what the catalogue names stops counting."""
    args = ("b", "model", "POST", "/completions")
    assert request_hash(*args, b'{"a":1,"seed":1}', ("seed",)) == request_hash(
        *args, b'{"a":1,"seed":2}', ("seed",)
    )


def test_bodies_beyond_strict_json_are_hashed_too() -> None:
    """Lone surrogates, NaN and plain bytes are told apart without an error."""
    args = ("b", "model", "POST", "/x")
    bodies = (b'"\\ud800"', b'"\\ud801"', b"NaN", b"\xff\xfe", b"", b"[" * 100_000)
    assert len({request_hash(*args, body) for body in bodies}) == len(bodies)


def test_what_is_not_used_is_either_unused_or_a_repeat() -> None:
    """Every stored answer is accounted for exactly once."""
    first, other = b"a" * 16, b"b" * 16
    stored = [make_key(first, n) for n in range(3)] + [make_key(other, 0)]
    used = {make_key(first, 0)}
    assert unused_repeats(stored, used) == stored[1:3]
    assert sorted([*used, *unused_answers(stored, used), *unused_repeats(stored, used)]) == stored


def test_unused_answers_leave_out_retries_of_used_ones() -> None:
    """A further occurrence of a used request was a harness's retry; a whole request is not."""
    used, other = bytes(16), bytes([1]) * 16
    stored = [make_key(used, 0), make_key(used, 1), make_key(other, 0)]
    assert unused_answers(stored, {make_key(used, 0)}) == [make_key(other, 0)]
