"""A deployment job sees its shards live by files that change, whatever clocks wrote them."""

import os
from pathlib import Path

import pytest

from evalhpc.paths import RunPaths
from evalhpc.workflow.record.run import Run
from evalhpc.workflow.serve import deployment
from tests.factories import make_spec


def test_a_clock_that_is_ahead_hides_no_sign_of_life(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One worker's file is of tomorrow; that another's changes is seen all the same."""
    monkeypatch.setattr(deployment, "SIGNS", 0.0)
    workers = tmp_path / "leases" / "1" / "workers"
    workers.mkdir(parents=True)
    ahead, other = workers / "00000.json", workers / "00001.json"
    for file in (ahead, other):
        file.write_text("{}")
    os.utime(ahead, (4_000_000_000, 4_000_000_000))
    spec = make_spec()
    signs = deployment._Signs(Run(RunPaths(tmp_path), spec, spec.digest()))
    before = signs.last()
    assert signs.last() == before
    os.utime(other, (5, 5))
    assert signs.last() > before
