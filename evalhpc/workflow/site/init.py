"""`evalhpc site init`: a site file from what this cluster says."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from evalhpc.config.schema import drop_blank
from evalhpc.config.sites import user_site_file
from evalhpc.config.validation import validate
from evalhpc.config.yaml_files import parse_yaml
from evalhpc.errors import UsageError
from evalhpc.models.site import Site
from evalhpc.slurm.gate import Slurm
from evalhpc.storage.atomic import storage_errors, write_text
from evalhpc.workflow.site.draft import Draft, draft
from evalhpc.workflow.site.survey import survey


def site_file(name: str, output: Path | None, env: Mapping[str, str]) -> Path:
    """Where the file of that name goes; raises UsageError where the two do not fit."""
    path = (output or user_site_file(name, env)).expanduser().absolute()
    if path.stem != name or path.suffix not in (".yaml", ".yml"):
        raise UsageError(
            f"a site {name!r} cannot be in the file {path.name!r}",
            cause="a site has the name of its file",
            hint=f"--output {path.with_name(name)}.yaml",
        )
    return path


def refuse_overwriting(path: Path, *, force: bool) -> None:
    """Raise UsageError for a file that is there, unless the user wants it replaced."""
    if path.exists() and not force:
        raise UsageError(
            f"there is a file {path} already",
            cause="an earlier `evalhpc site init`, or a site file of yours",
            hint="--force replaces it; --output - prints instead",
        )


def draft_site(
    name: str, partition: str | None, env: Mapping[str, str], slurm: Slurm | None = None
) -> Draft:
    """The site file for this cluster, which validates; raises ClusterError without Slurm."""
    gate = slurm or Slurm(env=env)
    gate.available()
    made = draft(survey(env, gate), name, partition)
    where = f"{name}.yaml"
    validate(Site, drop_blank(Site, parse_yaml(made.text, where)), where)
    return made


def write_site(path: Path, made: Draft) -> None:
    """The draft as the file `path`, with its folder."""
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, made.text)
