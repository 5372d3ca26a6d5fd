"""Model servers that others of their node could ask, since they know no token."""

from __future__ import annotations

from collections.abc import Iterator

from evalhpc.core.extra_options import keeps_others_out
from evalhpc.models.runspec import RunSpec
from evalhpc.models.site import Site

#: Servers that cannot be told which address to listen on.
_ON_ALL_ADDRESSES = frozenset({"nim"})


def has_nodes_alone(site: Site) -> bool:
    """Whether the site's jobs share their nodes with no other user, as far as its file says."""
    return keeps_others_out(site.slurm)


def exposure_warnings(spec: RunSpec) -> Iterator[str]:
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
            yield (
                f"{name}: {kind} knows no token: other users of its node can ask it; where jobs "
                "share nodes, set slurm.extra: [--exclusive] (docs/security.md)"
            )
