"""The results document: NeMo Evaluator's schema, names that do not hide one another, rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from evalhpc.core.report import report_markdown
from evalhpc.core.results import (
    SCORE_COLUMNS,
    HarnessOutput,
    Score,
    TaskScores,
    check_document,
    metric_name,
    results_document,
    score_rows,
)
from evalhpc.models.certificate import Certificate, Counts
from tests.factories import make_spec

ARC = {"name": "arc", "harness": "lm-eval", "task": "arc_easy"}
ARC_FEWSHOT = {**ARC, "name": "arc5", "params": {"num_fewshot": 5}}
SPEC = make_spec(benchmarks=[ARC, ARC_FEWSHOT], run={"limit": 8})


def output(value: float = 0.5, groups: dict[str, TaskScores] | None = None) -> HarnessOutput:
    """What a harness reports of arc_easy."""
    metrics = {"acc": Score(value, 0.1), "acc_norm": Score(value)}
    return HarnessOutput(
        harness="lm-eval", version="1.2", git_hash=None,
        tasks={"arc_easy": TaskScores(metrics, count=8, version="1.0", num_fewshot=0)},
        groups=groups or {}, config={}, results=Path("results.json"),
    )  # fmt: skip


def document(**changes: Any) -> dict[str, Any]:
    """The document of one benchmark."""
    return results_document(SPEC, {"arc": output(**changes)})


def test_scores_stand_where_nemo_evaluator_puts_them() -> None:
    """results.tasks.T.metrics.M.scores.S has a value and stats; no stderr where there is none."""
    metrics = document()["results"]["tasks"]["arc_easy"]["metrics"]
    assert metrics["acc"]["scores"]["acc"] == {"value": 0.5, "stats": {"count": 8, "stderr": 0.1}}
    assert metrics["acc_norm"]["scores"]["acc_norm"]["stats"] == {"count": 8}


def test_the_document_is_plain_json_with_only_known_keys() -> None:
    """config and target hold only fields that NeMo Evaluator's closed models have."""
    found = document()
    assert json.loads(json.dumps(found)) == found
    assert set(found) == {"git_hash", "command", "config", "target", "results", "metadata"}
    assert set(found["config"]) <= {"output_dir", "params", "supported_endpoint_types", "type"}
    assert set(found["config"]["params"]) <= {
        "limit_samples", "max_new_tokens", "max_retries", "parallelism", "task", "temperature",
        "request_timeout", "top_p", "extra",
    }  # fmt: skip
    assert set(found["target"]["api_endpoint"]) <= {
        "api_key_name", "model_id", "stream", "type", "url", "adapter_config",
    }  # fmt: skip
    check_document(found)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "high", None])
def test_the_check_refuses_a_value_that_is_no_number(value: Any) -> None:
    """Only finite numbers are scores."""
    found = document()
    found["results"]["tasks"]["arc_easy"]["metrics"]["acc"]["scores"]["acc"]["value"] = value
    with pytest.raises(ValueError, match="value"):
        check_document(found)


def test_a_task_of_two_benchmarks_is_named_after_each() -> None:
    """Neither score hides the other."""
    found = results_document(SPEC, {"arc": output(0.25), "arc5": output(0.75)})
    assert set(found["results"]["tasks"]) == {"arc.arc_easy", "arc5.arc_easy"}
    assert {(row.name, row.value) for row in score_rows(found)} == {
        ("arc.arc_easy", 0.25),
        ("arc5.arc_easy", 0.75),
    }


def test_rows_list_groups_first_and_nothing_twice() -> None:
    """A benchmark without groups stands in both sections and has one row a metric."""
    assert [row.kind for row in score_rows(document())] == ["task", "task"]
    group = {"all": TaskScores({"acc": Score(0.5)}, count=8)}
    rows = score_rows(document(groups=group))
    assert next((row.kind, row.name) for row in rows) == ("group", "all")
    assert len(rows) == 3
    assert all(len(row) == len(SCORE_COLUMNS) for row in rows)


def test_the_filter_none_is_not_part_of_a_metric_name() -> None:
    """As NeMo Evaluator names lm-eval's metrics."""
    assert metric_name("acc", "none") == "acc"
    assert metric_name("exact_match", "strict-match") == "exact_match__strict-match"


def report(**counts: int) -> str:
    """The report of a small run."""
    numbers = {"planned": 8, "answered": 8, "duplicates": 0, "disagreements": 0, "damaged": 0,
                   "rounds": 1, "passes": 2}  # fmt: skip
    certificate = Certificate(
        run_id="demo-1", run_hash="ab" * 32, evalhpc_version="0", model_id="tiny",
        model_fingerprint="f1ngerprint", images={}, plans={1: "00"}, merkle_root="c0ffee",
        counts=Counts(**{**numbers, **counts}), final_pass=1, files={},
    )  # fmt: skip
    provenance = {"model": {"path": "/models/tiny", "format": "hf"}, "seeds": {"run": 1234}}
    return report_markdown(document(), provenance, certificate)


def test_the_report_has_scores_counts_and_fingerprint() -> None:
    """Everything that a reader needs to judge a score is on one page."""
    text = report()
    assert "# demo-1" in text
    assert "| arc_easy | task | acc | 0.5000 | 0.1000 | 8 |" in text
    assert "8 of 8 requests answered in 1 round and 2 passes, 0 duplicates." in text
    assert "f1ngerprint" in text
    assert "evalhpc verify" in text


def test_the_report_says_when_only_some_documents_were_run() -> None:
    """A limited run must not pass for a benchmark score."""
    assert "the first 8 documents" in report()


def test_the_report_names_disagreeing_duplicates_and_damage() -> None:
    """What was put right is not kept quiet."""
    text = report(duplicates=2, disagreements=1, damaged=1)
    assert "2 duplicates (1 with a different text" in text
    assert "1 damaged journal frame asked again" in text
