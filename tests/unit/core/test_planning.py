"""Units cover a plan exactly; occurrences keep identical prompts apart."""

from __future__ import annotations

from itertools import groupby, pairwise
from statistics import fmean

from hypothesis import given
from hypothesis import strategies as st

from evalhpc.core.costs import Kind
from evalhpc.core.identity import make_key, request_hash, split_key
from evalhpc.core.planning import (
    LARGEST_UNIT,
    SHARE,
    Entry,
    Occurrences,
    cut_units,
    lease_order,
    share_prefix,
    unit_lengths,
    unused_answers,
    unused_repeats,
)

KINDS = st.tuples(
    st.sampled_from("abc"), st.sampled_from(["model", "judge"]), st.just("/completions"),
    st.sampled_from([b"hot", b"cold"]),
)  # fmt: skip
ITEMS = st.lists(st.tuples(KINDS, st.floats(0.01, 1e6), st.booleans()), max_size=60)


def listed(items: list[tuple[Kind, float, bool]]) -> list[Entry]:
    """Entries in the harness's order; the flag says: of one family with the one before."""
    entries: list[Entry] = []
    for place, (kind, cost, sibling) in enumerate(items):
        same = sibling and bool(entries) and entries[-1].kind == kind
        family = entries[-1].family if same else place
        entries.append(Entry(kind, cost, family, place))
    return entries


def same_kind(count: int, cost: float = 1.0, family: int | None = None) -> list[Entry]:
    kind = ("b", "model", "/completions", b"")
    return [Entry(kind, cost, place if family is None else family, place) for place in range(count)]


@given(ITEMS, st.integers(1, 4), st.none() | st.integers(1, 10))
def test_units_cover_every_request_once_and_never_mix(
    items: list[tuple[Kind, float, bool]], shards: int, wanted: int | None
) -> None:
    """Whatever the costs, nothing is lost, doubled, mixed or too large."""
    entries = lease_order(listed(items))
    assert sorted(entry.place for entry in entries) == list(range(len(items)))
    starts = [100 + 7 * place for place in range(len(entries) + 1)]
    units = cut_units(entries, unit_lengths(entries, shards, wanted), starts)
    assert [unit.id for unit in units] == list(range(len(units)))
    edges = [starts[0], *(unit.end for unit in units)]
    assert [(unit.start, unit.end) for unit in units] == list(pairwise(edges))
    assert edges[-1] == starts[-1]
    for unit in units:
        inside = entries[(unit.start - 100) // 7 : (unit.end - 100) // 7]
        assert len(inside) == unit.count <= (wanted or LARGEST_UNIT)
        ((benchmark, endpoint, _, _),) = {entry.kind for entry in inside}
        assert (unit.benchmark, unit.endpoint) == (benchmark, endpoint)


@given(ITEMS)
def test_the_costliest_come_first(items: list[tuple[Kind, float, bool]]) -> None:
    """Endpoints stay apart; kinds are whole and fall in mean cost, and so do families in them."""
    entries = lease_order(listed(items))
    ends: dict[str, list[float]] = {}
    for endpoint, of_endpoint in groupby(entries, lambda entry: entry.kind[1]):
        assert endpoint not in ends
        ends[endpoint] = []
        for _, of_kind in groupby(of_endpoint, lambda entry: entry.kind):
            families = [list(f) for _, f in groupby(of_kind, lambda entry: entry.family)]
            means = [fmean(entry.cost for entry in family) for family in families]
            assert all(a >= b * 0.999 for a, b in pairwise(means))
            ends[endpoint].append(fmean(e.cost for family in families for e in family))
            for family in families:
                places = [entry.place for entry in family]
                assert places == list(range(places[0], places[0] + len(places)))
        assert all(a >= b * 0.999 for a, b in pairwise(ends[endpoint]))
    kinds = [kind for kind, _ in groupby(entries, lambda entry: entry.kind)]
    assert len(kinds) == len(set(kinds))


@given(st.integers(1, 3000), st.integers(1, 64))
def test_units_shrink_to_single_requests(requests: int, shards: int) -> None:
    """No unit is more than its share of what is left, and each shard's last ones are single."""
    lengths = unit_lengths(same_kind(requests), shards)
    assert sum(lengths) == requests
    assert lengths == sorted(lengths, reverse=True)
    tail = min(len(lengths), shards * SHARE)
    assert lengths[-tail:] == [1] * tail
    left = requests
    for length in lengths:
        assert length <= max(1, left / (shards * SHARE))
        left -= length


def test_equal_requests_in_harness_order_stay_in_it() -> None:
    """Where nothing is known to differ, the plan is as the harness asked."""
    entries = same_kind(50)
    assert lease_order(entries) == entries


def test_a_family_stays_whole_where_its_unit_can_bear_it() -> None:
    """The options of a question are together, though a unit's share of cost ends among them."""
    entries = [entry._replace(family=entry.place // 4) for entry in same_kind(96)]
    lengths = unit_lengths(entries, 4)  # a share is six requests: one family and a half
    assert lengths[0] == 8


def test_bodies_share_a_prefix_if_only_their_end_differs() -> None:
    """Options after one question do; two questions do not, nor does anything with nothing."""
    question = b'{"prompt":"' + b"A long question with its context? " * 3
    assert share_prefix(question + b'yes"}', question + b'no"}')
    assert not share_prefix(question, b'{"prompt":"Another question' + b"." * 90)
    assert not share_prefix(b"", question)


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
