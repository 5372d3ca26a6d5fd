"""Choosing a deployment: what serves a format at a site, and what is refused before submission."""

from __future__ import annotations

from typing import Any

import pytest

from evalhpc.errors import ConfigError, EndpointError, ModelError
from evalhpc.models.checkpoint import Model
from evalhpc.models.deployment import ExportDeploy, Parallel, Serving
from evalhpc.models.site import Site
from evalhpc.workflow.serve.server import gpu_lists
from evalhpc.workflow.submit.choice import choose_deployment, refuse_idle_nodes
from tests.factories import make_spec

LLAMA_8B = {"weight_bytes": 16 << 30, "layers": 32, "heads": 32, "kv_heads": 8, "head_size": 128}


def model(format_: str, **more: Any) -> Model:
    where = {"url": "http://x/v1"} if format_ == "endpoint" else {"path": "/models/m"}
    return Model.model_validate({"model_id": "m", "format": format_, **LLAMA_8B, **where, **more})


def site(nodes: int = 1, gpus: int = 8, shards: int = 4, **deploy: Any) -> Site:
    return Site.model_validate(
        {
            "name": "here",
            "resources": {"shard": {"nodes": nodes, "gpus_per_node": gpus}},
            "deploy": {"gpu_memory": "80G", **deploy},
            "run": {"shards": shards},
        }
    )


def chosen(format_: str, there: Site, **more: Any) -> Serving:
    return choose_deployment(model(format_), there, **more)


@pytest.mark.parametrize(
    ("format_", "kind"),
    [
        ("hf", "vllm"),
        ("gguf", "llamacpp"),
        ("megatron-bridge", "megatron-ray"),
        ("megatron-dist", "megatron-ray"),
        ("nemo2", "megatron-ray"),
        ("endpoint", "endpoint"),
    ],
)
def test_a_format_has_a_server(format_: str, kind: str) -> None:
    """Without a word from the site."""
    assert chosen(format_, site()).kind == kind


@pytest.mark.parametrize(("format_", "said"), [("hf-peft", "merge"), ("fsdp-dcp", "convert")])
def test_what_nothing_serves_is_refused_with_advice(format_: str, said: str) -> None:
    """Adapters and raw FSDP checkpoints need another tool first."""
    with pytest.raises(ModelError) as caught:
        chosen(format_, site())
    assert said in caught.value.hint


def test_what_is_left_of_a_node_is_filled_with_copies() -> None:
    """An 8B model takes one GPU of eight; beside a judge on two of them, six copies fit."""
    there = site(servers={"hf": "vllm"})
    assert chosen("hf", there).replicas == 8
    assert chosen("hf", there, taken=2).replicas == 6


def test_a_ray_cluster_has_all_nodes_and_enough_gpus_on_each() -> None:
    """Three copies of two GPUs on two nodes of four: one node holds two whole copies."""
    found = chosen("megatron-bridge", site(nodes=2, gpus=4, tensor_parallel=2, replicas=3))
    assert isinstance(found, ExportDeploy)
    assert (found.nodes, found.replicas, found.total_gpus, found.node_gpus) == (2, 3, 6, 4)


def test_shards_that_share_a_server_send_no_batches_with_mixed_settings() -> None:
    """A batch takes its first request's settings: alone a shard may batch, several may not."""
    alone = chosen("megatron-bridge", site())
    shared = chosen("megatron-bridge", site(topology="job"))
    assert isinstance(alone, ExportDeploy)
    assert isinstance(shared, ExportDeploy)
    assert (alone.max_batch_size > 1, alone.one_sampling_config) == (True, True)
    assert (shared.max_batch_size, shared.one_sampling_config) == (1, False)
    with pytest.raises(ConfigError, match="numbers would be wrong"):
        chosen("megatron-bridge",
               site(topology="job", options={"megatron-ray": {"max_batch_size": 4}}))  # fmt: skip


def test_an_option_may_be_dotted_and_reaches_its_server() -> None:
    """`--set deploy.options.vllm.tensor_parallel=2` and a section in the site's file are one."""
    for options in ({"vllm.tensor_parallel": 2}, {"vllm": {"tensor_parallel": "2"}}):
        found = chosen("hf", site(servers={"hf": "vllm"}, options=options))
        assert isinstance(found, Parallel)
        assert (found.tensor_parallel, found.replicas) == (2, 4)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"megatron_ray": {}}, "did you mean 'megatron-ray'?"),
        ({"vllm": 8}, "not a section"),
        ({"vllm": {"pyton": "python3"}}, "did you mean 'python'?"),
        ({"triton": {"max_batch_size": "many"}}, "deploy.options.triton: max_batch_size"),
        ({"triton": {"max_batch_size": 0}}, "at least 1"),
        ({"vllm": {"tensor_parallel": -2}}, "at least 1"),
        ({"vllm": {"dialect": "latin"}}, "dialect"),
        ({"vllm": {"replicas": 99}}, "deploy.replicas=N"),
        ({"vllm": {"nodes": 2}}, "nodes is no option"),
        ({"vllm": {"kind": "sglang"}}, "kind is no option"),
        ({"hf": {"image": "x.sqsh"}}, "container.images"),
    ],
)
def test_a_wrong_option_is_refused_whichever_server_it_is_for(
    options: dict[str, Any], said: str
) -> None:
    """With the right key, or what is wrong with the value."""
    with pytest.raises(ConfigError) as caught:
        chosen("hf", site(servers={"hf": "vllm"}, options=options))
    assert said in f"{caught.value}"


@pytest.mark.parametrize(
    ("there", "more", "said"),
    [
        (site(servers={"hf": "vlm"}), {}, "deploy.servers.hf is 'vlm'"),
        (site(servers={"hf": "generic"}), {}, "generic' has no command"),
        (site(servers={"hf": "vllm"}, replicas=9), {}, "9 copies of 1 GPUs do not fit"),
        (site(servers={"hf": "vllm"}, tensor_parallel=3), {}, "does not divide"),
        (site(servers={"hf": "nim"}, tensor_parallel=16), {}, "nim stays on one"),
        (site(servers={"hf": "hf-ray"}, tensor_parallel=16), {}, "hf-ray puts each on one"),
        (site(nodes=2, servers={"hf": "hf-ray"}, tensor_parallel=16), {}, "hf-ray puts each"),
        (site(servers={"hf": "vllm"}), {"taken": 8}, "none is left for the model"),
        (site(servers={"hf": "endpoint"}), {}, "hf is 'endpoint'"),
    ],
)
def test_what_cannot_be_served_so_is_refused(there: Site, more: dict[str, Any], said: str) -> None:
    """Before anything is submitted, with a next step."""
    with pytest.raises((ConfigError, ModelError)) as caught:
        chosen("hf", there, **more)
    assert said in caught.value.what
    assert caught.value.hint


def test_sizes_set_by_hand_must_fit_the_gpus() -> None:
    """Weights of 128 GiB are not for one GPU of 80 GB; nor where nobody says how much it has."""
    large = {"weight_bytes": 128 << 30, "layers": 80, "heads": 64}
    with pytest.raises(ModelError, match=r"its 1 GPUs have 80\.0 GB"):
        choose_deployment(model("hf", **large), site(tensor_parallel=1))
    assert choose_deployment(model("hf", **large), site(tensor_parallel=4)).replicas == 2
    unsaid = site(tensor_parallel=1, gpu_memory=None)
    assert choose_deployment(model("hf", **large), unsaid).replicas == 8


def test_the_longest_sequence_has_a_place_in_the_cache() -> None:
    """A context of a million tokens takes more GPUs than one of 4,096."""
    long = model("hf", context_length=1 << 20)
    assert chosen("hf", site()).node_gpus == 1
    assert choose_deployment(long, site()).node_gpus == 2  # 137 GB of keys and values
    assert choose_deployment(long, site(context_length=4096)).node_gpus == 1


def test_a_context_beyond_the_models_own_is_refused() -> None:
    """Longer texts than it was made for give numbers that mean nothing."""
    with pytest.raises(ModelError, match="made for 4096 tokens"):
        choose_deployment(model("hf", context_length=4096), site(context_length=8192))


@pytest.mark.parametrize(("own", "given"), [(None, 8192), (2048, 2048), (1 << 17, 8192)])
def test_export_deploy_is_told_a_context_length(own: int | None, given: int) -> None:
    """It would take 4,096 whatever the model is."""
    there = choose_deployment(model("megatron-bridge", context_length=own), site())
    assert there.context_length == given


def test_triton_has_one_copy_a_node() -> None:
    """Two of its ports cannot be chosen."""
    servers = {"megatron-dist": "triton"}
    assert chosen("megatron-dist", site(servers=servers)).replicas == 1
    with pytest.raises(ConfigError, match="room for one Triton"):
        chosen("megatron-dist", site(servers=servers, replicas=2))


def test_an_endpoint_that_mixes_settings_is_asked_one_configuration_at_a_time() -> None:
    """By one shard, unless it is known to have batches of one."""
    says: dict[str, Any] = {"dialect": "export-deploy"}
    there = site(shards=1, options={"endpoint": says})
    assert chosen("endpoint", there).one_sampling_config
    with pytest.raises(ConfigError, match="one batch"):
        chosen("endpoint", site(shards=2, options={"endpoint": says}))
    batches_of_one = site(shards=2, options={"endpoint": says | {"max_batch_size": 1}})
    assert not chosen("endpoint", batches_of_one).one_sampling_config
    assert not chosen("endpoint", site(shards=2)).one_sampling_config


def test_nodes_that_no_server_would_use_are_refused() -> None:
    """vLLM's copies stay on one node: three more in each shard would stand idle."""
    there = site(nodes=4, servers={"hf": "vllm"})
    alone = chosen("hf", there)
    with pytest.raises(ConfigError, match="the servers of a shard use 1"):
        refuse_idle_nodes(there, [alone])
    spread = chosen("megatron-bridge", there)
    refuse_idle_nodes(there, [alone, spread])


def served(**processes: tuple[int, int]) -> Any:
    """A spec with a judge beside the model; (tensor parallel, replicas) of each."""
    deployments = {
        name: {"kind": "vllm", "tensor_parallel": width, "gpus": width, "replicas": copies}
        for name, (width, copies) in processes.items()
    }
    hf = {"model_id": "m", "format": "hf", "path": "/models/m", "url": None}
    endpoints = {
        name: {"model": hf, "deployment": one, "kinds": ["chat"], "concurrency": 1}
        for name, one in deployments.items()
        if name != "model"
    }
    return make_spec(model=hf, deployment=deployments["model"], endpoints=endpoints)


@pytest.mark.parametrize(
    ("visible", "lists"),
    [
        (None, [["0,1", "2,3"], ["4"]]),
        ("", [["0,1", "2,3"], ["4"]]),
        ("3,4,5,6,7", [["3,4", "5,6"], ["7"]]),
        ("GPU-a, GPU-b,GPU-c,GPU-d,GPU-e,GPU-f", [["GPU-a,GPU-b", "GPU-c,GPU-d"], ["GPU-e"]]),
    ],
)
def test_each_process_has_gpus_of_its_own_among_those_of_the_job(
    visible: str | None, lists: list[list[str]]
) -> None:
    """Whatever the job calls them, no GPU is in two lists."""
    found = gpu_lists(served(model=(2, 2), judge=(1, 1)), visible)
    assert [found["model"], found["judge"]] == lists


def test_a_process_that_is_alone_is_told_nothing() -> None:
    """It has what the job has."""
    assert gpu_lists(served(model=(2, 1)), "4,5") == {"model": []}


@pytest.mark.parametrize("visible", ["0,1,2,3", "NoDevFiles"])
def test_too_few_gpus_are_an_error(visible: str) -> None:
    """Rather than two servers on one."""
    with pytest.raises(EndpointError, match="too few GPUs"):
        gpu_lists(served(model=(2, 2), judge=(1, 1)), visible)


def test_uuids_of_one_node_are_not_given_to_another() -> None:
    """A server on two nodes would look for GPUs that its second node has not."""
    spec = served(model=(2, 1), judge=(1, 1))
    wide = spec.deployment.model_copy(update={"nodes": 2, "pipeline_parallel": 2})
    with pytest.raises(EndpointError, match="by UUID"):
        gpu_lists(spec.model_copy(update={"deployment": wide}), "GPU-a,GPU-b,GPU-c")
