"""Estimates in words, and budgets that are no number of hours."""

from __future__ import annotations

from typing import Any

import pytest
from click.testing import CliRunner

from evalhpc.cli.estimate import estimate_lines
from evalhpc.cli.main import cli
from evalhpc.core.estimate import Ask, price
from evalhpc.core.expectation import default
from evalhpc.models.site import JobSize
from evalhpc.workflow.submit.estimate import Estimate, Start


def estimated(gpus: int, **changes: Any) -> Estimate:
    jobs = (price(Ask("shard", JobSize(walltime="4:00:00", gpus_per_node=gpus, cpus=4), 8)),)
    hours = (jobs[0].gpu_seconds or 0) / 3600
    given = {
        "jobs": jobs, "gpu_hours_at_most": hours, "cpu_hours_at_most": 128.0, "unbounded": "",
        "max_rounds": 12, "max_gpu_hours": None, "expected": default(jobs),
    }  # fmt: skip
    return Estimate(**{**given, **changes})


def test_gpus_are_counted_with_the_arithmetic() -> None:
    """Two lines: the most it may cost, and what is expected, with where that comes from."""
    assert list(estimate_lines(estimated(8))) == [
        "at most   256 GPU-hours a round (shard: 8 tasks × 8 GPUs × 4:00:00 = 256 GPU-hours)",
        "expected  256 GPU-hours in 4 h without the queue, no earlier run like it here; "
        "one round to its walltime is assumed, not measured",
    ]


def test_without_gpus_it_is_cpu_hours() -> None:
    """0 GPU-hours is said as well."""
    at_most, expected = estimate_lines(estimated(0))
    assert at_most == "at most   0 GPU-hours; 128 CPU-hours a round"
    assert expected.startswith("expected  128 CPU-hours in 4 h")


def test_what_has_no_bound_is_said() -> None:
    """With the reason, rather than a figure."""
    (at_most, _) = estimate_lines(
        estimated(8, gpu_hours_at_most=None, unbounded="a local run has no walltime")
    )
    assert at_most == "at most   nothing bounds it: a local run has no walltime"


def test_the_queue_has_a_line_where_it_was_asked() -> None:
    """One start for each kind of job."""
    queue = (Start(kind="planning", at=None, text="at once"),)
    assert list(estimate_lines(estimated(8, queue=queue)))[2] == "queue     planning: at once"


@pytest.mark.parametrize("verb", ["submit", "estimate", "render", "resume"])
@pytest.mark.parametrize("value", ["-1", "nan", "inf", "-inf", "much", "", "4 hours"])
def test_a_budget_that_is_no_number_of_hours_is_refused(verb: str, value: str) -> None:
    """Before anything else: code 2, and the option's name."""
    words = [verb, *(["RUN"] if verb == "resume" else []), "--max-gpu-hours", value]
    done = CliRunner().invoke(cli, words)
    assert done.exit_code == 2
    assert "Invalid value for '--max-gpu-hours'" in done.output
