"""`evalhpc stage`: data sets and tokenizers into a site's stage folder, for nodes without internet.

A harness is a function of the model's answers. So its planning pass, run here against stubs, loads
everything that it will load in a job; a second one without internet proves that nothing is missing.
"""

from __future__ import annotations

import getpass
import re
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

import evalhpc
from evalhpc.containers.preflight import check_site
from evalhpc.errors import HarnessError, StorageError, UsageError
from evalhpc.models.checkpoint import Model
from evalhpc.models.runspec import RunSpec
from evalhpc.models.stage import StagePass, StageRecord, stage_key
from evalhpc.models.suite import Benchmark
from evalhpc.paths import RunPaths
from evalhpc.storage.atomic import storage_errors
from evalhpc.storage.stage import StageFolder
from evalhpc.workflow.record.run import Run
from evalhpc.workflow.stage.errors import pass_failed
from evalhpc.workflow.stage.harness_pass import can_isolate, joined_logs, run_pass
from evalhpc.workflow.stage.runtime import login_site
from evalhpc.workflow.stage.tokenizers import named_tokenizers, stage_tokenizers
from evalhpc.workflow.submit.preflight import free
from evalhpc.workflow.submit.prepare import fill_run, resolve_wish
from evalhpc.workflow.submit.wish import Wish

#: How long another staging of the same folder is waited for, in seconds.
LOCK_WAIT = 4 * 3600.0
#: With fewer bytes left than this a file system counts as full.
_FULL = 64 << 10
_OFFLINE = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE")
_FETCH, _PROOF = 0, 1  # the two passes

Said = Callable[[str], None]


def stage(
    wish: Wish,
    environ: Mapping[str, str],
    *,
    fetch: bool = True,
    lock_wait: float = LOCK_WAIT,
    said: Said = lambda _line: None,
) -> list[StageRecord]:
    """Stage every benchmark of the wish; raises EvalhpcError with the first that cannot be.

    Without `fetch` it is only proved, and recorded, that what is there suffices.
    """
    spec, warnings = _spec(wish, environ)
    assert spec.site.stage_dir is not None, "_spec has seen to it"
    folder = StageFolder(Path(spec.site.stage_dir))
    folder.make()
    with _named(folder.root), folder.locked(lock_wait), folder.workspace() as work:
        run = Run(RunPaths(work), spec, spec.digest())
        fill_run(run, warnings)
        one = _Staging(run, folder, environ, can_isolate(), said)
        names = named_tokenizers(wish.model)
        variables = one.variables(fetch=True)
        stage_tokenizers(names, spec, folder, variables, fetch=fetch, said=said)
        return [one.staged(benchmark, fetch=fetch) for benchmark in spec.benchmarks]


@contextmanager
def _named(root: Path) -> Iterator[None]:
    """Errors of storage name the stage folder in their hints: what lay below `work/` has gone."""
    try:
        yield
    except StorageError as error:
        error.hint = re.sub(rf"{re.escape(str(root))}/work[^\s;]*", str(root), error.hint)
        raise


def _spec(wish: Wish, environ: Mapping[str, str]) -> tuple[RunSpec, tuple[str, ...]]:
    """The run that is planned here: the site's, with a model that nobody asks."""
    spec, warnings = resolve_wish(wish, environ, stand_in)
    if spec.site.stage_dir is None:
        raise UsageError(
            f"site {spec.site.name!r} has no folder for staged data",
            cause="stage_dir is not set",
            hint="--set stage_dir=FOLDER, better in the site file: a folder that all nodes see, "
            "such as $SCRATCH/evalhpc-stage (docs/stage.md)",
        )
    site = login_site(spec.site, environ)
    hidden = set(_OFFLINE)
    variables = {k: v for k, v in site.environment.variables.items() if k not in hidden}
    environment = site.environment.model_copy(update={"variables": variables})
    check_site(site.container, [harness.image for harness in spec.harnesses.values()])
    passed = {name: value for name, value in spec.environment.items() if name not in hidden}
    site = site.model_copy(update={"environment": environment})
    return spec.model_copy(update={"site": site, "environment": passed}), warnings


def stand_in(model: Model | None) -> Model:
    """What takes the model's place: its name and tokenizer, at an address that is never asked."""
    return Model(
        model_id="staged" if model is None else model.model_id,
        format="endpoint",
        url="http://127.0.0.1:9/v1",
        tokenizer=None if model is None else model.tokenizer,
    )


@dataclass(frozen=True)
class _Staging:
    """One call of `stage`, with its folder locked."""

    run: Run
    folder: StageFolder
    environ: Mapping[str, str]
    isolates: bool
    said: Said

    def staged(self, benchmark: Benchmark, *, fetch: bool) -> StageRecord:
        """Fetch what the benchmark loads, prove that it suffices, and record it."""
        begun, before = time.monotonic(), _total(self.folder)
        first = self._pass(benchmark, _FETCH) if fetch else None
        grown = _total(self.folder) - before
        if first is not None:
            self.said(f"{benchmark.name}: {grown / 1e6:.1f} MB fetched in {first.seconds:.0f} s")
        known = self.folder.by_name()
        with self.folder.opens() as opens:
            proof = self._pass(benchmark, _PROOF, fetched=fetch)
        _refuse_fewer(benchmark, first or proof, proof)
        read = None if opens.files is None else self.folder.entries_of(opens.files)
        spec = self.run.spec
        record = StageRecord(
            benchmark=benchmark.name,
            harness=benchmark.harness,
            task=benchmark.task,
            key=stage_key(benchmark),
            params=benchmark.params,
            model_id=spec.model.model_id,
            tokenizer=spec.model.tokenizer,
            endpoints={name: served.model.model_id for name, served in spec.endpoints.items()},
            requests=proof.asked,
            digest=proof.digest,
            same=(first or proof).digest == proof.digest,
            isolated=proof.isolated,
            # What the proof has made, such as a table prepared anew, was read too.
            entries=tuple(
                entry
                for entry in self.folder.entries()
                if read is None or entry.name in read or entry.name not in known
            ),
            whole=read is None,
            fetched_bytes=max(0, grown),
            staged=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            staged_by=f"{getpass.getuser()}@{socket.gethostname()}",
            evalhpc_version=evalhpc.__version__,
            seconds=round(time.monotonic() - begun, 1),
        )
        self.folder.write(benchmark, record)
        self.folder.log(benchmark).unlink(missing_ok=True)
        where = "without a network" if proof.isolated else "with offline variables"
        self.said(f"{benchmark.name}: {proof.asked} requests {where}")
        return record

    def _pass(self, benchmark: Benchmark, number: int, *, fetched: bool = False) -> StagePass:
        """Run the harness once, without a network if it is the proof."""
        isolated = number == _PROOF and self.isolates
        told = run_pass(
            self.run, benchmark, number, self.variables(fetch=number == _FETCH), isolated=isolated
        )
        if told is not None and told.exit_code == 0 and told.asked:
            return told
        _refuse_full(self.folder.root)
        kept = self.folder.log(benchmark)
        with storage_errors(kept):
            kept.write_bytes(joined_logs(self.run, benchmark, number))
        raise pass_failed(benchmark, told, kept, fetching=number == _FETCH, fetched=fetched)

    def variables(self, *, fetch: bool) -> dict[str, str]:
        """The environment of a process that fetches, with the user's token, or that proves."""
        variables = dict(self.environ)
        token = variables.pop("HF_TOKEN", None) or _saved_token(self.environ)
        if fetch and token:
            variables["HF_TOKEN"] = token
        offline = "0" if fetch else "1"
        return {**variables, **dict.fromkeys(_OFFLINE, offline), "EVALHPC_STAGING": "1"}


def _refuse_full(folder: Path) -> None:
    """Raise StorageError where nothing more can be written: then the logs may lack the reason."""
    room, files = free(folder)
    if room < _FULL or files == 0:
        raise StorageError(
            f"No space left on the file system of {folder}",
            cause="data sets, tokenizers and the harness's own files fill it",
            hint=f"df -h {folder}; df -i {folder}; free some, or --set stage_dir=FOLDER; then "
            "evalhpc stage again: what is there is kept",
        )


def _refuse_fewer(benchmark: Benchmark, first: StagePass, proof: StagePass) -> None:
    if first.asked == proof.asked:
        return
    raise HarnessError(
        f"{benchmark.name} asks {first.asked} requests with internet and {proof.asked} without",
        cause="the harness passes over data that it cannot reach, or draws documents anew each "
        "time",
        hint=f"evalhpc stage --offline --tasks {benchmark.harness}/{benchmark.task}; "
        "docs/stage.md says what it compares",
    )


def _saved_token(environ: Mapping[str, str]) -> str | None:
    """The token of a login to the hub, which the harness would not find under another HF_HOME."""
    home = Path(environ.get("HF_HOME") or "~/.cache/huggingface").expanduser()
    try:
        return Path(environ.get("HF_TOKEN_PATH") or home / "token").read_text().strip() or None
    except OSError:
        return None  # there is none, or it is not ours to read


def _total(folder: StageFolder) -> int:
    return sum(entry.bytes for entry in folder.entries())
