"""An OpenAI-compatible server on this machine that answers, fails, limits, stalls and talks nonsense as told."""

from __future__ import annotations

import json
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Turn:
    """One answer of the server that is not the usual one."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    stall: float = 0.0  # seconds before it
    drop: bool = False  # close the connection without an answer


class ModelServer:
    """Replies "ask: <end of the prompt>" unless a ``Turn`` is next; remembers what it was asked. A context manager."""

    def __init__(self) -> None:
        self.turns: deque[Turn] = deque()
        self.usual = Turn()
        self.asked: list[dict[str, Any]] = []
        self.times: list[float] = []
        self.keys: list[str | None] = []
        self.at_once = self.most_at_once = 0
        self.lock = threading.Lock()
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._http.daemon_threads = True

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._http.server_address[1]}/v1"

    def __enter__(self) -> ModelServer:
        threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._http.shutdown()
        self._http.server_close()


def _handler(server: ModelServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with server.lock:
                server.asked.append(request)
                server.times.append(time.monotonic())
                server.keys.append(self.headers.get("Authorization"))
                server.at_once += 1
                server.most_at_once = max(server.most_at_once, server.at_once)
                turn = server.turns.popleft() if server.turns else server.usual
            try:
                self._answer(turn, request)
            finally:
                with server.lock:
                    server.at_once -= 1

        def _answer(self, turn: Turn, request: dict[str, Any]) -> None:
            time.sleep(turn.stall)
            if turn.drop:
                self.close_connection = True
                self.connection.close()
                return
            said = "ask: " + request["messages"][0]["content"].strip()[-24:]
            usual = json.dumps({"choices": [{"message": {"role": "assistant", "content": said}}]}).encode()
            body = turn.body or (usual if turn.status == 200 else b'{"error": "no"}')
            try:
                self.send_response(turn.status)
                self.send_header("Content-Length", str(len(body)))
                for name, value in turn.headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)
            except OSError:
                pass  # the client has gone

        def log_message(self, *_: object) -> None:
            pass

    return Handler
