"""The harness itself on one slice of the documents, checked against the unsharded questions."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import uvloop

from evalhpc.core.identity import Answer, Request, split_key
from evalhpc.errors import EndpointError
from evalhpc.gateway.app import Forward
from evalhpc.storage.atomic import storage_errors, write_text
from evalhpc.storage.follow import QueueWriter
from evalhpc.storage.store import Store
from evalhpc.workflow.passes.harness_run import Ended, Known, Place, log_tail, run_harness
from evalhpc.workflow.passes.redacting import redact_interrupted
from evalhpc.workflow.record.merging import merge_aside
from evalhpc.workflow.record.run import Run
from evalhpc.workflow.record.signals import until_signalled
from evalhpc.workflow.slices.listing import Slice, SliceOutcome
from evalhpc.workflow.slices.plan import (
    is_open_ended,
    refuse_foreign,
    refuse_unselective,
    unsharded_requests,
)

log = logging.getLogger(__name__)


class SliceGate:
    """What a slice's gateway forwards to: the model, as long as the questions are the right ones.

    Right is what the unsharded harness asks. The first other question makes the slice worthless:
    from then on nothing is asked, only counted. Where pass 0 left questions open (`open_ended`),
    what follows an answer cannot be known: it is asked, and noted in `further`.
    """

    def __init__(
        self,
        ask: Forward | None,
        unsharded: Mapping[bytes, int],
        further: QueueWriter,
        *,
        open_ended: bool,
    ) -> None:
        self.foreign = 0
        self.further = 0
        self.broken: EndpointError | None = None  # the model is gone: the slice is not run
        self._ask = ask
        self._unsharded = unsharded
        self._open_ended = open_ended
        self._writer = further
        self._noting = asyncio.Lock()

    async def __call__(self, request: Request) -> Answer | None:
        """The model's answer; None for a question that is not asked, or was given up."""
        hash_, occurrence = split_key(request.key)
        expected = self._unsharded.get(hash_, 0)
        if not expected and not self._open_ended:
            self.foreign += 1
        if self.foreign or self._ask is None:
            return None
        if occurrence >= expected:
            await self._note(request)
        try:
            return await self._ask(request)
        except EndpointError as error:
            self.broken = error
            raise

    async def _note(self, request: Request) -> None:
        """Before it is asked: an answer without its request would belong to no plan."""
        self.further += 1
        self._writer.append(request)
        async with self._noting:
            await asyncio.to_thread(self._writer.flush)


async def run_slice(run: Run, slice_: Slice, ask: Forward) -> SliceOutcome:
    """Run the harness on a slice; one that was begun before meets the answers it got then.

    Raises EndpointError where the model is gone: then the slice is as good as not begun.
    """
    folder, attempt = _attempt(run, slice_)
    for earlier in range(attempt):
        left = run.paths.slice_attempt(slice_.benchmark, slice_.number, earlier)
        await asyncio.to_thread(redact_interrupted, run, left)
    with _answered_before(run, folder, attempt) as lookup:
        outcome = await _run(run, slice_, folder, lookup, ask)
    write_text(folder / "outcome.json", outcome.model_dump_json(indent=1))
    if outcome.exit_code:
        log.warning(
            "the harness of %s exited with code %d on slice %d; what it did not ask is asked "
            "request by request:\n%s",
            slice_.benchmark, outcome.exit_code, slice_.number, "\n".join(outcome.log_tail),
        )  # fmt: skip
    return outcome


def check_prompts(run: Run, slices: Iterable[Slice]) -> None:
    """Before a model is started: one slice of each benchmark, over stubs.

    Raises IntegrityError where its questions are not those of the unsharded harness, HarnessError
    where the harness takes no slice.
    """
    last = {s.benchmark: s for s in slices if s.number}  # of one alone there is no other
    uvloop.run(until_signalled(_check(run, list(last.values()))))


async def _check(run: Run, slices: list[Slice]) -> None:
    at_once = asyncio.Semaphore(run.spec.site.resources.planning.cpus)

    async def one(slice_: Slice) -> SliceOutcome:
        folder = _fresh(run.paths.slice_check(slice_.benchmark))
        async with at_once:
            outcome = await _run(run, slice_, folder, Store.empty().get, None)
        refuse_unselective(outcome, folder / "harness.log")
        return outcome

    tasks = [asyncio.create_task(one(slice_)) for slice_ in slices]
    try:
        refuse_foreign(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _run(
    run: Run,
    slice_: Slice,
    folder: Path,
    lookup: Callable[[bytes], Answer | None],
    ask: Forward | None,
) -> SliceOutcome:
    name = slice_.benchmark
    place = Place(
        output=folder / "output",
        log=folder / "harness.log",
        env={"EVALHPC_SAMPLES": str(run.paths.slice_documents(name, slice_.number))},
    )
    further = QueueWriter(folder / "further.frames", run.hash)
    gate = SliceGate(
        ask,
        unsharded_requests(run, name),
        further,
        open_ended=is_open_ended(run, name),
    )
    try:
        known = Known(lookup, record_miss=lambda _request: None, forward=gate)
        ended = await run_harness(run, run.benchmark(name), known, place)
    finally:
        further.close()
    if gate.broken is not None:
        raise gate.broken
    outcome = _outcome(slice_, ended, gate, place)
    log.info(
        "slice %d of %s: asked %d, %d of the model, %d foreign, exit code %d, %.1f s",
        slice_.number, name, outcome.asked, ended.counts.live, outcome.foreign,
        outcome.exit_code, outcome.seconds,
    )  # fmt: skip
    return outcome


def _outcome(slice_: Slice, ended: Ended, gate: SliceGate, place: Place) -> SliceOutcome:
    return SliceOutcome(
        benchmark=slice_.benchmark,
        number=slice_.number,
        exit_code=ended.exit_code,
        asked=ended.counts.asked,
        foreign=gate.foreign,
        further=gate.further,
        seconds=ended.seconds,
        log_tail=log_tail(place.log) if ended.exit_code else (),
    )


def _attempt(run: Run, slice_: Slice) -> tuple[Path, int]:
    """A folder of its own for each attempt: whoever was only asleep may write on in his."""
    for attempt in count():
        folder = run.paths.slice_attempt(slice_.benchmark, slice_.number, attempt)
        with storage_errors(folder):
            try:
                folder.mkdir()
            except FileExistsError:
                continue
            (folder / "output").mkdir()
        return folder, attempt
    raise AssertionError("not reached: count() has no end")


@contextmanager
def _answered_before(
    run: Run, folder: Path, attempt: int
) -> Iterator[Callable[[bytes], Answer | None]]:
    """What the journals hold, for a second attempt; a store of its own, as others merge theirs."""
    if not attempt:
        yield Store.empty().get
        return
    path = folder / "answered.h5"
    merge_aside(run, path)
    with Store.open(path, run.hash) as store:
        try:
            yield store.get
        finally:
            path.unlink()


def _fresh(folder: Path) -> Path:
    """An empty folder with a place for output; what was there before is moved aside."""
    with storage_errors(folder):
        for aside in count(1):
            if not folder.exists():
                break
            target = folder.with_name(f"{folder.name}.{aside}")
            if not target.exists():
                folder.rename(target)
        (folder / "output").mkdir(parents=True)
    return folder
