"""What a finished run hands on, packed: every sample (samples.h5), every request (requests.h5).

    samples.h5   /BENCHMARK/TASK/
        blob      uint8 (bytes)    the harness's own JSON lines, byte for byte
        offsets   int64 (N + 1)    sample i is blob[offsets[i]:offsets[i + 1]]
        doc_id    int64 (N)
        metrics/M float64 (N)      NaN where a sample has no number for metric M
    requests.h5
        keys uint8 (N, 20)
        benchmark, endpoint, path  uint32 (N), lines of `benchmarks`, `endpoints` and `paths`
        status int16 (N)  latency float64 (N), s  attempts uint32 (N)
        prompt_tokens, completion_tokens  int64 (N), from the answer's `usage`; -1 without one
        request_blob, request_offsets, answer_blob, answer_offsets
        content_type uint32 (N), a line of `content_types`

HDF5's own strings cannot hold NUL bytes or lone surrogates, so text is kept as bytes. A `/` in a
task's or metric's name is written %2F. The same input gives the same bytes.
"""

from __future__ import annotations

import io
import os
from array import array
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple
from urllib.parse import quote, unquote

import h5py
import numpy as np
import numpy.typing as npt

from evalhpc.core.frames import decode_meta, encode_meta
from evalhpc.core.identity import KEY_BYTES, Answer, parse_json
from evalhpc.core.lines import lines_of
from evalhpc.errors import IntegrityError
from evalhpc.storage.atomic import publish, storage_errors, temporary_name

FORMAT = 1
_CHUNK_BYTES = 1 << 20
_ROWS_AT_ONCE = 1024
_NUMBERS = {"benchmark": "u4", "endpoint": "u4", "path": "u4", "status": "i2",
            "latency": "f8", "attempts": "u4", "content_type": "u4",
            "prompt_tokens": "i8", "completion_tokens": "i8"}  # fmt: skip
_TABLES = {"benchmark": "benchmarks", "endpoint": "endpoints", "path": "paths",
           "content_type": "content_types"}  # fmt: skip


class RequestRow(NamedTuple):
    """One request with its answer."""

    key: bytes  # 20 bytes
    benchmark: str
    endpoint: str  # who answered: "model", or one beside it
    path: str
    body: bytes  # of the request
    answer: Answer


def write_samples(path: Path, samples: Mapping[str, Mapping[str, Path | bytes]]) -> None:
    """Pack benchmark → task → JSON lines (a file, or its content) into `path`, whole or not at all.

    Raises StorageError, and IntegrityError for a line that is no sample.
    """
    with _new_file(path) as file:
        for benchmark, tasks in sorted(samples.items()):
            for task, source in sorted(tasks.items()):
                _pack_samples(file.create_group(f"{_name(benchmark)}/{_name(task)}"), source)


def sample_tasks(path: Path) -> dict[str, list[str]]:
    """Benchmark → its tasks in a samples.h5. Raises StorageError, IntegrityError."""
    with _existing(path) as file:
        return {unquote(name): sorted(map(unquote, group)) for name, group in file.items()}


def read_samples(path: Path, benchmark: str, task: str) -> Iterator[dict[str, Any]]:
    """The samples of one task, in the harness's order. Raises StorageError, IntegrityError."""
    with _existing(path) as file:
        group = _member(path, file, f"{_name(benchmark)}/{_name(task)}")
        for line in _slices(group["blob"], group["offsets"][()]):
            sample: dict[str, Any] = parse_json(line)
            yield sample


def read_metrics(path: Path, benchmark: str, task: str) -> dict[str, npt.NDArray[np.float64]]:
    """Metric → one value per sample (N,), NaN where there is none; raises as `read_samples`."""
    with _existing(path) as file:
        group = _member(path, file, f"{_name(benchmark)}/{_name(task)}/metrics")
        return {unquote(name): values[()] for name, values in group.items()}


def write_requests(path: Path, rows: Iterable[RequestRow]) -> None:
    """Pack requests with their answers into `path`, in the order given. Raises StorageError."""
    with _new_file(path) as file:
        requests, answers = _BlobWriter(file, "request"), _BlobWriter(file, "answer")
        tables: dict[str, dict[str, int]] = {name: {} for name in _TABLES}
        columns = {name: array("d") for name in _NUMBERS}
        keys = bytearray()
        for key, benchmark, endpoint, target, body, answer in rows:
            keys += key
            requests.append(body)
            answers.append(answer.body)
            texts = {"benchmark": benchmark, "endpoint": endpoint, "path": target,
                     "content_type": answer.content_type}  # fmt: skip
            for name, text in texts.items():
                columns[name].append(tables[name].setdefault(text, len(tables[name])))
            columns["status"].append(answer.status)
            columns["latency"].append(answer.latency)
            columns["attempts"].append(answer.attempts)
            prompt_tokens, completion_tokens = token_counts(answer)
            columns["prompt_tokens"].append(prompt_tokens)
            columns["completion_tokens"].append(completion_tokens)
        requests.close()
        answers.close()
        _put(file, "keys", np.frombuffer(bytes(keys), "u1").reshape(-1, KEY_BYTES))
        for name, kind in _NUMBERS.items():
            _put(file, name, np.array(columns[name]).astype(f"<{kind}"))
        for name, table in _TABLES.items():
            _put(file, table, np.frombuffer(encode_meta(list(tables[name])), "u1"))


def read_answered(path: Path) -> Iterator[RequestRow]:
    """The rows of a requests.h5, in its order. Raises StorageError, IntegrityError."""
    with _existing(path) as file:
        _member(path, file, "request_blob")
        columns = {name: file[name][()].tolist() for name in _NUMBERS}
        tables = {name: decode_meta(file[table][()].tobytes()) for name, table in _TABLES.items()}
        bodies = _slices(file["request_blob"], file["request_offsets"][()])
        replies = _slices(file["answer_blob"], file["answer_offsets"][()])
        rows = zip(file["keys"][()], bodies, replies, strict=True)
        for row, (key, body, reply) in enumerate(rows):
            text = {name: tables[name][columns[name][row]] for name in _TABLES}
            answer = Answer(columns["status"][row], text["content_type"], reply,
                            columns["latency"][row], columns["attempts"][row])  # fmt: skip
            yield RequestRow(key.tobytes(), text["benchmark"], text["endpoint"], text["path"],
                             body, answer)  # fmt: skip


def token_counts(answer: Answer) -> tuple[int, int]:
    """(prompt, completion) tokens as the server counted them; -1 where it does not say."""
    try:
        reply = parse_json(answer.body)
    except ValueError:
        return -1, -1
    usage = reply.get("usage") if isinstance(reply, dict) else None
    found = usage if isinstance(usage, dict) else {}
    prompt, completion = found.get("prompt_tokens"), found.get("completion_tokens")
    return _count(prompt), _count(completion)


def _count(value: Any) -> int:
    return value if isinstance(value, int) and 0 <= value < 1 << 63 else -1


class _BlobWriter:
    """Appends byte strings to a growing dataset and remembers where each begins."""

    def __init__(self, file: h5py.File, name: str) -> None:
        self._file = file
        self._name = name
        self._blob = file.create_dataset(
            f"{name}_blob", (0,), "u1", maxshape=(None,), chunks=(_CHUNK_BYTES,), track_times=False
        )
        self._offsets = array("q", [0])
        self._waiting = bytearray()

    def append(self, data: bytes) -> None:
        self._waiting += data
        self._offsets.append(self._offsets[-1] + len(data))
        if len(self._waiting) >= 4 * _CHUNK_BYTES:
            self._flush()

    def close(self) -> None:
        self._flush()
        _put(self._file, f"{self._name}_offsets", np.frombuffer(self._offsets, "<i8"))

    def _flush(self) -> None:
        start = self._blob.shape[0]
        self._blob.resize((start + len(self._waiting),))
        self._blob[start:] = np.frombuffer(bytes(self._waiting), "u1")
        self._waiting.clear()


def _pack_samples(group: h5py.Group, content: Path | bytes) -> None:
    offsets, doc_ids = array("q", [0]), array("q")
    metrics: dict[str, array[float]] = {}
    source = content if isinstance(content, Path) else Path(str(group.name))
    with storage_errors(source), _opened(content) as lines:
        _copy(group, lines)
        for line in _lines(source, lines):
            offsets.append(offsets[-1] + len(line))
            doc_id, numbers = _numbers(source, len(doc_ids) + 1, line)
            for name in numbers.keys() - metrics.keys():
                metrics[name] = array("d", [float("nan")] * len(doc_ids))
            doc_ids.append(doc_id)
            for name, values in metrics.items():
                values.append(numbers.get(name, float("nan")))
    _put(group, "offsets", np.frombuffer(offsets, "<i8"))
    _put(group, "doc_id", np.frombuffer(doc_ids, "<i8"))
    columns = group.create_group("metrics")
    for name, values in sorted(metrics.items()):
        _put(columns, _name(name), np.frombuffer(values, "<f8"))


def _lines(source: Path, stream: BinaryIO) -> Iterator[bytes]:
    try:
        yield from lines_of(stream)
    except ValueError as error:
        raise IntegrityError(
            f"{source} holds no samples: {error}",
            cause="the harness wrote something else into it, or runs wild",
            hint=f"head -c 1000 {source}",
        ) from error


def _opened(content: Path | bytes) -> BinaryIO:
    return io.BytesIO(content) if isinstance(content, bytes) else content.open("rb")


def _copy(group: h5py.Group, source: BinaryIO) -> None:
    """Put the whole file into a dataset, and rewind it."""
    size = source.seek(0, os.SEEK_END)
    source.seek(0)
    blob = group.create_dataset("blob", (size,), "u1", track_times=False)
    for start in range(0, size, _CHUNK_BYTES):
        part = source.read(min(_CHUNK_BYTES, size - start))
        blob[start : start + len(part)] = np.frombuffer(part, "u1")
    source.seek(0)


def _numbers(source: Path, number: int, line: bytes) -> tuple[int, dict[str, float]]:
    """(doc_id, metric → value) of one sample; metrics that are no numbers are left out."""
    try:
        sample = parse_json(line)
        doc_id = int(sample["doc_id"])
        found = {name: sample.get(name) for name in sample.get("metrics", ())}
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise IntegrityError(
            f"{source}, line {number} is not a sample: {error!r}",
            cause="the harness was cut short while it wrote the file",
            hint=f"tail -n 1 {source}",
        ) from error
    return doc_id, {k: float(v) for k, v in found.items() if isinstance(v, int | float)}


def _slices(blob: h5py.Dataset, offsets: npt.NDArray[np.int64]) -> Iterator[bytes]:
    for first in range(0, len(offsets) - 1, _ROWS_AT_ONCE):
        marks = offsets[first : first + _ROWS_AT_ONCE + 1].tolist()
        data = blob[marks[0] : marks[-1]].tobytes()
        for start, end in pairwise(marks):
            yield data[start - marks[0] : end - marks[0]]


def _put(group: h5py.Group, name: str, data: npt.NDArray[np.generic]) -> None:
    group.create_dataset(name, data=data, track_times=False)


def _name(text: str) -> str:
    """`text` as one HDF5 name: no slash, and neither `.` nor `..`."""
    name = quote(text, safe=" ,=+:()[]", errors="surrogatepass")
    return name.replace(".", "%2E") if set(name) == {"."} else name


def _member(path: Path, file: h5py.File, name: str) -> h5py.Group:
    if name not in file:
        raise IntegrityError(f"{path} has no {unquote(name)}", hint=f"h5ls -r {path}")
    return file[name]


@contextmanager
def _new_file(path: Path) -> Iterator[h5py.File]:
    """A new HDF5 file that gets its name, durably, only at a normal end."""
    temporary = temporary_name(path)
    with storage_errors(path):
        try:
            # The oldest layout that holds this: readable everywhere, without times.
            with h5py.File(temporary, "w-", libver=("earliest", "v108")) as file:
                file.attrs["format"] = FORMAT
                yield file
            with temporary.open("rb") as written:
                os.fsync(written.fileno())
            publish(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


@contextmanager
def _existing(path: Path) -> Iterator[h5py.File]:
    with storage_errors(path):
        path.open("rb").close()  # a missing file or permission, told apart from damage
    try:
        file = h5py.File(path, "r", locking=False)
    except OSError as error:
        raise IntegrityError(f"{path} is not an HDF5 file: {error}") from error
    with file:
        yield file
