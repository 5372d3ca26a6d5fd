"""Two requests that should have been one: the closest pair, and where they part."""

from __future__ import annotations

import json
from collections.abc import Sequence
from difflib import SequenceMatcher, unified_diff
from itertools import product

from evalhpc.core.identity import parse_json

#: Requests of either kind that are compared, and characters of each that decide how close they are.
COMPARED, WINDOW = 24, 4000
_BEFORE, _AFTER = 24, 48
#: Characters of a request that are written out.
_WHOLE = 1 << 20


def closest(old: Sequence[bytes], new: Sequence[bytes]) -> tuple[bytes, bytes] | None:
    """The most similar pair among the first COMPARED of each; None where either is empty."""
    pairs = product(old[:COMPARED], new[:COMPARED])
    return max(pairs, key=lambda pair: _similarity(*pair), default=None)


def parting(old: bytes, new: bytes, labels: tuple[str, str]) -> str:
    """Three lines: both texts around their first difference, and a mark below it."""
    texts = [_text(body).replace("\n", " ") for body in (old, new)]
    differs = (at for at, (one, other) in enumerate(zip(*texts, strict=False)) if one != other)
    at = next(differs, min(map(len, texts)))
    start = max(0, at - _BEFORE)
    dots = "…" if start else ""
    lines = [
        f"{label}: {dots}{text[start : at + _AFTER]}{'…' if at + _AFTER < len(text) else ''}"
        for label, text in zip(_even(labels), texts, strict=True)
    ]
    mark = " " * (len(_even(labels)[0]) + 2 + len(dots) + at - start) + "^"
    return "\n".join([*lines, mark])


def comparison(old: bytes, new: bytes, labels: tuple[str, str]) -> str:
    """A unified diff of the two, as indented JSON where they are JSON, with every line in it."""
    before, after = (_indented(body).splitlines() for body in (old, new))
    diff = unified_diff(before, after, *labels, lineterm="", n=max(len(before), len(after)))
    return "\n".join(diff) + "\n"


def _similarity(old: bytes, new: bytes) -> float:
    return SequenceMatcher(None, _text(old)[:WINDOW], _text(new)[:WINDOW]).quick_ratio()


def _text(body: bytes) -> str:
    return body[:_WHOLE].decode("utf-8", "replace")


def _indented(body: bytes) -> str:
    try:
        value = parse_json(body)
    except (ValueError, RecursionError):
        return _text(body)
    return json.dumps(value, indent=1, ensure_ascii=False)[:_WHOLE]


def _even(labels: tuple[str, str]) -> list[str]:
    width = max(map(len, labels))
    return [label.rjust(width) for label in labels]
