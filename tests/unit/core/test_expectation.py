"""What a run will probably take: from runs that were like it, and from nothing else."""

from __future__ import annotations

from typing import Any

import pytest

from evalhpc.core.estimate import Ask, price
from evalhpc.core.expectation import Past, Source, alike, default, expect, profile
from evalhpc.models.site import JobSize
from tests.factories import make_spec

MODEL: dict[str, Any] = {
    "model_id": "m", "format": "hf", "path": "/m", "url": None, "fingerprint": "f", "bytes": 1000,
}  # fmt: skip
SERVED: dict[str, Any] = {"deployment": {"kind": "vllm"}, "model": MODEL}


def past(run_id: str = "r", **changes: float) -> Past:
    times = {
        "planning": 60, "collecting": 30, "inside": 0, "load": 240, "work": 4800, "idle_each": 0,
    }  # fmt: skip
    return Past(run_id=run_id, **{**times, **changes})


def jobs(shards: int = 8, gpus: int = 8) -> list[Any]:
    size = JobSize(walltime="4:00:00", gpus_per_node=gpus, cpus=4)
    small = JobSize(walltime="1:00:00")
    asks = [Ask("planning", small, 1), Ask("shard", size, shards), Ask("collect", small, 1)]
    return [price(one) for one in asks]


@pytest.mark.parametrize(
    ("changes", "source"),
    [
        ({}, "same"),
        ({"name": "other", "suite": "renamed"}, "same"),
        ({"run": {"shards": 64}}, "same"),
        ({"model": {**MODEL, "fingerprint": "g", "bytes": 1400}}, "similar"),
        ({"model": {**MODEL, "fingerprint": "g", "bytes": 1600}}, None),
        ({"model": {**MODEL, "fingerprint": "g", "bytes": 0}}, None),
        ({"benchmarks": [{"name": "arc", "harness": "lm-eval", "task": "arc_hard"}]}, None),
        (
            {
                "benchmarks": [
                    {
                        "name": "arc",
                        "harness": "lm-eval",
                        "task": "arc_easy",
                        "params": {"limit": 9},
                    }
                ]
            },
            None,
        ),
        ({"run": {"concurrency": 99}}, None),
        ({"run": {"miss": "wait"}}, None),
        ({"site": {"resources": {"shard": {"gpus_per_node": 4}}}}, None),
    ],
)
def test_only_runs_that_are_alike_count(changes: dict[str, Any], source: Source | None) -> None:
    """The same questions served in the same way, by this model or one of about its size."""
    wanted = profile(make_spec(**SERVED), "/run")
    assert alike(wanted, profile(make_spec(**{**SERVED, **changes}), "/other")) == source


def test_the_same_model_comes_before_one_of_its_size() -> None:
    """And it is said which it was, and how many runs."""
    found = expect([past("a")], [past("b", work=1)], jobs(), None)
    assert found is not None
    assert (found.source, found.runs) == ("same", ("a",))
    assert found.text == (
        "from 1 earlier run of this suite with this model: 14 min per shard, load 4 min"
    )
    similar = expect([], [past("b"), past("c")], jobs(), None)
    assert similar is not None
    assert similar.text.startswith(
        "from 2 earlier runs of this suite with a model of about this size:"
    )
    assert expect([], [], jobs(), None) is None


def test_work_is_shared_by_the_shards_and_every_one_loads() -> None:
    """8 shards: 4 min to load and 10 of work; 16: 5 of work, and twice the loading."""
    eight, sixteen = expect([past()], [], jobs(8), None), expect([past()], [], jobs(16), None)
    assert eight is not None
    assert sixteen is not None
    assert (eight.shard_seconds, sixteen.shard_seconds) == (840, 540)
    assert (eight.seconds, sixteen.seconds) == (930, 630)
    assert eight.gpu_hours == pytest.approx(840 * 8 * 8 / 3600)
    assert sixteen.gpu_hours == pytest.approx(540 * 16 * 8 / 3600)


def test_a_throttle_makes_a_run_longer_not_dearer() -> None:
    """Two shards at a time do what eight would have done."""
    found = expect([past()], [], jobs(8), 2)
    assert found is not None
    assert found.shard_seconds == 240 + 2400
    assert found.gpu_hours == pytest.approx((240 + 2400) * 2 * 8 / 3600)


def test_the_middle_of_the_newest_five_counts() -> None:
    """One slow run does not decide, and old ones are forgotten."""
    runs = [past(str(n), load=load) for n, load in enumerate([100, 5000, 100, 120, 120, 9, 9, 9])]
    found = expect(runs, [], jobs(), None)
    assert found is not None
    assert found.runs == ("0", "1", "2", "3", "4")
    assert found.load_seconds == 120


def test_every_kind_of_job_is_reckoned_with() -> None:
    """A job that holds the GPUs for shards without any lasts as long as they do."""
    deploy = price(Ask("deploy", JobSize(nodes=2, gpus_per_node=8), 1))
    found = expect([past(idle_each=60)], [], [deploy, *jobs(8, 0)], None)
    assert found is not None
    assert found.gpu_hours == pytest.approx((840 + 60) * 16 / 3600)


@pytest.mark.parametrize("shards", [4, 8, 16])
def test_more_shards_wait_no_shorter(shards: int) -> None:
    """Each waits for the same passes: a run with more of them holds more nodes meanwhile."""
    found = expect([past(idle_each=60)], [], jobs(shards), None)
    assert found is not None
    assert found.shard_seconds == pytest.approx(240 + 4800 / shards + 60)
    assert found.gpu_hours == pytest.approx((300 * shards + 4800) * 8 / 3600)


def test_without_history_nothing_is_made_up() -> None:
    """One round to its walltime, and the text says that it is not measured."""
    found = default(jobs())
    assert found.source == "default"
    assert found.text.endswith("one round to its walltime is assumed, not measured")
    assert found.seconds == 6 * 3600
    assert found.gpu_hours == 256
    local = default([price(Ask("shard", JobSize(), 1), "a local run has no walltime")])
    assert local.seconds is None
    assert "nothing bounds" in local.text
