"""causes.yaml finds what programs print, says what to do, and stays quiet about the rest."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from evalhpc import causes
from evalhpc.causes.table import LogCause, ReasonCause, matches, of_exit, of_reason, table
from evalhpc.config.schema import value_type
from evalhpc.models.site import Site
from tests.unit.cli.test_documents import unknown

_LINES = [(entry, line) for entry in table().logs for line in entry.seen]
_REASONS = [(entry, reason) for entry in table().reasons for reason in entry.seen]


@pytest.mark.parametrize(("entry", "line"), _LINES, ids=lambda part: getattr(part, "id", ""))
def test_every_entry_finds_its_lines(entry: LogCause, line: str) -> None:
    """No other entry comes first, whatever stands above and below."""
    log = f"INFO loading the model\n{line}\nINFO bye\n"
    found = [match.entry.id for match in matches(log)]
    assert found == [entry.id]


@pytest.mark.parametrize(("entry", "reason"), _REASONS, ids=lambda part: str(part)[:40])
def test_every_reason_finds_its_entry(entry: ReasonCause, reason: str) -> None:
    """The first match counts, so none may hide a later one."""
    assert of_reason(reason) is entry


def test_every_entry_says_what_to_do() -> None:
    """A cause without a remedy helps nobody; ids, codes and patterns stand once."""
    whole = table()
    for entry in (*whole.logs, *whole.reasons, *whole.exits):
        assert entry.cause
        assert entry.remedy
    for names in ([e.id for e in whole.logs], [e.pattern for e in whole.reasons],
                  [e.code for e in whole.exits]):  # fmt: skip
        assert len(set(names)) == len(names)


def test_remedies_name_commands_that_exist() -> None:
    """What a user is told to run can be run."""
    whole = table()
    entries = (*whole.logs, *whole.reasons, *whole.exits, *whole.states.values())
    assert [what for entry in entries for what in unknown(entry.remedy)] == []


def test_remedies_name_settings_that_exist() -> None:
    """Dotted keys of sites are keys of the schema; test_documents does the same for commands."""
    sections = "|".join(Site.model_fields)
    for entry in (*table().logs, *table().reasons, *table().exits):
        for key in re.findall(rf"(?<![\w./-])((?:{sections})\.[a-z_.]*[a-z_])", entry.remedy):
            assert value_type(Site, tuple(key.split("."))) is not None, key


@pytest.mark.parametrize(
    "line",
    [
        "INFO:     Started server process [1234]",
        "INFO 01-12 08:36:24 model_runner.py:1025] Loading model weights took 3.7710 GB",
        "Failed test rate went from 0.12 to 0.10; memory error bars are small",
        "2026-11-21 10:00:00 WARNING httpx: retrying request to /v1/completions in 0.5 s",
        "hf (pretrained=x,trust_remote_code=False), gen_kwargs: (None), limit: None",
        '127.0.0.1 - - "POST /v1/completions HTTP/1.1" 200 OK',
        "The answer is: no space is left on the disk, said the quota.",
    ],
)
def test_ordinary_lines_are_not_explained(line: str) -> None:
    """A log of a healthy server or harness has no cause in it."""
    assert list(matches(line)) == []


def test_one_line_has_one_cause() -> None:
    """A line that two entries know is explained by the particular one."""
    line = "enroot-nsenter: failed to create user namespace: No space left on device\n"
    assert [match.entry.id for match in matches(line)] == ["enroot-namespace"]
    both = [match.entry.id for match in matches(line + "OSError: No space left on device\n")]
    assert both == ["enroot-namespace", "disk-full"]


def test_signals_are_told_in_either_form() -> None:
    """A shell says 137 where Slurm says 0:9."""
    killed = of_exit(137)
    assert killed is not None
    assert of_exit(0, 9) is killed
    assert of_exit(3) is None
    assert of_exit(0) is None


@pytest.mark.timeout(120)
def test_a_large_log_is_searched_in_time() -> None:
    """No pattern backtracks without end, on half a megabyte of lines that invite it."""
    lines = ["x" * 5000, "CUDA " * 1000, "srun: error: " + "n1," * 1500, "[Errno " * 800]
    assert list(matches("\n".join(lines * 25))) == []


def test_the_file_speaks_of_no_registry() -> None:
    """Examples bear made-up hosts."""
    text = Path(causes.__file__).with_name("causes.yaml").read_text()
    assert not re.search(r"(?:nvcr|docker|ghcr|pypi)\.(?:io|org)|huggingface\.co", text)
