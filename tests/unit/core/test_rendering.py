"""Rendering decides which scripts a run has and what each job asks for."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from evalhpc.config.template_files import load_sources
from evalhpc.core.rendering import render_run
from evalhpc.errors import ConfigError
from evalhpc.models.runspec import RunSpec
from evalhpc.paths import RunPaths
from tests.factories import make_spec

SOURCES = load_sources(None)
RUN_DIR = "/runs/demo"
VLLM: dict[str, Any] = {
    "model": {"model_id": "tiny", "format": "hf", "path": "/models/tiny", "url": None},
    "deployment": {"kind": "vllm"},
}


def directives(spec: RunSpec, script: str = "shard.sbatch") -> list[str]:
    """The #SBATCH options of one script."""
    lines = render_run(spec, RUN_DIR, SOURCES)[script].splitlines()
    return [line.removeprefix("#SBATCH ") for line in lines if line.startswith("#SBATCH")]


def test_names_are_those_of_the_run_directory() -> None:
    """What is rendered is what RunPaths finds again."""
    paths = RunPaths(Path(RUN_DIR))
    expected = {paths.script(kind).name for kind in ("planning", "shard", "collect")}
    expected |= {paths.server_script().name, paths.harness_script("arc").name}
    assert set(render_run(make_spec(**VLLM), RUN_DIR, SOURCES)) == expected
    assert f"--output={paths.log('shard-%A_%a.log')}" in directives(make_spec())


def test_an_endpoint_has_no_server_script() -> None:
    """Nothing is started for a model that is already up."""
    assert "server.sh" not in render_run(make_spec(), RUN_DIR, SOURCES)


def test_a_script_takes_a_slice_only_where_shards_have_slices() -> None:
    """Beside a selection no limit is allowed; without slices the script is as it always was."""

    def script(shard_by: str) -> str:
        benchmark = {"name": "arc", "harness": "lm-eval", "task": "arc", "params": {"limit": 7}}
        spec = make_spec(benchmarks=[benchmark], run={"shard_by": shard_by})
        return render_run(spec, RUN_DIR, SOURCES)["harness-arc.sh"]

    assert "EVALHPC_SAMPLES" not in script("requests")
    assert "\n    --limit 7\n" in script("requests")
    sliced = script("samples").partition("EVALHPC_SAMPLES")
    assert "--limit" not in sliced[0]
    chosen, _, otherwise = sliced[2].partition("\nelse\n")
    assert "--samples" in chosen
    assert otherwise.startswith("    arguments+=(--limit 7)\nfi\n")


def test_rendering_is_deterministic() -> None:
    """The same inputs give the same bytes, whatever the order of the variables."""
    one = make_spec(environment={"A": "1", "B": "2"})
    two = make_spec(environment={"B": "2", "A": "1"})
    assert render_run(one, RUN_DIR, SOURCES) == render_run(two, RUN_DIR, SOURCES)


@pytest.mark.parametrize(
    ("slurm", "option"),
    [
        ({"gpu_request": "gres", "gpu_type": "h100"}, "--gres=gpu:h100:8"),
        ({"gpu_request": "gres"}, "--gres=gpu:8"),
        ({"gpu_request": "gpus-per-node", "gpu_type": "h100"}, "--gpus-per-node=h100:8"),
        ({"gpu_request": "gpus-per-node"}, "--gpus-per-node=8"),
        ({"gpu_request": "none"}, None),
    ],
)
def test_gpus_are_asked_for_as_the_site_does(slurm: dict[str, str], option: str | None) -> None:
    """A site without GPU gres gets no GPU option."""
    spec = make_spec(**VLLM, site={"slurm": slurm, "resources": {"shard": {"gpus_per_node": 8}}})
    asked = [line for line in directives(spec) if "gpu" in line]
    assert asked == ([option] if option else [])


def test_shards_of_an_endpoint_are_cpu_jobs() -> None:
    """Clients must not hold GPUs: the CPU partition, a pass's size, the shard's walltime."""
    site = {
        "slurm": {"partition": "gpu", "cpu_partition": "cpu"},
        "resources": {"shard": {"gpus_per_node": 8, "cpus": 64, "walltime": "8:00:00"}},
    }
    lines = directives(make_spec(site=site))
    assert {"--partition=cpu", "--cpus-per-task=2", "--time=8:00:00"} <= set(lines)
    assert not any("gpu" in line for line in lines)


def test_a_site_with_one_partition_uses_it_for_passes_too() -> None:
    """`cpu_partition` falls back to `partition`."""
    spec = make_spec(site={"slurm": {"partition": "batch"}})
    assert "--partition=batch" in directives(spec, "planning.sbatch")


def test_the_array_has_one_task_a_shard_and_the_throttle() -> None:
    """Only the shard script is an array."""
    spec = make_spec(run={"shards": 1000}, site={"slurm": {"array_throttle": 16}})
    assert "--array=0-999%16" in directives(spec)
    assert not any(line.startswith("--array") for line in directives(spec, "collect.sbatch"))


def test_local_scripts_have_no_directives() -> None:
    """At a local site bash runs them."""
    assert directives(make_spec(site={"scheduler": "local"})) == []


def test_the_run_id_is_the_comment_unless_the_site_has_one() -> None:
    """Some sites give the comment a meaning; the job's name carries the run in any case."""
    spec = make_spec(site={"slurm": {"comment": "project=x"}})
    assert {"--comment=project=x", f"--job-name={spec.run_id}.shard"} <= set(directives(spec))
    assert f"--comment={make_spec().run_id}" in directives(make_spec())


def test_pyxis_takes_images_and_mounts_of_the_run() -> None:
    """The harness sees the run directory, its tokenizer and the site's mounts, and no more."""
    spec = make_spec(
        site={"container": {"runtime": "pyxis", "mounts": ["/data:/data:ro"]}},
        model={"tokenizer": "/models/tiny"},
        harnesses={"lm-eval": {"image": "/images/lm-eval.sqsh"}},
    )
    script = render_run(spec, RUN_DIR, SOURCES)["harness-arc.sh"]
    assert "--container-image=/images/lm-eval.sqsh" in script
    assert (
        "'--container-mounts=/runs/demo:/runs/demo,/models/tiny:/models/tiny:ro,/data:/data:ro'\n"
        in script
    )


def test_no_container_option_without_an_image() -> None:
    """Pyxis ignores mounts without an image and runs on the host: then none are rendered."""
    spec = make_spec(site={"container": {"runtime": "pyxis", "mounts": ["/data:/data"]}})
    scripts = render_run(spec, RUN_DIR, SOURCES)
    assert not any("--container" in text for text in scripts.values())
    assert "No image is set for it" in scripts["harness-arc.sh"]


def test_the_token_is_never_in_an_argument_list() -> None:
    """Every user of a node can read the arguments of its processes."""
    script = render_run(make_spec(**VLLM), RUN_DIR, SOURCES)["server.sh"]
    assert 'export VLLM_API_KEY="$EVALHPC_SERVER_TOKEN"' in script
    assert "--api-key" not in script


def test_a_run_directory_with_a_backslash_is_refused_for_slurm_only() -> None:
    """Slurm cannot write logs there; bash can."""
    with pytest.raises(ConfigError, match="backslash"):
        render_run(make_spec(), "/runs/a\\b", SOURCES)
    assert render_run(make_spec(site={"scheduler": "local"}), "/runs/a\\b", SOURCES)


def test_a_variable_that_bash_cannot_name_is_refused() -> None:
    """`export` would fail on the node."""
    with pytest.raises(ConfigError, match="environment variable"):
        render_run(make_spec(environment={"A-B": "1"}), RUN_DIR, SOURCES)


def test_a_benchmark_without_its_harness_is_refused() -> None:
    """The message names what the run knows."""
    spec = make_spec(benchmarks=[{"name": "arc", "harness": "lm-evil", "task": "arc"}])
    with pytest.raises(ConfigError, match=r"lm-evil.*knows: lm-eval"):
        render_run(spec, RUN_DIR, SOURCES)


def test_a_users_template_gets_the_same_variables() -> None:
    """An override is rendered in place of ours."""
    sources = {**SOURCES, "_collect.sh.j2": "exec notify {{ run_id }} {{ job.kind }}\n"}
    spec = make_spec()
    text = render_run(spec, RUN_DIR, sources)["collect.sbatch"]
    assert f"exec notify {spec.run_id} collect\n" in text


@settings(max_examples=50, deadline=None)
@given(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
    st.sampled_from(["slurm", "local"]),
)
@example("a\nrm -rf b", "local")
def test_no_text_adds_a_line_to_any_script(text: str, scheduler: str) -> None:
    """Whatever stands in a name or a path, the script keeps its lines; only sbatch refuses some."""
    try:
        scripts = render_run(awkward(text, scheduler), f"/runs/{text}", SOURCES)
    except ConfigError:
        assert "\0" in text or (scheduler == "slurm" and refused_by_sbatch(text))
        return
    assert {name: script.count("\n") for name, script in scripts.items()} == plain_lines(scheduler)


def refused_by_sbatch(text: str) -> bool:
    """Control characters, and a backslash in the path of a log."""
    return "\\" in text or any(char < " " or char == "\x7f" for char in text)


@functools.cache
def plain_lines(scheduler: str) -> dict[str, int]:
    """Script → number of its lines when every text is harmless."""
    scripts = render_run(awkward("x", scheduler), "/runs/x", SOURCES)
    return {name: script.count("\n") for name, script in scripts.items()}


def awkward(text: str, scheduler: str) -> RunSpec:
    """A spec with `text` in every field that takes free text and reaches a script."""
    return make_spec(
        name=text,
        model={"model_id": text, "format": "hf", "path": f"/m/{text}", "url": None},
        deployment={"kind": "vllm", "extra_args": [text]},
        site={
            "scheduler": scheduler,
            "slurm": dict.fromkeys(
                ("account", "partition", "qos", "constraint", "reservation", "comment"), text
            ),
            "environment": {"variables": {"A": text}},
        },
        benchmarks=[
            {"name": "arc", "harness": "lm-eval", "task": text, "params": {"extra_args": [text]}}
        ],
        python=f"/opt/{text}",
        environment={"B": text},
    )
