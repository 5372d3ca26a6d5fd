"""Shards that failed: which, where and why, from what they left behind; the run may go on."""

from __future__ import annotations

import re
from collections.abc import Callable

from evalhpc.models.base import Frozen
from evalhpc.storage.atomic import read_jsonl
from evalhpc.storage.round_view import worker_stats
from evalhpc.workflow.run import Run

_NAME = re.compile(r"(\d+)-(\d+)-(\d+)\.failures\.jsonl")


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


def shard_failures(run: Run) -> tuple[ShardFailure, ...]:
    """Every shard that said why it ended early, by round, shard and attempt."""
    found = []
    for path in sorted(run.paths.journals.glob("*.failures.jsonl")):
        if not (name := _NAME.fullmatch(path.name)):
            continue
        round_, shard, attempt = map(int, name.groups())
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
    found = []
    for name, said in worker_stats(run.paths.round_leases(round_)).items():
        # One that found nothing to do said nothing but its name.
        if said.get("state", "ended") == "ended" or not name.isdigit() or not ended(int(name)):
            continue
        found.append(
            ShardFailure(
                round=round_, shard=int(name), node=said.get("node", ""),
                what=f"its job has ended, and it was still {said['state']}",
                cause="it was killed without warning, or its node is down",
                hint=f"evalhpc logs {run.paths.root} --kind shard",
            )
        )  # fmt: skip
    return tuple(found)
