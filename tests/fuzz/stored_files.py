"""Targets: journals, plans and other files of a run after any accident."""

from __future__ import annotations

from contextlib import suppress

from evalhpc.core.frames import (
    FRAME_HEADER_BYTES,
    FRAME_MAGIC,
    Damage,
    encode_frame,
    file_header,
    header_seed,
)
from evalhpc.core.identity import Answer, Request, make_key
from evalhpc.errors import EvalhpcError
from evalhpc.storage.atomic import read_jsonl
from evalhpc.storage.follow import JournalFollower
from evalhpc.storage.journal import JournalWriter, read_journal
from evalhpc.storage.requests_file import RequestWriter, read_requests
from evalhpc.storage.store import Store, merge_journals
from tests.fuzz.bytes_of import damaged
from tests.fuzz.target import Target, scratch

RUN = "ab" * 32
_SEED = header_seed(file_header("journal", RUN))
_KEYS = [make_key(bytes([n]) * 16, n) for n in range(4)]
ANSWERS = [
    (_KEYS[0], Answer(200, "application/json", b'{"choices": []}', 0.5, 1)),
    (_KEYS[1], Answer(400, "", b"", 0.25, 2)),
    (_KEYS[2], Answer(200, "text/plain", FRAME_MAGIC + b"x" * 200, 0.125, 3)),
    # A model may well say what a journal says.
    (_KEYS[3], Answer(200, "t", encode_frame(_SEED ^ 1, _KEYS[0], b"{}", b"forged"), 1.0, 1)),
]
#: Frames whose checksums are right: only what they say is wrong.
_FORGED = [
    encode_frame(_SEED, _KEYS[0], meta, b"body")
    for meta in (b"", b"null", b"{}", b"[" * 2000, b'{"status":1e9,"content_type":""}',
                 b'{"status":true,"content_type":""}', b'{"content_type":"","status":200}',
                 b'{"status":200,"content_type":"\xff"}')
]  # fmt: skip
_PIECES = [FRAME_MAGIC, FRAME_MAGIC * 20, b"evalhpc\n", b"\0" * FRAME_HEADER_BYTES, *_FORGED]


def _honest_journals() -> list[bytes]:
    path, found = scratch("stored_files") / "honest", []
    for count in (0, 1, len(ANSWERS)):
        path.unlink(missing_ok=True)
        with JournalWriter.create(path, RUN) as writer:
            for key, answer in ANSWERS[:count]:
                writer.append(key, answer)
        found.append(path.read_bytes())
    return [*found, found[-1] + found[-1][104:], file_header("journal", "cd" * 32)]


def _honest_plan() -> bytes:
    path = scratch("stored_files") / "plan"
    with RequestWriter(path, RUN) as writer:
        for key in _KEYS:
            writer.append(Request(key, "b", "model", "POST", "/completions", b'{"prompt": 1}'))
    return path.read_bytes()


def _journal(data: bytes) -> None:
    """Every answer that is read was written; the spans of what is read tile the file."""
    path = scratch("stored_files") / "journal"
    path.write_bytes(data)
    with suppress(EvalhpcError):
        for item in read_journal(path, RUN):
            assert isinstance(item, Damage) or item in ANSWERS
    with suppress(EvalhpcError):
        assert all(item in ANSWERS for item in JournalFollower(path, RUN).new())


def _merge(data: bytes) -> None:
    """A merge of an honest journal and this one has what was written, and nothing else."""
    journal, out = scratch("stored_files") / "1.journal", scratch("stored_files") / "store.h5"
    journal.write_bytes(data)
    out.unlink(missing_ok=True)
    with suppress(EvalhpcError):
        merge_journals([scratch("stored_files") / "honest", journal], out, RUN)
        with Store.open(out, RUN) as store:
            store.verify()
            assert len(store) == len(ANSWERS)
            for key, answer in ANSWERS:
                assert store.get(key) == answer


def _plan(data: bytes) -> None:
    path = scratch("stored_files") / "damaged-plan"
    path.write_bytes(data)
    with suppress(EvalhpcError):
        requests = list(read_requests(path, RUN))
        assert all(request.body == b'{"prompt": 1}' for request in requests)


def _lines(data: bytes) -> None:
    path = scratch("stored_files") / "jobs.jsonl"
    path.write_bytes(data)
    with suppress(EvalhpcError):
        read_jsonl(path)


_JOURNALS = _honest_journals()
_LINES = b'{"kind": "shard", "job": "12", "time": 1.5}\n{"kind": "collect"}\n'
TARGETS = [
    Target("journal", damaged(_JOURNALS, _PIECES), _journal),
    Target("merge", damaged(_JOURNALS, _PIECES), _merge, share=0.1),
    Target("plan", damaged([_honest_plan()], _PIECES), _plan),
    Target("jsonl", damaged([_LINES, b""], [b"[" * 5000, b"\n", b"9" * 5000, b"\xff", b'"\\ud8']),
           _lines),
]  # fmt: skip
