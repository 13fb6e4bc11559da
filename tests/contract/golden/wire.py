"""A client that knows nothing of the SDK: sends bytes to the engine and writes down what comes back."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable
from contextlib import suppress
from urllib.parse import urlsplit

from tests.contract.golden.transcript import (
    CLOSE,
    NAMES,
    PING,
    PONG,
    Step,
    body_of,
    frame,
    header,
)

SECONDS = 30.0
#: The key of the standard's example; what the server makes of it is the same for everybody.
_SOCKET_KEY = "dGhlIHNhbXBsZSBub25jZQ=="
_MASK = b"\x11\x22\x33\x44"
_IN_TURN = {
    rb"(?m)^(Date: ).*?\r$": rb"\1{date}\r",
    rb"(?m)^(Server: ).*?\r$": rb"\1{server}\r",
    rb"(?m)^(X-Request-Id: ).*?\r$": rb"\1{request}\r",
    rb"(?m)^(Sec-WebSocket-Accept: ).*?\r$": rb"\1{accept}\r",
    rb"daytona-[0-9a-f]{32}": rb"{boundary}",
    rb"<cell \d+>": rb"<cell {number}>",
    rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z": rb"{time}",
}


class Wire:
    """One connection.

    Args:
        url: ``http://127.0.0.1:PORT`` of the engine.
        steps: where it is written down.
        words: what differs from run to run, and the name it gets.
    """

    def __init__(self, url: str, steps: list[Step], words: dict[str, str], name: str) -> None:
        parts = urlsplit(url)
        self._socket = socket.create_connection((parts.hostname, parts.port), timeout=SECONDS)
        self._steps, self._words = steps, words
        self._host = parts.netloc
        self._read = b""
        steps.append(Step("=", name.encode()))

    def __enter__(self) -> Wire:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def _note(self, kind: str, data: bytes) -> None:
        for word, name in self._words.items():
            data = data.replace(word.encode(), name.encode())
        for pattern, name in _IN_TURN.items():
            data = re.sub(pattern, name, data) if kind in ("<", "<text", "<close") else data
        last = self._steps[-1]
        if kind == "<binary" and last.kind == kind and last.data[:1] not in b"\1\2":
            # How often a terminal is read is up to the scheduler.
            last.data += data
        else:
            self._steps.append(Step(kind, data))

    def _more(self) -> None:
        data = self._socket.recv(65536)
        assert data, f"the connection ended within an answer: {self._read!r}"
        self._read += data

    def request(self, method: str, path: str, body: bytes = b"", **headers: str) -> None:
        """Send a request; ``Content_Type`` and the like become headers."""
        given = {"Host": self._host}
        if not path.startswith("/api/socket.io/"):
            # That one gets the key in its first packet.
            given["Authorization"] = f"Bearer {next(w for w, name in self._words.items() if name == '{key}')}"
        given |= {name.replace("_", "-"): value for name, value in headers.items()}
        if body and "Transfer-Encoding" not in given:
            given["Content-Length"] = str(len(body))
        lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in given.items())]
        head = "\r\n".join([*lines, "", ""]).encode()
        if "Transfer-Encoding" in given:
            # Small pieces, which fall anywhere in what the other side looks for.
            pieces = [body[at : at + 7] for at in range(0, len(body), 7)]
            sent = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in [*pieces, b""])
        else:
            sent = body
        self._note(">", head + body)
        self._socket.sendall(head + sent)

    def answer(self) -> bytes:
        """Read a whole answer; returns its body."""
        while b"\r\n\r\n" not in self._read:
            self._more()
        while (body := body_of(self._read)) is None:
            self._more()
        head = self._read.partition(b"\r\n\r\n")[0] + b"\r\n\r\n"
        self._note("<", head + body)
        self._read = b""
        return body

    def upgrade(self, path: str, *protocols: str) -> None:
        """Open a WebSocket (or be refused, which is written down as well)."""
        offered = {"Sec_WebSocket_Protocol": ", ".join(protocols)} if protocols else {}
        self.request(
            "GET",
            path,
            Upgrade="websocket",
            Connection="Upgrade",
            Sec_WebSocket_Version="13",
            Sec_WebSocket_Key=_SOCKET_KEY,
            **offered,
        )
        while b"\r\n\r\n" not in self._read:
            self._more()
        if not self._read.startswith(b"HTTP/1.1 101"):
            self.answer()
            return
        head, _, self._read = self._read.partition(b"\r\n\r\n")
        assert header(head + b"\r\n", "Sec-WebSocket-Accept") == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
        self._note("<", head + b"\r\n\r\n")

    def send(self, opcode: int, payload: bytes) -> None:
        """Send a frame."""
        self._note(f">{NAMES[opcode]}", payload)
        self._socket.sendall(frame(opcode, payload, _MASK))

    def _frame(self) -> tuple[int, bytes]:
        while True:
            if len(self._read) >= 2:
                at, size = 2, self._read[1]
                if size >= 126:
                    at += 2 if size == 126 else 8
                    size = int.from_bytes(self._read[2:at], "big")
                if len(self._read) >= at + size:
                    raw, self._read = self._read[: at + size], self._read[at + size :]
                    opcode, payload = raw[0] & 15, raw[at:]
                    assert raw == frame(opcode, payload), f"not a plain frame: {raw[:20]!r}"
                    return opcode, payload
            self._more()

    def receive(self, until: Callable[[int, bytes], bool]) -> bytes:
        """Write frames down until one for which ``until(opcode, payload)`` is true; returns its payload."""
        while True:
            opcode, payload = self._frame()
            if opcode == PING:
                self._socket.sendall(frame(PONG, payload, _MASK))
            elif opcode != PONG:
                self._note(f"<{NAMES[opcode]}", payload)
                if until(opcode, payload):
                    return payload
                assert opcode != CLOSE, f"closed: {payload!r}"

    def closed(self) -> None:
        """Write frames down up to the close frame, answer it, and see the connection end."""
        code = self.receive(lambda opcode, _: opcode == CLOSE)[:2]
        self._socket.sendall(frame(CLOSE, code, _MASK))
        with suppress(ConnectionResetError):
            assert self._socket.recv(1) == b""
