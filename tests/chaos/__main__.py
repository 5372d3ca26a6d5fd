"""`python -m tests.chaos`: schedules one after the other, a line of JSON for each, and the sum."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from pathlib import Path

from tests.chaos.rig import rig
from tests.chaos.trial import run_trial


def main() -> int:
    """Exit code 1 if anything was lost, doubled, left behind or different."""
    parser = argparse.ArgumentParser(prog="scripts/chaos", description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--schedules", type=int, default=30)
    parser.add_argument("--first", type=int, default=0, help="number of the first schedule")
    parser.add_argument("--seconds", type=float, default=1.2, help="of the slowest request")
    parser.add_argument("--calm", action="store_true", help="nothing goes wrong")
    parser.add_argument("--keep", type=Path, help="copy the runs that went wrong to this folder")
    given = parser.parse_args()
    bad = 0
    with rig(Path(f"/var/tmp/evalhpc-chaos-{os.getpid()}"), seconds=given.seconds) as made:
        for number in range(given.first, given.first + given.schedules):
            report = run_trial(made, given.seed, number, calm=given.calm)
            print(report.line(), flush=True)
            bad += bool(report.wrong)
            for run in made.disk.iterdir():
                if report.wrong and given.keep:
                    shutil.copytree(run, given.keep / run.name, symlinks=True)
                shutil.rmtree(run)
    print(f"{given.schedules} schedules, {bad} of them with something wrong", file=sys.stderr)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
