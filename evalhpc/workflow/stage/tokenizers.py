"""Tokenizers that a checkpoint only names: a server on a node looks them up in the hub's cache."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from evalhpc import process
from evalhpc.causes.table import matches
from evalhpc.deploy.inspection import find_model, inspect_model
from evalhpc.errors import ConfigError, HarnessError
from evalhpc.models.runspec import RunSpec
from evalhpc.storage.stage import StageFolder

#: Formats whose servers may look up by name what the training named.
_FORMATS = frozenset({"megatron-bridge", "megatron-dist", "nemo2"})
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
#: Run in an environment that has the hub's own library; the arguments are names.
_FETCH = """\
import sys
from huggingface_hub import snapshot_download
for name in sys.argv[1:]:
    snapshot_download(name, allow_patterns=["*.json", "*.model", "*.txt", "*.jinja", "*.tiktoken"],
                      ignore_patterns=["*.index.json", "*/*"])
"""
_IMPORT_SECONDS, _FETCH_SECONDS = 60.0, 3600.0


def named_tokenizers(model: str | None) -> tuple[str, ...]:
    """Names in the hub that a server of this checkpoint may ask for; raises ModelError."""
    if model is None:
        return ()
    found, _ = find_model(model)
    if found.format not in _FORMATS or found.path is None:
        return ()
    shape = inspect_model(Path(found.path))
    names = {name for name in (shape.tokenizer_name, shape.base_model) if name}
    return tuple(sorted(n for n in names if _HUB_NAME.fullmatch(n) and not Path(n).exists()))


def stage_tokenizers(
    names: Iterable[str],
    spec: RunSpec,
    folder: StageFolder,
    environ: Mapping[str, str],
    *,
    fetch: bool,
    said: Callable[[str], None],
) -> None:
    """Fetch each, or without `fetch` only see that it was fetched whole; raises EvalhpcError."""
    for name in names:
        entry = f"huggingface/hub/models--{name.replace('/', '--')}"
        if fetch:
            _fetch(name, _python(spec, name), folder, environ)
            folder.write_tokenizer(entry)
            said(f"tokenizer {name}: fetched")
        elif not folder.has_tokenizer(entry):
            raise HarnessError(
                f"the tokenizer {name}, which the checkpoint names, is not staged",
                cause="it was never fetched whole, or was removed since",
                hint="evalhpc stage without --offline, with the same --model",
            )


def _python(spec: RunSpec, name: str) -> str:
    """An interpreter of this machine that has the hub's library: a harness's own, most often."""
    harnesses = (one.python for one in spec.harnesses.values() if one.image is None)
    for python in (*filter(None, harnesses), spec.python):
        tried = process.run(
            [python, "-c", "import huggingface_hub"], check=False, timeout=_IMPORT_SECONDS
        )
        if tried.returncode == 0:
            return python
    raise ConfigError(
        f"the tokenizer {name}, which the checkpoint names, cannot be fetched",
        cause="no interpreter here has huggingface_hub",
        hint=f"{spec.python} -m pip install huggingface_hub, then evalhpc stage again",
    )


def _fetch(name: str, python: str, folder: StageFolder, environ: Mapping[str, str]) -> None:
    hub = folder.root / "huggingface"
    places = {"HF_HOME": str(hub), "HF_HUB_CACHE": str(hub / "hub")}
    done = process.run(
        [python, "-c", _FETCH, name], env={**environ, **places}, check=False, timeout=_FETCH_SECONDS
    )
    if done.returncode == 0:
        return
    match = next(matches(done.stderr, ("disk", "quota", "gated data", "data", "network")), None)
    lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
    raise HarnessError(
        f"the tokenizer {name}, which the checkpoint names, cannot be staged: {lines[-1]}",
        cause=match.entry.cause if match else "the hub does not give it",
        hint="read -rs HF_TOKEN && export HF_TOKEN, then evalhpc stage again"
        if match and match.entry.about == "gated data"
        else "curl -sI $HF_ENDPOINT, then evalhpc stage again: what is there is kept",
    )
