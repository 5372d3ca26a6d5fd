"""The last look at what a run is made of: no secret in it; bash's parser, then ShellCheck."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

from evalhpc import process
from evalhpc.core.secret_shapes import suspects
from evalhpc.errors import ConfigError

log = logging.getLogger(__name__)

_SHELLCHECK = ("shellcheck", "--shell=bash", "--severity=error", "--format=gcc")


def refuse_secrets(texts: Mapping[str, str], environ: Mapping[str, str]) -> None:
    """Raises ConfigError for a text that holds a secret, before it is written anywhere.

    `texts`: file name → content. The value itself is not shown. What may as well be a harmless
    word is logged as a warning.
    """
    doubtful: dict[str, str] = {}
    for name, text in texts.items():
        for found in suspects(text, environ):
            if not found.certain:
                doubtful.setdefault(found.what, f"{name}, line {found.line}")
                continue
            raise ConfigError(
                f"{name}, line {found.line}, would hold {found.what}",
                cause="a secret stands in the site file, the suite, or an option such as --set; "
                "run directories are shared and archived",
                hint="have it read on the node: environment.secrets (docs/security.md); "
                "in a command of yours, write $NAME",
            )
    for what, where in doubtful.items():
        log.warning("%s has %s: if it is a secret, see environment.secrets", where, what)


def lint(scripts: Iterable[Path]) -> None:
    """Raises ConfigError for a script that bash cannot parse.

    What ShellCheck (where it is installed) calls an error is logged as a warning: a site's own
    lines are its own affair.
    """
    paths = sorted(scripts)
    for path in paths:
        parsed = process.run(["bash", "-n", str(path)], check=False, timeout=60)
        if parsed.returncode != 0:
            raise ConfigError(
                f"bash cannot parse the rendered script {path.name}: {parsed.stderr.strip()}",
                cause="a line under environment.setup, or a template of the site",
                hint="correct it in the site file and submit again",
            )
    if paths and shutil.which(_SHELLCHECK[0]):
        found = process.run([*_SHELLCHECK, *map(str, paths)], check=False, timeout=60)
        for line in found.stdout.splitlines():
            log.warning("shellcheck: %s", line)
