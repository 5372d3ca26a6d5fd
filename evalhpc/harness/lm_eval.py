"""lm-evaluation-harness: reading what it writes, and comparing two of its outputs byte by byte.

    OUTPUT/<model>/results_<date>.json           one per run
    OUTPUT/<model>/samples_<task>_<date>.jsonl   one line per document and filter

It exits 0 when it cannot write these ("Could not save results aggregated" in its log), so what
is there is checked against its own counts.
"""

from __future__ import annotations

import copy
import json
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

from evalhpc.core.identity import parse_json
from evalhpc.core.lines import lines_of
from evalhpc.core.results import HarnessOutput, Score, TaskScores, metric_name
from evalhpc.errors import HarnessError
from evalhpc.harness.files import finite, is_finite, load_object, unknown_shape

#: What differs between two runs over the same answers: when, how long, on which machine …
VOLATILE_FIELDS = ("date", "total_evaluation_time_seconds", "pretty_env_info")
#: … and the port of the server that gave them: in `config.model_args` and `configs.*.metadata`.
VOLATILE_ARGUMENT = "base_url"
_DATE = re.compile(r"_\d{4}-\d\d-\d\dT\d\d-\d\d-\d\d(\.\d+)?(?=\.jsonl?$)")
#: … and where a task's own function lay in memory: `<function f at 0x7f33>`.
_ADDRESS = re.compile(r" at 0x[0-9a-f]+>")
_LOG_HINT = "look for 'Could not save' in the harness's log"


def normalise_results(results: dict[str, Any]) -> dict[str, Any]:
    """`results_*.json` without VOLATILE_FIELDS and VOLATILE_ARGUMENT; everything else as it is."""
    kept = {key: copy.deepcopy(v) for key, v in results.items() if key not in VOLATILE_FIELDS}
    arguments = kept.get("config", {}).get("model_args")
    if isinstance(arguments, dict):
        arguments.pop(VOLATILE_ARGUMENT, None)
    for config in kept.get("configs", {}).values():
        config.get("metadata", {}).pop(VOLATILE_ARGUMENT, None)
    return kept


def comparable(output: Path) -> dict[str, bytes]:
    """File name without its date → bytes to compare; sample files are taken as they are.

    Raises HarnessError if two files differ only in their dates.
    """
    files: dict[str, bytes] = {}
    for path in sorted(p for p in output.rglob("*") if p.is_file()):
        name = _DATE.sub("", str(path.relative_to(output)))
        if name in files:
            raise HarnessError(f"{output} holds more than one run: {path.name}")
        data = path.read_bytes()
        if path.name.startswith("results_"):
            text = json.dumps(normalise_results(json.loads(data)), indent=1)
            data = _ADDRESS.sub(">", text).encode()
        files[name] = data
    return files


def read(output: Path) -> HarnessOutput:
    """What one run left in `output`; raises HarnessError unless it is whole."""
    path = _results_file(output)
    results = load_object(path)
    try:
        return _parse(path, results)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise unknown_shape(path, "lm-eval", error) from error


def samples_of(folder: Path) -> dict[str, Path]:
    """Task → its samples file, for whatever lm-eval left below `folder`."""
    found = sorted(folder.rglob("samples_*.jsonl"))
    return {_DATE.sub("", path.name)[len("samples_") : -len(".jsonl")]: path for path in found}


def documents(output: Path) -> dict[str, list[int]]:
    """Task → the indices of its documents, sorted; scores need not be defined.

    Raises HarnessError unless every task's samples are as many as the results claim.
    """
    path = _results_file(output)
    results = load_object(path)
    try:
        claimed = {name: int(n["effective"]) for name, n in results["n-samples"].items()}
        return {
            name: _documents(_samples_file(path, name, count)) for name, count in claimed.items()
        }
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise unknown_shape(path, "lm-eval", error) from error


def _documents(samples: Path) -> list[int]:
    with samples.open("rb") as file:
        return sorted({int(parse_json(line)["doc_id"]) for line in lines_of(file)})


def _parse(path: Path, results: dict[str, Any]) -> HarnessOutput:
    groups = {
        name: _scores(path, results, name, entry)
        for name, entry in results.get("groups", {}).items()
    }
    tasks = {
        name: _scores(path, results, name, results["results"][name])
        for name in results["n-samples"]
    }
    if not tasks:
        raise HarnessError(f"{path} reports no task", hint=_LOG_HINT)
    samples: dict[str, Path | bytes] = {
        name: _samples_file(path, name, counts["effective"])
        for name, counts in results["n-samples"].items()
    }
    return HarnessOutput(
        harness="lm-eval",
        version=str(results["lm_eval_version"]),
        git_hash=results.get("git_hash"),
        tasks=tasks,
        groups=groups,
        config=dict(results["config"]),
        results=path,
        samples=samples,
    )


def _results_file(output: Path) -> Path:
    found = sorted(output.rglob("results_*.json"))
    if not found:
        raise HarnessError(
            f"lm-eval wrote no results into {output}",
            cause="it failed, or it could not write: it exits 0 then",
            hint=_LOG_HINT,
        )
    if len(found) > 1:
        raise HarnessError(
            f"{output} holds results of {len(found)} runs: {', '.join(p.name for p in found)}",
            cause="an earlier run wrote into the same folder",
            hint="give each run an empty output folder",
        )
    return found[0]


def _scores(path: Path, results: dict[str, Any], name: str, entry: dict[str, Any]) -> TaskScores:
    metrics: dict[str, Score] = {}
    for key, value in entry.items():
        metric, comma, filter_ = key.partition(",")
        if not comma or metric.endswith("_stderr"):
            continue
        stderr = entry.get(f"{metric}_stderr,{filter_}")
        metrics[metric_name(metric, filter_)] = Score(
            finite(path, name, key, value),
            # "N/A" is what it writes where no standard error is defined; NaN for a single sample.
            float(stderr) if is_finite(stderr) else None,
        )
    if not metrics:
        raise HarnessError(f"{path} has no metric for {name}", hint=f"less {path}")
    return TaskScores(
        metrics=metrics,
        count=int(entry["sample_len"]) if "sample_len" in entry else _effective(results, name),
        version=str(results.get("versions", {}).get(name, "")),
        num_fewshot=results.get("n-shot", {}).get(name),
    )


def _effective(results: dict[str, Any], name: str) -> int:
    """Documents behind a task, or behind all tasks of a group."""
    if name in results["n-samples"]:
        return int(results["n-samples"][name]["effective"])
    return sum(_effective(results, child) for child in results["group_subtasks"][name])


def _samples_file(results: Path, task: str, documents: int) -> Path:
    """The task's samples, checked to hold every document once per filter."""
    found = [
        path
        for path in results.parent.glob("samples_*.jsonl")
        if _DATE.sub("", path.name) == f"samples_{task}.jsonl"
    ]
    if len(found) != 1:
        raise HarnessError(
            f"lm-eval wrote {len(found) or 'no'} samples files for {task}",
            cause="it could not write: it exits 0 then" if not found else "several runs",
            hint=_LOG_HINT,
        )
    seen: dict[str, set[int]] = defaultdict(set)
    lines = 0
    with found[0].open("rb") as file:
        for line in lines_of(file):
            lines += 1
            sample = parse_json(line)
            seen[str(sample.get("filter"))].add(sample["doc_id"])
    whole = lines == documents * len(seen) and all(len(ids) == documents for ids in seen.values())
    if not whole or not seen:
        raise HarnessError(
            f"{found[0]} holds {lines} samples; the results claim {documents} documents",
            cause="the harness could not write all of them: it exits 0 then",
            hint=_LOG_HINT,
        )
    return found[0]
