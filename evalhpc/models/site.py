"""A site: one cluster (or one machine), as its admin describes it in one YAML file."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints

from evalhpc.models.base import Frozen

#: `30`, `30:00`, `2:00:00`, `1-00:00:00`: the forms that sbatch --time takes.
Walltime = Annotated[str, StringConstraints(pattern=r"^(\d+-)?\d+(:\d{1,2}){0,2}$")]
#: `4G`, `500M`: the forms that sbatch --mem takes; `0` asks for the whole node.
Memory = Annotated[str, StringConstraints(pattern=r"^\d+[KMGT]?$")]
VariableName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
#: One sbatch option per item, e.g. `--exclusive` or `--reservation=maint`.
Directive = Annotated[str, StringConstraints(pattern=r"^--[a-z][a-z-]*(=[^\n\r]*)?$")]

Runtime = Literal["none", "pyxis", "apptainer", "charliecloud", "bwrap"]


class Slurm(Frozen):
    """How jobs are asked for at this site; None leaves the cluster's own default."""

    account: str | None = None
    partition: str | None = None
    cpu_partition: str | None = None  # for passes and collectors; else `partition`
    qos: str | None = None
    constraint: str | None = None
    reservation: str | None = None
    comment: str | None = None
    extra: tuple[Directive, ...] = ()
    gpu_request: Literal["gres", "gpus-per-node", "none"] = "gres"
    gpu_type: str | None = None  # `h100` renders --gres=gpu:h100:8
    max_array_size: int = Field(default=1001, ge=1)  # Slurm's own default
    array_throttle: int | None = Field(default=None, ge=1)  # at most so many tasks at once
    signal_seconds: int = Field(default=120, ge=0)  # warning before the walltime; 0: none
    required: tuple[str, ...] = ()  # keys of this section that a user of the site must set


class JobSize(Frozen):
    """What one job asks of Slurm."""

    walltime: Walltime = "1:00:00"
    time_min: Walltime | None = None  # Slurm may give less, down to this, to start a job sooner
    cpus: int = Field(default=2, ge=1)
    memory: Memory | None = None
    nodes: int = Field(default=1, ge=1)
    gpus_per_node: int = Field(default=0, ge=0)


class Resources(Frozen):
    """The three kinds of job of a run."""

    planning: JobSize = JobSize()  # a pass: harness and gateway, CPU only
    shard: JobSize = JobSize(walltime="4:00:00", cpus=4)
    collect: JobSize = JobSize()


class Container(Frozen):
    """How images run; `none` runs harness and server from the Python environment of the job."""

    runtime: Runtime = "none"
    image_dir: str | None = None  # folder of images; a relative image is looked up here
    images: dict[str, str] = {}  # harness or deployment → image file, or a name or reference of one
    registry: str | None = None  # host of references that name none
    import_job: bool = False  # `evalhpc images import` as a CPU job, not where it is typed
    mounts: tuple[str, ...] = ()  # SRC:DST[:FLAGS], besides the run directory and the model
    options: tuple[str, ...] = ()  # further words for the runtime: --container-remap-root
    unpack: bool = True  # charliecloud: a .sqsh is unpacked once a node; else mounted with FUSE
    node_dir: str | None = None  # folder on each node's own disk for that; None: /tmp


class Secrets(Frozen):
    """Variables whose values are read on the node, and are written nowhere."""

    file: str | None = None  # NAME=VALUE lines; the user's own, mode 0600
    command: tuple[str, ...] = ()  # words of a helper that prints such lines
    names: tuple[VariableName, ...] = ()  # what of that jobs get: HF_TOKEN, OPENAI_API_KEY


class Environment(Frozen):
    """What is set up in every job before anything of ours runs."""

    setup: tuple[str, ...] = ()  # shell lines, verbatim: `module load python`
    variables: dict[VariableName, str] = {}
    pass_through: tuple[VariableName, ...] = ()  # copied from the submitting shell by name
    secrets: Secrets = Secrets()


class Gateway(Frozen):
    """The server that a harness talks to during a pass, on loopback."""

    port: int = Field(default=0, ge=0, le=65535)  # 0: any free port


class RunSettings(Frozen):
    """What can differ from run to run; site defaults < suite < command line."""

    shards: int = Field(default=4, ge=1, le=100_000)  # tasks of all arrays of a round
    limit: int | None = Field(default=None, ge=1)  # first N documents of each benchmark
    concurrency: int = Field(default=8, ge=1)  # requests in flight per shard, at most
    adaptive: bool = True  # find how many the server bears; else `concurrency` all along
    unit_size: int | None = Field(default=None, ge=1)  # requests per work unit; None: sized
    schedule: Literal["dynamic", "static"] = "dynamic"  # static: each shard has a fixed slice
    shard_by: Literal["requests", "samples"] = "requests"  # samples: each runs the harness itself
    fit_walltime: bool = True  # ask for no more time than measured rates say; else resources'
    max_rounds: int = Field(default=12, ge=1)  # rounds before a run gives up
    max_failures: float = Field(default=0.0, ge=0, le=1)  # share of a benchmark's requests
    max_gpu_hours: float | None = Field(default=None, ge=0)  # what the run may use; None: any
    request_timeout: float = Field(default=600.0, gt=0)  # seconds
    request_retries: int = Field(default=5, ge=0)  # per request, transient failures only
    ready_timeout: float = Field(default=1200.0, gt=0)  # seconds until the first completion
    canary: float = Field(default=60.0, ge=0)  # silence before a server is asked for one token
    linger: float = Field(default=900.0, ge=0)  # seconds a shard waits for a further round
    miss: Literal["stub", "forward", "wait"] = "stub"  # what a miss of pass 0 gets
    plan: Literal["job", "inline"] = "job"  # pass 0: a job of its own, or in the first shard
    lease_timeout: float = Field(default=60.0, gt=0)  # silence after which a worker is dead
    storage_wait: float = Field(default=600.0, ge=0)  # seconds for a full or absent file system
    harness_parallelism: int = Field(default=16, ge=1)  # requests that a harness keeps in flight
    harness_timeout: float = Field(default=86400.0, gt=0)  # seconds, one harness in one pass
    max_output: float = Field(default=16.0, gt=0)  # GiB that a harness leaves in one pass
    max_output_files: int = Field(default=200_000, ge=1)  # files and folders among them
    max_reply: float = Field(default=64.0, gt=0, le=1024)  # MiB of one answer
    share_at_zero: bool = False  # identical requests at temperature 0: one answer serves all
    seed: int = 1234


class DeployDefaults(Frozen):
    """Which server serves which checkpoint format here, and how it is started."""

    servers: dict[str, str] = {}  # format → deployment, e.g. {hf: vllm}; else core's table
    options: dict[
        str, Any
    ] = {}  # deployment → its own settings: {megatron-ray: {max_batch_size: 4}}
    topology: Literal["shard", "job"] = "shard"  # a replica in each shard, or jobs that all share
    jobs: int = Field(default=1, ge=1)  # deployment jobs, with topology `job`
    replicas: int | None = Field(default=None, ge=1)  # copies in one allocation; None: what fits
    gpu_memory: Memory | None = None  # of one GPU; with it, parallel sizes are worked out
    threads: int | None = Field(default=None, ge=1)  # CPU servers; None: the job's cpus
    context_length: int | None = Field(default=None, ge=1)
    tensor_parallel: int | None = Field(default=None, ge=1)  # None: worked out, or 1
    pipeline_parallel: int | None = Field(default=None, ge=1)
    rate_limit: float | None = Field(default=None, gt=0)  # requests a minute to an endpoint
    open_servers: bool = False  # accept ones that others can ask, since they know no token
    extra_args: tuple[str, ...] = ()


class Site(Frozen):
    """One site file. `docs/sites.md` explains every key."""

    name: Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]*$")]
    description: str = ""
    source: str = ""  # where the facts in the file come from
    hostnames: tuple[str, ...] = ()  # shell patterns of login nodes, for autodetection
    scheduler: Literal["slurm", "local"] = "slurm"
    run_root: str = "~/evalhpc-runs"  # shared file system; ~ and $VARIABLES are expanded
    python: str | None = None  # interpreter on the nodes; None: the submitting one
    pythons: dict[str, str] = {}  # harness → interpreter of its own; without containers
    templates: str | None = None  # folder whose files replace ours by name
    stage_dir: str | None = None  # shared folder that `evalhpc stage` fills and jobs read
    offline: bool = False  # nodes have no internet: what a run loads must have been staged
    resubmit: bool = True  # may a job call sbatch here? else `evalhpc resume` does
    slurm: Slurm = Slurm()
    resources: Resources = Resources()
    container: Container = Container()
    environment: Environment = Environment()
    gateway: Gateway = Gateway()
    deploy: DeployDefaults = DeployDefaults()
    run: RunSettings = RunSettings()
