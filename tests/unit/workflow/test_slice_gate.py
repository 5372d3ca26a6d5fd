"""A slice's gate: the model is asked what the unsharded harness asks, and nothing else."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from evalhpc.core.identity import HASH_BYTES, Answer, Request, make_key
from evalhpc.errors import EndpointError
from evalhpc.storage.follow import QueueReader, QueueWriter
from evalhpc.workflow.slices.harness import SliceGate

ANSWER = Answer(200, "application/json", b"{}")
RUN_HASH = "0" * 64
PLANNED = {bytes([1]) * HASH_BYTES: 1, bytes([2]) * HASH_BYTES: 2}


class Model:
    """Notes what it is asked."""

    def __init__(self) -> None:
        self.asked: list[Request] = []

    async def __call__(self, request: Request) -> Answer:
        self.asked.append(request)
        return ANSWER


@pytest.fixture
def further(tmp_path: Path) -> Iterator[QueueWriter]:
    writer = QueueWriter(tmp_path / "further.frames", RUN_HASH)
    yield writer
    writer.close()


def request(number: int, occurrence: int = 0) -> Request:
    key = make_key(bytes([number]) * HASH_BYTES, occurrence)
    return Request(key, "b", "model", "POST", "/completions", b"{}")


def ask(gate: SliceGate, *requests: Request) -> list[Answer | None]:
    async def all_of_them() -> list[Answer | None]:
        return [await gate(wanted) for wanted in requests]

    return asyncio.run(all_of_them())


def test_planned_questions_go_to_the_model(further: QueueWriter) -> None:
    """As often as pass 0 asked them."""
    model = Model()
    gate = SliceGate(model, PLANNED, further, open_ended=False)
    assert ask(gate, request(1), request(2), request(2, 1)) == [ANSWER] * 3
    assert (gate.foreign, gate.further) == (0, 0)


def test_after_another_question_the_model_is_asked_nothing(further: QueueWriter) -> None:
    """The slice has no result any more; its other questions are only counted."""
    model = Model()
    gate = SliceGate(model, PLANNED, further, open_ended=False)
    assert ask(gate, request(1), request(7), request(2), request(8)) == [ANSWER, None, None, None]
    assert [asked.key for asked in model.asked] == [request(1).key]
    assert gate.foreign == 2


def test_what_follows_an_answer_is_noted_before_it_is_asked(
    tmp_path: Path, further: QueueWriter
) -> None:
    """Turns that pass 0 cannot know, and a repetition beyond its count: on the disk at once."""
    gate = SliceGate(Model(), PLANNED, further, open_ended=True)
    assert ask(gate, request(1), request(7), request(1, 1)) == [ANSWER] * 3
    noted = QueueReader(tmp_path / "further.frames", RUN_HASH).new()
    assert [found.key for found in noted] == [request(7).key, request(1, 1).key]
    assert gate.foreign == 0


def test_a_model_that_is_gone_is_remembered(further: QueueWriter) -> None:
    """The harness only sees a failed call; the shard is to end, and the slice to be run again."""

    async def gone(_request: Request) -> Answer | None:
        raise EndpointError("the model server is gone")

    gate = SliceGate(gone, PLANNED, further, open_ended=False)
    with pytest.raises(EndpointError):
        ask(gate, request(1))
    assert gate.broken is not None


def test_a_check_asks_no_model_and_counts_what_is_foreign(further: QueueWriter) -> None:
    """Planning has no model: every reply is a stub."""
    gate = SliceGate(None, PLANNED, further, open_ended=False)
    assert ask(gate, request(1), request(9)) == [None, None]
    assert gate.foreign == 1
