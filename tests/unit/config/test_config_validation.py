"""Validation: each problem on a line of its own, each misspelt key with the right one."""

from __future__ import annotations

from typing import Any

import pytest

from evalhpc.config.validation import validate
from evalhpc.errors import ConfigError
from evalhpc.models.runspec import RunSpec
from evalhpc.models.site import Site
from evalhpc.models.suite import Suite


def complaint(model: Any, data: dict[str, Any], **options: Any) -> str:
    with pytest.raises(ConfigError) as error:
        validate(model, data, "f.yaml", **options)
    return error.value.what


def site(**data: Any) -> str:
    return complaint(Site, {"name": "x", **data})


@pytest.mark.parametrize(
    ("data", "line"),
    [
        (
            {"slurm": {"partitoin": "a"}},
            "slurm.partitoin: unknown key 'partitoin' in slurm — did you mean 'partition'?",
        ),
        (
            {"partition": "a"},
            "partition: unknown key 'partition' — 'partition' belongs under slurm:",
        ),
        (
            {"slurm": {"setup": []}},
            "slurm.setup: unknown key 'setup' in slurm — 'setup' belongs under environment:",
        ),
        (
            {"walltime": "1:00"},
            "walltime: unknown key 'walltime' — 'walltime' belongs under resources.planning: or "
            "resources.shard: or resources.collect:",
        ),
        (
            {"slurm": {"scheduler": "local"}},
            "slurm.scheduler: unknown key 'scheduler' in slurm — 'scheduler' belongs at the top "
            "level",
        ),
        ({"xyzzy": 1}, "xyzzy: unknown key 'xyzzy'"),
        ({"extend": "eos"}, "extend: unknown key 'extend'"),
        ({"name": "A B"}, "name: must be a name of lower-case letters"),
        ({"slurm": {"account": 3}}, "slurm.account: must be text, not 3: put the value in quotes"),
        (
            {"slurm": {"gpu_request": "x"}},
            "slurm.gpu_request: must be 'gres', 'gpus-per-node' or 'none', not 'x'",
        ),
        ({"slurm": {"max_array_size": 0}}, "slurm.max_array_size: must be at least 1, not 0"),
        ({"slurm": {"extra": "--x"}}, "slurm.extra: must be a list"),
        ({"slurm": {"extra": ["rm -rf /"]}}, "slurm.extra[0]: must be one sbatch option"),
        ({"slurm": {"extra": ["--a=b\nrm"]}}, "slurm.extra[0]: must be one sbatch option"),
        ({"slurm": 3}, "slurm: must be a section of `key: value` lines, not 3"),
        ({"resources": {"shard": {"walltime": "soon"}}}, "resources.shard.walltime: must be a wa"),
        ({"resources": {"shard": {"cpus": 1.5}}}, "resources.shard.cpus: must be a whole number"),
        ({"resources": {"shard": {"memory": 0}}}, "resources.shard.memory: must be text, not 0"),
        ({"run": {"shards": True}}, "run.shards: must be a whole number, not true or false"),
        ({"run": {"request_timeout": float("inf")}}, "run.request_timeout: "),
        ({"gateway": {"port": 70000}}, "gateway.port: must be at most 65535, not 70000"),
        ({"resubmit": "maybe"}, "resubmit: must be true or false, not 'maybe'"),
        ({"container": {"images": []}}, "container.images: must be a section"),
        ({"environment": {"variables": {"a-b": "x"}}}, "environment.variables.a-b: must be the na"),
    ],
)
def test_a_bad_site_is_answered_in_words(data: dict[str, Any], line: str) -> None:
    """The file, the key and what is wrong; a misspelt or misplaced key with the right one."""
    assert site(**data).startswith(f"f.yaml: {line}")


def test_every_problem_is_listed_at_once() -> None:
    """One run of the command shows everything that is to be corrected."""
    text = site(slurm={"partitoin": "a", "account": 3}, run={"shards": True})
    assert len(text.splitlines()) == 3


def test_a_key_that_only_the_file_knows_is_suggested_too() -> None:
    """`extends` is no field of the schema, yet a key of a site file."""
    text = complaint(Site, {"name": "x", "extend": "eos"}, known=["extends"])
    assert text.endswith("did you mean 'extends'?")


def test_the_value_of_a_variable_is_not_shown() -> None:
    """A variable may hold a password, and errors end up in logs."""
    assert "12345" not in site(environment={"variables": {"PIN": 12345}})


def test_problems_inside_lists_name_the_position() -> None:
    """In a suite the benchmark is found by its position."""
    text = complaint(
        Suite,
        {"name": "s", "benchmarks": [{"name": "a", "harness": "h", "task": "t", "limit": 3}]},
    )
    assert text == (
        "f.yaml: benchmarks[0].limit: unknown key 'limit' in benchmarks[0]"
        " — 'limit' belongs under benchmarks.params:"
    )


def test_a_suite_without_benchmarks_is_refused() -> None:
    """An empty list is not a suite."""
    assert "benchmarks: must not be empty" in complaint(Suite, {"name": "s", "benchmarks": []})
    assert "benchmarks: is missing" in complaint(Suite, {"name": "s"})


def test_an_optional_section_is_searched_as_well() -> None:
    """Suggestions work for any model, not only for a site."""
    assert "did you mean 'model_id'" in complaint(RunSpec, {"model": {"modl_id": "m"}})
