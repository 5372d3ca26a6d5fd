"""What a run wrote of itself: damage is told from another version's hand."""

from pathlib import Path

import pytest

from evalhpc.core.acceptance import Outcome
from evalhpc.errors import IntegrityError
from evalhpc.models.certificate import Certificate, Counts
from evalhpc.workflow.record.records import read_record

CERTIFICATE = Certificate(
    run_id="r", run_hash="h", evalhpc_version="0", model_id="m", model_fingerprint="f",
    images={}, plans={}, merkle_root="", final_pass=1, files={},
    counts=Counts(
        planned=1, answered=1, duplicates=0, disagreements=0, damaged=0, rounds=1, passes=2
    ),
)  # fmt: skip


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('"run_id"', '"novelty":1,"run_id"', "another version of evalhpc.*'novelty'"),
        ('"format_version":1', '"format_version":2', "another version.*'format_version'"),
        ('"final_pass":1', '"final_pass":"x"', "is damaged"),
        ('"planned":1', '"planned":1,"more":2', "another version of evalhpc.*'counts.more'"),
    ],
)
def test_another_versions_record_is_no_damage(
    tmp_path: Path, old: str, new: str, says: str
) -> None:
    """An unknown key or a later format names the version as the cause, wherever it stands."""
    path = tmp_path / "certificate.json"
    path.write_text(CERTIFICATE.model_dump_json())
    assert read_record(path, Certificate) == CERTIFICATE
    path.write_text(CERTIFICATE.model_dump_json().replace(old, new))
    with pytest.raises(IntegrityError, match=says):
        read_record(path, Certificate)


def test_a_record_that_is_cut_is_damage(tmp_path: Path) -> None:
    """Half a file is not blamed on a version."""
    path = tmp_path / "outcome.json"
    path.write_text('{"benchmark": "b"')
    with pytest.raises(IntegrityError, match="is damaged"):
        read_record(path, Outcome)
