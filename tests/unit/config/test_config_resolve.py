"""The join: which layer wins, what is refused before submission, and what the hash depends on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evalhpc.config.layers import deep_merge
from evalhpc.config.resolve import Overrides, merge_site, resolve, run_name
from evalhpc.config.sites import SiteLayer
from evalhpc.errors import ConfigError, UsageError
from evalhpc.models.checkpoint import Model
from evalhpc.models.deployment import DEPLOYMENTS
from evalhpc.models.runspec import HarnessSpec, RunSpec
from evalhpc.models.site import Site
from evalhpc.models.suite import Suite

ENVIRON = {"HOME": "/home/me", "USER": "me"}
HARNESSES = {
    name: HarnessSpec(name=name, template=f"{name}.sh.j2", results=name)
    for name in ("lm-eval", "unused")
}
MODEL = Model(model_id="org/Tiny 1B", format="hf", path="/models/tiny")
PYXIS = {
    "container": {
        "runtime": "pyxis",
        "images": {"lm-eval": "/i/lm-eval.sqsh", "vllm": "/i/vllm.sqsh"},
    }
}


def layer(**data: Any) -> SiteLayer:
    data = {"name": "here", **data}
    return SiteLayer("here", Path("/sites/here.yaml"), data, Site.model_validate(data))


def suite(*benchmarks: dict[str, Any], **data: Any) -> Suite:
    default = {"harness": "lm-eval", "task": "arc_easy"}
    entries = [{**default, **benchmark} for benchmark in benchmarks or ({"name": "arc"},)]
    return Suite.model_validate({"name": "small", "benchmarks": entries, **data})


def spec(
    site: SiteLayer | None = None,
    of: Suite | None = None,
    *sets: str,
    environ: dict[str, str] | None = None,
    kind: Any = "vllm",
    **flags: Any,
) -> RunSpec:
    return resolve(
        site or layer(),
        of or suite(),
        MODEL,
        DEPLOYMENTS[kind](),
        HARNESSES,
        Overrides(sets=sets, **flags),
        python="/opt/bin/python",
        environ=ENVIRON if environ is None else environ,
    )


def test_each_layer_covers_the_one_below() -> None:
    """Defaults < site < suite < command line, key by key."""
    site = layer(run={"shards": 2, "concurrency": 3, "max_rounds": 5})
    result = spec(site, suite(run={"shards": 6, "concurrency": 7}), "run.seed=9", shards=8)
    assert (result.run.shards, result.run.concurrency, result.run.max_rounds) == (8, 7, 5)
    assert (result.run.seed, result.run.request_retries) == (9, 5)
    assert result.run == result.site.run


def test_the_merged_site_serves_to_choose_a_deployment() -> None:
    """`deploy` and `resources` are final before a RunSpec exists."""
    overrides = Overrides(sets=("deploy.threads=3", "resources.shard.cpus=6"))
    site = merge_site(layer(), suite(), overrides)
    assert (site.deploy.threads, site.resources.shard.cpus) == (3, 6)


@pytest.mark.parametrize(
    ("run", "own", "sets", "flag", "limit"),
    [
        ({}, None, (), None, None),
        ({"limit": 10}, None, (), None, 10),
        ({"limit": 10}, 20, (), None, 20),
        ({"limit": 10}, 20, (), 30, 30),
        ({"limit": 10}, 20, ("run.limit=30",), None, 30),
        ({}, 20, ("params.limit=40",), 30, 40),
        ({}, 20, ("params.arc.limit=50", "params.limit=40"), 30, 50),
    ],
)
def test_the_most_particular_limit_wins(
    run: dict[str, int], own: int | None, sets: tuple[str, ...], flag: int | None, limit: int | None
) -> None:
    """run.limit < the benchmark's own < --limit < --set params.limit < --set params.NAME.limit."""
    benchmark = {"name": "arc", "params": {"limit": own} if own else {}}
    result = spec(layer(), suite(benchmark, run=run), *sets, limit=flag)
    assert result.benchmarks[0].params.limit == limit


def test_params_for_one_benchmark_leave_the_others() -> None:
    """`--set params.NAME.KEY` changes one benchmark, `params.KEY` all of them."""
    of = suite({"name": "a"}, {"name": "b", "params": {"model_args": {"x": 1}}})
    result = spec(None, of, "params.a.num_fewshot=3", "params.model_args.y=2")
    first, second = (benchmark.params for benchmark in result.benchmarks)
    assert (first.num_fewshot, second.num_fewshot) == (3, None)
    assert second.model_args == {"x": 1, "y": 2}


def test_only_harnesses_in_use_are_recorded() -> None:
    """A new entry in the catalogue must not change the hash of runs that do not use it."""
    assert set(spec().harnesses) == {"lm-eval"}


def test_paths_are_expanded_once() -> None:
    """Jobs see absolute paths; a relative image is looked up in image_dir."""
    site = layer(
        run_root="/lustre/$USER/runs",
        python="~/venv/bin/python",
        container={
            "runtime": "pyxis",
            "image_dir": "~/images",
            "images": {"lm-eval": "lm-eval.sqsh", "vllm": "$HOME/vllm.sqsh"},
            "mounts": ["/lustre/${USER}:/data:ro"],
        },
    )
    result = spec(site)
    assert result.site.run_root == "/lustre/me/runs"
    assert result.python == "/home/me/venv/bin/python"
    assert result.harnesses["lm-eval"].image == "/home/me/images/lm-eval.sqsh"
    assert result.deployment.image == "/home/me/vllm.sqsh"
    assert result.site.container.mounts == ("/lustre/me:/data:ro",)


def test_without_containers_no_image_is_recorded() -> None:
    """An image in the site file is not used, so it does not count."""
    site = layer(container={"images": {"vllm": "/i/vllm.sqsh"}})
    assert spec(site).deployment.image is None


def test_an_endpoint_needs_no_image() -> None:
    """The model is served elsewhere; only the harness runs in a container."""
    site = layer(container={"runtime": "pyxis", "images": {"lm-eval": "/i/lm-eval.sqsh"}})
    assert spec(site, kind="endpoint").deployment.image is None


def test_pass_through_copies_values_by_name() -> None:
    """The value at submission is frozen with the run."""
    site = layer(environment={"pass_through": ["HF_HOME"]})
    result = spec(site, environ={**ENVIRON, "HF_HOME": "/hf"})
    assert result.environment == {"HF_HOME": "/hf"}


@pytest.mark.parametrize(
    ("data", "error", "what"),
    [
        (
            {"slurm": {"required": ["account", "partition"], "partition": "p"}},
            UsageError,
            "site 'here' needs slurm.account",
        ),
        ({"slurm": {"required": ["qos"], "qos": ""}}, UsageError, "needs slurm.qos"),
        (
            {"resources": {"shard": {"walltime": "1:00:00", "time_min": "1:00:01"}}},
            ConfigError,
            r"resources\.shard\.time_min: 1:00:01 is longer than the walltime",
        ),
        ({"resources": {"collect": {"time_min": "2:00"}}}, ConfigError, "no longer than slurm.sig"),
        ({"resources": {"shard": {"walltime": "2"}}}, ConfigError, "walltime: 2 is no longer"),
        ({"run": {"lease_timeout": 4.9}}, UsageError, r"lease_timeout is 4\.9 s, less than 5"),
        ({"slurm": {"comment": "a\n#SBATCH --x"}}, ConfigError, "slurm.comment: "),
        ({"container": {"runtime": "pyxis"}}, ConfigError, "no image for 'lm-eval'"),
        ({"environment": {"pass_through": ["ABSENT"]}}, ConfigError, "not set in this shell: AB"),
        ({"environment": {"pass_through": ["HF_TOKEN"]}}, ConfigError, "looks like a secret"),
        ({"environment": {"variables": {"MY_API_KEY": "x"}}}, ConfigError, "looks like a secret"),
        ({"run_root": "runs"}, ConfigError, "run_root: 'runs' is a relative path"),
        ({"run_root": "/x/$ABSENT"}, ConfigError, "needs the variable ABSENT"),
        ({"run_root": "/x/$"}, ConfigError, "a \\$ that starts no name"),
        ({"templates": "t"}, ConfigError, "templates: 't' is a relative path"),
    ],
)
def test_what_would_fail_on_the_cluster_is_refused(
    data: dict[str, Any], error: type[UsageError | ConfigError], what: str
) -> None:
    """Each is found before sbatch is called, with the next command."""
    with pytest.raises(error, match=what) as caught:
        spec(layer(**data), kind="endpoint")
    assert caught.value.hint


@pytest.mark.parametrize(
    "image", ["lm-eval.sqsh", "registry.example#org/lm-eval:1", "org/lm-eval", "/i/lm-eval"]
)
def test_pyxis_gets_only_absolute_sqsh_files(image: str) -> None:
    """Any other name would be imported from a registry, on every node at once."""
    site = layer(**deep_merge(PYXIS, {"container": {"images": {"lm-eval": image}}}))
    with pytest.raises(ConfigError, match=r"not the absolute path|is not imported"):
        spec(site)


def test_a_registry_name_is_not_looked_up_in_the_image_folder() -> None:
    """`image_dir` is for files; it must not turn a registry's name into a path."""
    data = {"image_dir": "/i", "images": {"lm-eval": "registry.example#org/lm-eval:1"}}
    site = layer(**deep_merge(PYXIS, {"container": data}))
    with pytest.raises(ConfigError, match=r"not the absolute path|is not imported"):
        spec(site)


@pytest.mark.parametrize("mount", ["/a", "a:/b", "/a:b", "/a:/b:/c", "/a:/b,/c:/d", "/a b:/c", ""])
def test_a_bad_mount_is_refused(mount: str) -> None:
    """SRC:DST[:FLAGS] with absolute sides."""
    site = layer(**deep_merge(PYXIS, {"container": {"mounts": [mount]}}))
    with pytest.raises(ConfigError, match=r"container.mounts\[0\]"):
        spec(site)


@pytest.mark.parametrize("mount", ["/a:/b", "/a:/b:ro", "/a:/b:rw+private", "/:/host"])
def test_a_good_mount_is_accepted(mount: str) -> None:
    """What Pyxis and Enroot understand."""
    site = layer(**deep_merge(PYXIS, {"container": {"mounts": [mount]}}))
    assert spec(site).site.container.mounts == (mount,)


def test_the_missing_key_comes_with_the_file_to_put_it_in() -> None:
    """The user reads the option and the path of the site file, ready to copy."""
    with pytest.raises(UsageError) as error:
        spec(layer(slurm={"required": ["account"]}))
    assert "--set slurm.account=NAME" in error.value.hint
    assert "/home/me/.config/evalhpc/sites/here.yaml" in error.value.hint
    assert spec(layer(slurm={"required": ["account"]}), None, "slurm.account=a").site


def test_doubled_benchmarks_and_unknown_harnesses_are_refused() -> None:
    """Folders are named after benchmarks, and only the catalogue's harnesses can run."""
    with pytest.raises(UsageError, match="two benchmarks of suite 'small' are called 'a'"):
        spec(None, suite({"name": "a"}, {"name": "a"}))
    with pytest.raises(UsageError, match="no harness 'lm-evl' — did you mean 'lm-eval'"):
        spec(None, suite({"name": "a", "harness": "lm-evl"}))


def test_contradictions_and_nonsense_on_the_command_line_are_refused() -> None:
    """One setting given twice, or out of range."""
    with pytest.raises(UsageError, match=r"--shards and --set run.shards are both given"):
        spec(None, None, "run.shards=3", shards=4)
    with pytest.raises(UsageError, match="--limit 0: must be at least 1"):
        spec(limit=0)
    with pytest.raises(UsageError, match="include_path 'tasks' is a relative path"):
        spec(None, None, "params.include_path=tasks")


@pytest.mark.parametrize(
    ("wanted", "model", "name"),
    [
        (None, "org/Tiny 1B", "small-org-Tiny-1B"),
        (None, "../../etc", "small-..-..-etc"),
        (None, "…", "small"),
        (None, "x" * 300, "small-" + "x" * 94),
        ("mine", "tiny", "mine"),
    ],
)
def test_a_run_is_named_in_plain_characters(wanted: str | None, model: str, name: str) -> None:
    """The name becomes a folder's and a job's."""
    assert run_name(wanted, "small", model) == name


@pytest.mark.parametrize("wanted", ["", "a b", "../x", "-x", "a/b", "x" * 101])
def test_a_bad_name_is_refused(wanted: str) -> None:
    """A name that the user chose is not changed silently."""
    with pytest.raises(UsageError, match="--name"):
        run_name(wanted, "small", "tiny")


def reordered(value: Any, reverse: bool) -> Any:
    if isinstance(value, dict):
        keys = sorted(value, reverse=reverse)
        return {key: reordered(value[key], reverse) for key in keys}
    return value


@settings(deadline=None)
@given(
    st.dictionaries(st.sampled_from("abcdef"), st.integers() | st.text(max_size=3), max_size=5),
    st.dictionaries(st.sampled_from("ABCDEF"), st.text("xyz", max_size=3), max_size=5),
)
def test_the_hash_does_not_depend_on_the_order_of_keys(
    model_args: dict[str, Any], variables: dict[str, str]
) -> None:
    """The same settings in another order are the same run."""
    digests = set()
    for reverse in (False, True):
        site = {"environment": {"variables": variables}, "run": {"shards": 2, "seed": 3}}
        of = suite({"name": "a", "params": reordered({"model_args": model_args}, reverse)})
        digests.add(spec(layer(**reordered(site, reverse)), of).digest())
    assert len(digests) == 1


@pytest.mark.parametrize(
    "sets",
    [
        "slurm.partition=p",
        "resources.shard.cpus=5",
        "run.seed=7",
        "run.shards=5",
        "environment.variables.A=b",
        "params.limit=3",
        "params.arc.model_args.x=1",
        "gateway.port=9000",
    ],
)
def test_any_change_gives_another_hash(sets: str) -> None:
    """Two runs with the same hash have the same settings."""
    assert spec(None, None, sets).digest() != spec().digest()


def test_the_same_inputs_give_the_same_hash() -> None:
    """Time, unrelated variables and a default that is spelt out are no part of a run."""
    assert spec().digest() == spec().digest()
    assert spec(layer(run={"shards": 4})).digest() == spec().digest()
    assert spec(environ={**ENVIRON, "OTHER": "x"}).digest() == spec().digest()


def test_a_harness_has_the_interpreter_that_the_site_names_for_it() -> None:
    """Its path is expanded; in an image the interpreter is the image's."""
    pythons = {"lm-eval": "~/envs/lm-eval/bin/python"}
    assert spec(layer(pythons=pythons)).harnesses["lm-eval"].python == (
        "/home/me/envs/lm-eval/bin/python"
    )
    images = {"lm-eval": "/i/lm-eval.sqsh", "vllm": "/i/vllm.sqsh"}
    container = {"runtime": "pyxis", "images": images}
    inside = spec(layer(pythons=pythons, container=container))
    assert inside.harnesses["lm-eval"].python is None


def test_an_interpreter_by_a_relative_path_is_refused() -> None:
    """Jobs run in other folders."""
    with pytest.raises(ConfigError, match=r"pythons\.lm-eval"):
        spec(layer(pythons={"lm-eval": "bin/python"}))
