"""Whatever a harness leaves where its results should be: an error of ours, never a crash."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from evalhpc.errors import HarnessError
from evalhpc.harness.lm_eval import documents
from evalhpc.harness.readers import READERS, read_output

FILES = {
    "lm-eval": "results_2026-01-01T00-00-00.000000.json",
    "nemo-evaluator": "results.yml",
    "inspect-ai": "x_qa_y.json",
    "lucebench": "gsm8k.json",
    "command": "results.json",
}
GARBAGE = [
    b"", b"\xff", b"null", b"[]", b"[" * 100_000, b"{" * 5000, b'{"results": "x"}', b"9" * 5000,
    b'{"n-samples": {"t": {"effective": "x"}}, "results": {"t": 5}}', b"a: 2024-99-99",
    b"&a [*a]", b'{"results": {"tasks": {"t": {"metrics": {"m": {"scores": 5}}}}}, "config": {}}',
    b'{"eval": {"task": "t"}, "status": "success", "results": null}', b'{"rows": [5]}',
    b'{"acc": {"value": NaN}}', b'{"acc": 1e999}', b'{"acc": true}',
    b'{"acc": 1%b}' % (b"0" * 400), b'{"count": [], "a": 1}',
]  # fmt: skip
_NAMES = [
    "results", "tasks", "groups", "metrics", "scores", "value", "stats", "config", "eval",
          "task", "status", "samples", "id", "rows", "error", "http_status", "n-samples", "t",
          "effective", "acc,none", "lm_eval_version", "pass_rate", "area", "total_samples",
]  # fmt: skip
_VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.sampled_from(_NAMES)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=2), st.dictionaries(st.sampled_from(_NAMES), inner, max_size=4)
    ),
    max_leaves=12,
)


def test_every_reader_is_tried() -> None:
    """A new reader belongs into the table above."""
    assert set(FILES) == set(READERS)


@pytest.mark.parametrize("reader", FILES)
@pytest.mark.parametrize("content", GARBAGE, ids=range(len(GARBAGE)))
def test_garbage_has_no_score(tmp_path: Path, reader: str, content: bytes) -> None:
    """The error names the file."""
    (tmp_path / FILES[reader]).write_bytes(content)
    with pytest.raises(HarnessError, match=FILES[reader]):
        read_output(reader, tmp_path)


@pytest.mark.parametrize("reader", FILES)
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(value=_VALUES)
def test_no_shape_of_results_is_a_crash(tmp_path: Path, reader: str, value: Any) -> None:
    """Fields that are known, in places where they are not."""
    (tmp_path / FILES[reader]).write_text(json.dumps(value))
    try:
        read_output(reader, tmp_path)
    except HarnessError:
        pass


@pytest.mark.parametrize("line", [b"5", b"{", b"null", b"{}", b'{"doc_id": "x"}', b"[" * 99_999])
def test_samples_that_are_none_have_no_documents(tmp_path: Path, line: bytes) -> None:
    """What decides on slices is read with the same care."""
    results = {"n-samples": {"t": {"effective": 1}}}
    (tmp_path / FILES["lm-eval"]).write_text(json.dumps(results))
    (tmp_path / "samples_t_2026-01-01T00-00-00.000000.jsonl").write_bytes(line + b"\n")
    with pytest.raises(HarnessError):
        documents(tmp_path)
