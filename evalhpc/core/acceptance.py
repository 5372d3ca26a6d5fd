"""When a pass counts: the rule between a harness's output and a published score."""

from __future__ import annotations

from typing import Literal

from evalhpc.causes.table import SIGNALLED, of_exit
from evalhpc.containers.explain import explain
from evalhpc.models.base import Frozen


class Outcome(Frozen):
    """What one pass over one benchmark did; `outcome.json` of the pass."""

    benchmark: str
    number: int  # of the pass
    exit_code: int  # of the harness
    asked: int  # requests, without GET probes
    answered: int  # from the store
    misses: int  # planned for the next round
    dependents: int  # carried a stub, so not planned
    stub_files: tuple[str, ...] = ()  # files of the output that hold a stub's marker
    unused: int = 0  # stored answers of this benchmark that were neither used nor a retry's
    unused_keys: tuple[str, ...] = ()  # the first of them, in hex
    orphaned: int = 0  # the same, but may follow from an answer that a damaged journal took away
    unused_repeats: int = 0  # stored further occurrences of used ones: a harness's retries of stubs
    live: int = 0  # answered by the model during the pass itself (run.miss: forward)
    failed: int = 0  # got an error, since they were given up for good (run.max_failures)
    store_root: str = ""  # Merkle root of this benchmark's answers that the pass was given
    seconds: float = 0.0
    log_tail: tuple[str, ...] = ()  # last lines of the harness's log when it failed


#: Exit codes of a harness, as timeout(1) and bash say them.
TIMED_OUT, NOT_FOUND = 124, 127
#: The same for "file size limit exceeded": it left more than `run.max_output` allows.
TOO_MUCH_OUTPUT = 153

Verdict = Literal["final", "misses", "failed"]


def verdict(outcome: Outcome) -> Verdict:
    """`final` only if the harness's numbers rest on real answers alone, and on all of them."""
    if outcome.exit_code != 0 or outcome.asked == 0:
        return "failed"
    if outcome.misses:
        return "misses"
    if outcome.dependents or outcome.stub_files or outcome.unused:
        return "failed"
    return "final"


def failure_reason(outcome: Outcome) -> tuple[str, str, str]:
    """(what, likely cause, next step) for an outcome whose verdict is `failed`."""
    name, number = outcome.benchmark, outcome.number
    if outcome.exit_code != 0:
        return _exit_reason(outcome)
    if outcome.asked == 0:
        return (
            f"the harness of {name} asked nothing in pass {number}",
            "an empty task, a limit that leaves nothing, or a cache that answers in our place",
            "evalhpc logs RUN --kind harness",
        )
    if outcome.dependents:
        return (
            f"{name} sent {outcome.dependents} requests made of stubs in a pass without a miss",
            "the harness keeps answers from an earlier pass in a cache of its own",
            "turn the harness's cache off",
        )
    if outcome.stub_files:
        return (
            f"the output of {name} holds stubs in {', '.join(outcome.stub_files[:3])}",
            "the harness keeps answers from an earlier pass in a cache of its own",
            "turn the harness's cache off",
        )
    return (
        f"{name} left {outcome.unused} recorded answers unused in its last pass",
        "the harness asks different questions each time (an unseeded shuffle), or an answer that "
        "they followed from is gone (a journal or store.h5 was damaged, removed or restored)",
        "set a seed for the harness (params.seed), or look for damage in: evalhpc merge RUN; "
        "then submit again",
    )


def _exit_reason(outcome: Outcome) -> tuple[str, str, str]:
    name, number = outcome.benchmark, outcome.number
    look = "evalhpc logs RUN --kind harness"
    if outcome.exit_code == TIMED_OUT:
        return (
            f"the harness of {name} ran out of time in pass {number}",
            "it hangs, or run.harness_timeout is too short for it",
            f"{look}; then submit again with --set run.harness_timeout=SECONDS",
        )
    if outcome.exit_code == TOO_MUCH_OUTPUT:
        return (
            f"the harness of {name} left too much in pass {number}, and its output was removed; "
            + "".join(outcome.log_tail[-1:]),
            "it keeps data or logs in its output folder, or runs wild",
            f"{look}; then submit again with --set run.max_output=GIB, or max_output_files=N",
        )
    signal = -outcome.exit_code if outcome.exit_code < 0 else outcome.exit_code - SIGNALLED
    ended = of_exit(0, signal) if signal > 0 else None
    in_image = explain("\n".join(outcome.log_tail))
    absent = outcome.exit_code == NOT_FOUND or "No module named" in "".join(outcome.log_tail[-1:])
    tail = "\n".join(f"  | {line}" for line in outcome.log_tail)
    what = f"the harness of {name} exited with code {outcome.exit_code} in pass {number}" + (
        f"; the end of its log:\n{tail}" if tail else ""
    )
    if in_image:
        said, cause, step = in_image
        return what, f"the image did not start: {cause or said}", step or look
    if ended is not None:
        what = what.replace(f"exited with code {outcome.exit_code}", f"ended (signal {signal})", 1)
        return what, ended.cause, look
    return (
        what,
        "the harness is not installed in the Python or image that runs it"
        if absent
        else "the harness could not find its task or data, or rejects a parameter",
        "evalhpc ls harnesses (says how to install it)" if absent else look,
    )
