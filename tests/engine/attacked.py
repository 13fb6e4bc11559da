"""Engines for attacks: one with its guards, quick to lose patience, and one whose guards are taken off.

The second is the positive control: an attack that the first one withstands must work on it.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from tests.engine_process import IsolatedEngine, isolated_engine

_SERVE = """
import sys
from daytona_magics.engine.cli import main
sys.exit(main(["serve", "--detach"]))
"""

PATIENCE = 1.5
QUICK = f"""
from daytona_magics.engine.api import door, interpreter, events
door.STRANGER_SECONDS, door.MAX_CONNECTIONS = {PATIENCE}, 40
events.STRANGER_SECONDS = interpreter.REQUEST_SECONDS = {PATIENCE}
"""
#: What each guard does is left out; nothing else changes.
OPEN = """
from aiohttp import web
from daytona_magics.engine.api import door, errors, events, guard, interpreter, multipart
door.STRANGER_SECONDS = events.STRANGER_SECONDS = interpreter.REQUEST_SECONDS = 3600.0
door.MAX_CONNECTIONS = 40
door.Door._cut_oldest = lambda self: False
guard._check_encoding = lambda request: None
class Runner(web.AppRunner):
    def __init__(self, app, **kwargs):
        super().__init__(app, **{**kwargs, "auto_decompress": True, "max_field_size": 64 << 20})
from daytona_magics.engine import front
front.web = type("web", (), {**vars(web), "AppRunner": Runner})
multipart.content_disposition = lambda name, path: f'form-data; name="{name}"; filename="{path}"'
"""


@contextmanager
def engine_with(patch: str, **extra_env: str) -> Iterator[IsolatedEngine]:
    """A running engine in which the program text ``patch`` was run before it started."""
    with isolated_engine(**extra_env) as engine:
        started = engine.python(patch + _SERVE)
        assert started.returncode == 0, started.stderr
        yield engine


class Raw:
    """A TCP connection to an engine, for bytes that no client would send."""

    def __init__(self, engine: IsolatedEngine) -> None:
        self.engine = engine
        self.port = int(engine.record["port"])
        self.sock = socket.create_connection(("127.0.0.1", self.port), timeout=20)

    def __enter__(self) -> Raw:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    def head(self, method: str, target: str, *headers: str, key: bool = True) -> bytes:
        """The head of a request, with the key unless that is switched off."""
        lines = [f"{method} {target} HTTP/1.1", f"Host: 127.0.0.1:{self.port}", *headers]
        if key:
            lines.append(f"Authorization: Bearer {self.engine.key}")
        return "\r\n".join([*lines, "", ""]).encode("utf-8", "surrogateescape")

    def send(self, data: bytes) -> None:
        """Send; a peer that has had enough is no error."""
        try:
            self.sock.sendall(data)
        except ConnectionError:
            return

    def read_head(self) -> tuple[int, bytes]:
        """Status and head of the answer; (0, b"") when there was none."""
        received = b""
        while b"\r\n\r\n" not in received:
            try:
                data = self.sock.recv(65536)
            except ConnectionError:
                data = b""
            if not data:
                break
            received += data
        return (int(received.split()[1]) if received.startswith(b"HTTP/1.") else 0), received

    def is_closed_within(self, seconds: float) -> bool:
        """Whether the other side hangs up (what it says meanwhile is read)."""
        loop = asyncio.new_event_loop()
        deadline = loop.time() + seconds
        try:
            while (left := deadline - loop.time()) > 0:
                self.sock.settimeout(left)
                if not self.sock.recv(65536):
                    return True
        except TimeoutError:
            return False
        except ConnectionError:
            return True
        finally:
            loop.close()
        return False
