"""Reading the scores of a run; a run that is not complete has none."""

from __future__ import annotations

from typing import Any

from evalhpc.config.yaml_files import load_yaml
from evalhpc.errors import EvalhpcError, IncompleteError, IntegrityError, PartialError
from evalhpc.models.certificate import Certificate
from evalhpc.storage.atomic import file_hash, is_there
from evalhpc.workflow.record.records import read_record
from evalhpc.workflow.record.run import Run
from evalhpc.workflow.watch.status import run_status


def read_results(run: Run) -> dict[str, Any]:
    """The document in results.yml; raises IncompleteError before the run is complete.

    IntegrityError: the file is not the one that the certificate was made for.
    """
    certificate = read_certificate(run)
    path = run.paths.results_yml
    if not path.is_file() or file_hash(path) != certificate.files.get(path.name):
        raise IntegrityError(
            f"{path} is not the file that was certified",
            cause="it was edited, or removed, after the run",
            hint=f"evalhpc verify {run.word}",
        )
    return load_yaml(path)


def refuse_partial(run: Run) -> None:
    """Raise PartialError where the scores were made without some answers (`run.max_failures`)."""
    counts = read_certificate(run).counts
    if counts.failed:
        raise PartialError(
            f"{counts.failed} of {counts.planned} requests failed: the scores were made without "
            "their answers",
            cause="the model server failed on them for good, and run.max_failures allowed it",
            hint=f"less {run.paths.failures}",
        )


def read_certificate(run: Run) -> Certificate:
    """The certificate; raises IncompleteError while there is none, IntegrityError for another's."""
    if not is_there(run.paths.certificate):
        raise _no_score(run)
    certificate = read_record(run.paths.certificate, Certificate)
    if certificate.run_hash != run.hash:
        raise IntegrityError(
            "the certificate belongs to another run",
            cause="a file was copied between run directories",
            hint=f"evalhpc resume {run.word} makes a new one, after removing it",
        )
    return certificate


def _no_score(run: Run) -> EvalhpcError:
    status = run_status(run)
    if status.failure:
        failure = status.failure
        what = failure["what"].removesuffix(": there is no score")
        return IncompleteError(
            f"there is no score: {what}", cause=failure["cause"], hint=failure["hint"]
        )
    progress = (
        f", {status.answered} of {status.requests} requests of round {status.round} answered"
        if status.round
        else ""
    )
    return IncompleteError(
        f"there is no score yet: the run is {status.state}{progress}",
        hint=f"evalhpc status {run.word}",
    )
