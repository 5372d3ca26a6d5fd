"""Secrets of a site, read on the node: from a file that only the user can read, or by a helper."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path

from evalhpc import process
from evalhpc.core.masking import Mask
from evalhpc.core.quoting import shell_word
from evalhpc.errors import ConfigError
from evalhpc.models.site import Secrets

_LINE = re.compile(r"(?:export\s+)?([A-Za-z_][A-Za-z0-9_]*)=(.*)", re.DOTALL)
_LARGEST = 1 << 20  # bytes
_HELPER_SECONDS = 120.0


def exports(secrets: Secrets, environ: Mapping[str, str]) -> str:
    """Lines for `eval` that export each secret; raises ConfigError, which never shows a value."""
    found = read_secrets(secrets, environ)
    return "".join(f"export {name}={shell_word(value)}\n" for name, value in found.items())


def read_secrets(secrets: Secrets, environ: Mapping[str, str]) -> dict[str, str]:
    """Name → value of those that the site names; the helper's word counts before the file's.

    A name that neither of them has must be set already, by `environment.setup` or, on the site
    `local`, by the shell that submitted. Raises ConfigError.
    """
    said: dict[str, str] = {}
    if secrets.file is not None:
        path = _file(secrets.file)
        said |= _parse(_private_text(path), str(path))
    if secrets.command:
        said |= _parse(_helper_text(secrets.command), f"the output of {secrets.command[0]}")
    missing = [name for name in secrets.names if not (said.get(name) or environ.get(name))]
    if missing:
        raise ConfigError(
            f"no value for {', '.join(missing)} on this node",
            cause="environment.secrets names it, and neither its file, its command nor a line of "
            "environment.setup sets it here",
            hint=f"add a line {missing[0]}=… to {secrets.file or 'the file of secrets'}",
        )
    return {name: said[name] for name in secrets.names if said.get(name)}


def refuse_bad_file(secrets: Secrets) -> None:
    """Raise ConfigError for a file of secrets that is here, and that no node would take."""
    if secrets.file is not None and (path := _file(secrets.file)).exists():
        _parse(_private_text(path), str(path))


def _file(name: str) -> Path:
    return Path(os.path.expandvars(name)).expanduser()


def _private_text(path: Path) -> str:
    """The content of a regular file that is ours and nobody else's to read."""
    try:
        # Not blocking: a named pipe would wait for a writer.
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise ConfigError(
            f"the file of secrets {path} cannot be read on this node: {error.strerror}",
            cause="it is not there, or this node does not see your home directory",
            hint=f"ls -l {path} here and on the login node",
        ) from error
    try:
        _check_private(path, os.fstat(fd))
        data = os.read(fd, _LARGEST + 1)
    finally:
        os.close(fd)
    if len(data) > _LARGEST:
        raise ConfigError(f"{path} is too large for a file of secrets", hint=f"head -c 200 {path}")
    return _text(data, str(path))


def _check_private(path: Path, found: os.stat_result) -> None:
    word = shell_word(str(path))
    if not stat.S_ISREG(found.st_mode):
        raise ConfigError(f"{path} is no regular file", hint=f"ls -l {word}")
    if found.st_uid != os.geteuid():
        raise ConfigError(
            f"the file of secrets {path} belongs to user {found.st_uid}, not to you",
            cause="who owns it can change what your jobs send as their key",
            hint=f"install -m 600 /dev/null OWN_FILE, fill it, and name it in place of {word}",
        )
    if found.st_mode & 0o077:
        raise ConfigError(
            f"the file of secrets {path} has mode {stat.S_IMODE(found.st_mode):04o}: others can "
            "use it",
            cause="it was made with the usual umask",
            hint=f"chmod 600 {word}; then change the keys in it if others had the time to look",
        )


def _helper_text(command: Sequence[str]) -> str:
    done = process.run(command, check=False, timeout=_HELPER_SECONDS)
    if done.returncode != 0:
        # What it printed may be half a secret: only its last complaint is shown, and masked.
        values = [line.partition("=")[2].strip("'\" ") for line in done.stdout.splitlines()]
        known = Mask([*values, *done.stdout.split()])
        lines = known.text(done.stderr).strip().splitlines()
        raise ConfigError(
            f"the site's helper {command[0]} ended with code {done.returncode}"
            + (f": {lines[-1]}" if lines else ""),
            cause="environment.secrets.command cannot be run, or refuses on this node",
            hint="run it by hand on a compute node, with its output to /dev/null",
        )
    return done.stdout


def _text(data: bytes, where: str) -> str:
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise ConfigError(f"{where} is not UTF-8 text") from None
    if "\0" in text:
        raise ConfigError(f"{where} holds a NUL character")
    return text


def _parse(text: str, where: str) -> dict[str, str]:
    """NAME=VALUE of each line, as it stands, but for quotes around the whole value."""
    found: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        words = line.strip()
        if not words or words.startswith("#"):
            continue
        match = _LINE.fullmatch(words)
        if match is None:
            # The line is not shown: it may be the secret itself.
            raise ConfigError(
                f"{where}, line {number}, is not NAME=VALUE",
                hint="one variable a line; comments begin with #",
            )
        value = match[2].strip()
        if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"":
            value = value[1:-1]
        found[match[1]] = value
    return found
