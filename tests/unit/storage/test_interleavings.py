"""Whatever workers do and however they die: one answer a request, and always the same ones."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from evalhpc.core.frames import payload_digest
from evalhpc.core.identity import Answer, make_key
from evalhpc.core.merkle import merkle_root
from evalhpc.storage.journal import JournalWriter, answer_meta
from evalhpc.storage.leases import LeaseBook
from evalhpc.storage.store import Store, merge_journals
from tests.storage_fixtures import RUN

REQUESTS = 9
UNIT = 2
TIMEOUT = 10.0
#: Of two requests with the same text the second is another occurrence.
PLAN = [
    make_key(hashlib.md5(bytes([number // 2])).digest(), number % 2) for number in range(REQUESTS)
]


def served(key: bytes) -> Answer:
    """The deterministic model server: what it says depends on the request alone."""
    if key[0] % 5 == 0:
        return Answer(400, "text/plain", b"")
    return Answer(200, "application/json", hashlib.sha256(key).digest() * (key[1] % 4))


def digest_of(key: bytes) -> bytes:
    answer = served(key)
    return payload_digest(key, answer_meta(answer.status, answer.content_type), answer.body)


EXPECTED = {key: served(key) for key in PLAN}
ROOT = merkle_root(sorted((key, digest_of(key)) for key in PLAN))


@dataclass
class Shard:
    """One attempt: its leases, its journal, and what it has still to ask of its unit."""

    book: LeaseBook
    journal: JournalWriter
    path: Path
    unit: int | None = None
    left: list[bytes] = field(default_factory=list)
    #: Bytes of the journal that a flush promised, which no crash takes back.
    flushed: int = 0
    answered: int = 0


class Interleavings(RuleBasedStateMachine):
    """Several shards in one folder, in any order; rounds are resumed over what is missing."""

    @initialize()
    def begin(self) -> None:
        """A round of all requests."""
        self.root = Path(tempfile.mkdtemp())
        self.now = 0.0
        self.attempts = 0
        self.round = 0
        self.shards: list[Shard] = []
        self.promised: set[bytes] = set()
        (self.root / "journals").mkdir()
        self.plan(PLAN)

    def plan(self, keys: list[bytes]) -> None:
        """The next round: these requests, cut into units."""
        self.round += 1
        self.units = {
            number: keys[start : start + UNIT]
            for number, start in enumerate(range(0, len(keys), UNIT))
        }

    # --- what shards do

    @precondition(lambda self: len(self.shards) < 3)
    @rule()
    def start(self) -> None:
        """A shard starts, with a journal of its own."""
        self.attempts += 1
        path = self.root / "journals" / f"{self.attempts:04d}.journal"
        self.shards.append(
            Shard(
                LeaseBook(
                    self.root / f"leases-{self.round}", str(self.attempts), TIMEOUT,
                    clock=lambda: self.now, place=self.attempts, workers=3,
                ),
                JournalWriter.create(path, RUN),
                path,
            )
        )  # fmt: skip

    @precondition(lambda self: self.shards)
    @rule(which=st.integers(0, 2), answers=st.integers(1, UNIT), looks=st.booleans())
    def work(self, which: int, answers: int, looks: bool) -> None:
        """A shard takes a unit if it has none, answers some of it, and settles it at its end."""
        shard = self.pick(which)
        shard.book.beat({})
        if looks and shard.unit is not None and not shard.book.still_mine(shard.unit):
            shard.unit, shard.left = None, []
        if shard.unit is None:
            shard.unit = shard.book.next_unit(list(self.units))
            shard.left = [] if shard.unit is None else list(self.units[shard.unit])
        for key in shard.left[:answers]:
            self.answer(shard, key)
        shard.left = shard.left[answers:]
        if shard.unit is not None and not shard.left:
            self.flush(shard)
            shard.book.done(shard.unit)
            self.promised.update(self.units[shard.unit])
            shard.unit = None

    def answer(self, shard: Shard, key: bytes) -> None:
        """Ask the server; how long it took and how often it was asked is never the same."""
        shard.answered += 1
        answer = served(key)
        shard.journal.append(
            key,
            Answer(answer.status, answer.content_type, answer.body, self.now, shard.answered),
        )

    @precondition(lambda self: self.shards)
    @rule(which=st.integers(0, 2))
    def flush_some(self, which: int) -> None:
        """A shard flushes what it has."""
        self.flush(self.pick(which))

    def flush(self, shard: Shard) -> None:
        """What the file holds now survives any crash."""
        shard.journal.flush()
        shard.flushed = shard.path.stat().st_size

    @precondition(lambda self: self.shards)
    @rule(which=st.integers(0, 2), key=st.sampled_from(PLAN))
    def repeat(self, which: int, key: bytes) -> None:
        """A shard that lost its unit without knowing answers what another answered."""
        self.answer(self.pick(which), key)

    @precondition(lambda self: self.shards)
    @rule(which=st.integers(0, 2), kept=st.floats(0, 1), noise=st.binary(max_size=90))
    def crash(self, which: int, kept: float, noise: bytes) -> None:
        """A node dies: of what was not flushed any part stays, then whatever the disk held."""
        shard = self.pick(which)
        shard.journal.close()
        whole = shard.path.read_bytes()
        cut = shard.flushed + round(kept * (len(whole) - shard.flushed))
        shard.path.write_bytes(whole[:cut] + noise)
        self.shards.remove(shard)

    @precondition(lambda self: self.shards)
    @rule(which=st.integers(0, 2))
    def end(self, which: int) -> None:
        """A shard goes in order."""
        shard = self.pick(which)
        shard.journal.close()
        shard.book.end({})
        self.shards.remove(shard)

    @rule(seconds=st.sampled_from([1.0, TIMEOUT / 2, 2 * TIMEOUT]))
    def wait(self, seconds: float) -> None:
        """Time passes; who does not beat looks dead to the others."""
        self.now += seconds

    # --- what the collector does

    @precondition(lambda self: not self.shards)
    @rule()
    def resume(self) -> None:
        """No shard is left: the next round is what the merge finds missing."""
        found = self.merged()
        missing = [key for key in PLAN if key not in found]
        if missing:
            self.plan(missing)

    @rule()
    def look(self) -> None:
        """A merge at any time holds true answers only, and all that a unit's end promised."""
        found = self.merged()
        assert found.items() <= EXPECTED.items()
        assert found.keys() >= self.promised

    def teardown(self) -> None:
        """The run is carried to its end: every request has its one answer, and the one root."""
        if not hasattr(self, "root"):
            return
        try:
            self.finish()
            found = self.merged()
            assert found == EXPECTED
            with Store.open(self.root / "store.h5", RUN) as store:
                store.verify()
                assert len(store) == len(PLAN)
                assert merkle_root(store.pairs()) == ROOT
        finally:
            shutil.rmtree(self.root)

    def finish(self) -> None:
        """The shards there are fall silent; a last one works until nothing is open."""
        silent, self.shards = self.shards, []
        if not silent:
            self.resume()
        self.start()
        book = self.shards[0].book
        for _ in range(9 * len(self.units)):
            if book.open_units(self.units):
                self.work(0, UNIT, looks=True)
                self.now += TIMEOUT
        assert not book.open_units(self.units)
        self.end(0)
        for shard in silent:  # not dead at all: their late answers are further copies
            shard.journal.close()

    def merged(self) -> dict[bytes, Answer]:
        """Key → answer, without its measurements, of all journals as they are now."""
        out = self.root / "store.h5"
        merge_journals((self.root / "journals").iterdir(), out, RUN)
        with Store.open(out, RUN) as store:
            answers = {key: store.get(key) for key, _ in store.pairs()}
        return {
            key: Answer(answer.status, answer.content_type, answer.body)
            for key, answer in answers.items()
            if answer is not None
        }

    def pick(self, which: int) -> Shard:
        return self.shards[which % len(self.shards)]


TestInterleavings = Interleavings.TestCase
TestInterleavings.settings = settings(max_examples=20, stateful_step_count=25, deadline=None)
