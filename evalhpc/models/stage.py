"""What `evalhpc stage` records: a benchmark whose data sets and tokenizers are on a site."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Literal

from pydantic import Field

from evalhpc.models.base import Frozen
from evalhpc.models.suite import Benchmark, Params

_KEY_LENGTH = 10


class StagedEntry(Frozen):
    """One data set, tokenizer or prepared table below the stage folder."""

    name: str  # path below the stage folder, such as huggingface/hub/datasets--org--name
    version: str = ""  # commit that the hub's name stands for; "" where there is none
    files: int = Field(ge=0)
    bytes: int = Field(ge=0)


class StagePass(Frozen):
    """What one run of the harness for staging came to."""

    exit_code: int
    asked: int  # requests
    digest: str  # SHA-256 over the keys of the requests, in no order
    isolated: bool  # whether it ran where no network could be reached
    seconds: float


class StageRecord(Frozen):
    """`records/<name>.json`: what was staged for a benchmark, and how that was proved."""

    format_version: Literal[2] = 2
    benchmark: str
    harness: str
    task: str
    key: str  # of what decides which data are loaded
    params: Params
    model_id: str
    tokenizer: str | None  # folder of the model's, where it was staged with one
    endpoints: dict[str, str]  # beside the model: name → model id
    requests: int  # that the harness asked without internet
    digest: str
    same: bool  # both passes asked the very same requests
    isolated: bool  # the proof ran in a network namespace without a route
    entries: tuple[StagedEntry, ...]  # that the harness read, as they were then
    whole: bool  # entries are all of the stage folder: nothing told which of them it read
    fetched_bytes: int  # by which this staging made it grow
    staged: str  # when, UTC
    staged_by: str  # user@host
    evalhpc_version: str
    seconds: float

    def lost(self, now: Mapping[str, StagedEntry]) -> tuple[str, ...]:
        """Entries that are gone by now, or cut; `now`: by name."""
        return tuple(then.name for then in self.entries if not holds(then, now.get(then.name)))

    def moved(self, now: Mapping[str, StagedEntry]) -> tuple[str, ...]:
        """Entries that are of another version by now: a later staging may have fetched it."""
        kept = (then for then in self.entries if holds(then, now.get(then.name)))
        return tuple(then.name for then in kept if now[then.name].version != then.version)


def holds(then: StagedEntry, now: StagedEntry | None) -> bool:
    """Whether what there was is there still, whole; of another version, it is not compared."""
    if now is None or (then.version and not now.version):
        return False
    if now.version != then.version:
        return True  # of another size, so that nothing can be compared
    return now.files >= then.files and now.bytes >= then.bytes


def stage_key(benchmark: Benchmark) -> str:
    """What tells whether a staging serves a benchmark: what decides on the data that it loads."""
    params = benchmark.params
    tokenizer = params.tokenizer
    decisive = {
        "harness": benchmark.harness,
        "task": benchmark.task,
        "endpoint": params.endpoint,
        "num_fewshot": params.num_fewshot,
        # A folder is there or not; only a name has to be fetched.
        "tokenizer": None if tokenizer and tokenizer.startswith("/") else tokenizer,
        "include_path": params.include_path,
        "model_args": params.model_args,
        "extra_args": list(params.extra_args),
    }
    text = json.dumps(decisive, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:_KEY_LENGTH]


def record_name(benchmark: Benchmark) -> str:
    """The file name of the benchmark's record, without a suffix."""
    task = re.sub(r"[^A-Za-z0-9_.-]+", "_", benchmark.task)[:100].strip("._-") or "task"
    return f"{benchmark.harness}-{task}-{stage_key(benchmark)}"
