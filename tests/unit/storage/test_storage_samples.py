"""samples.h5 and requests.h5: whatever goes in comes out, in the same bytes each time."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from evalhpc.core.identity import Answer, make_key
from evalhpc.errors import IntegrityError, StorageError
from evalhpc.storage.samples import (
    RequestRow,
    read_answered,
    read_metrics,
    read_samples,
    sample_tasks,
    token_counts,
    write_requests,
    write_samples,
)

LINES = [
    {"doc_id": 0, "resps": [["nul \0 surrogate \ud800 é"]], "metrics": ["acc"], "acc": 1.0},
    {"doc_id": 1, "resps": [[""]], "metrics": ["acc", "chrf", "f/1"], "acc": 0, "chrf": ["a"],
     "f/1": True},
]  # fmt: skip


def jsonl(path: Path, samples: list[dict[str, object]]) -> Path:
    """A harness's samples file."""
    path.write_text("".join(json.dumps(sample) + "\n" for sample in samples))
    return path


def row(number: int, body: bytes = b"{}", answer: bytes = b"{}") -> RequestRow:
    """The n-th request of a benchmark."""
    key = make_key(bytes(16), number)
    return RequestRow(
        key, "b", "model", "/completions", body, Answer(200, "text/x", answer, 0.5, 2)
    )


def test_samples_come_back_in_order_with_any_text(tmp_path: Path) -> None:
    """NUL bytes and lone surrogates, which HDF5's own strings reject, survive."""
    target = tmp_path / "samples.h5"
    write_samples(target, {"bench": {"a/b": jsonl(tmp_path / "s", LINES), ".": tmp_path / "s"}})
    assert sample_tasks(target) == {"bench": [".", "a/b"]}
    assert list(read_samples(target, "bench", "a/b")) == LINES


def test_metrics_are_columns_with_nan_for_no_number(tmp_path: Path) -> None:
    """A list is no number; a metric that appears late is NaN before."""
    target = tmp_path / "samples.h5"
    write_samples(target, {"bench": {"t": jsonl(tmp_path / "s", LINES)}})
    metrics = read_metrics(target, "bench", "t")
    assert set(metrics) == {"acc", "f/1"}
    np.testing.assert_array_equal(metrics["acc"], [1.0, 0.0])
    np.testing.assert_array_equal(metrics["f/1"], [np.nan, 1.0])
    with h5py.File(target) as file:
        assert file["bench/t/doc_id"][()].tolist() == [0, 1]
        assert file["bench/t/blob"][()].tobytes() == (tmp_path / "s").read_bytes()


def test_the_same_samples_give_the_same_bytes(tmp_path: Path) -> None:
    """No time and no order of a mapping gets into the file."""
    source = jsonl(tmp_path / "s", LINES)
    write_samples(tmp_path / "1.h5", {"x": {"t": source}, "a": {"u": source, "t": source}})
    write_samples(tmp_path / "2.h5", {"a": {"t": source, "u": source}, "x": {"t": source}})
    assert (tmp_path / "1.h5").read_bytes() == (tmp_path / "2.h5").read_bytes()


def test_a_line_that_is_no_sample_leaves_no_file(tmp_path: Path) -> None:
    """The error names the line, and neither a file nor a temporary one is left."""
    source = jsonl(tmp_path / "s", LINES)
    source.write_bytes(source.read_bytes()[:-9])
    with pytest.raises(IntegrityError, match="line 2 is not a sample"):
        write_samples(tmp_path / "samples.h5", {"b": {"t": source}})
    assert [path.name for path in tmp_path.iterdir()] == ["s"]


def test_a_task_without_samples_is_kept_as_that(tmp_path: Path) -> None:
    """An empty samples file is an empty list, not an error of HDF5."""
    write_samples(tmp_path / "samples.h5", {"b": {"t": jsonl(tmp_path / "s", [])}})
    assert list(read_samples(tmp_path / "samples.h5", "b", "t")) == []


def test_an_unknown_task_and_a_missing_file_are_told_apart(tmp_path: Path) -> None:
    """IntegrityError for what the file lacks, StorageError for a file that is not there."""
    write_samples(tmp_path / "samples.h5", {"b": {"t": jsonl(tmp_path / "s", LINES)}})
    with pytest.raises(IntegrityError, match="has no b/u"):
        list(read_samples(tmp_path / "samples.h5", "b", "u"))
    with pytest.raises(StorageError):
        list(read_samples(tmp_path / "none.h5", "b", "t"))
    (tmp_path / "junk.h5").write_bytes(b"junk")
    with pytest.raises(IntegrityError, match="not an HDF5 file"):
        sample_tasks(tmp_path / "junk.h5")


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(bodies=st.lists(st.tuples(st.binary(max_size=50), st.binary(max_size=50)), max_size=8))
def test_requests_come_back_as_they_were(tmp_path: Path, bodies: list[tuple[bytes, bytes]]) -> None:
    """Any bytes, none included, in any number."""
    rows = [row(number, *pair) for number, pair in enumerate(bodies)]
    write_requests(tmp_path / "requests.h5", rows)
    assert list(read_answered(tmp_path / "requests.h5")) == rows


def test_more_rows_than_are_read_at_once(tmp_path: Path) -> None:
    """Slicing by blocks loses no row at their borders."""
    rows = [row(number, b"%d" % number) for number in range(2500)]
    write_requests(tmp_path / "requests.h5", iter(rows))
    assert list(read_answered(tmp_path / "requests.h5")) == rows


def test_the_same_requests_give_the_same_bytes(tmp_path: Path) -> None:
    """Nothing in the file depends on when it was written."""
    rows = [row(number, b"x" * 1000) for number in range(50)]
    write_requests(tmp_path / "1.h5", rows)
    write_requests(tmp_path / "2.h5", rows)
    assert (tmp_path / "1.h5").read_bytes() == (tmp_path / "2.h5").read_bytes()


@pytest.mark.parametrize(
    ("body", "counts"),
    [
        (b'{"usage": {"prompt_tokens": 3, "completion_tokens": 4}}', (3, 4)),
        (b'{"usage": {"prompt_tokens": 3}}', (3, -1)),
        (b'{"usage": null}', (-1, -1)),
        (b'{"usage": {"prompt_tokens": "3", "completion_tokens": -4}}', (-1, -1)),
        (b"[]", (-1, -1)),
        (b"data: {}", (-1, -1)),
    ],
)
def test_tokens_are_what_the_server_counted_or_minus_one(
    body: bytes, counts: tuple[int, int]
) -> None:
    """Nothing is guessed where the answer does not say."""
    assert token_counts(Answer(200, "application/json", body)) == counts
