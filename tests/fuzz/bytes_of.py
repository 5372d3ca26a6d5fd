"""Made-up bytes and texts: honest ones that were cut, flipped, repeated and glued together."""

from __future__ import annotations

import struct
from collections.abc import Sequence

from hypothesis import strategies as st

#: Lengths and counts at which arithmetic breaks.
_NUMBERS = (0, 1, 127, 255, 256, 65535, 65536, 2**31 - 1, 2**31, 2**32 - 1, 2**63, 2**64 - 1)
_LENGTHS = tuple(struct.pack("<Q", number) for number in _NUMBERS)


@st.composite
def damaged(draw: st.DrawFn, honest: Sequence[bytes], pieces: Sequence[bytes] = ()) -> bytes:
    """One of `honest` after some accidents; `pieces` are what may get in."""
    data = bytearray(draw(st.sampled_from(honest)))
    other = st.sampled_from([*_LENGTHS, *pieces])
    for _ in range(draw(st.integers(0, 6))):
        kind = draw(st.integers(0, 7))
        at, length = draw(st.integers(0, len(data))), draw(st.integers(0, 80))
        if kind == 0 and data:
            data[at % len(data)] ^= 1 << draw(st.integers(0, 7))
        elif kind == 1:
            del data[at:]
        elif kind == 2:
            del data[at : at + length]
        elif kind == 3:
            data[at:at] = data[at : at + length]
        elif kind == 4:
            data[at:at] = draw(st.binary(max_size=40))
        elif kind == 5:
            data[at:at] = draw(other)
        elif kind == 6:
            new = draw(other)
            data[at : at + len(new)] = new
        else:
            data += draw(st.sampled_from(honest))
    return bytes(data)


#: What breaks out of something somewhere: shells, YAML, paths, terminals, other alphabets.
_HOSTILE = (
    "$(touch canary)", "`touch canary`", "; touch canary;", "\ntouch canary\n", "' touch canary '",
    '"; touch canary; "', "\\", "\\\n", "\r\n", "\t", "${IFS}", "$HOME", "~", "*", "?", "[a]",
    "{a,b}", "!!", "%j", "%%", "#", " #", "--", "-rf", "-", "..", "/", "//", "&&", "| touch canary",
    "> canary", "<(touch canary)", "$'\\x41'", "EOF\n", "\x1b[2J", "\x07", "\x7f", "\x85", "\u2028",
    "\u202e", "\ufeff", "é", "日本", "🤖", "e\u0301", "\U000e0041", "'", '"', "''", " ", "",
    "{{ 7*7 }}", "{% raw %}", "a=b", ",", ":", "=", "(", ")", "\x01", "1", "null", "yes",
)  # fmt: skip
#: Texts that a file or a command line can hold: no NUL, no lone surrogate.
texts = st.lists(
    st.one_of(
        st.sampled_from(_HOSTILE),
        st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8),
    ),
    max_size=5,
).map("".join)
#: The same with what no script can carry.
wild_texts = st.one_of(texts, st.text(max_size=20), texts.map(lambda text: text + "\0"))
