"""What a login node tells of Enroot, Apptainer and user namespaces, for a new site file's comments.

Asked for are `unshare` of util-linux, `apptainer buildcfg` (lines of NAME=value) and files:
enroot.conf, its hooks and apptainer.conf (docs of Enroot: configuration.md; of Apptainer: admin
guide, configuration files).
"""

from __future__ import annotations

import re
import shutil
import stat
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from evalhpc import process
from evalhpc.containers.importers import APPTAINER, SINGULARITY, Importer
from evalhpc.workflow.images.source import enroot_configuration, enroot_folder

_SECONDS = 20.0
_UNSHARE = ("unshare", "--user", "--map-root-user", "true")
#: Programs that need user namespaces, unless they are setuid.
_ROOTLESS = ("enroot", "apptainer", "singularity", "ch-run", "bwrap")
#: Folder → what it is where neither environment nor enroot.conf says.
_ENROOT_FOLDERS = {
    "ENROOT_RUNTIME_PATH": "${XDG_RUNTIME_DIR}/enroot",
    "ENROOT_CACHE_PATH": "${XDG_CACHE_HOME}/enroot",
    "ENROOT_DATA_PATH": "${XDG_DATA_HOME}/enroot",
}
_ENROOT_LINE = re.compile(r"^[ \t]*(ENROOT_[A-Z_]+)[ \t=]+(\S.*?)[ \t]*$", re.MULTILINE)
_GPU_HOOK = "98-nvidia"
_ALLOW_SETUID = re.compile(r"^[ \t]*allow setuid[ \t]*=[ \t]*(\w+)", re.MULTILINE)


def container_facts(env: Mapping[str, str], programs: Iterable[str]) -> tuple[str, ...]:
    """Lines like `unshare …: user namespaces work`, of this machine; nodes may differ.

    `programs` are those that were found here.
    """
    found = list(programs)
    lines = []
    if set(_ROOTLESS) & set(found):
        lines.append(_namespaces(env))
    if "enroot" in found:
        lines += _enroot(env)
    for importer in (APPTAINER, SINGULARITY):
        if importer.program in found:
            lines += _apptainer(importer, env)
    return tuple(lines)


def _namespaces(env: Mapping[str, str]) -> str:
    question = " ".join(_UNSHARE)
    if shutil.which(_UNSHARE[0], path=env.get("PATH", "")) is None:
        return f"{question}: no unshare here, so whether user namespaces work is unknown"
    done = process.run(_UNSHARE, env=env, timeout=_SECONDS, check=False)
    if done.returncode == 0:
        return f"{question}: user namespaces work"
    why = next(iter(done.stderr.strip().splitlines()), f"exit code {done.returncode}")
    return f"{question}: {why}: only setuid programs can run images"


def _enroot(env: Mapping[str, str]) -> Iterator[str]:
    configured = dict(_ENROOT_LINE.findall(enroot_configuration(env)))
    for name, default in _ENROOT_FOLDERS.items():
        if env.get(name):
            yield f"${name}: {env[name]}"
        elif name in configured:
            yield f"{enroot_folder(env) / 'enroot.conf'}: {name} {configured[name]}"
        else:
            yield f"{enroot_folder(env) / 'enroot.conf'} has no {name}: {default}"
    hooks = sorted(path.stem for path in (enroot_folder(env) / "hooks.d").glob("*.sh"))
    yield f"ls {enroot_folder(env) / 'hooks.d'}: {' '.join(hooks) or 'none'}"
    if _GPU_HOOK not in hooks:
        yield f"without {_GPU_HOOK}.sh no GPU is seen in an image"


def _apptainer(importer: Importer, env: Mapping[str, str]) -> Iterator[str]:
    program = importer.program
    done = process.run([program, "buildcfg"], env=env, timeout=_SECONDS, check=False)
    built = dict(line.partition("=")[::2] for line in done.stdout.splitlines() if "=" in line)
    if done.returncode != 0 or not built:
        yield f"{program} buildcfg: no answer, so whether it is setuid is unknown"
    else:
        yield f"{program} buildcfg: {_starts(program, built)}"
    cache, default = f"{program.upper()}_CACHEDIR", dict(importer.scratch)
    yield f"${cache}: {env.get(cache) or f'not set, {default[cache]}'}"


def _starts(program: str, built: Mapping[str, str]) -> str:
    """How it starts images: setuid needs the starter, and the configuration's consent."""
    starter = Path(built.get("LIBEXECDIR", "/nowhere"), program, "bin", "starter-suid")
    configuration = Path(built.get(f"{program.upper()}_CONF_FILE", "/nowhere"))
    if built.get(f"{program.upper()}_SUID_INSTALL") != "1" or not _is_setuid(starter):
        return "not setuid: images run in user namespaces"
    allowed = _ALLOW_SETUID.findall(_text(configuration))
    if allowed and allowed[-1] != "yes":
        return f"setuid, which {configuration} does not allow: images run in user namespaces"
    return "setuid: images run without user namespaces"


def _is_setuid(path: Path) -> bool:
    try:
        return bool(path.stat().st_mode & stat.S_ISUID)
    except OSError:
        return False


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
