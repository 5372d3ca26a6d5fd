"""Which integration tests share a worker, and the cluster that they share there."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from xdist.scheduler.loadscope import LoadScopeScheduling

from tests.integration.cluster import (
    EX_MISSING_PACKAGES,
    EX_NO_RIGHTS,
    DevCluster,
    DevClusterError,
)

DEFAULT_STATE = "/var/tmp/evalhpc-devcluster"
SBIN = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"

#: Files whose tests share no fixture and take long: each test goes to any worker.
SPREAD = frozenset({
    "exactness", "slices_exact", "turns", "slices", "failed_requests", "endpoints", "topologies",
})  # fmt: skip
#: What takes longest, begun first. Any other file comes after these.
LONGEST = ("exactness", "slices_exact", "limits", "chaos", "whole_path", "bad_cluster",
           "megatron_ray", "megatron_standin", "stage", "local_path", "containers", "faults",
           "bad_input", "shared_disk", "healing_cluster", "healing", "hf_server", "devcluster",
           "topologies_cluster", "faults_cluster", "turns",
           "slices_cluster", "lm_eval_script", "slurm_gate", "secrets", "images", "slices",
           "topologies", "failed_requests", "endpoints", "secrets_cluster", "estimate",
           "server_keys", "submit_once",
           )  # fmt: skip


class FilesAndCells(LoadScopeScheduling):  # type: ignore[misc] # xdist is not typed
    """Gives each worker a file at a time, or one test of a file that is spread.

    (What `--dist loadgroup` is for; pytest 9.2 hides its groups from pytest-xdist 3.8.)
    """

    def __init__(self, config: pytest.Config, log: object = None) -> None:
        config.option.loadscopereorder = False  # in the order of `_rank`
        super().__init__(config, log)

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return nodeid if _name(Path(file)) in SPREAD else file


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> LoadScopeScheduling:
    return FilesAndCells(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: _rank(_name(item.path)))


def _name(file: Path) -> str:
    return file.stem.removeprefix("test_")


def _rank(name: str) -> int:
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


def pytest_unconfigure() -> None:
    """Workers of a run that is interrupted are killed before they can end their clusters."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        pattern = _state(f"-test-{os.getpid()}-*")
        for left in pattern.parent.glob(pattern.name):
            DevCluster(left).script("down")


def _state(suffix: str = "") -> Path:
    return Path(os.environ.get("EVALHPC_DEVCLUSTER_DIR", DEFAULT_STATE) + suffix)


@pytest.fixture(scope="session")
def cluster() -> Iterator[DevCluster]:
    """Four nodes for the whole session; a test that breaks one puts it right again.

    ``EVALHPC_DEVCLUSTER_KEEP=1``: the cluster in ``EVALHPC_DEVCLUSTER_DIR`` is taken over
    if there is one, and left running. Workers of pytest-xdist have one each, whatever it says.
    """
    worker = os.environ.get("PYTEST_XDIST_WORKER")
    keep = os.environ.get("EVALHPC_DEVCLUSTER_KEEP") == "1" and worker is None
    run = os.getppid() if worker else os.getpid()
    kept, own = _state(), _state(f"-test-{run}-{worker or 'alone'}")
    shared = DevCluster(kept if keep else own)
    try:
        up_or_skip(shared, nodes=4, accounting=with_accounting())
        yield shared
    finally:
        if not keep:
            shared.script("down")
