"""Model servers that others of their node could ask, since they know no token."""

from __future__ import annotations

from collections.abc import Iterator

from evalhpc.core.extra_options import keeps_others_out
from evalhpc.errors import ConfigError
from evalhpc.models.runspec import RunSpec
from evalhpc.models.site import Site

#: Servers that cannot be told which address to listen on.
_ON_ALL_ADDRESSES = frozenset({"nim"})


def has_nodes_alone(site: Site) -> bool:
    """Whether the site's jobs share their nodes with no other user, as far as its file says."""
    return keeps_others_out(site.slurm)


def refuse_exposed(spec: RunSpec) -> tuple[str, ...]:
    """A warning for each model server of the run that others can ask, where that is accepted.

    On a cluster it has to be (`deploy.open_servers`), else ConfigError. A machine without Slurm is
    taken for the user's own.
    """
    found = tuple(_exposed(spec))
    if not found or spec.site.scheduler != "slurm" or spec.site.deploy.open_servers:
        return found
    raise ConfigError(
        "; ".join(found),
        cause="whoever asks it sees what the model says, and can slow the run down or change it",
        hint="where jobs share nodes, set slurm.extra: [--exclusive]; accept what is left with "
        "--set deploy.open_servers=true (docs/security.md)",
    )


def _exposed(spec: RunSpec) -> Iterator[str]:
    """A sentence for each endpoint whose server anybody on its node (or beyond) can ask.

    Jobs that have their nodes to themselves share them with no other user.
    """
    alone = has_nodes_alone(spec.site)
    for name, served in spec.served().items():
        kind = served.deployment.kind
        if kind == "endpoint" or served.deployment.takes_token:
            continue
        if kind in _ON_ALL_ADDRESSES:
            yield (
                f"{name}: {kind} knows no token and listens on all addresses of its node: "
                "whoever reaches that can ask it"
            )
        elif not alone:
            yield (f"{name}: {kind} knows no token: other users of its node can ask it")
