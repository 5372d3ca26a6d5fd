"""What `site check --node` makes of a node's facts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from evalhpc.models.node_check import NodeFacts, NodeLoaded
from evalhpc.models.site import Site
from evalhpc.workflow.site.checks import Check
from evalhpc.workflow.site.node_judgement import Seen, clock, judge
from evalhpc.workflow.site.node_probe import network

GOOD: dict[str, Any] = {
    "token": "t", "host": "n1", "python": "/p/python", "version": "1", "lock_seen": True,
    "lacking": (), "stage": None, "staged": 0, "image": None, "tmp_free": 9 << 30,
    "memory": 64 << 30, "cpus": 8, "gpus": ("H100",) * 8, "network": "lo", "time": 100.0,
}  # fmt: skip


def judged(**changes: Any) -> dict[str, Check]:
    """The checks by name, of a node of a site with eight GPUs and 32 GiB a shard."""
    site = Site.model_validate(
        {"name": "s", "stage_dir": "/stage",
         "resources": {"shard": {"gpus_per_node": 8, "memory": "32G"}}}
    )  # fmt: skip
    seen = Seen(facts=NodeFacts(**{**GOOD, **changes}), at=100.0)
    return {check.name: check for check in judge(site, "shard", seen, "1")}


def test_a_node_with_all_that_is_needed_passes() -> None:
    """Each fact is shown, wrong or not."""
    checks = judged()
    assert all(check.ok and not check.hint for check in checks.values())
    assert {"python", "run_root", "locks", "/tmp", "memory", "GPUs", "network", "clock"} == set(
        checks
    )


@pytest.mark.parametrize(
    ("name", "changes", "found"),
    [
        ("python", {"version": "2"}, "evalhpc 2"),
        ("/tmp", {"tmp_free": 1}, "0.0 GB"),
        ("memory", {"memory": 1 << 30}, "1 GB"),
        ("GPUs", {"gpus": ()}, "0: none"),
        ("staged data", {"stage": "sums: huggingface/hub/x"}, "sums"),
        ("image starts", {"image": "no bash"}, "no bash"),
        ("pythons.x", {"lacking": ("pythons.x: /e/python",)}, "/e/python is not on n1"),
    ],
)
def test_what_is_wrong_fails_alone_and_says_what_to_do(
    name: str, changes: dict[str, Any], found: str
) -> None:
    """One check for each fact."""
    checks = judged(**changes)
    assert [check.name for check in checks.values() if not check.ok] == [name]
    assert found in checks[name].found
    assert checks[name].hint


def test_each_benchmark_that_was_loaded_has_a_row_and_the_rest_share_one() -> None:
    """What there was no time for is not called good; a reason is cut to a length to read."""
    loaded = (
        NodeLoaded(benchmark="sums", asked=12, isolated=True, seconds=3),
        NodeLoaded(benchmark="bad", why="OSError: " + "x" * 999, hint="evalhpc stage"),
        *(NodeLoaded(benchmark=f"late{n}", tried=False) for n in range(7)),
    )
    checks = judged(loaded=loaded)
    assert checks["data of sums"].found == "loaded without a network: 12 requests seen, 3 s"
    assert [name for name, check in checks.items() if not check.ok] == ["data of bad", "data"]
    assert len(checks["data of bad"].found) == 300
    assert checks["data of bad"].hint == "evalhpc stage"
    assert checks["data"].found == "not tried: late0, late1, late2, late3, late4 and 2 more"
    assert "--tasks" in checks["data"].hint


def test_clocks_and_locks_inform_and_decide_nothing() -> None:
    """No run rests on them."""
    checks = judged(time=4000.0, lock_seen=False)
    assert all(check.ok for check in checks.values())
    assert "3900 s ahead" in checks["clock"].found
    assert "not seen: runs do without, but two `evalhpc stage`" in checks["locks"].found
    assert clock(-60) == "about 60 s behind this machine's"


def test_a_way_out_is_a_default_route(tmp_path: Path) -> None:
    """As the kernel lists interfaces and routes."""
    interfaces, routes = tmp_path / "dev", tmp_path / "route"
    interfaces.write_text("Inter-|  Receive\n face |bytes\n    lo: 1 2\n  ib0: 3 4\n")
    routes.write_text("Iface\tDestination\nib0\t0000A8C0\t00000000\n")
    assert network(interfaces, routes) == "lo, ib0; no default route"
    routes.write_text("Iface\tDestination\nib0\t00000000\t0100A8C0\n")
    assert network(interfaces, routes) == "lo, ib0; a default route"
