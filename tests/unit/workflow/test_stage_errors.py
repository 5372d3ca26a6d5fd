"""Why a benchmark could not be staged, from its log."""

from __future__ import annotations

from pathlib import Path

import pytest

from evalhpc.models.site import Site
from evalhpc.models.stage import StagePass
from evalhpc.models.suite import Benchmark
from evalhpc.workflow.stage.errors import load_failed, pass_failed

SUMS = Benchmark(name="sums", harness="lm-eval", task="sums")
ENDED = StagePass(exit_code=1, asked=0, digest="", isolated=False, seconds=1)
OFFLINE = "ConnectionError: Couldn't reach 'tiny/sums' on the Hub (OfflineModeIsEnabled)"


@pytest.mark.parametrize(
    ("said", "what", "hint"),
    [
        ("GatedRepoError: 401 Client Error.", "GatedRepoError", "export HF_TOKEN"),
        ("OSError: [Errno 28] No space left on device: 'x'", "No space left", "df -h"),
        ("OSError: [Errno 122] Disk quota exceeded", "quota", "what is there is kept"),
        ("socket.gaierror: [Errno -3] Temporary failure in name resolution", "name resol", "rsync"),
        ("ConnectionError: Couldn't reach 'x' on the Hub", "Couldn't reach 'x'", "rsync -a"),
        ("httpx.RemoteProtocolError: peer closed connection", "peer closed", "stage again"),
    ],
)
def test_a_fetch_that_fails_says_what_to_do_here(
    tmp_path: Path, said: str, what: str, hint: str
) -> None:
    """The table's own remedies are for jobs."""
    log = tmp_path / "log"
    log.write_text(f"Traceback (most recent call last):\n  File x\n{said}\n")
    error = pass_failed(SUMS, ENDED, log, fetching=True, fetched=False)
    assert what in error.what
    assert hint in error.hint
    assert str(log) in error.hint
    assert error.exit_code == 8


def test_the_first_cause_counts_and_its_last_words_are_shown(tmp_path: Path) -> None:
    """A full disk before what followed from it; the message rather than the line that raises it."""
    log = tmp_path / "log"
    log.write_text(f"""raise ConnectionError(f"Couldn't reach '{{path}}'")\n{OFFLINE}\n""")
    error = pass_failed(SUMS, ENDED, log, fetching=True, fetched=False)
    assert "Couldn't reach 'tiny/sums'" in error.what
    log.write_text(f"{OFFLINE}\nOSError: [Errno 28] No space left on device\n")
    assert "No space" in pass_failed(SUMS, ENDED, log, fetching=True, fetched=False).what


@pytest.mark.parametrize(("fetched", "cause"), [(False, "lacks"), (True, "asks the hub each time")])
def test_a_proof_that_fails_tells_what_is_missing_from_what_cannot_be_kept(
    tmp_path: Path, fetched: bool, cause: str
) -> None:
    """Right after a fetch that went well, fetching again would change nothing."""
    log = tmp_path / "log"
    log.write_text(OFFLINE)
    error = pass_failed(SUMS, ENDED, log, fetching=False, fetched=fetched)
    assert cause in error.cause
    assert ("without --offline" in error.hint) is not fetched


def test_a_harness_that_asks_nothing_has_loaded_nothing(tmp_path: Path) -> None:
    """Exit code 0 alone is no staging."""
    log = tmp_path / "log"
    log.touch()
    done = ENDED.model_copy(update={"exit_code": 0})
    assert "asked nothing" in pass_failed(SUMS, done, log, fetching=True, fetched=False).what


@pytest.mark.parametrize(
    ("said", "what", "hint"),
    [
        (OFFLINE, "Couldn't reach 'tiny/sums'", "evalhpc stage --site eos --tasks lm-eval/sums"),
        ("/e/python: No module named lm_eval", "No module named lm_eval", "pythons and container"),
        ("OSError: [Errno 30] Read-only file system: '/s/x.lock'", "Read-only", "must be writable"),
        ("Something else", "Something else (exit code 1)", "evalhpc stage"),
    ],
)
def test_a_node_that_cannot_load_says_why(tmp_path: Path, said: str, what: str, hint: str) -> None:
    """There, an environment that lacks the harness counts as much as data that are missing."""
    log = tmp_path / "log"
    log.write_text(f"{said}\n")
    error = load_failed(Site(name="eos", stage_dir="/s"), SUMS, ENDED, log)
    assert what in error.what
    assert hint in error.hint
    assert "set stage_dir in the site file" not in error.hint
    if said == OFFLINE:
        assert (
            "set stage_dir in the site file" in load_failed(Site(name="eos"), SUMS, ENDED, log).hint
        )
