"""What makes two requests the same one: a key of 20 bytes.

A request is (benchmark, endpoint, method and path, canonical body, n-th occurrence). The first
four are hashed to 128 bits; the occurrence (identical prompts sampled twice are two) follows as
a big-endian uint32. Headers never count: harnesses put random ids there.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import orjson

#: Fields of a body that never change an answer: tracing and cache-routing ids.
ALWAYS_VOLATILE = frozenset({"user", "request_id", "safety_identifier", "prompt_cache_key"})
HASH_BYTES = 16
KEY_BYTES = HASH_BYTES + 4
#: Digits in a row that may be an integer beyond 64 bits, of which orjson makes a rounded float.
_LONG = b"0" * 19
_DIGITS_TO_ZERO = bytes(0x30 if 0x30 <= byte <= 0x39 else 0x20 for byte in range(256))


def parse_json(body: bytes) -> Any:
    """The JSON value of `body`; raises ValueError.

    orjson is strict UTF-8; model text may hold lone surrogates, which only the standard
    library accepts.
    """
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        pass
    try:
        return json.loads(body.decode("utf-8", "surrogatepass"))
    except RecursionError as error:
        raise ValueError("JSON that is nested too deeply") from error


def canonical_body(body: bytes, volatile: Collection[str] = ()) -> bytes:
    """Sorted compact JSON without volatile top-level fields; a body that is not JSON as it is.

    What orjson would round, or write as null (NaN, 1e999), stays as it came: two requests that
    differ must not be one.
    """
    try:
        exact = _LONG in body.translate(_DIGITS_TO_ZERO)
        value = _load_exactly(body) if exact else orjson.loads(body)
    except ValueError:
        try:
            value = _load_exactly(body)
        except ValueError:
            return body
    value = _without(value, volatile)
    try:
        return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
    except (orjson.JSONEncodeError, TypeError):
        pass
    try:
        return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
    except RecursionError:
        return body


def _load_exactly(body: bytes) -> Any:
    """At a tenth of orjson's speed: with integers of any size, and ValueError for NaN or 1e999."""
    text = body.decode("utf-8", "surrogatepass")
    try:
        return json.loads(text, parse_constant=_no_number, parse_float=_finite)
    except RecursionError as error:
        raise ValueError("JSON that is nested too deeply") from error


def _without(value: Any, volatile: Collection[str]) -> Any:
    if not isinstance(value, dict):
        return value
    dropped = ALWAYS_VOLATILE.union(volatile)
    return {key: item for key, item in value.items() if key not in dropped}


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is no JSON")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text} is beyond any double")
    return number


def at_temperature_zero(body: bytes) -> bool:
    """Whether the request names a temperature of 0, so that each of its answers is the same one.

    No temperature is the server's default, which for this protocol is 1.
    """
    if b'"temperature"' not in body:
        return False
    try:
        value = parse_json(body)
    except (ValueError, RecursionError):
        return False
    temperature = value.get("temperature") if isinstance(value, dict) else None
    is_number = isinstance(temperature, (int, float)) and not isinstance(temperature, bool)
    return is_number and temperature == 0


def request_hash(
    benchmark: str,
    endpoint: str,
    method: str,
    path: str,
    body: bytes,
    volatile: Collection[str] = (),
) -> bytes:
    """The 16 bytes that identify a request up to its occurrence."""
    digest = hashlib.blake2b(digest_size=HASH_BYTES)
    digest.update(f"{benchmark}\0{endpoint}\0{method} {path}\0".encode())
    digest.update(canonical_body(body, volatile))
    return digest.digest()


def make_key(hash_: bytes, occurrence: int) -> bytes:
    """The 20-byte key of the n-th request (from 0) with this hash."""
    return hash_ + occurrence.to_bytes(4, "big")


def split_key(key: bytes) -> tuple[bytes, int]:
    """(hash, occurrence) of a key."""
    return key[:HASH_BYTES], int.from_bytes(key[HASH_BYTES:], "big")


@dataclass(frozen=True, slots=True)
class Request:
    """One HTTP call that a harness made: what a plan holds and a worker sends."""

    key: bytes  # 20 bytes
    benchmark: str
    endpoint: str  # which deployment answers: "model"
    method: str
    path: str  # with the query, starting at the API root: /completions, /chat/completions
    body: bytes  # as the harness sent it


@dataclass(frozen=True, slots=True)
class Answer:
    """One recorded reply. Only 2xx and deterministic 4xx are ever answers."""

    status: int
    content_type: str
    body: bytes
    latency: float = 0.0  # seconds, as the worker saw it
    attempts: int = 1
