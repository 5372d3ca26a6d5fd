"""A site's own options of sbatch (`slurm.extra`), as sbatch takes them."""

from __future__ import annotations

from evalhpc.models.site import Slurm

#: With these values of --exclusive, jobs of some stay together on a node, and take parts of it.
_SHARED = frozenset({"user", "mcs"})


def extra_options(slurm: Slurm) -> dict[str, str]:
    """Option, without its dashes → value, "" where it has none; of two of a kind the last counts.

    They stand last in a script, and so count instead of what the site says elsewhere.
    """
    words = (text.removeprefix("--").partition("=") for text in slurm.extra)
    return {name: value for name, _, value in words}


def takes_whole_nodes(slurm: Slurm) -> bool:
    """Whether jobs hold all of their nodes, whatever part they need."""
    return extra_options(slurm).get("exclusive", "user") not in _SHARED


def keeps_others_out(slurm: Slurm) -> bool:
    """Whether no other user's jobs run on the nodes of a job."""
    return takes_whole_nodes(slurm) or extra_options(slurm).get("exclusive") == "user"
