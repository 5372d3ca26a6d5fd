"""Plan files: published whole, read by range, any damage is an error."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from evalhpc.core.frames import FILE_HEADER_BYTES
from evalhpc.core.identity import Request
from evalhpc.errors import FrameError, IntegrityError
from evalhpc.storage.journal import JournalWriter
from evalhpc.storage.requests_file import RequestWriter, read_requests
from tests.storage_fixtures import RUN

text = st.text(st.characters(), max_size=8)
requests = st.builds(
    Request, st.binary(min_size=20, max_size=20), text, text, text, text, st.binary(max_size=50)
)


def request(number: int) -> Request:
    body = b"x" * number
    return Request(bytes([number]) * 20, "gsm8k", "model", "POST", "/completions", body)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(requests, max_size=6), st.data())
def test_any_range_comes_back(tmp_path: Path, written: list[Request], data: st.DataObject) -> None:
    """The offsets that append returned bound exactly the requests between them."""
    path = tmp_path / "requests.frames"
    with RequestWriter(path, RUN) as writer:
        offsets = [*(writer.append(item) for item in written), writer.offset]
    first = data.draw(st.integers(0, len(written)))
    last = data.draw(st.integers(first, len(written)))
    assert list(read_requests(path, RUN)) == written
    assert list(read_requests(path, RUN, offsets[first], offsets[last])) == written[first:last]


def test_nothing_shows_before_it_is_whole(tmp_path: Path) -> None:
    """Until publish there is no file of that name; after an exception there never is one."""
    path = tmp_path / "requests.frames"
    writer = RequestWriter(path, RUN)
    writer.append(request(1))
    assert not path.exists()
    writer.publish()
    assert list(read_requests(path, RUN)) == [request(1)]
    with pytest.raises(StopIteration), RequestWriter(path, RUN) as second:
        second.append(next(iter(())))
    assert list(read_requests(path, RUN)) == [request(1)]
    assert list(tmp_path.iterdir()) == [path]


def test_damage_is_an_error(tmp_path: Path) -> None:
    """A plan with a flipped bit, a torn tail, or a range that cuts a frame is not used."""
    path = tmp_path / "requests.frames"
    with RequestWriter(path, RUN) as writer:
        start = writer.append(request(1))
        end = writer.offset
    whole = path.read_bytes()
    for bad in (whole[:-1], whole[:-1] + b"y", whole[:20] + b"!" + whole[21:], b""):
        path.write_bytes(bad)
        with pytest.raises(FrameError, match="damaged"):
            list(read_requests(path, RUN))
    path.write_bytes(whole)
    for first, last in ((start + 1, end), (start, end - 1), (start, end + 1)):
        with pytest.raises(FrameError, match="damaged"):
            list(read_requests(path, RUN, first, last))


def test_other_files_are_refused(tmp_path: Path) -> None:
    """Neither another run's plan nor a journal passes for this plan."""
    with RequestWriter(tmp_path / "plan", "cd" * 32):
        pass
    with pytest.raises(IntegrityError, match="belongs to run cdcdcdcdcd"):
        list(read_requests(tmp_path / "plan", RUN))
    JournalWriter.create(tmp_path / "journal", RUN).close()
    with pytest.raises(IntegrityError, match="kind journal"):
        list(read_requests(tmp_path / "journal", RUN))


def test_a_unit_costs_its_own_bytes_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a plan that no cache holds, its header and the range are read, and nothing beside them."""
    path, read, asked = tmp_path / "requests.frames", os.preadv, [0]
    with RequestWriter(path, RUN) as writer:
        offsets = [writer.append(request(number)) for number in range(200)]

    def preadv(fd: int, buffers: list[memoryview], at: int) -> int:
        asked[0] += sum(map(len, buffers))
        return read(fd, buffers, at)

    monkeypatch.setattr(os, "preadv", preadv)
    assert list(read_requests(path, RUN, offsets[100], offsets[102])) == [
        request(100),
        request(101),
    ]
    assert asked[0] == FILE_HEADER_BYTES + offsets[102] - offsets[100]
