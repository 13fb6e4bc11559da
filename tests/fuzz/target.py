"""The engine under the fuzzer: sends a request, judges the answer, and looks for what leaks.

An answer is wrong when it takes longer than a minute, is a 5xx other than an honest refusal (501, 504 for
what the sandbox did not answer, 507 for its full disk; a git server that cannot be reached), or is an error
without the platform's body.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
import time
from pathlib import Path
from typing import Any

from tests.engine_process import IsolatedEngine, is_alive
from tests.fuzz.requests import Request

ANSWER_SECONDS = 60.0
HONEST = {501, 504, 507}
_ERROR_KEYS = {"statusCode", "message", "code", "source", "timestamp", "path", "method"}
_PREPARE = """\
mkdir -p dir/sub repo; echo text > file; echo more > dir/sub/file
mkfifo fifo; ln -s / link; ln -s loop loop
cd repo && git init -q && echo 1 > a && git add a && git -c user.name=a -c user.email=a@b commit -qm 1
"""


class Wrong(AssertionError):
    """What the engine did that it must not do; ``kind`` is the same for requests that show the same."""

    def __init__(self, request: Request | None, status: int, what: str) -> None:
        self.kind = (str(request.operation) if request else "", status, what[:30])
        super().__init__(f"{request}: {status} {what}" if request else what)


class Target:
    """An engine, and one sandbox in it that is made again when a request has ended it.

    Attributes:
        count: requests sent.
    """

    def __init__(self, engine: IsolatedEngine) -> None:
        engine.client_env()
        self.engine = engine
        self.pid, self.port, self.key = engine.pid, engine.record["port"], engine.key
        self.count = 0
        self.sandbox = ""
        self.prepare()

    def ask(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """One request of a client that means well."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=ANSWER_SECONDS)
        headers = {"Authorization": f"Bearer {self.key}", "Content-Type": "application/json"}
        connection.request(method, path, None if body is None else json.dumps(body), headers)
        answer = connection.getresponse()
        data = answer.read()
        connection.close()
        return answer.status, json.loads(data) if data else None

    def prepare(self) -> None:
        """Have a started sandbox with some files, and nothing else in the engine."""
        status, answer = self.ask("GET", f"/api/sandbox/{self.sandbox}") if self.sandbox else (404, None)
        if status == 200 and answer["state"] == "started":
            return
        self.clear()
        asked = {"name": "box", "autoStopInterval": 0, "cpu": 1, "memory": 1, "disk": 1}
        status, answer = self.ask("POST", "/api/sandbox", asked)
        if status != 200:
            raise Wrong(None, status, f"no sandbox can be made any more: {answer}")
        self.sandbox = answer["id"]
        self.ask("POST", f"/toolbox/{self.sandbox}/process/execute", {"command": _PREPARE, "timeout": 20})
        for path, body in (
            ("process/session", {"sessionId": "default"}),
            ("process/pty", {"id": "main", "lazyStart": True}),
        ):
            self.ask("POST", f"/toolbox/{self.sandbox}/{path}", body)

    def clear(self) -> None:
        """Delete every sandbox."""
        _, listed = self.ask("GET", "/api/sandbox?limit=100")
        for one in listed["items"]:
            self.ask("DELETE", f"/api/sandbox/{one['id']}")

    def send(self, request: Request) -> int:
        """Send one request and judge the answer: its status, 0 when the connection ended without one.

        Raises:
            Wrong: for an answer that must not be.
        """
        self.count += 1
        if self.count % 50 == 0:
            self._tidy()
        begun = time.monotonic()
        status, headers, body = self._exchange(request)
        took = time.monotonic() - begun
        if not is_alive(self.pid):
            raise Wrong(request, status, "the engine has ended")
        if took > ANSWER_SECONDS:
            raise Wrong(request, status, f"no answer in {took:.0f} s")
        if status >= 500 and status not in HONEST and b'"GIT_TRANSPORT_FAILED"' not in body:
            raise Wrong(request, status, f"{body[:500]!r}")
        if status >= 400:
            self._judge_error(request, status, headers, body)
        return status

    def _judge_error(self, request: Request, status: int, headers: Any, body: bytes) -> None:
        if "X-Request-Id" not in headers:
            raise Wrong(request, status, f"without a request id: {body[:500]!r}")
        try:
            answer = json.loads(body)
        except ValueError:
            raise Wrong(request, status, f"not JSON: {body[:500]!r}") from None
        if not set(answer) >= _ERROR_KEYS or answer["statusCode"] != status or not answer["message"]:
            raise Wrong(request, status, f"not the platform's error: {answer}")

    def _exchange(self, request: Request) -> tuple[int, Any, bytes]:
        """Status, headers and the beginning of the body (a stream that goes on is left)."""
        head = {"Host": f"127.0.0.1:{self.port}", "Authorization": f"Bearer {self.key}", **request.headers}
        payload = request.body
        if "Transfer-Encoding" not in head:
            head["Content-Length"] = str(len(payload))
        else:
            first = b"%x\r\n%s\r\n" % (len(payload), payload) if payload else b""
            payload = first + b"0\r\n\r\n"
        lines = [f"{request.operation.method} {request.target} HTTP/1.1"]
        lines += [f"{name}: {value}" for name, value in head.items()]
        raw = "\r\n".join([*lines, "", ""]).encode("utf-8", "surrogateescape")
        with socket.create_connection(("127.0.0.1", self.port), timeout=ANSWER_SECONDS + 5) as sock:
            # Refused before all of it was sent? The answer says why.
            with contextlib.suppress(ConnectionError):
                sock.sendall(raw + payload)
            answer = http.client.HTTPResponse(sock, method=request.operation.method)
            try:
                while True:
                    answer.begin()
                    if answer.status != 100:
                        break
                limit = 0 if answer.status == 101 else 1 << 20
                return answer.status, answer.headers, answer.read(limit)
            except TimeoutError:
                raise Wrong(request, 0, f"no answer in {ANSWER_SECONDS:.0f} s") from None
            except (ConnectionError, http.client.HTTPException) as error:
                if isinstance(error, http.client.RemoteDisconnected | http.client.BadStatusLine):
                    raise Wrong(request, 0, "hung up on without an answer") from None
                return 0, {}, b""

    def _tidy(self) -> None:
        """Delete what other requests have made, and make the sandbox again when it is gone."""
        _, listed = self.ask("GET", "/api/sandbox?limit=100")
        for one in listed["items"]:
            if one["id"] != self.sandbox:
                self.ask("DELETE", f"/api/sandbox/{one['id']}")
        self.prepare()

    # -- what is left behind

    def descriptors(self) -> int:
        """Open descriptors of the engine."""
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def memory(self) -> int:
        """MiB of the engine in memory."""
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") >> 20

    def unexpected(self) -> list[str]:
        """What the engine's log says went wrong."""
        found = []
        for path in sorted(self.engine.state.glob("engine.log*")):
            for line in path.read_text().splitlines():
                entry = json.loads(line)
                if entry["level"] in ("error", "critical"):
                    found.append(f"{entry['message'][:300]} {entry.get('error', '')[-1500:]}")
        return found
