"""The catalogue: lookups, their errors, and that everything in it fits together."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from evalhpc.errors import UsageError
from evalhpc.harness.catalogue import (
    definition_path,
    harness_spec,
    list_harnesses,
    list_tasks,
    lookup_task,
)
from evalhpc.harness.readers import READERS
from evalhpc.harness.selection import SELECTIONS
from evalhpc.models.suite import Suite
from evalhpc.resources import resource_dir

SUITES = Path(__file__).resolve().parents[3] / "evalhpc" / "harness" / "catalogue" / "suites"


def test_a_catalogue_task_becomes_a_benchmark_with_its_parameters() -> None:
    """`gsm8k_demo` is a chat task of lm-eval."""
    benchmark = lookup_task("gsm8k_demo")
    assert (benchmark.harness, benchmark.task) == ("lm-eval", "gsm8k_demo")
    assert benchmark.params.endpoint == "chat"


def test_a_misspelt_task_is_answered_with_the_nearest() -> None:
    """The error names the task that was probably meant."""
    with pytest.raises(UsageError, match="perhaps you meant 'gsm8k_demo'"):
        lookup_task("gsm8k_dmeo")


def test_a_harness_prefix_bypasses_the_catalogue() -> None:
    """`lm-eval/TASK` is any task of lm-eval, under a name that can be a folder."""
    benchmark = lookup_task("lm-eval/mmlu:anatomy,x")
    assert benchmark.task == "mmlu:anatomy,x"
    assert benchmark.name == "mmlu_anatomy_x"


@pytest.mark.parametrize("name", ["lm-eva/x", "lm-eval/", "lm-eval/..", ""])
def test_names_that_stand_for_nothing_are_refused(name: str) -> None:
    """An unknown harness, and a task without a name, are usage errors."""
    with pytest.raises(UsageError):
        lookup_task(name)


@pytest.mark.parametrize("name", list_tasks())
def test_every_task_has_a_harness_and_its_definition(name: str) -> None:
    """A listed task can be looked up; a definition of ours defines just that task."""
    entry = list_tasks()[name]
    assert harness_spec(entry.harness).name == entry.harness
    assert lookup_task(name).task == entry.task
    path = definition_path(entry)
    assert (path is None) == (entry.data is None)
    if path is not None:
        definition = yaml.safe_load(path.read_text(encoding="utf-8"))
        assert definition["task"] == entry.task
        assert definition["dataset_path"] == "json"


@pytest.mark.parametrize("name", list_harnesses())
def test_every_harness_has_its_template_and_reader(name: str) -> None:
    """What the catalogue names is there."""
    spec = harness_spec(name)
    assert spec.name == name
    assert (resource_dir("sbatch_templates") / "harness" / spec.template).is_file()
    assert spec.results in READERS
    assert spec.selection is None or spec.selection in SELECTIONS


@pytest.mark.parametrize("path", sorted(SUITES.glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_suites_are_valid_and_agree_with_the_catalogue(path: Path) -> None:
    """A suite that we ship asks for catalogue tasks with the catalogue's parameters."""
    suite = Suite.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    assert suite.name == path.stem
    for benchmark in suite.benchmarks:
        assert benchmark == lookup_task(benchmark.name)
