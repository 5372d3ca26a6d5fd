"""A target: the bytes of store.h5, in a process of its own, which HDF5 may take down."""

from __future__ import annotations

import resource
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from hypothesis import strategies as st

from evalhpc.core.frames import payload_digest
from evalhpc.errors import EvalhpcError
from evalhpc.storage.journal import JournalWriter, answer_meta
from evalhpc.storage.store import Store, merge_journals
from tests.fuzz.bytes_of import damaged
from tests.fuzz.stored_files import ANSWERS, RUN
from tests.fuzz.target import Target, scratch

#: MiB of address space, and seconds of CPU for all inputs, that the process may take.
_MOST_MEMORY, _MOST_SECONDS = 4096, 7200
_child: subprocess.Popen[str] | None = None


def _honest() -> bytes:
    folder = scratch("stores")
    with JournalWriter.create(folder / "1.journal", RUN) as writer:
        for key, answer in ANSWERS:
            writer.append(key, answer)
    merge_journals([folder / "1.journal"], folder / "store.h5", RUN)
    return (folder / "store.h5").read_bytes()


def _store(data: bytes) -> None:
    """HDF5 lives, and every answer that is read was written or does not match its digest."""
    path = scratch("stores") / "hostile.h5"
    path.write_bytes(data)
    child = _running()
    assert child.stdin is not None
    assert child.stdout is not None
    with suppress(BrokenPipeError):
        child.stdin.write(f"{path}\n")
        child.stdin.flush()
    said = child.stdout.readline().strip()
    assert said, f"the process that opened it ended with {child.wait()}"
    assert said in ("read", "refused"), said


def _running() -> subprocess.Popen[str]:
    global _child  # one for all inputs: each start costs half a second
    if _child is None or _child.poll() is not None:
        _child = subprocess.Popen(
            [sys.executable, "-m", "tests.fuzz.stores"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
    return _child


def _serve() -> None:
    """Open what each line names, and say how that went."""
    resource.setrlimit(resource.RLIMIT_AS, (_MOST_MEMORY << 20,) * 2)
    resource.setrlimit(resource.RLIMIT_CPU, (_MOST_SECONDS,) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for line in sys.stdin:
        try:
            _read(Path(line.strip()))
            print("read", flush=True)
        except EvalhpcError:
            print("refused", flush=True)
        except Exception as error:  # whatever it is, it is a finding
            print(f"{type(error).__name__}: {error}".replace("\n", " "), flush=True)


def _read(path: Path) -> None:
    with Store.open(path, RUN) as store:
        for key in list(store.keys()):
            answer = store.get(key)
            store.journal(key)
            if answer is not None:
                payload_digest(key, answer_meta(answer.status, answer.content_type), answer.body)
        store.verify()
        for key, answer in ANSWERS:
            found = store.get(key)
            assert found is None or found == answer or found.body == answer.body, "a wrong answer"


@st.composite
def _changed(draw: st.DrawFn, honest: bytes) -> bytes:
    """A few bytes in their places: what keeps the shape gets deepest into HDF5."""
    data = bytearray(honest)
    for _ in range(draw(st.integers(1, 3))):
        data[draw(st.integers(0, len(data) - 1))] = draw(
            st.one_of(st.sampled_from([0, 1, 127, 128, 255]), st.integers(0, 255))
        )
    return bytes(data)


def _targets() -> list[Target]:
    honest = _honest()
    inputs = st.one_of(_changed(honest), _changed(honest), damaged([honest]))
    return [Target("store", inputs, _store)]


TARGETS = _targets() if __name__ != "__main__" else []

if __name__ == "__main__":
    _serve()
