"""What a site's own options of sbatch say."""

from __future__ import annotations

import pytest

from evalhpc.core.extra_options import extra_options, keeps_others_out, takes_whole_nodes
from evalhpc.models.site import Slurm


def test_options_have_a_value_or_none_and_the_last_counts() -> None:
    """As sbatch reads them from top to bottom; a value may hold a `=` itself."""
    extra = ("--qos=a", "--exclusive", "--export=A=1", "--qos=b", "--hold=")
    assert extra_options(Slurm(extra=extra)) == {
        "qos": "b", "exclusive": "", "export": "A=1", "hold": "",
    }  # fmt: skip
    assert extra_options(Slurm()) == {}


@pytest.mark.parametrize(
    ("extra", "whole", "alone"),
    [
        ((), False, False),
        (("--exclusive",), True, True),
        (("--exclusive=user",), False, True),
        (("--exclusive=mcs",), False, False),
        (("--exclusive", "--exclusive=user"), False, True),
        (("--exclude=n1",), False, False),
    ],
)
def test_kinds_of_exclusive_jobs_are_told_apart(
    extra: tuple[str, ...], whole: bool, alone: bool
) -> None:
    """Several jobs of one user, or of one group, may share a node all the same."""
    slurm = Slurm(extra=extra)
    assert (takes_whole_nodes(slurm), keeps_others_out(slurm)) == (whole, alone)
