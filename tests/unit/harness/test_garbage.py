"""Whatever a harness leaves where its results should be: an error of ours, never a crash."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from evalhpc.core.lines import lines_of
from evalhpc.errors import HarnessError
from evalhpc.harness import files
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


def test_aliases_of_results_do_not_fill_the_memory(tmp_path: Path) -> None:
    """NeMo Evaluator may write some; a few hundred bytes of them stand for a billion values."""
    scores = "{t: {metrics: {m: {scores: {m: {value: 1.0}}}}}}"
    bomb = "".join(f"  x{n}: &x{n} [{', '.join([f'*x{n - 1}'] * 10)}]\n" for n in range(1, 10))
    text = f"config:\n  x0: &x0 [1, 2]\n{bomb}results: {{tasks: {scores}}}\n"
    (tmp_path / FILES["nemo-evaluator"]).write_text(text.replace(", *x", ", 1, ") + "b: 1\n")
    assert read_output("nemo-evaluator", tmp_path).tasks
    (tmp_path / FILES["nemo-evaluator"]).write_text(text)
    with pytest.raises(HarnessError, match="no list of scores"):
        read_output("nemo-evaluator", tmp_path)


@pytest.mark.parametrize("reader", FILES)
def test_results_beyond_all_measure_are_not_read(
    tmp_path: Path, reader: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are read at once, and would fill the memory."""
    monkeypatch.setattr(files, "MOST_RESULTS", 1000)
    (tmp_path / FILES[reader]).write_text("{" + " " * 1000 + "}")
    with pytest.raises(HarnessError, match="more than 1000 bytes"):
        read_output(reader, tmp_path)


def test_a_log_that_unpacks_to_too_much_is_not_read(tmp_path: Path) -> None:
    """What its entries say is the most that is read of them."""
    with zipfile.ZipFile(tmp_path / "x_y.eval", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("header.json", "{}")
        for number in range(9):
            with archive.open(f"samples/{number}.json", "w") as member:
                for _ in range(16):
                    member.write(bytes(8 << 20))
    with pytest.raises(HarnessError, match="unpacks to more than"):
        read_output("inspect-ai", tmp_path)


def test_a_sample_is_a_line_that_memory_bears() -> None:
    """One without end is no sample."""
    assert list(lines_of(io.BytesIO(b"ab\ncd"), most=3)) == [b"ab\n", b"cd"]
    with pytest.raises(ValueError, match="more than 2 bytes"):
        list(lines_of(io.BytesIO(b"abc\n"), most=2))


@pytest.mark.parametrize("line", [b"5", b"{", b"null", b"{}", b'{"doc_id": "x"}', b"[" * 99_999])
def test_samples_that_are_none_have_no_documents(tmp_path: Path, line: bytes) -> None:
    """What decides on slices is read with the same care."""
    results = {"n-samples": {"t": {"effective": 1}}}
    (tmp_path / FILES["lm-eval"]).write_text(json.dumps(results))
    (tmp_path / "samples_t_2026-01-01T00-00-00.000000.jsonl").write_bytes(line + b"\n")
    with pytest.raises(HarnessError):
        documents(tmp_path)
