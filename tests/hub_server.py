"""A local HTTP server for files, and for the few routes of the Hugging Face hub that reading a data set takes.

Serves a folder: ``/files/NAME`` as plain files, and data sets ``owner/name`` from ``hub/owner/name``.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

COMMIT = "a" * 40


class FileServer(ThreadingHTTPServer):
    """Serves ``folder``; ``requests`` are the paths asked for, ``cut`` names of which only half is sent."""

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.folder, self.requests, self.cut = folder, list[str](), set[str]()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: FileServer

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.server.requests.append(f"{self.command} {path}")
        parts = path.strip("/").split("/")
        if parts[0] == "files":
            self._send_file(self.server.folder / "/".join(parts[1:]))
        elif parts[:2] == ["api", "datasets"]:
            self._answer(parts[2:])
        elif parts[0] == "datasets" and len(parts) > 5 and parts[3] == "resolve":
            self._send_file(self.server.folder / "hub" / parts[1] / parts[2] / "/".join(parts[5:]))
        else:
            self._send(404, b"not found")

    def do_HEAD(self) -> None:
        self.do_GET()

    def _answer(self, parts: list[str]) -> None:
        root = self.server.folder / "hub" / parts[0] / parts[1]
        if not root.is_dir():
            self._send(401, b'{"error": "Invalid username or password."}', {"X-Error-Code": "RepoNotFound"})
        elif len(parts) == 2 or parts[2] == "revision":
            if len(parts) > 3 and parts[3] not in ("main", COMMIT):
                self._send(404, b'{"error": "Invalid rev id"}', {"X-Error-Code": "RevisionNotFound"})
                return
            siblings = [{"rfilename": str(file.relative_to(root))} for file in root.rglob("*") if file.is_file()]
            info = {"id": "/".join(parts[:2]), "sha": COMMIT, "siblings": siblings, "private": False}
            self._send(200, json.dumps(info).encode())
        elif parts[2] == "tree":
            folder = root / "/".join(parts[4:])
            if not folder.is_dir():
                self._send(404, b'{"error": "not found"}', {"X-Error-Code": "EntryNotFound"})
                return
            found = folder.rglob("*") if "recursive=true" in self.path.lower() else folder.iterdir()
            self._send(200, json.dumps([_entry(root, file) for file in sorted(found)]).encode())
        else:
            self._send(404, b"not found")

    def _send_file(self, file: Path) -> None:
        if not file.is_file():
            self._send(404, b"not found", {"X-Error-Code": "EntryNotFound"})
            return
        content = file.read_bytes()
        tags = {"ETag": f'"{hashlib.sha1(content).hexdigest()}"', "X-Repo-Commit": COMMIT}
        self._send(200, content, tags, half=file.name in self.server.cut)

    def _send(self, status: int, content: bytes, headers: dict[str, str] | None = None, *, half: bool = False) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content[: len(content) // 2] if half else content)
        if half:
            self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        """Stay silent."""


def _entry(root: Path, file: Path) -> dict[str, object]:
    if file.is_dir():
        return {"type": "directory", "oid": "0" * 40, "size": 0, "path": str(file.relative_to(root))}
    size = file.stat().st_size
    oid = hashlib.sha1(file.read_bytes()).hexdigest()
    return {"type": "file", "oid": oid, "size": size, "path": str(file.relative_to(root))}


@contextmanager
def serving(folder: Path) -> Iterator[FileServer]:
    """A server of the folder for the time of the block."""
    server = FileServer(folder)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
