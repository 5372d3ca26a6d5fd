"""Which integration tests share a worker, and the cluster that they share there."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.cluster import (
    EX_MISSING_PACKAGES,
    EX_NO_RIGHTS,
    DevCluster,
    DevClusterError,
)

DEFAULT_STATE = "/var/tmp/evalhpc-devcluster"
SBIN = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"

#: The files that take longest, which are begun first; the matrix of exactness comes before them.
LONGEST = ("whole_path", "local_path", "turns", "bad_input", "hf_server", "bad_cluster",
           "devcluster", "failed_requests", "endpoints", "lm_eval_script")  # fmt: skip


@pytest.hookimpl(tryfirst=True)  # pytest-xdist reads the marks in this hook too
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A file is one worker's, with its fixtures; the cells of a matrix are spread over workers."""
    for item in items:
        if item.get_closest_marker("xdist_group") is None:
            cell = item.get_closest_marker("exactness")
            item.add_marker(pytest.mark.xdist_group(item.name if cell else item.path.stem))
    items.sort(key=_rank)


def _rank(item: pytest.Item) -> int:
    name = item.path.stem.removeprefix("test_")
    if item.get_closest_marker("exactness"):
        return -1
    return LONGEST.index(name) if name in LONGEST else len(LONGEST)


def up_or_skip(cluster: DevCluster, *, nodes: int, accounting: bool = False) -> None:
    """Start it, or skip with devcluster's own reason why this machine cannot have one.

    With ``EVALHPC_REQUIRE_CLUSTER=1``, as in CI, nothing is skipped.
    """
    try:
        cluster.up(nodes=nodes, accounting=accounting)
    except DevClusterError as error:
        cannot = error.returncode in (EX_MISSING_PACKAGES, EX_NO_RIGHTS)
        if not cannot or os.environ.get("EVALHPC_REQUIRE_CLUSTER") == "1":
            raise
        pytest.skip(error.reason)


def with_accounting() -> bool:
    """``EVALHPC_TEST_ACCOUNTING`` (0 or 1), or else whether its packages are installed."""
    asked = os.environ.get("EVALHPC_TEST_ACCOUNTING")
    if asked is not None:
        return asked == "1"
    return all(shutil.which(name, path=SBIN) for name in ("slurmdbd", "mariadbd"))


@pytest.fixture(scope="session")
def cluster() -> Iterator[DevCluster]:
    """Four nodes for the whole session; a test that breaks one puts it right again.

    ``EVALHPC_DEVCLUSTER_KEEP=1``: the cluster in ``EVALHPC_DEVCLUSTER_DIR`` is taken over
    if there is one, and left running.
    """
    keep = os.environ.get("EVALHPC_DEVCLUSTER_KEEP") == "1"
    folder = os.environ.get("EVALHPC_DEVCLUSTER_DIR", DEFAULT_STATE)
    if not keep:
        folder += f"-test-{os.getpid()}"
    shared = DevCluster(Path(folder))
    try:
        up_or_skip(shared, nodes=4, accounting=with_accounting())
        yield shared
    finally:
        if not keep:
            shared.script("down")
