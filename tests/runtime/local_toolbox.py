"""A sandbox's toolbox in miniature, for tests of the channel: real processes on real pseudo-terminals.

It serves what the channel asks of a sandbox (run a shell script, take a file, a PTY over a WebSocket, delete
the PTY) in the platform's shape, and adds what no real one offers: a chosen shell, switches for old platforms
(no create-connect), counters. :class:`LocalSandbox` has the attributes of the SDK's AsyncSandbox in use.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import fcntl
import json
import os
import pty
import signal
import struct
import sys
import termios
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from aiohttp import WSMsgType, web

KEY = "test-key-7f3a"


class NotFound(Exception):
    """An HTTP 404 as the SDK raises it."""

    status_code = 404


class LocalToolbox:
    """Serves one "sandbox": a home folder and the processes started through it.

    Args:
        home: the folder that is its user's home.
        shell: argv of the PTY's shell.
    """

    def __init__(self, home: Path, shell: tuple[str, ...] = ("/bin/bash",)) -> None:
        self.home = home
        self.shell = shell
        self.extra: dict[str, str] = {}
        self.two_step_only = False
        self.refuse_with = 0
        self.ptys: dict[str, tuple[int, int]] = {}
        self.opened: list[str] = []
        self.headers: list[dict[str, str]] = []
        self.uploads = 0
        self.executes = 0
        self.port = 0
        self._clients: list[web.WebSocketResponse] = []
        self._runner: web.AppRunner | None = None
        self._envs: dict[str, dict[str, str]] = {}

    async def __aenter__(self) -> LocalToolbox:
        app = web.Application()
        app.router.add_get("/toolbox/{id}/process/pty/create-connect", self._create_connect)
        app.router.add_post("/toolbox/{id}/process/pty", self._create)
        app.router.add_get("/toolbox/{id}/process/pty/{session}/connect", self._connect)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.port = self._runner.addresses[0][1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._runner is not None
        for session in list(self.ptys):
            self.kill(session)
        self.end_guests()
        await self._runner.cleanup()

    def end_guests(self) -> None:
        """SIGKILL every process that has this toolbox's home: daemons and workers outlive their terminals."""
        mine = f"HOME={self.home}".encode()
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if mine in (folder / "environ").read_bytes().split(b"\0"):
                    os.kill(int(folder.name), signal.SIGKILL)

    def environment(self, envs: dict[str, str] | None = None) -> dict[str, str]:
        """What its processes see: nothing of this process's environment but PATH."""
        path = f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin"
        return {
            "HOME": str(self.home),
            "PATH": path,
            "LANG": "C.UTF-8",
            "TERM": "xterm",
            **self.extra,
            **(envs or {}),
        }

    async def execute(self, command: str, timeout: float) -> tuple[int, str]:
        """Run a script fed to a shell, stderr merged, as ``process/execute`` does."""
        self.executes += 1
        process = await asyncio.create_subprocess_exec(
            "/bin/sh",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            cwd=self.home,
            env=self.environment(),
            start_new_session=True,
        )
        out, _ = await asyncio.wait_for(process.communicate(command.encode()), timeout)
        return process.returncode or 0, out.decode("utf-8", "replace")

    def spawn(self, session: str, envs: dict[str, str]) -> None:
        """Start the PTY's shell."""
        environment = self.environment(envs)
        pid, master = pty.fork()
        if pid == 0:
            os.chdir(self.home)
            os.execve(self.shell[0], list(self.shell), environment)
        fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 200, 0, 0))
        os.set_blocking(master, False)
        self.ptys[session] = (pid, master)
        self.opened.append(session)

    def kill(self, session: str) -> None:
        """Delete a PTY session."""
        pid, master = self.ptys.pop(session)
        with contextlib.suppress(OSError):
            os.killpg(pid, signal.SIGKILL)
        with contextlib.suppress(OSError):
            asyncio.get_running_loop().remove_reader(master)
            os.close(master)
        with contextlib.suppress(OSError):
            os.waitpid(pid, 0)

    async def throw_out_clients(self) -> None:
        """Close every client's socket as the platform does with slow ones; sessions live on."""
        clients, self._clients = self._clients, []
        for ws in clients:
            await ws.close(code=1008, message=b"slow consumer")

    async def _create_connect(self, request: web.Request) -> web.StreamResponse:
        self.headers.append(dict(request.headers))
        if self.refuse_with:
            return web.Response(status=self.refuse_with)
        if self.two_step_only:
            return web.Response(status=404)
        offered = request.headers.get("Sec-WebSocket-Protocol", "").split(",")
        envs: dict[str, str] = {}
        for token in offered:
            name, _, coded = token.strip().partition("~")
            if name == "X-Daytona-Pty-Envs":
                envs = json.loads(base64.urlsafe_b64decode(coded + "=" * (-len(coded) % 4)))
        session = request.query["id"]
        self.spawn(session, envs)
        return await self._serve(request, session)

    async def _create(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.spawn(body["id"], body.get("envs") or {})
        return web.json_response({"sessionId": body["id"]}, status=201)

    async def _connect(self, request: web.Request) -> web.StreamResponse:
        return await self._serve(request, request.match_info["session"])

    async def _serve(self, request: web.Request, session: str) -> web.WebSocketResponse:
        ws = web.WebSocketResponse(protocols=("X-Daytona-Pty-Exit-Control",), max_msg_size=64 << 10)
        await ws.prepare(request)
        await ws.send_str('{"type":"control","status":"connected"}')
        self._clients.append(ws)
        _, master = self.ptys[session]
        down = asyncio.create_task(self._down(master, ws))
        try:
            async for message in ws:
                if message.type is WSMsgType.BINARY:
                    await self._write(master, message.data)
        finally:
            down.cancel()
        return ws

    async def _down(self, master: int, ws: web.WebSocketResponse) -> None:
        loop = asyncio.get_running_loop()
        while True:
            ready = asyncio.Event()
            loop.add_reader(master, ready.set)
            try:
                await ready.wait()
            finally:
                loop.remove_reader(master)
            try:
                data = os.read(master, 32768)
            except BlockingIOError:
                continue
            except OSError:
                data = b""
            if not data:
                await ws.close(code=1000, message=b'{"exitCode":0}')
                return
            await ws.send_bytes(data)

    async def _write(self, master: int, data: bytes) -> None:
        while data:
            try:
                data = data[os.write(master, data) :]
            except BlockingIOError:
                await asyncio.sleep(0.001)
            except OSError:
                return


class LocalSandbox:
    """What the channel uses of the SDK's AsyncSandbox, in front of a LocalToolbox.

    Args:
        toolbox: the toolbox behind it.
        port: where its PTYs are reached; the toolbox's own port unless a proxy is in between.
    """

    def __init__(self, toolbox: LocalToolbox, port: int | None = None) -> None:
        self.id = "local"
        self.toolbox = toolbox
        self.toolbox_proxy_url = f"http://127.0.0.1:{port or toolbox.port}/toolbox"
        self.state = "started"
        self.error_reason = None
        self.gone = False
        self.process = SimpleNamespace(exec=self._exec, kill_pty_session=self._kill)
        self.fs = SimpleNamespace(upload_file=self._upload)

    async def refresh_data(self, request_timeout: float | None = None) -> None:
        if self.gone:
            raise NotFound("no such sandbox")

    async def _exec(self, command: str, timeout: int = 30, **_: Any) -> SimpleNamespace:
        code, out = await self.toolbox.execute(command, timeout)
        return SimpleNamespace(exit_code=code, result=out)

    async def _upload(self, data: bytes, path: str, timeout: int = 30) -> None:
        self.toolbox.uploads += 1
        target = self.toolbox.home / path
        target.parent.mkdir(parents=True, exist_ok=True)
        await asyncio.to_thread(target.write_bytes, data)

    async def _kill(self, session: str, request_timeout: float | None = None) -> None:
        if session not in self.toolbox.ptys:
            raise NotFound("no such session")
        self.toolbox.kill(session)
