"""What a request will cost a server: guessed from its body, then measured on others of its kind."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, TypeAlias, TypeGuard

from evalhpc.core.identity import parse_json

#: (benchmark, endpoint, path, sampling configuration): requests that cost about the same.
Kind: TypeAlias = tuple[str, str, str, bytes]

#: Where a body says how many tokens may be generated, and what it is where none of them does.
_LENGTH_FIELDS = ("max_completion_tokens", "max_tokens", "max_output_tokens", "max_new_tokens")
USUAL_LENGTH = 512
#: API roots whose requests generate text; any other (embeddings, rerank, scores) only reads it.
_GENERATING = ("/completions", "/chat/completions", "/responses")
BYTES_PER_TOKEN = 4
#: Tokens of a prompt that a server reads in the time in which it generates one for a request.
READ_PER_GENERATED = 64


def estimate(path: str, body: bytes) -> float:
    """The work of a request, in generated tokens: right in order, not in size. At least 1."""
    try:
        value = parse_json(body)
    except (ValueError, RecursionError):
        value = None
    read = len(body) / BYTES_PER_TOKEN / READ_PER_GENERATED
    generates = path.partition("?")[0].endswith(_GENERATING)
    return 1.0 + read + (_generated(value) if generates and isinstance(value, dict) else 0.0)


def _generated(body: Mapping[str, Any]) -> float:
    wanted = next((body[name] for name in _LENGTH_FIELDS if _is_count(body.get(name))), None)
    length = USUAL_LENGTH if wanted is None else wanted
    copies = body.get("n")
    return float(length * max(1, copies) if _is_count(copies) else length)


def _is_count(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**31


class _Sum(NamedTuple):
    answers: int = 0
    seconds: float = 0.0
    estimated: float = 0.0


class Costs:
    """Estimates, corrected by the latencies of answered requests.

    A kind that was measured costs its mean latency; another one its estimate, in the measured
    ones' seconds per unit of estimate. Before any measurement a cost has no unit.
    """

    def __init__(self) -> None:
        self._kinds: dict[Kind, _Sum] = {}
        self._all = _Sum()

    def measured(self, kind: Kind, estimated: float, seconds: float) -> None:
        """An answered request: what was guessed, and its latency."""
        self._kinds[kind] = _added(self._kinds.get(kind, _Sum()), estimated, seconds)
        self._all = _added(self._all, estimated, seconds)

    def cost(self, kind: Kind, estimated: float) -> float:
        """What a request of this kind will cost, above 0."""
        if (known := self._kinds.get(kind)) is not None:
            return max(known.seconds / known.answers, 1e-6)
        if self._all.answers and self._all.seconds:
            return estimated * self._all.seconds / self._all.estimated
        return estimated


def _added(total: _Sum, estimated: float, seconds: float) -> _Sum:
    return _Sum(total.answers + 1, total.seconds + seconds, total.estimated + estimated)
