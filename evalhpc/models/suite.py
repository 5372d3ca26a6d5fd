"""A suite: a named list of benchmarks; a benchmark: one task of one harness with parameters."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints

from evalhpc.models.base import Frozen

#: Names become folder names and URL parts, so they are kept plain.
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,99}$")]
EndpointKind = Literal["completions", "chat"]
#: What a further endpoint must answer to be ready.
ServiceKind = Literal["completions", "chat", "embeddings", "rerank"]
#: Names a further endpoint, its script, its variables and its URL: judge, user, embedder.
EndpointName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,29}$")]
#: The model under test; further endpoints have names of their own.
MODEL_ENDPOINT = "model"


class Params(Frozen):
    """What a benchmark is run with; None leaves the harness's own default."""

    endpoint: EndpointKind = "completions"
    limit: int | None = Field(default=None, ge=1)
    num_fewshot: int | None = Field(default=None, ge=0)
    temperature: float | None = Field(default=None, ge=0)
    top_p: float | None = Field(default=None, gt=0, le=1)
    max_new_tokens: int | None = Field(default=None, ge=1)
    seed: int | None = None
    tokenizer: str | None = None  # folder; None: the checkpoint's own, where it has one
    include_path: str | None = None  # folder of further task definitions
    model_args: dict[str, Any] = {}  # passed to the harness's model, on top of ours
    extra_args: tuple[str, ...] = ()  # words appended to the harness's command line


class Benchmark(Frozen):
    """One task of one harness. `name` is unique in the run and names its folders."""

    name: Name
    harness: str
    task: str
    params: Params = Params()


class EndpointWish(Frozen):
    """A model beside the one under test: a checkpoint to serve (`model`), or a server (`url`)."""

    model: str | None = None  # checkpoint folder, .gguf file or demo name
    url: str | None = None  # an OpenAI-compatible server that is up
    model_id: str | None = None  # the name that requests carry in their `model` field
    api_key_env: str | None = None  # NAME of the variable that holds the server's key
    kind: ServiceKind = "chat"  # what it must answer to be ready
    concurrency: int | None = Field(default=None, ge=1)  # per shard; None: run.concurrency
    deploy: dict[str, Any] = {}  # over the site's `deploy`, for this endpoint alone


class Suite(Frozen):
    """What a suite file holds; `run` and `params` override the site's defaults."""

    name: Name
    description: str = ""
    benchmarks: tuple[Benchmark, ...] = Field(min_length=1)
    endpoints: dict[EndpointName, EndpointWish] = {}  # judge, user simulator, embedder, …
    run: dict[str, Any] = {}
