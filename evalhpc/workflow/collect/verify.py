"""`evalhpc verify`: the certificate rechecked from the journals, without a model."""

from __future__ import annotations

from evalhpc.core.frames import Damage, payload_digest
from evalhpc.core.merkle import merkle_root
from evalhpc.errors import IntegrityError
from evalhpc.models.certificate import Certificate
from evalhpc.storage.atomic import file_hash
from evalhpc.storage.journal import answer_meta, read_frames
from evalhpc.storage.seals import read_seals
from evalhpc.workflow.collect.finish import result_files
from evalhpc.workflow.record.merging import run_journals
from evalhpc.workflow.record.rounds import planned_keys
from evalhpc.workflow.record.run import Run
from evalhpc.workflow.watch.results import read_certificate


def verify_run(run: Run) -> list[tuple[str, str]]:
    """(check, what was found) of every check; raises IntegrityError at the first that fails."""
    certificate = read_certificate(run)
    checks = [("run.yaml", f"hash {run.hash[:16]}")]
    checks.append(("plans", _check_plans(run, certificate)))
    answers, late = journalled(run, certificate.seals)
    checks.append(("completeness", _check_complete(run, certificate, answers) + late))
    checks.append(("answers", _check_answers(run, certificate, answers)))
    checks.append(("results", _check_files(run, certificate)))
    return checks


def _check_plans(run: Run, certificate: Certificate) -> str:
    for round_, recorded in certificate.plans.items():
        path = run.paths.round_plan(round_)
        if not path.is_file() or file_hash(path) != recorded:
            raise _changed(run, f"the plan of round {round_} is not what was certified")
    return f"{len(certificate.plans)} as certified"


def journalled(run: Run, sealed: int | None = None) -> tuple[dict[bytes, bytes], str]:
    """Key → digest of the answer that counts: the first by seal, journal name and place.

    And what is to be said of those that came too late to count: after so many seals (`sealed`), or
    after all there are. Without either (runs of earlier versions) none is late.
    """
    seals = read_seals(run.paths.seals, sealed)
    by_seal = sealed is not None or seals.count > 0
    answers: dict[bytes, tuple[int, bytes]] = {}
    late = 0
    for path in run_journals(run):
        for item in read_frames(path, run.hash):
            if isinstance(item, Damage):
                continue  # its request was asked again, or completeness fails
            end, key, answer = item
            seal = seals.number(path.name, end) if by_seal else 0
            if seal is None:
                late += 1
            elif key not in answers or seal < answers[key][0]:
                meta = answer_meta(answer.status, answer.content_type)
                answers[key] = seal, payload_digest(key, meta, answer.body)
    said = f"; {late} came later and count for nothing" if late else ""
    return {key: digest for key, (_, digest) in answers.items()}, said


def _check_complete(run: Run, certificate: Certificate, answers: dict[bytes, bytes]) -> str:
    failed = {bytes.fromhex(key) for key in certificate.failed}
    planned = planned_keys(run) - failed
    missing, foreign = planned - answers.keys(), answers.keys() - planned
    if missing:
        raise _changed(
            run, f"{len(missing)} of {len(planned)} answers are missing from the journals"
        )
    # A live pass that was interrupted has no plan, and the next one may ask in other words; so may
    # the shard that a slice was taken from.
    live = run.spec.run.miss != "stub" or run.spec.run.shard_by == "samples"
    if foreign and not live:
        raise _changed(run, f"{len(foreign)} answers in the journals belong to no planned request")
    if certificate.counts.planned != len(planned) + len(failed):
        raise _changed(run, "the number of planned requests is not what was certified")
    besides = f"; {len(foreign)} more of passes that were interrupted" if foreign else ""
    answered = f"{len(planned) + len(failed)} planned, {len(planned)} answered"
    if failed:
        return f"{answered}, {len(failed)} failed{besides}"
    return f"{answered}, none missing or doubled{besides}"


def _check_answers(run: Run, certificate: Certificate, answers: dict[bytes, bytes]) -> str:
    root = merkle_root(sorted(answers.items()))
    if root != certificate.merkle_root:
        raise _changed(run, "an answer in the journals is not what was certified")
    return f"Merkle root {root[:16]}"


def _check_files(run: Run, certificate: Certificate) -> str:
    found = result_files(run)
    for name in sorted(certificate.files.keys() | found.keys()):
        if found.get(name) != certificate.files.get(name):
            raise _changed(run, f"results/{name} is not what was certified")
    return f"{len(found)} files as certified"


def _changed(run: Run, what: str) -> IntegrityError:
    return IntegrityError(
        what,
        cause="a file of the run was edited, removed or damaged after the run",
        hint=f"do not use the scores; submit the run again (settings in {run.paths.spec})",
    )
