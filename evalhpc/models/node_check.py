"""What `evalhpc site check --node` asks a compute node, and what it answers."""

from __future__ import annotations

from evalhpc.models.base import Frozen
from evalhpc.models.site import Container


class NodeLoads(Frozen):
    """Benchmarks whose harnesses are to load their data: a run directory that nobody submits."""

    run_dir: str
    benchmarks: tuple[str, ...]


class NodeLoaded(Frozen):
    """What came of loading the data of one benchmark."""

    benchmark: str
    asked: int = 0  # requests; 0 where it failed
    isolated: bool = False  # whether no network could be reached
    seconds: float = 0
    tried: bool = True  # no: the time was up before it began
    why: str = ""  # it failed, in a line
    hint: str = ""


class NodeWish(Frozen):
    """`wish.json`: what the node is to look at."""

    token: str  # read back, so that the node has seen this very file
    programs: dict[str, str]  # key of the site file → program that must be there
    folders: dict[str, str]  # the same → file or folder that must be there
    stage_dir: str | None
    container: Container  # paths in full
    image: str | None  # one to start
    loads: tuple[NodeLoads, ...] = ()
    load_seconds: float = 0  # from the beginning on, for all of them
    isolate: bool = False  # load without a network, where the node allows it


class NodeFacts(Frozen):
    """`facts.json`: what it found; sizes in bytes."""

    token: str
    host: str
    python: str
    version: str  # of evalhpc
    lock_seen: bool  # a lock that the login node holds is held here too
    lacking: tuple[str, ...]  # `key: path` of what is not there
    stage: str | None  # what is wrong with staged data; "" for nothing, None without a stage_dir
    staged: int  # records whose data are whole
    image: str | None  # "" where the image starts, else why not; None where none was asked for
    loaded: tuple[NodeLoaded, ...] = ()
    tmp_free: int
    memory: int
    cpus: int
    gpus: tuple[str, ...]
    network: str  # what interfaces and routes there are
    time: float  # seconds since 1970, by the node's clock
