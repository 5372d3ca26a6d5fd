"""A hub of data sets and models on loopback: what `huggingface_hub` asks of one, and no more.

`data_hub.py ROOT HOST PORT`: ROOT/datasets/ORG/NAME/… and ROOT/models/ORG/NAME/… are repositories
of one commit. Those of the organisation `gated` want `Bearer secret`. The first answer with a file
of the organisation `cut` ends half-way, once ROOT/cut says so. Each request adds a line to
ROOT/requests.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"
_FILE = re.compile(r"/(?P<kind>datasets/)?(?P<repo>[^/]+/[^/]+)/resolve/[^/]+/(?P<path>.+)")
_API = re.compile(
    r"/api/(?P<kind>datasets|models)/(?P<repo>[^/]+/[^/]+)(?P<verb>/(tree|paths-info|revision).*)?"
)


class Hub(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    root = Path()

    def do_GET(self) -> None:
        """A file, or what is known of a repository."""
        self._reply()

    def do_HEAD(self) -> None:
        """A file's size, entity tag and commit."""
        self._reply()

    def do_POST(self) -> None:
        """What is known of some files."""
        self._reply(self.rfile.read(int(self.headers.get("Content-Length") or 0)))

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing."""

    def _reply(self, body: bytes = b"") -> None:
        path = unquote(urlsplit(self.path).path)
        with (self.root / "requests").open("a") as lines:
            lines.write(f"{self.command} {path}\n")
        found = _FILE.fullmatch(path) or _API.fullmatch(path)
        if found is None:
            self._send(404, b"")
            return
        repo = self.root / (found["kind"] or "models").strip("/") / found["repo"]
        if not repo.is_dir():
            self._send(404, b"", {"X-Error-Code": "RepoNotFound"})
        elif found["repo"].startswith("gated/") and not self._may():
            self._send(401, b"", {"X-Error-Code": "GatedRepo"})
        elif "path" in found.groupdict():
            self._file(repo / found["path"], cut=found["repo"].startswith("cut/"))
        else:
            self._known(repo, found["repo"], found["verb"] or "", body)

    def _may(self) -> bool:
        return self.headers.get("Authorization") == "Bearer secret"

    def _file(self, path: Path, *, cut: bool) -> None:
        if not path.is_file():
            self._send(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT})
            return
        data, start = path.read_bytes(), 0
        headers = {"ETag": f'"{_oid(data)}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        ranged = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if ranged and self.command == "GET":
            start = int(ranged[1])
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        marker = self.root / "cut"
        if cut and self.command == "GET" and marker.exists():
            self._send(200, data, headers, sent=len(data) // 2)
            self.close_connection = True
            return
        self._send(206 if start else 200, data[start:], headers)

    def _known(self, repo: Path, name: str, verb: str, body: bytes) -> None:
        files = {p.relative_to(repo).as_posix(): p for p in sorted(repo.rglob("*")) if p.is_file()}
        if verb.startswith("/tree"):
            folder = "/".join(verb.split("/")[3:])
            value: Any = [_entry(n, p) for n, p in files.items() if n.startswith(folder)]
        elif verb.startswith("/paths-info"):
            wanted = _paths(body, self.headers.get("Content-Type") or "")
            value = [_entry(n, files[n]) for n in wanted if n in files]
        else:
            value = {
                "id": name, "sha": COMMIT, "private": False, "gated": False, "disabled": False,
                "siblings": [{"rfilename": n} for n in files], "tags": [], "downloads": 0,
                "likes": 0, "lastModified": "2026-01-01T00:00:00.000Z",
            }  # fmt: skip
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _send(
        self,
        status: int,
        data: bytes,
        headers: dict[str, str] | None = None,
        sent: int | None = None,
    ) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data if sent is None else data[:sent])


def _oid(data: bytes) -> str:
    return hashlib.sha1(data).hexdigest()


def _entry(name: str, path: Path) -> dict[str, Any]:
    data = path.read_bytes()
    return {"type": "file", "path": name, "size": len(data), "oid": _oid(data)}


def _paths(body: bytes, kind: str) -> list[str]:
    if "json" in kind:
        paths = json.loads(body)["paths"]
        return [paths] if isinstance(paths, str) else list(paths)
    return parse_qs(body.decode()).get("paths", [])


def main(root: str, host: str, port: str) -> None:
    """Serve until killed; the port that it has is in ROOT/port."""
    Hub.root = Path(root)
    server = ThreadingHTTPServer((host, int(port)), Hub)
    (Hub.root / "port").write_text(str(server.server_address[1]))
    server.serve_forever()


if __name__ == "__main__":
    main(*sys.argv[1:])
