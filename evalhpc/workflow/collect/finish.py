"""Publishing: from a final pass to results, provenance, report and certificate."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from evalhpc.config.yaml_files import dump_yaml
from evalhpc.core.acceptance import Outcome
from evalhpc.core.failures import Failed
from evalhpc.core.merkle import merkle_root
from evalhpc.core.report import report_markdown
from evalhpc.core.results import HarnessOutput, check_document, results_document
from evalhpc.errors import HarnessError, IncompleteError, IntegrityError
from evalhpc.harness.readers import read_output
from evalhpc.models.certificate import Certificate, Counts
from evalhpc.models.suite import Benchmark
from evalhpc.storage.atomic import (
    file_hash,
    remove_temporaries,
    storage_errors,
    sync_files,
    sync_folder,
    temporary_name,
    write_text,
)
from evalhpc.storage.outputs import check_readable, copy_plain
from evalhpc.storage.requests_file import read_requests
from evalhpc.storage.samples import RequestRow, write_requests, write_samples
from evalhpc.storage.store import MergeReport, Store
from evalhpc.workflow.faults.failures import failed_requests, write_failures
from evalhpc.workflow.passes.redacting import redact_unfinished
from evalhpc.workflow.record.image_use import certified_digests, images_of
from evalhpc.workflow.record.provenance import complete_provenance, read_provenance
from evalhpc.workflow.record.rounds import load_plan, planned_keys, planned_rounds
from evalhpc.workflow.record.run import Run
from evalhpc.workflow.record.stored import stored_answers

log = logging.getLogger(__name__)


def publish(run: Run, number: int, outcomes: list[Outcome], merged: MergeReport) -> Certificate:
    """Write everything that a complete run has; the certificate comes last and says so."""
    failed = _failed(run)
    counts = _counts(run, number, outcomes, merged, failed)
    root, seals = _checked_root(run, outcomes, failed)
    number_of = {outcome.benchmark: outcome.number for outcome in outcomes}
    redact_unfinished(run)
    _empty(run.paths.results)
    outputs = {b.name: _read(run, b, number_of[b.name]) for b in run.spec.benchmarks}
    document = _checked_document(run, number, outcomes, outputs)
    for benchmark in outputs:
        _copy_output(run, number_of[benchmark], benchmark)
    write_text(run.paths.results_yml, dump_yaml(document))
    write_samples(run.paths.samples, {name: out.samples for name, out in outputs.items()})
    with run.open_store() as store:
        write_requests(run.paths.requests, _request_rows(run, store))
    complete_provenance(
        run,
        harnesses={name: _version(output) for name, output in outputs.items()},
        passes=[outcome.model_dump(exclude={"log_tail"}) for outcome in outcomes],
        counts=counts.model_dump(),
    )
    certificate = _certificate(run, number, counts, root, seals, failed)
    report = report_markdown(document, read_provenance(run), certificate)
    write_failures(run, failed)
    write_text(run.paths.report, report)
    for folder in (run.paths.plan, run.paths.leases, run.paths.endpoints, run.paths.seals):
        remove_temporaries(folder)  # of jobs that were killed
    write_text(run.paths.certificate, certificate.model_dump_json(indent=1) + "\n")
    run.paths.failure.unlink(missing_ok=True)
    log.info("complete: %d answers, results in %s", counts.answered, run.paths.results)
    return certificate


def _read(run: Run, benchmark: Benchmark, number: int) -> HarnessOutput:
    output = run.paths.pass_output(number, benchmark.name)
    with _forgotten_where_useless(run, {benchmark.name: number}):
        check_readable(output)
        return read_output(run.spec.harnesses[benchmark.harness].results, output)


def _checked_document(
    run: Run, number: int, outcomes: list[Outcome], outputs: dict[str, HarnessOutput]
) -> dict[str, Any]:
    document = results_document(run.spec, outputs)
    with _forgotten_where_useless(run, {outcome.benchmark: outcome.number for outcome in outcomes}):
        try:
            check_document(document)
        except ValueError as error:
            raise HarnessError(
                f"the scores do not fit the results schema: {error}",
                cause="a score that is no finite number",
                hint=f"look at passes/{number}/*/output in {run.word}",
            ) from error
    return document


@contextmanager
def _forgotten_where_useless(run: Run, number_of: Mapping[str, int]) -> Iterator[None]:
    """A harness may end well without results (a full disk): its outcome is not to be used again, so
    that whoever resumes the run runs it anew."""
    try:
        yield
    except HarnessError:
        for benchmark, number in number_of.items():
            run.paths.outcome(number, benchmark).unlink(missing_ok=True)
        raise


def result_files(run: Run) -> dict[str, str]:
    """Name below results/ → SHA-256, of every file there."""
    folder = run.paths.results
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): file_hash(path) for path in files}


def _failed(run: Run) -> dict[bytes, Failed]:
    """What is given up for good of the requests that are planned and have no answer."""
    with run.open_store() as store:
        return failed_requests(run, store)


def _checked_root(run: Run, outcomes: list[Outcome], failed: Collection[bytes]) -> tuple[str, int]:
    """The Merkle root of the answers, each hashed anew, and the one that every pass was given; and
    how many seals they were read by."""
    with run.open_store() as store:
        store.verify()
        root, seals = merkle_root(store.pairs()), store.seals
        stored = stored_answers(run, store, failed)
    for outcome in outcomes:
        if outcome.store_root != stored[outcome.benchmark].root:
            raise IntegrityError(
                f"pass {outcome.number} of {outcome.benchmark} was run over other answers than "
                "those that are stored now",
                cause="another collector merged meanwhile",
                hint=f"evalhpc resume {run.word}",
            )
    return root, seals


def _empty(folder: Path) -> None:
    """Remove what an interrupted collector left there."""
    with storage_errors(folder):
        if folder.exists():
            shutil.rmtree(folder)
        folder.mkdir()


def _counts(
    run: Run,
    number: int,
    outcomes: list[Outcome],
    merged: MergeReport,
    failed: Collection[bytes],
) -> Counts:
    planned = planned_keys(run)
    with run.open_store() as store:
        answered = sum(1 for key in planned if store.has(key))
    missing = len(planned) - answered
    if missing != len(failed):
        # Cannot be after a pass without a miss, unless a plan file was tampered with.
        raise IncompleteError(
            f"{missing} of {len(planned)} planned requests have no answer",
            cause="a journal was removed or damaged while the collector ran",
            hint=f"evalhpc resume {run.word}",
        )
    return Counts(
        planned=len(planned),
        answered=answered,
        failed=len(failed),
        unused_repeats=sum(outcome.unused_repeats for outcome in outcomes),
        orphaned=sum(outcome.orphaned for outcome in outcomes),
        # Plain numbers, whatever counted them: they go into JSON.
        duplicates=int(merged.duplicates),
        disagreements=int(merged.disagreements),
        damaged=len(merged.damaged),
        rounds=len(planned_rounds(run)),
        passes=sum(1 for n in range(number + 1) if (run.paths.passes / str(n)).is_dir()),
    )


def _certificate(
    run: Run, number: int, counts: Counts, root: str, seals: int, failed: Collection[bytes]
) -> Certificate:
    spec = run.spec
    submitted = read_provenance(run).get("images", {})
    return Certificate(
        run_id=spec.run_id,
        run_hash=run.hash,
        evalhpc_version=spec.evalhpc_version,
        model_id=spec.model.model_id,
        model_fingerprint=spec.model.fingerprint,
        endpoints={
            name: served.model.fingerprint or str(served.model.url)
            for name, served in spec.endpoints.items()
        },
        images=images_of(spec),
        image_digests=certified_digests(spec, submitted),
        plans={round_: load_plan(run, round_).plan_hash for round_ in planned_rounds(run)},
        counts=counts,
        merkle_root=root,
        final_pass=number,
        files=result_files(run),
        seals=seals,
        failed=tuple(sorted(key.hex() for key in failed)),
    )


def _copy_output(run: Run, number: int, benchmark: str) -> None:
    """The harness's own files, untouched, under results/<benchmark>/."""
    target = run.paths.results / benchmark
    temporary = temporary_name(target)
    with storage_errors(target):
        copy_plain(run.paths.pass_output(number, benchmark), temporary)
        sync_files(temporary, (path for path in temporary.rglob("*") if path.is_file()))
        temporary.rename(target)
        sync_folder(target.parent)


def _request_rows(run: Run, store: Store) -> Iterator[RequestRow]:
    seen: set[bytes] = set()
    for round_ in planned_rounds(run):
        for request in read_requests(run.paths.round_plan(round_), run.hash):
            answer = store.get(request.key)
            if answer is None or request.key in seen:
                continue
            seen.add(request.key)
            yield RequestRow(request.key, request.benchmark, request.endpoint, request.path,
                             request.body, answer)  # fmt: skip


def _version(output: HarnessOutput) -> dict[str, str | None]:
    return {"name": output.harness, "version": output.version, "git": output.git_hash}
