"""Writes its environment, keys included, everywhere that it can: what a harness or server may do.

`leaky.py print`: on its output. `leaky.py files FOLDER`: into files of every kind there.
`leaky.py capture FILE`: what of it no test could know before, for the test alone.
"""

from __future__ import annotations

import base64
import gzip
import json
import os
import sqlite3
import sys
import zipfile
from pathlib import Path
from urllib.parse import quote

#: Variables whose values exist once a process.
TOKENS = ("EVALHPC_API_KEY", "EVALHPC_SERVER_TOKEN", "RAY_AUTH_TOKEN")


def dump() -> str:
    """Every variable and every form of it."""
    lines = []
    for name, value in os.environ.items():
        lines += [f"{name}={value}", f"{name}: {json.dumps(value)}", f"{name}?{quote(value)}"]
        lines.append(base64.b64encode(f"user:{value}".encode()).decode())
    return "\n".join(lines)


def files(folder: Path) -> None:
    """Plain, packed and binary."""
    text = dump()
    (folder / "env.txt").write_text(text)
    (folder / "env.json").write_text(json.dumps(dict(os.environ)))
    with gzip.open(folder / "env.gz", "wt") as packed:
        packed.write(text)
    with zipfile.ZipFile(folder / "env.eval", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("log/env.json", text)
    with sqlite3.connect(folder / "cache.db") as cache:
        cache.execute("create table env (name text, value text)")
        cache.executemany("insert into env values (?, ?)", os.environ.items())
    cache.close()
    name = folder / "nested" / "deep"
    name.mkdir(parents=True)
    (name / "pickle.bin").write_bytes(b"\x80\x04" + text.encode() + b"\0" * 99)


def main(verb: str, target: str = "") -> None:
    """One of the three."""
    if verb == "print":
        print(dump(), flush=True)
        print(dump(), file=sys.stderr, flush=True)
    elif verb == "files":
        files(Path(target))
    else:
        names = (*TOKENS, "EVALHPC_PORT", "EVALHPC_BASE_URL")
        known = {name: os.environ[name] for name in names if name in os.environ}
        with Path(target).open("a") as lines:
            lines.write(json.dumps({**known, "node": os.environ.get("SLURMD_NODENAME")}) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
