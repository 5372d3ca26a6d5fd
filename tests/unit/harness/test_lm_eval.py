"""Reading what lm-eval wrote: real outputs, and every way in which they can be short."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from evalhpc.core.results import Score
from evalhpc.errors import HarnessError, UsageError
from evalhpc.harness.lm_eval import comparable, normalise_results
from evalhpc.harness.readers import read_output
from evalhpc.harness.selection import documents_of

DATA = Path(__file__).resolve().parents[2] / "data" / "lm_eval"


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """A copy of the grouped output, to be damaged."""
    return Path(shutil.copytree(DATA / "grouped", tmp_path / "output"))


def only(output: Path, pattern: str) -> Path:
    """The one file of that pattern."""
    (path,) = output.rglob(pattern)
    return path


def edit(output: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the results file in place."""
    path = only(output, "results_*.json")
    results = json.loads(path.read_text())
    change(results)
    path.write_text(json.dumps(results))


def test_tasks_groups_filters_and_counts_are_read() -> None:
    """A group is no task, a filter makes a metric of its own, `none` is left out of its name."""
    found = read_output("lm-eval", DATA / "grouped")
    assert set(found.tasks) == {"hellaswag_demo", "truthfulqa_mc1_demo", "two_filters"}
    assert found.groups["choices"].metrics == {"acc": Score(0.5, 0.23570226039551584)}
    assert found.groups["choices"].count == 6
    assert set(found.tasks["two_filters"].metrics) == {"exact_match__first", "exact_match__last"}
    assert found.tasks["hellaswag_demo"].metrics["acc_norm"].value == 1 / 3
    assert found.tasks["hellaswag_demo"].version == "1.0"
    assert found.version == "0.4.13"
    assert Path(str(found.samples["two_filters"])).name.startswith("samples_two_filters_")


def test_a_corpus_metric_is_read_with_its_bootstrapped_error() -> None:
    """chrF has one value for all documents."""
    found = read_output("lm-eval", DATA / "generation")
    assert found.tasks["gsm8k_demo"].metrics["chrf"].value == pytest.approx(25.329, abs=1e-3)
    assert found.tasks["gsm8k_demo"].count == 16
    assert found.groups == {}


@pytest.mark.parametrize("value", ["N/A", float("nan")])
def test_an_undefined_standard_error_is_none(output: Path, value: object) -> None:
    """lm-eval writes N/A, or NaN for a single document; neither is a number."""
    edit(output, lambda r: r["groups"]["choices"].update({"acc_stderr,none": value}))
    assert read_output("lm-eval", output).groups["choices"].metrics["acc"].stderr is None


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "N/A", None])
def test_a_score_that_is_no_number_is_an_error(output: Path, value: object) -> None:
    """A NaN never becomes a score."""
    edit(output, lambda r: r["results"]["hellaswag_demo"].update({"acc,none": value}))
    with pytest.raises(HarnessError, match="no number for acc,none"):
        read_output("lm-eval", output)


def test_no_results_file_is_an_error(output: Path) -> None:
    """lm-eval exits 0 when it could not write its results."""
    only(output, "results_*.json").unlink()
    with pytest.raises(HarnessError, match="wrote no results"):
        read_output("lm-eval", output)


def test_a_cut_results_file_is_an_error(output: Path) -> None:
    """Half a JSON document is not read."""
    path = only(output, "results_*.json")
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(HarnessError, match="cannot read"):
        read_output("lm-eval", output)


def test_results_of_two_runs_are_an_error(output: Path) -> None:
    """Which of them counts cannot be known."""
    path = only(output, "results_*.json")
    shutil.copy(path, path.with_name("results_2027-01-01T00-00-00.json"))
    with pytest.raises(HarnessError, match="2 runs"):
        read_output("lm-eval", output)


def test_a_missing_samples_file_is_an_error(output: Path) -> None:
    """Every task that the results report must have its samples."""
    only(output, "samples_two_filters_*").unlink()
    with pytest.raises(HarnessError, match="no samples files for two_filters"):
        read_output("lm-eval", output)


@pytest.mark.parametrize("lines", [slice(0, 2), slice(1, None), slice(0, 5), slice(0, 0)])
def test_fewer_samples_than_claimed_are_an_error(output: Path, lines: slice) -> None:
    """A document that is missing under any filter is noticed."""
    path = only(output, "samples_two_filters_*")
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[lines]))
    with pytest.raises(HarnessError, match="samples; the results claim 3 documents"):
        read_output("lm-eval", output)


def test_a_repeated_document_does_not_stand_for_a_missing_one(output: Path) -> None:
    """The number of lines alone proves nothing."""
    path = only(output, "samples_hellaswag_demo_*")
    first, second, _ = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(first + second + second)
    with pytest.raises(HarnessError, match="samples; the results claim"):
        read_output("lm-eval", output)


def test_a_torn_sample_is_an_error(output: Path) -> None:
    """A last line that is cut is not a sample."""
    path = only(output, "samples_hellaswag_demo_*")
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(HarnessError):
        read_output("lm-eval", output)


def test_documents_are_told_whatever_the_scores(output: Path) -> None:
    """Pass 0 has made-up answers, whose metrics may be undefined; its documents are all there."""
    edit(output, lambda results: results["results"]["two_filters"].update({"sample_len": "?"}))
    found = documents_of("lm-eval", output)
    assert found.keys() == {"hellaswag_demo", "truthfulqa_mc1_demo", "two_filters"}
    assert all(indices == list(range(len(indices))) for indices in found.values())
    assert all(found.values())


def test_documents_of_a_cut_log_are_an_error(output: Path) -> None:
    """A slice of too few would leave the rest to chance."""
    path = only(output, "samples_two_filters_*.jsonl")
    path.write_text("".join(path.read_text().splitlines(keepends=True)[1:]))
    with pytest.raises(HarnessError, match="claim"):
        documents_of("lm-eval", output)


def test_an_unknown_selection_is_a_usage_error(output: Path) -> None:
    """The names of those that there are, are in the message."""
    with pytest.raises(UsageError, match="lm-eval"):
        documents_of("none-such", output)


def test_an_unknown_layout_is_an_error_of_the_harness(output: Path) -> None:
    """A field that another version leaves out is reported with the file, not as a traceback."""
    edit(output, lambda r: r.pop("n-samples"))
    with pytest.raises(HarnessError, match="does not look like results"):
        read_output("lm-eval", output)


def test_an_unknown_reader_is_a_usage_error(output: Path) -> None:
    """The error lists the readers that exist."""
    with pytest.raises(UsageError, match="lm-eval"):
        read_output("no-such", output)


def test_runs_that_differ_in_time_place_and_port_compare_equal(output: Path) -> None:
    """Dates in names, durations, the machine and the server's port do not count."""
    before = comparable(DATA / "grouped")
    for path in list(output.rglob("*_2026-*")):
        path.rename(str(path).replace("T10-03-11.812721", "T11-00-00"))

    def later(results: dict[str, Any]) -> None:
        results.update(date=1.0, total_evaluation_time_seconds="9", pretty_env_info="other")
        results["config"]["model_args"]["base_url"] = "http://127.0.0.1:1/v1/completions"
        for config in results["configs"].values():
            config.get("metadata", {})["base_url"] = "http://127.0.0.1:1/v1/completions"

    edit(output, later)
    assert comparable(output) == before


@pytest.mark.parametrize(
    "field", ["results", "versions", "task_hashes", "config", "lm_eval_version"]
)
def test_every_other_field_counts(output: Path, field: str) -> None:
    """Normalising takes nothing else away."""
    before = comparable(output)
    edit(output, lambda r: r.pop(field))
    assert comparable(output) != before


def test_samples_are_compared_byte_for_byte(output: Path) -> None:
    """A single changed byte of a sample shows."""
    before = comparable(output)
    path = only(output, "samples_hellaswag_demo_*")
    path.write_bytes(path.read_bytes().replace(b"-0", b"-1", 1) + b" ")
    assert comparable(output) != before


def test_normalising_leaves_its_input_alone() -> None:
    """The results that are published keep every field."""
    results = json.loads(only(DATA / "grouped", "results_*.json").read_text())
    copy = json.loads(json.dumps(results))
    assert "date" not in normalise_results(results)
    assert results == copy
