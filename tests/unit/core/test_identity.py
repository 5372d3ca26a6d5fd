"""What makes two requests the same one, and when one answer could serve all of them."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evalhpc.core.identity import (
    at_temperature_zero,
    canonical_body,
    parse_json,
    request_hash,
)

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"temperature": 0}', True),
        (b'{"temperature":0.0,"seed":3}', True),
        (b'{"temperature": 0.1}', False),
        (b"{}", False),
        (b'{"temperature": null}', False),
        (b'{"temperature": false}', False),
        (b'{"temperature": "0"}', False),
        (b'[{"temperature": 0}]', False),
        (b'{"x": {"temperature": 0}}', False),
        (b'{"temperature": 0', False),
    ],
)
def test_only_a_named_temperature_of_zero_is_one(body: bytes, expected: bool) -> None:
    """Without a temperature a server draws at its own, which is seldom 0."""
    assert at_temperature_zero(body) is expected


@given(st.dictionaries(st.text(max_size=5), VALUES, min_size=1))
def test_order_and_spacing_of_a_body_do_not_count(value: dict[str, object]) -> None:
    """The same fields written otherwise are the same request."""
    names = list(value)
    shuffled = {name: value[name] for name in reversed(names)}
    bodies = (json.dumps(value).encode(), json.dumps(shuffled, indent=2).encode())
    assert canonical_body(bodies[0]) == canonical_body(bodies[1])


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (b'{"seed": 18446744073709551616}', b'{"seed": 18446744073709551617}'),
        (b'{"a": {"seed": 123456789012345678901}}', b'{"a": {"seed": 123456789012345678902}}'),
        (b'{"t": NaN}', b'{"t": null}'),
        (b'{"t": Infinity}', b'{"t": -Infinity}'),
        (b'{"t": 1e999}', b'{"t": null}'),
        (b'{"t": "\\ud800", "x": NaN}', b'{"t": "\\ud800", "x": null}'),
    ],
)
def test_numbers_that_differ_are_other_requests(one: bytes, other: bytes) -> None:
    """Neither rounded to the same double nor both written as null: each gets its own answer."""
    assert canonical_body(one) != canonical_body(other)


def test_long_digits_in_a_text_change_nothing() -> None:
    """A prompt with a long number is identified as any other."""
    body = '{"t": 1e-05, "prompt": "é 12345678901234567890"}'.encode()
    assert canonical_body(body) == '{"prompt":"é 12345678901234567890","t":0.00001}'.encode()
    assert canonical_body(body.replace(b" ", b"", 1)) == canonical_body(body)


@pytest.mark.parametrize("depth", [200, 300, 900, 1020, 1100, 100_000])
def test_deep_nesting_is_a_body_like_any_other(depth: int) -> None:
    """As deep as a parser goes it is JSON, and below that bytes; neither raises."""
    body = b"[" * depth + b"]" * depth
    assert canonical_body(body) == body
    try:
        parse_json(body)
    except ValueError:
        assert depth > 900


def test_every_part_of_a_request_counts() -> None:
    """Benchmark, endpoint, method, path and body each make another request."""
    plain = ("b", "model", "POST", "/completions", b'{"a":1}')
    others = [
        ("c", *plain[1:]),
        ("b", "judge", *plain[2:]),
        ("b", "model", "GET", *plain[3:]),
        ("b", "model", "POST", "/chat/completions", plain[4]),
        (*plain[:4], b'{"a":2}'),
    ]
    assert len({request_hash(*parts) for parts in [plain, *others]}) == 6
    assert request_hash(*plain[:4], b'{"a":1,"user":"x"}') == request_hash(*plain)
