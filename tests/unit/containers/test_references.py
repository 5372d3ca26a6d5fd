"""Names of images in a registry."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from evalhpc.containers.references import Reference, is_file, is_reference, parse_reference
from evalhpc.errors import ConfigError
from evalhpc.models.image import ImportWish

_WORD = st.from_regex(r"[a-z0-9]{1,12}([._-][a-z0-9]{1,8})?", fullmatch=True)
_TAG = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,40}", fullmatch=True)
_HOST = st.from_regex(r"[a-z0-9]{1,10}\.example(:[0-9]{1,5})?", fullmatch=True)
_DIGEST = st.from_regex(r"[0-9a-f]{64}", fullmatch=True)


@given(
    st.lists(_WORD, min_size=1, max_size=4).map("/".join),
    st.none() | _HOST, st.none() | _TAG, st.none() | _DIGEST,
)  # fmt: skip
def test_what_is_recorded_is_read_back(
    path: str, host: str | None, tag: str | None, digest: str | None
) -> None:
    """The text of a reference parses to the same reference, and its name is a name."""
    assume(host or "." not in path.partition("/")[0])  # such a first word is a host
    reference = Reference(path, host, tag, digest)
    assert parse_reference(str(reference)) == reference
    assert ImportWish(image_dir="/i", runtime="pyxis", name=reference.name, need=0)


@pytest.mark.parametrize(
    ("text", "registry", "meant"),
    [
        ("team/x:1", "registry.example", "registry.example#team/x:1"),
        ("team/x:1", "registry.example/mirror", "registry.example#mirror/team/x:1"),
        ("team/x:1", None, "team/x:1"),
        ("other.example#team/x", "registry.example", "other.example#team/x"),
        ("docker://other.example/team/x:1", "registry.example", "other.example#team/x:1"),
        ("localhost:5000/x", None, "localhost:5000#x"),
    ],
)
def test_a_registry_is_found_in_every_notation(text: str, registry: str | None, meant: str) -> None:
    """A host before # or as first word of the path; else the site's."""
    assert str(parse_reference(text, registry)) == meant


@pytest.mark.parametrize(
    "text", ["", "Team/X", "user:password@registry.example#x", "x y", "x:", "x,y", "x#", "a//b"]
)
def test_what_is_no_reference_is_refused(text: str) -> None:
    """Upper case, credentials, blanks and the like, with an example of a good one."""
    with pytest.raises(ConfigError) as caught:
        parse_reference(text)
    assert "for example" in caught.value.hint


def test_a_registry_is_a_host() -> None:
    """Not a URL."""
    with pytest.raises(ConfigError, match=r"container\.registry"):
        parse_reference("x", "https://registry.example")


def test_files_names_and_references_are_told_apart() -> None:
    """A path or suffix means a file; a slash or colon a reference; else it is a name."""
    assert all(map(is_file, ("/i/x", "./x", "~/x", "x.sqsh", "a/b.sif")))
    assert all(map(is_reference, ("a/b", "x:1", "h#x", "x@sha256:0")))
    assert not any(is_file(text) or is_reference(text) for text in ("lm-eval", "lm-eval-25.09"))
