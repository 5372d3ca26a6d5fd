"""run.yaml: a RunSpec and its hash as text, and back; an edited file is refused."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import evalhpc
from evalhpc.config.validation import validate
from evalhpc.config.yaml_files import dump_yaml, load_yaml
from evalhpc.errors import ConfigError, IntegrityError
from evalhpc.models.runspec import FORMAT_VERSION, RunSpec

_HEADER = """\
# What this run is, frozen when it was submitted. Its hash is recorded with every answer, so an
# edited file is refused: submit a new run instead.
"""


def dump_run(spec: RunSpec) -> str:
    """The text of run.yaml; `read_run` gives the same spec back."""
    data = {"hash": spec.digest(), "spec": spec.model_dump(mode="json")}
    return _HEADER + dump_yaml(data)


def read_run(path: Path) -> RunSpec:
    """The spec in a run.yaml; raises as `read_frozen`."""
    return read_frozen(path)[0]


def read_frozen(path: Path) -> tuple[RunSpec, str]:
    """The spec in a run.yaml, and the hash that names the run and marks its files.

    The hash is the recorded one: a later version's model may have fields that it lacked.
    ConfigError: not a run file, or of another format version. IntegrityError: edited.
    """
    try:
        data = load_yaml(path)
    except ConfigError as error:
        if isinstance(error.__cause__, OSError):
            raise  # that says nothing of what is in it
        raise ConfigError(
            error.what,
            cause="the file was edited or cut short after the run was submitted",
            hint=f"restore {path} from a copy, or submit the run again",
        ) from error
    spec = data.get("spec")
    if not isinstance(spec, dict) or not isinstance(data.get("hash"), str):
        raise ConfigError(
            f"{path}: not the run.yaml of a run: `hash` and `spec` are missing",
            hint="name the run directory that evalhpc submit printed",
        )
    _check_version(spec.get("format_version"), path)
    if _digest(spec) != data["hash"]:
        raise IntegrityError(
            f"{path}: the file does not match its hash",
            cause="it was edited after the run was submitted",
            hint="restore the file, or submit a new run with other settings",
        )
    try:
        return validate(RunSpec, spec, str(path)), data["hash"]
    except ConfigError as error:
        # The file is as it was written, so whoever wrote it knew what this version does not.
        raise ConfigError(
            f"{path}: made by evalhpc {spec.get('evalhpc_version')}, and this is "
            f"{evalhpc.__version__}: {error.what}",
            cause="a setting that one of the two does not have",
            hint="use the version that the run's provenance.json names",
        ) from error


def _digest(spec: dict[str, Any]) -> str:
    # Of what is recorded rather than of the model, whose later versions may have more fields.
    text = json.dumps(spec, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _check_version(version: Any, path: Path) -> None:
    if version == FORMAT_VERSION:
        return
    newer = isinstance(version, int) and version > FORMAT_VERSION
    age = "a newer" if newer else "an older"
    raise ConfigError(
        f"{path}: made by {age} evalhpc (format {version}; this one reads {FORMAT_VERSION})",
        hint="use the version that the run's provenance.json names",
    )
