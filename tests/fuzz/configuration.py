"""Targets: whatever stands in a site, suite or run file, or after `--set`."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from evalhpc.config.layers import parse_set
from evalhpc.config.run_file import dump_run, read_frozen
from evalhpc.config.schema import key_paths
from evalhpc.config.sites import load_site
from evalhpc.config.suites import load_suite
from evalhpc.config.yaml_files import dump_yaml, parse_value
from evalhpc.errors import EvalhpcError
from evalhpc.models.site import Site
from evalhpc.resources import resource_dir
from tests.factories import make_spec
from tests.fuzz.bytes_of import damaged, texts, wild_texts
from tests.fuzz.target import Target, scratch

_SITES = [path.read_bytes() for path in sorted(resource_dir("site_configs").glob("*.yaml"))]
_SUITE = b"""\
name: fuzzed
description: of two benchmarks
benchmarks:
  - {name: a, harness: lm-eval, task: x, params: {limit: 3, include_path: ./tasks}}
  - name: b
    harness: lm-eval
    task: y
endpoints: {judge: {model: ./judge, deploy: {threads: 2}}}
run: {shards: 3, request_timeout: 1.5}
"""
_TRICKS = [
    b"&a [*a]", b"a: &a [x,x]\nb: &b [*a,*a,*a]\nc: [*b,*b,*b]\n", b"<<: *a\n", b"<<: {a: 1}\n",
    b"[" * 60, b"{a: " * 40, b"- " * 50, b"? ", b"!!python/object:os.system x", b"!!binary x",
    b"!!set {a}", b"%YAML 9.9\n---\n", b"---\n", b"...\n", b"\t", b"\0", b"\xef\xbb\xbf",
    b"\xff\xfe", b"\xed\xa0\x80", b"\xc2\x85", b"\xe2\x80\xa8", b"|\n  x\n", b">-9\n", b"&x", b"*x",
    b"name: b\n", b"9" * 5000, b"1e999", b".inf", b".nan", b"0x1f", b"1_000", b"2024-01-01",
    b"1:00:00", b"~", b"'", b'"', b'"\\ud800"', b'"\\U00110000"', b'"\\x00"', b"extends: fuzzed\n",
    b"extends: [a]\n", b"extends: ../x\n", b"templates: /dev\n", b"#", b"@", b"`", b": ",
]  # fmt: skip
_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), wild_texts),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(wild_texts, inner, max_size=3)
    ),
    max_leaves=6,
)
_paths = st.sampled_from(sorted(".".join(path) for path in key_paths(Site)))


def _load_file(name: str, load: Callable[[Path], object]) -> Callable[[bytes], None]:
    def check(data: bytes) -> None:
        path = scratch("configuration") / name
        path.write_bytes(data)
        with suppress(EvalhpcError):
            load(path)

    return check


def _parse(data: bytes) -> None:
    with suppress(EvalhpcError):
        parse_value(data.decode("latin-1" if len(data) % 2 else "utf-8", "replace"), "x")


def _survives_its_file(value: Any) -> None:
    """What we write as YAML is read as the same value, or is refused; it is never another one."""
    try:
        read = parse_value(dump_yaml(value), "x")
    except (EvalhpcError, UnicodeEncodeError):
        return
    assert repr(read) == repr(value)  # 1 and True, 0.0 and -0.0 are not the same


def _one_key(pair: tuple[str, Any]) -> None:
    """A site with any value under one of its keys, from a file."""
    path, value = pair
    for key in reversed(path.split(".")):
        value = {key: value}
    with suppress(EvalhpcError, UnicodeEncodeError):
        text = dump_yaml(value)
        _load_file("fuzzed.yaml", lambda file: load_site(str(file), {}))(text.encode())


def _set(text: str) -> None:
    with suppress(EvalhpcError):
        parse_set(text, ["gsm8k", "a.b"])


TARGETS = [
    Target("yaml", damaged([*_SITES, _SUITE], _TRICKS), _parse),
    Target("yaml-round-trip", _values, _survives_its_file),
    Target("site-file", damaged(_SITES, _TRICKS),
           _load_file("fuzzed.yaml", lambda path: load_site(str(path), {}))),
    Target("site-value", st.tuples(_paths, _values), _one_key),
    Target("suite-file", damaged([_SUITE], _TRICKS),
           _load_file("fuzzed.yaml", lambda path: load_suite(str(path), {}))),
    Target("run-file", damaged([dump_run(make_spec()).encode()], _TRICKS),
           _load_file("run.yaml", read_frozen)),
    Target("set", st.one_of(
        texts, st.builds("{}={}".format, _paths, wild_texts),
        st.builds("params.{}={}".format, texts, texts)), _set),
]  # fmt: skip
