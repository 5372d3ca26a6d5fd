"""Shards that failed: which, where and why, from what they left behind; the run may go on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from evalhpc.models.base import Frozen
from evalhpc.paths import Attempt, attempt_of
from evalhpc.storage.atomic import read_jsonl
from evalhpc.storage.round_view import worker_stats
from evalhpc.workflow.record.run import Run


class ShardFailure(Frozen):
    """One attempt of a shard that ended early."""

    round: int
    shard: int
    attempt: int = 0
    node: str = ""
    what: str  # with the end of its server's log, where that died
    cause: str = ""
    hint: str = ""
    at: float = 0.0  # seconds since 1970, on the shard's clock: for people


def failure_files(run: Run, round_: int | None = None) -> list[tuple[Attempt, Path]]:
    """What shards left behind in one round, or in all, by round, shard and attempt."""
    paths = sorted(run.paths.journals.glob(run.paths.failures_pattern(round_)))
    return [(attempt, path) for path in paths if (attempt := attempt_of(path)) is not None]


def shard_failures(run: Run) -> tuple[ShardFailure, ...]:
    """Every shard that said why it ended early, by round, shard and attempt."""
    found = []
    for (round_, shard, attempt), path in failure_files(run):
        for record in read_jsonl(path):
            if "fatal" in record:
                fields = {key: record[key] for key in ("cause", "hint", "node", "at")
                          if key in record}  # fmt: skip
                found.append(
                    ShardFailure(round=round_, shard=shard, attempt=attempt,
                                 what=record["fatal"], **fields)
                )  # fmt: skip
    return tuple(found)


def silent_shards(run: Run, round_: int, ended: Callable[[int], bool]) -> tuple[ShardFailure, ...]:
    """Shards of the round that said nothing at all: killed, or their node is down.

    `ended` says of a shard whether its job has ended, as far as is known: no clock is asked.
    """
    return tuple(
        ShardFailure(
            round=round_, shard=shard, node=said.get("node", ""),
            what=f"its job has ended, and it was still {said['state']}",
            cause="it was killed without warning, or its node is down",
            hint=f"evalhpc logs {run.word} --kind shard",
        )
        for shard, said in unended(run, round_)
        if ended(shard)
    )  # fmt: skip


def unended(run: Run, round_: int) -> Iterator[tuple[int, dict[str, Any]]]:
    """(shard, its last heartbeat) of those that did not say that they end: they are at work, or,
    where their jobs have ended, were silenced."""
    for name, said in worker_stats(run.paths.round_leases(round_)).items():
        # One that found nothing to do said nothing but its name.
        if said.get("state", "ended") != "ended" and name.isdigit():
            yield int(name), said
