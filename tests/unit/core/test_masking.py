"""Masks: which variables hold secrets, in which forms, and what is left of a text."""

from __future__ import annotations

import base64
import json
import tracemalloc
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evalhpc.core.masking import (
    MASK,
    NAMES_VARIABLE,
    Mask,
    MaskedStream,
    is_secret_name,
    mask_of,
    secret_values,
)

VALUE = 'sk-Ünïq"ue/+value ünd more\\'
SECRETS = st.text(st.characters(exclude_categories=["Cs"]), min_size=6, max_size=40)


@pytest.mark.parametrize(
    "name",
    ["HF_TOKEN", "OPENAI_API_KEY", "openai_apikey", "AWS_SECRET_ACCESS_KEY", "SLURM_JWT",
     "DB_PASSWORD", "TOKEN", "GH_PAT", "CLIENT_SECRET"],
)  # fmt: skip
def test_names_of_secrets_are_known(name: str) -> None:
    """The usual names, in any case."""
    assert is_secret_name(name)


@pytest.mark.parametrize("name", ["PATH", "TOKENIZERS_PARALLELISM", "MAX_TOKENS", "KEYBOARD"])
def test_other_names_are_not(name: str) -> None:
    """A word within a name is none of it."""
    assert not is_secret_name(name)


def test_values_come_by_name_and_by_list() -> None:
    """What is named in the list counts; paths and words of a few letters do not."""
    variables = {
        "A_TOKEN": "abcdefgh", "B_TOKEN": "none", "MY_CREDENTIALS": "/home/me/file",
        "LOGIN": "12345678", "OTHER": "12345678", NAMES_VARIABLE: "LOGIN ABSENT",
    }  # fmt: skip
    assert set(secret_values(variables)) == {"A_TOKEN", "LOGIN"}


@given(SECRETS, st.text(max_size=20))
def test_every_form_is_masked(value: str, before: str) -> None:
    """As it is, in JSON, in a URL, in base64 behind anything, in hexadecimal."""
    raw = value.encode()
    told = [
        value.encode(),
        json.dumps(value).encode(),
        json.dumps(value, ensure_ascii=False).encode(),
        quote(value).encode(),
        quote(value, safe="").encode(),
        quote_plus(value).encode(),
        raw.hex().encode(),
    ]
    mask = Mask([value])
    for text in told:
        assert MASK in mask.bytes(b"<" + text + b">"), text
    whole = base64.b64encode(before.encode() + raw)
    left = mask.bytes(whole)
    assert MASK in left
    # At each end, digits that hold bits of a neighbour stay: less than a byte of the value each.
    assert len(left.replace(MASK, b"")) <= len(base64.b64encode(before.encode())) + 4


def test_base64_for_urls_is_masked() -> None:
    """Both alphabets."""
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        assert MASK in Mask([VALUE]).bytes(encode(b"user:" + VALUE.encode()))


@given(st.lists(SECRETS, min_size=1, max_size=3), st.data())
def test_pieces_are_masked_like_the_whole(values: list[str], data: st.DataObject) -> None:
    """Wherever a text is cut, what comes out is what the mask makes of it in one piece."""
    text = data.draw(st.lists(st.sampled_from([*values, *(v[:-1] for v in values), " ", "x"])))
    whole = "".join(text).encode()
    mask = Mask(values)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)))))
    stream = MaskedStream(mask)
    pieces = [whole[a:b] for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
    assert b"".join(map(stream.feed, pieces)) + stream.end() == mask.bytes(whole)


def test_of_two_secrets_at_one_place_a_stream_masks_the_longer() -> None:
    """One may begin like the other: what is left of it would be told."""
    stream = MaskedStream(Mask(["secret", "secretive-one"]))
    assert stream.feed(b"a secret") + stream.feed(b"ive-one b") + stream.end() == b"a *** b"
    assert stream.feed(b"a secret") + stream.feed(b" b") + stream.end() == b"a *** b"


def test_a_stream_holds_nothing_back_without_need() -> None:
    """Progress bars and prompts are seen at once: only what may begin a secret waits."""
    stream = MaskedStream(Mask(["secret-value"]))
    assert stream.feed(b"10 %\r") == b"10 %\r"
    assert stream.feed(b"is sec") == b"is "
    assert stream.feed(b"ond") == b"second"
    assert stream.feed(b"a secret-value") == b"a ***"


def test_a_long_secret_takes_little_memory() -> None:
    """A private key of some kilobytes is masked, too: its beginnings are not kept one by one."""
    mask = Mask(["".join(f"{number:04x}" for number in range(800))])
    tracemalloc.start()
    try:
        stream = MaskedStream(mask)
        whole = mask.forms[-1]
        assert stream.feed(b"key: " + whole[:3000]) == b"key: "
        assert stream.feed(whole[3000:]) + stream.end() == MASK
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_no_secrets_no_mask() -> None:
    """Without a value nothing is touched; the mask says that it is none."""
    assert not mask_of({"PATH": "/bin/sh"})
    assert mask_of({"A_KEY": "abcdefgh"}).text("abcdefgh ü") == "*** ü"
    assert not mask_of({"A_KEY": "abcdefgh"}, shortest=9)
    assert Mask([]).bytes(b"text") == b"text"
    assert MaskedStream(Mask([])).feed(b"text") == b"text"
