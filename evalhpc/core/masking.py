"""Secrets in text: which variables hold one, the forms that its value takes, and a mask for them.

A mask replaces a value wherever it stands: as it is, in a URL, in JSON, in base64 at any place of
what was encoded (`Basic …` headers), and in hexadecimal digits.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable, Iterator, Mapping

MASK = b"***"
#: A variable that lists the names of further ones, whose own names do not look like a secret's.
NAMES_VARIABLE = "EVALHPC_SECRET_NAMES"
#: A shorter value hides nothing, and masking it would blacken words: "none", "EMPTY".
SHORTEST = 6
#: In questions, answers and results nothing may be masked that could stand there by chance.
SHORTEST_IN_DATA = 16
_NAME = re.compile(
    r"(^|_)(TOKEN|SECRET|PASSWORD|PASSWD|PASSPHRASE|(API)?KEY|CREDENTIALS?|JWT|PAT)$",
    re.IGNORECASE,
)
_HEAD = 16  # bytes
_UNRESERVED = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.~")


def is_secret_name(name: str) -> bool:
    """Whether a variable of this name is likely to hold a secret: HF_TOKEN, OPENAI_API_KEY."""
    return _NAME.search(name) is not None


def secret_values(variables: Mapping[str, str]) -> dict[str, str]:
    """Name → value of the variables that hold a secret: by their name, or as NAMES_VARIABLE says.

    Values too short to be one are left out, and paths: GOOGLE_APPLICATION_CREDENTIALS names a file.
    """
    named = frozenset(variables.get(NAMES_VARIABLE, "").split())
    return {
        name: value
        for name, value in variables.items()
        if len(value) >= SHORTEST
        and (name in named or (is_secret_name(name) and not value.startswith(("/", "~/"))))
    }


def forms(value: str) -> set[bytes]:
    """Every spelling of `value` that a mask looks for."""
    raw = value.encode("utf-8", "surrogateescape")
    found = {raw, raw.hex().encode(), raw.hex().upper().encode(), *_json(value), *_percent(raw)}
    return found | set(_base64(raw))


def _json(value: str) -> Iterator[bytes]:
    """In a JSON string, with and without letters beyond ASCII, with and without `/` escaped."""
    for ascii_ in (True, False):
        spelt = json.dumps(value, ensure_ascii=ascii_)[1:-1]
        for text in (spelt, spelt.replace("/", r"\/")):
            yield text.encode("utf-8", "surrogateescape")


def _percent(raw: bytes) -> Iterator[bytes]:
    """In a URL: with `/` and a few more kept or not, in digits of either case, + for a space."""
    for kept in (_UNRESERVED, _UNRESERVED | frozenset(b"/"), _UNRESERVED | frozenset(b"!*'()/")):
        for digits in ("%%%02X", "%%%02x"):
            spelt = "".join(chr(byte) if byte in kept else digits % byte for byte in raw)
            yield spelt.encode()
            yield spelt.replace("%20", "+").encode()


def _base64(raw: bytes) -> Iterator[bytes]:
    """The digits that the value alone decides, wherever in the encoded text it begins."""
    for before, skipped in ((0, 0), (1, 2), (2, 3)):
        whole = (before + len(raw)) * 8 // 6
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            digits = encode(b"\0" * before + raw)[skipped:whole]
            if len(digits) >= SHORTEST:
                yield digits


class Mask:
    """Puts MASK in the place of every form of some values; falsy where there are none."""

    def __init__(self, values: Iterable[str], *, shortest: int = SHORTEST) -> None:
        """Values of fewer than `shortest` characters are left out."""
        found = {form for value in values if len(value) >= shortest for form in forms(value)}
        self.forms = tuple(sorted(found, key=lambda form: (-len(form), form)))
        self._any = re.compile(b"|".join(map(re.escape, self.forms))) if found else None

    def __bool__(self) -> bool:
        return self._any is not None

    def found_in(self, data: bytes) -> bool:
        """Whether a form of a value stands in `data`."""
        # One search for each form is some ten times as fast as one for all of them.
        return any(form in data for form in self.forms)

    def spans(self, data: bytes) -> list[tuple[int, int]]:
        """Where the forms stand, from left to right; of two at one place the longer."""
        if self._any is None or not self.found_in(data):
            return []
        return [found.span() for found in self._any.finditer(data)]

    def bytes(self, data: bytes) -> bytes:
        """`data` with every form masked."""
        return self._any.sub(MASK, data) if self._any and self.found_in(data) else data

    def text(self, text: str) -> str:
        """The same for text."""
        if not self:
            return text
        masked = self.bytes(text.encode("utf-8", "surrogatepass"))
        return masked.decode("utf-8", "surrogatepass")


class MaskedStream:
    """A mask for what comes in pieces: a form that is cut in two is found as well."""

    def __init__(self, mask: Mask) -> None:
        self._mask = mask
        self._held = b""
        self._by_first: dict[int, list[bytes]] = {}
        for form in mask.forms:
            self._by_first.setdefault(form[0], []).append(form)
        self._longest = max(map(len, mask.forms), default=0)

    def feed(self, piece: bytes) -> bytes:
        """What can be given away by now; the rest may be the beginning of a form."""
        data = self._held + piece
        done, held, out = 0, self._hold(data, 0), list[bytes]()
        for start, end in self._mask.spans(data):
            if start >= held:  # with what comes next it may be a longer one
                break
            out += [data[done:start], MASK]
            done = end
            if done > held:
                held = self._hold(data, done)
        self._held = data[held:]
        return b"".join([*out, data[done:held]])

    def end(self) -> bytes:
        """What was held back."""
        held, self._held = self._held, b""
        return self._mask.bytes(held)

    def _hold(self, data: bytes, done: int) -> int:
        """Where the longest end of `data` begins that a form could begin with."""
        for at in range(max(done, len(data) - self._longest + 1), len(data)):
            likely = self._by_first.get(data[at])
            if likely and self._begins(likely, data, at):
                return at
        return len(data)

    @staticmethod
    def _begins(likely: list[bytes], data: bytes, at: int) -> bool:
        """Whether one of the forms begins with all of `data` from `at` on, and goes on."""
        head = data[at : at + _HEAD]  # most differ here already, and the rest may be long
        return any(
            len(form) > len(data) - at and form.startswith(head) and form.startswith(data[at:])
            for form in likely
        )


def mask_of(variables: Mapping[str, str], *, shortest: int = SHORTEST) -> Mask:
    """A mask for the secrets among these variables."""
    return Mask(secret_values(variables).values(), shortest=shortest)
