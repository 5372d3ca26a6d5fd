"""The command line of scripts/fuzz."""

from __future__ import annotations

import argparse
import math
import sys

from tests.fuzz import configuration, http_messages, scripts, stored_files, stores
from tests.fuzz.target import run

TARGETS = {
    target.name: target
    for room in (configuration, stored_files, stores, http_messages, scripts)
    for target in room.TARGETS
}


def main() -> int:
    """Run the targets one after another; 1 if any input did harm."""
    parser = argparse.ArgumentParser(prog="scripts/fuzz")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--inputs", type=int, default=100_000, help="over all targets together")
    parser.add_argument("--target", choices=sorted(TARGETS), action="append")
    options = parser.parse_args()
    chosen = [TARGETS[name] for name in options.target or TARGETS]
    shares = sum(target.share for target in chosen)
    total = found = 0
    for target in chosen:
        outcome = run(target, math.ceil(options.inputs * target.share / shares), options.seed)
        total += outcome.inputs
        found += bool(outcome.finding)
        state = "FOUND" if outcome.finding else "ok"
        print(f"{target.name:20} {outcome.inputs:8d} inputs {outcome.seconds:7.1f} s "
              f"{outcome.peak:6d} MiB  {state}", flush=True)  # fmt: skip
        if outcome.finding:
            print(outcome.finding, flush=True)
    print(f"{total} inputs, seed {options.seed}: {found} findings")
    return int(found > 0)


if __name__ == "__main__":
    sys.exit(main())
