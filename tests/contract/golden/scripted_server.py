"""A server that has only a transcript: it says the recorded bytes, one at a time, and checks what it hears.

Two answers are not from the transcript: the sandbox itself, which a client asks for first, and the request to
stop it. Both are the live engine's own description of a sandbox, with this server's address.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import re
import threading
from contextlib import suppress
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from tests.contract.golden.transcript import (
    CLOSE,
    NAMES,
    OPCODES,
    PING,
    PONG,
    Connection,
    Step,
    body_of,
    chunked,
    connections,
    frame,
    header,
)

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
SANDBOX = "0123456789abcdefghij"
KEY = "key-of-the-script"
COMMAND = "01234567-89ab-4cde-8f01-23456789abcd"
#: Of the lengths of the real ones, so that recorded lengths hold.
_WORDS = {
    "{sandbox}": SANDBOX,
    "{id}": SANDBOX,
    "{name}": SANDBOX,
    "{key}": KEY,
    "{command}": COMMAND,
    "{boundary}": "daytona-" + "0123456789abcdef" * 2,
    "{time}": "2000-01-01T00:00:00.000Z",
    "{date}": "Sat, 01 Jan 2000 00:00:00 GMT",
    "{server}": "script",
    "{request}": "0123456789abcdef",
    "{sid}": "sid",
    "{number}": "1",
    "{cpu}": "1",
    "{memory}": "1",
    "{disk}": "1",
    "{isolation}": "L3",
    "{daemonVersion}": "1",
}
_CAPTURED = ("Content-Type", "Transfer-Encoding", "Content-Length")


class ScriptedServer:
    """Serves one transcript on a port of its own.

    Args:
        loop: where it runs.
        steps: the transcript.
        sandbox: what a live engine says about a sandbox.
        ends_by: ``event`` when only the transcript tells that a stop is over; ``poll`` when asking tells it,
            as soon as the transcript was played.

    Attributes:
        problems: what a client did that is not in the transcript.
        played: the names of the connections that were gone through.
        captured: the last upload, with the headers that say how to read it.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        steps: list[Step],
        sandbox: dict[str, Any],
        ends_by: str = "event",
        check: bool = True,
    ) -> None:
        self._connections = connections(steps)
        self._sandbox, self._ends_by, self._check = sandbox, ends_by, check
        self._stopped = asyncio.Event()
        self.problems: list[str] = []
        self.played: set[str] = set()
        self.captured = b""
        self._server = asyncio.run_coroutine_threadsafe(
            asyncio.start_server(self._serve, "127.0.0.1", 0), loop
        ).result(10)
        self._loop = loop
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    def close(self) -> None:
        """Listen no more."""
        self._loop.call_soon_threadsafe(self._server.close)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while (heard := await self._request(reader)) and await self._answer(heard, reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            # Clients hang up when they have what they want, and at the end nobody is there to be told.
            return
        except Exception as error:  # the test reports it
            self.problems.append(f"{type(error).__name__}: {error}")
        finally:
            writer.close()

    async def _request(self, reader: asyncio.StreamReader) -> bytes:
        data = b""
        while b"\r\n\r\n" not in data or body_of(data) is None:
            more = await reader.read(65536)
            if not more:
                return b""
            data += more
        return data

    async def _answer(self, heard: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Serve one request; whether another may follow on the same connection."""
        method, target, _ = heard.split(b"\r\n", 1)[0].decode().split(" ")
        path = unquote(urlsplit(target).path)
        if given := self._given(method, path):
            head = (
                f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(given)}\r\n\r\n"
            )
            writer.write(head.encode() + given)
            return True
        found = self._find(method, target)
        if found is None:
            if not path.endswith("/socket.io/"):
                self.problems.append(f"not in the transcript: {method} {target}")
            writer.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
            return True
        self._compare(found.steps[0].data, heard)
        said = found.steps[1].data
        key = header(heard, "Sec-WebSocket-Key") or ""
        accept = base64.b64encode(hashlib.sha1(key.encode() + _GUID).digest()).decode()
        head, _, body = self._filled(said.replace(b"{accept}", accept.encode())).partition(b"\r\n\r\n")
        if header(head + b"\r\n", "Transfer-Encoding"):
            body = chunked(body)
        upgraded = said.startswith(b"HTTP/1.1 101")
        if not upgraded:
            # A client may hang up when it has seen the head of a refusal.
            self.played.add(found.name)
        talk, greeting = found.steps[2:], b""
        if upgraded and talk and talk[0].kind.startswith("<"):
            # The SDK's synchronous client takes an upgrade for failed that nothing follows within 0.1 s.
            greeting = self._framed(talk.pop(0))
        await self._say(writer, head + b"\r\n\r\n" + body, greeting)
        if not upgraded:
            return True
        await self._talk(talk, reader, writer)
        self.played.add(found.name)
        while (await self._frame(reader, writer))[0] != CLOSE:
            pass
        return False

    def _given(self, method: str, path: str) -> bytes:
        if not re.fullmatch(rf"/api/sandbox/{SANDBOX}(/stop)?", path):
            return b""
        state = "started"
        if method == "POST":
            self._stopped.set()
        if self._stopped.is_set():
            state = "stopped" if self._ends_by == "poll" and self.played else "stopping"
        own = {"id": SANDBOX, "name": SANDBOX, "state": state, "toolboxProxyUrl": f"{self.url}/toolbox"}
        return json.dumps({**self._sandbox, **own}).encode()

    def _find(self, method: str, target: str) -> Connection | None:
        for candidate in self._connections:
            first = self._filled(candidate.steps[0].data).split(b"\r\n", 1)[0].decode().split(" ")
            wanted, asked = urlsplit(first[1]), urlsplit(target)
            query = dict(parse_qsl(wanted.query))
            # Who is asking differs from client to client.
            query.pop("source", None)
            same = (method, unquote(asked.path)) == (first[0], unquote(wanted.path))
            follows = ("follow" in query) == ("follow=true" in target)
            if same and follows and query.items() <= dict(parse_qsl(asked.query)).items():
                return candidate
        return None

    def _filled(self, data: bytes) -> bytes:
        for name, word in _WORDS.items():
            data = data.replace(name.encode(), word.encode())
        return data.replace(b"{host}", self.url.partition("//")[2].encode())

    def _compare(self, recorded: bytes, heard: bytes) -> None:
        head = heard.partition(b"\r\n\r\n")[0] + b"\r\n"
        kind, body = header(head, "Content-Type") or "", body_of(heard) or b""
        wanted = recorded.partition(b"\r\n\r\n")[2]
        if kind.startswith("multipart/"):
            boundary = kind.partition("boundary=")[2].strip('"')
            first = heard.split(b"\r\n", 1)[0].replace(SANDBOX.encode(), b"{sandbox}")
            shown = {name: header(head, name) for name in _CAPTURED}
            lines = [
                first,
                *(f"{name}: {value}".encode() for name, value in shown.items() if value),
                b"",
                body,
            ]
            self.captured = b"\r\n".join(lines).replace(boundary.encode(), b"{boundary}")
            if b"{boundary}" in recorded and self._check and self.captured != recorded:
                self.problems.append(f"sent {self.captured!r}, recorded is {recorded!r}")
        elif body:
            self._same(self._filled(wanted), body)

    def _same(self, recorded: bytes, heard: bytes) -> None:
        """Equal, or JSON of the same meaning: each client writes it in its own way."""
        with suppress(ValueError):
            if _meaning(recorded) == _meaning(heard):
                return
        if recorded != heard:
            self.problems.append(f"heard {heard!r}, recorded is {recorded!r}")

    async def _talk(
        self, steps: list[Step], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        for number, step in enumerate(steps):
            if step.kind == "*":
                if step.data == b"stop":
                    await self._stopped.wait()
            elif step.kind == ">close":
                break
            elif step.kind.startswith("<"):
                try:
                    await self._say(writer, self._framed(step))
                except ConnectionError:
                    # A client hangs up when it has what it wants; not before it has said its part.
                    if any(later.kind.startswith(">") and later.kind != ">close" for later in steps[number:]):
                        raise
                    return
            else:
                opcode, payload = await self._frame(reader, writer)
                if NAMES.get(opcode) != step.kind[1:]:
                    self.problems.append(f"a frame {opcode} {payload!r} instead of {step}")
                self._same(self._filled(step.data), payload)

    async def _frame(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> tuple[int, bytes]:
        while True:
            first, second = await reader.readexactly(2)
            size = second & 0x7F
            if size >= 126:
                size = int.from_bytes(await reader.readexactly(2 if size == 126 else 8), "big")
            mask = await reader.readexactly(4)
            payload = bytes(b ^ mask[n % 4] for n, b in enumerate(await reader.readexactly(size)))
            if first & 15 == PING:
                writer.write(frame(PONG, payload))
            elif first & 15 != PONG:
                return first & 15, payload

    def _framed(self, step: Step) -> bytes:
        return frame(OPCODES[step.kind[1:]], self._filled(step.data))

    async def _say(self, writer: asyncio.StreamWriter, data: bytes, at_once: bytes = b"") -> None:
        """One byte at a time: what a client makes of it must not depend on how it arrives.

        Args:
            data: what is said.
            at_once: what the last byte of it brings with it.
        """
        for at in range(len(data)):
            if writer.is_closing():
                raise ConnectionError("the client went away")
            writer.write(data[at : at + 1] + (at_once if at + 1 == len(data) else b""))
            await asyncio.sleep(0)
        await writer.drain()


def _meaning(data: bytes) -> Any:
    text = data.decode()
    packet = re.match(r"\d*", text)
    assert packet
    value = json.loads(text[packet.end() :])
    if not isinstance(value, dict):
        raise ValueError("not an object")
    return packet[0], {name: item for name, item in value.items() if item is not None}


class ServerLoop:
    """An event loop in a thread, on which scripted servers run."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)

    def __enter__(self) -> asyncio.AbstractEventLoop:
        self._thread.start()
        return self.loop

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._end(), self.loop).result(10)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(10)
        self.loop.close()

    async def _end(self) -> None:
        others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
