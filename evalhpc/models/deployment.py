"""Deployments: how a model is served, one small type for each server; `kind` names its template."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator

from evalhpc.models.base import Frozen

Dialect = Literal["openai", "export-deploy", "export-deploy-hf"]
Size = Annotated[int, Field(ge=1)]

#: Where the NeMo container has Export-Deploy's scripts.
EXPORT_DEPLOY = "/opt/Export-Deploy/scripts/deploy/nlp"


class Serving(Frozen):
    """What every server has; a *copy* is the model once, on `copy_gpus` GPUs."""

    kind: str = ""  # each server has its own
    image: str | None = None
    context_length: Size | None = None  # tokens; None: the model's own
    extra_args: tuple[str, ...] = ()
    threads: Size = 1  # of CPU servers
    python: str = "python3"  # in the image, for what needs one
    nodes: Size = 1  # that a server process spans
    gpus: int = Field(default=0, ge=0)  # GPUs that a copy may use on each of its nodes
    replicas: Size = 1  # copies in one allocation, behind one endpoint
    dialect: Dialect = "openai"  # what the server speaks
    one_sampling_config: bool = False  # a batch gets its first request's settings: never mix
    reasons: tuple[str, ...] = ()  # for its sizes, a line each, for people

    @property
    def mixes_settings(self) -> bool:
        """Whether requests that are in flight together may get one another's settings."""
        return self.dialect != "openai" and getattr(self, "max_batch_size", None) != 1

    @property
    def copies_itself(self) -> bool:
        """Whether one server process runs all the copies; else each has a process of its own."""
        return False

    @property
    def processes(self) -> int:
        """Server processes in one allocation."""
        return 1 if self.copies_itself else self.replicas

    @property
    def takes_token(self) -> bool:
        """Whether the server refuses requests without EVALHPC_SERVER_TOKEN."""
        return False

    @property
    def spans_nodes(self) -> bool:
        """Whether one server process may run on several nodes."""
        return False

    @property
    def tasks_per_node(self) -> int:
        """Tasks that the server's step starts on each node."""
        return 1

    @property
    def uses_ray(self) -> bool:
        """Whether the server runs on a Ray cluster over the nodes of its allocation."""
        return False

    @property
    def copy_gpus(self) -> int:
        """GPUs of one copy, over all its nodes."""
        return self.gpus

    @property
    def node_gpus(self) -> int:
        """GPUs that one server process uses on the fullest of its nodes."""
        if not self.gpus:
            return 0
        parts = max(1, self.copy_gpus // self.gpus)  # of a copy, each on a node of its own
        return (
            self.gpus * -(-self.replicas * parts // self.nodes) if self.copies_itself else self.gpus
        )

    @property
    def taken_gpus(self) -> int:
        """GPUs of one node that all its processes have together."""
        return self.processes * self.node_gpus

    @property
    def ray_cpus(self) -> int:
        """CPUs that Ray may give away on a node: its own book-keeping, not the job's."""
        return 8


class Existing(Serving):
    """An OpenAI-compatible server that is up."""

    kind: Literal["endpoint"] = "endpoint"
    max_batch_size: Size | None = None  # where its dialect mixes settings; None: not known
    rate_limit: float | None = Field(default=None, gt=0)  # requests a minute, of all shards


class LlamaCpp(Serving):
    """llama.cpp on CPUs."""

    kind: Literal["llamacpp"] = "llamacpp"

    @property
    def takes_token(self) -> bool:
        """Ours does."""
        return True


class HfCpu(Serving):
    """transformers on CPUs."""

    kind: Literal["hf"] = "hf"

    @property
    def takes_token(self) -> bool:
        """Ours does."""
        return True


class Parallel(Serving):
    """A server that spreads a copy over GPUs."""

    tensor_parallel: Size = 1
    pipeline_parallel: Size = 1
    context_parallel: Size = 1

    @property
    def spans_nodes(self) -> bool:
        """Where a copy has more GPUs than a node."""
        return True

    @property
    def copy_gpus(self) -> int:
        """Tensor × pipeline × context parallel, on GPUs."""
        size = self.tensor_parallel * self.pipeline_parallel * self.context_parallel
        return size if self.gpus else 0


class Vllm(Parallel):
    """vLLM; over several nodes on Ray."""

    kind: Literal["vllm"] = "vllm"

    @property
    def takes_token(self) -> bool:
        """From VLLM_API_KEY."""
        return True

    @property
    def uses_ray(self) -> bool:
        """vLLM's executor for several nodes."""
        return self.nodes > 1


class Sglang(Parallel):
    """SGLang; over several nodes one process on each."""

    kind: Literal["sglang"] = "sglang"

    @property
    def takes_token(self) -> bool:
        """As its --api-key, which its template keeps out of the list of processes."""
        return True


class TrtLlm(Parallel):
    """TensorRT-LLM's server; over several nodes a task for each GPU, joined by PMIx."""

    kind: Literal["trtllm"] = "trtllm"

    @property
    def tasks_per_node(self) -> int:
        """One for each GPU where MPI joins the nodes."""
        return max(1, self.gpus) if self.nodes > 1 else 1


class Nim(Parallel):
    """An NVIDIA NIM for language models, with a checkpoint of our own."""

    kind: Literal["nim"] = "nim"
    command: str = "/opt/nim/start_server.sh"

    @property
    def spans_nodes(self) -> bool:
        """Its containers find one another in ways of their own, which are not Slurm's."""
        return False


class ExportDeploy(Parallel):
    """NVIDIA's Export-Deploy, which has a dialect of its own (docs/deployments.md)."""

    dialect: Dialect = "export-deploy"
    script: str = EXPORT_DEPLOY
    python: str = "python"
    model_format: str = "megatron-dist"  # decides on the name of the checkpoint's flag
    expert_parallel: Size = 1
    max_batch_size: Size = 1  # requests in one batch; more than one mixes their settings
    cpus_per_replica: Size = 8

    @property
    def copies_itself(self) -> bool:
        """Ray Serve runs as many replicas as it is told."""
        return True

    @property
    def total_gpus(self) -> int:
        """GPUs of all copies, over all nodes, as --num_gpus wants them."""
        return self.replicas * max(1, self.copy_gpus)

    @property
    def ray_cpus(self) -> int:
        """Enough for all replicas on one node, since Ray waits for ever for what is not there."""
        return self.replicas * self.cpus_per_replica + 2

    @property
    def uses_ray(self) -> bool:
        """Ray Serve."""
        return True


class MegatronRay(ExportDeploy):
    """A Megatron checkpoint in the framework itself, on Ray Serve."""

    kind: Literal["megatron-ray"] = "megatron-ray"
    script: str = f"{EXPORT_DEPLOY}/deploy_ray_inframework.py"
    model_type: Literal["gpt", "mamba"] = "gpt"
    legacy_checkpoint: bool = False
    cuda_graphs: bool = False
    flash_decode: bool = False


class HfRay(ExportDeploy):
    """A Hugging Face checkpoint in transformers (or vLLM), on Ray Serve."""

    kind: Literal["hf-ray"] = "hf-ray"
    dialect: Dialect = "export-deploy-hf"  # transformers: never samples, errors as texts
    script: str = f"{EXPORT_DEPLOY}/deploy_ray_hf.py"
    vllm_backend: bool = False
    trust_remote_code: bool = False


class Triton(ExportDeploy):
    """A Megatron checkpoint in the framework itself, on Triton with a FastAPI front."""

    kind: Literal["triton"] = "triton"
    script: str = f"{EXPORT_DEPLOY}/deploy_inframework_triton.py"
    model_type: Literal["gpt", "mamba"] = "gpt"
    cuda_graphs: bool = False
    flash_decode: bool = False

    @property
    def copies_itself(self) -> bool:
        """One process is one copy."""
        return False

    @property
    def uses_ray(self) -> bool:
        """PyTriton."""
        return False


class Generic(Parallel):
    """A user's own command, run by bash; it finds its settings in the environment."""

    kind: Literal["generic"] = "generic"
    max_batch_size: Size | None = None  # where its dialect mixes settings; None: not known
    command: str = Field(min_length=1)
    asks_token: bool = False  # it refuses requests without EVALHPC_SERVER_TOKEN; that is tried

    @property
    def takes_token(self) -> bool:
        """As its user says."""
        return self.asks_token

    @field_validator("command")
    @classmethod
    def _one_text(cls, command: str) -> str:
        if "\0" in command:
            raise ValueError("a command cannot hold a NUL character")
        return command


Deployment = Annotated[
    Existing
    | LlamaCpp
    | HfCpu
    | Vllm
    | Sglang
    | TrtLlm
    | Nim
    | MegatronRay
    | HfRay
    | Triton
    | Generic,
    Field(discriminator="kind"),
]

#: Name → type, in the order of the documentation.
DEPLOYMENTS: dict[str, type[Serving]] = {
    "megatron-ray": MegatronRay,
    "hf-ray": HfRay,
    "triton": Triton,
    "vllm": Vllm,
    "sglang": Sglang,
    "trtllm": TrtLlm,
    "nim": Nim,
    "generic": Generic,
    "endpoint": Existing,
    "hf": HfCpu,
    "llamacpp": LlamaCpp,
}
