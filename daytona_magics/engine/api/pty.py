"""Terminal routes: create and connect in two steps or in one WebSocket, list, resize, kill."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import secrets
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from aiohttp import WSMsgType, web

from daytona_magics.engine.api.context import context, counts_as_activity, sandbox_of, used
from daytona_magics.engine.api.errors import json_body
from daytona_magics.engine.api.models import whole
from daytona_magics.engine.api.process import SANDBOX, decode_envs
from daytona_magics.engine.api.pty_session import PING_SECONDS, PtyClient, PtySession
from daytona_magics.engine.errors import ApiError
from daytona_magics.engine.life.sandbox import Sandbox
from daytona_magics.engine.toolbox.client import PtyProcess, ToolboxError

routes = web.RouteTableDef()

PTY = f"{SANDBOX}/process/pty"
EXIT_CONTROL = "X-Daytona-Pty-Exit-Control"
ENVS_PREFIX = "X-Daytona-Pty-Envs~"
#: Offered, and accepted where it is done: the terminal goes to the program that takes terminals at a socket
#: in the sandbox, instead of a shell. Behind it base64url of JSON: ``{"socket": path, "patience": seconds}``.
HAND_OVER_PREFIX = "X-Daytona-Magics-Hand-Over~"
MAX_CLIENT_FRAME = 64 << 10
MAX_SIDE = 1000
MOST_PATIENCE = 10.0
CLOSE_SECONDS = 5.0

_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")


def _side(value: object, name: str, default: int) -> int:
    size = whole(value, name, 1) if value not in (None, "", 0) else default
    if size > MAX_SIDE:
        raise ApiError(400, f"{name} must be at most {MAX_SIDE}")
    return size


async def open_session(
    sandbox: Sandbox, wanted: dict[str, Any], handing: Sequence[tuple[str, str, float]] = ()
) -> PtySession:
    """Register and start a terminal.

    Args:
        handing: offers, with socket and patience of ``Toolbox.hand_over``; without effect, a shell starts.

    Raises:
        ApiError: 409 when the id is in use.
    """
    toolbox = sandbox.toolbox
    session_id = wanted.get("id") or secrets.token_hex(8)
    if not isinstance(session_id, str) or len(session_id) > 256:
        raise ApiError(400, "the id of a terminal is a text of at most 256 characters")
    if session_id in sandbox.ptys:
        raise ApiError(409, f"PTY session with ID '{session_id}' already exists")
    envs: dict[str, str] = wanted.get("envs") or {}
    if not isinstance(envs, dict) or not all(
        isinstance(v, str) and _ENV_NAME.match(k) for k, v in envs.items()
    ):
        raise ApiError(400, "envs must be an object of valid environment variables")
    cwd = wanted.get("cwd") or None
    if cwd is not None and not isinstance(cwd, str):
        raise ApiError(400, "cwd must be a text")

    async def start(cols: int, rows: int) -> PtyProcess:
        for offer, path, patience in handing:
            with suppress(ToolboxError):
                process = await toolbox.hand_over(path, patience, cols=cols, rows=rows)
                session.handed = offer
                return process
        return await toolbox.open_pty(cwd=cwd, env=envs, cols=cols, rows=rows)

    session = PtySession(
        session_id,
        cwd=cwd or toolbox.work_dir,
        envs=envs,
        cols=_side(wanted.get("cols"), "cols", 80),
        rows=_side(wanted.get("rows"), "rows", 24),
        lazy=wanted.get("lazyStart") is True,
        start=start,
        on_end=lambda: _drop(sandbox, session),
    )
    # Before the first await: the id is taken from now on.
    sandbox.ptys[session_id] = session
    if wanted.get("lazyStart") is not True:
        try:
            await session.start()
        except BaseException:
            _drop(sandbox, session)
            raise
    return session


def _drop(sandbox: Sandbox, session: PtySession) -> None:
    if sandbox.ptys.get(session.id) is session:
        del sandbox.ptys[session.id]


def _session_of(request: web.Request) -> tuple[Sandbox, PtySession]:
    sandbox = sandbox_of(request)
    session_id = request.match_info["session"]
    session = sandbox.ptys.get(session_id)
    if session is None:
        raise ApiError(404, f"PTY session '{session_id}' not found", "PROCESS_NOT_FOUND")
    return sandbox, session


@routes.get(PTY)
async def list_sessions(request: web.Request) -> web.Response:
    """The terminals of the sandbox."""
    sessions = [session.as_json() for session in sandbox_of(request).ptys.values()]
    return web.json_response({"sessions": sessions})


@routes.post(PTY)
async def create(request: web.Request) -> web.Response:
    """Create a terminal; with ``lazyStart`` its program starts when the first client connects."""
    sandbox = sandbox_of(request)
    with used(request, sandbox):
        session = await open_session(sandbox, await json_body(request))
    return web.json_response({"sessionId": session.id}, status=201)


@routes.get(f"{PTY}/create-connect")
async def create_connect(request: web.Request) -> web.StreamResponse:
    """Create a terminal and connect to it in one WebSocket; refusals come before the upgrade."""
    sandbox = sandbox_of(request)
    _check_upgrade(request)
    if not request.query.get("id"):
        raise ApiError(400, "id is required")
    envs: dict[str, str] = {}
    handing: list[tuple[str, str, float]] = []
    for protocol in _offered(request):
        if protocol.startswith(ENVS_PREFIX):
            envs = decode_envs(protocol.removeprefix(ENVS_PREFIX))
        elif protocol.startswith(HAND_OVER_PREFIX):
            handing.append(_handing(protocol))
    session = await open_session(sandbox, {**request.query, "envs": envs}, handing)
    return await _serve(request, sandbox, session)


@routes.get(f"{PTY}/{{session}}/connect")
async def connect(request: web.Request) -> web.StreamResponse:
    """Connect to a terminal; its program is started if it was created lazily."""
    sandbox, session = _session_of(request)
    _check_upgrade(request)
    await session.start()
    return await _serve(request, sandbox, session)


@routes.get(f"{PTY}/{{session}}")
async def get(request: web.Request) -> web.Response:
    """One terminal."""
    return web.json_response(_session_of(request)[1].as_json())


@routes.post(f"{PTY}/{{session}}/resize")
async def resize(request: web.Request) -> web.Response:
    """Change a terminal's size."""
    sandbox, session = _session_of(request)
    body = await json_body(request)
    with used(request, sandbox):
        session.resize(_side(body.get("cols"), "cols", 80), _side(body.get("rows"), "rows", 24))
    return web.json_response(session.as_json())


@routes.delete(f"{PTY}/{{session}}")
async def kill(request: web.Request) -> web.Response:
    """Kill a terminal's program and forget the terminal."""
    sandbox, session = _session_of(request)
    with used(request, sandbox):
        await session.kill()
    _drop(sandbox, session)
    return web.json_response({"message": "PTY session deleted"})


def _offered(request: web.Request) -> list[str]:
    return [part.strip() for part in request.headers.get("Sec-WebSocket-Protocol", "").split(",")]


def _handing(protocol: str) -> tuple[str, str, float]:
    """An offer to hand the terminal over, with its socket and its patience. Raises ApiError 400."""
    coded = protocol.removeprefix(HAND_OVER_PREFIX)
    try:
        offer = json.loads(base64.urlsafe_b64decode(coded + "=" * (-len(coded) % 4)))
        path, patience = offer["socket"], float(offer["patience"])
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ApiError(400, "what is offered to take the terminal cannot be decoded") from error
    if not isinstance(path, str) or not 0 <= patience <= MOST_PATIENCE:
        raise ApiError(400, f"a terminal is offered to a path, with 0 to {MOST_PATIENCE:g} s of patience")
    return protocol, path, patience


def _check_upgrade(request: web.Request) -> None:
    if request.headers.get("Upgrade", "").lower() != "websocket":
        raise ApiError(400, "this route is a WebSocket")


async def _serve(request: web.Request, sandbox: Sandbox, session: PtySession) -> web.WebSocketResponse:
    """Carry one client until it leaves or the terminal ends."""
    wants_exit = EXIT_CONTROL in _offered(request)
    # No compression: it costs more than loopback does.  Pings are sent by hand, so that a client that only
    # listens and one whose input waits for the terminal are not taken for dead.
    accepted = (session.handed, EXIT_CONTROL) if session.handed else (EXIT_CONTROL,)
    ws = web.WebSocketResponse(protocols=accepted, compress=False, max_msg_size=MAX_CLIENT_FRAME)
    await ws.prepare(request)
    client = PtyClient(ws, request.transport, wants_exit)
    counts = counts_as_activity(request)
    with context(request).activity.socket():
        if counts:
            sandbox.touch()
        session.attach(client)
        helpers = [asyncio.create_task(client.run()), asyncio.create_task(_ping(ws))]
        try:
            async for message in ws:
                if message.type in (WSMsgType.BINARY, WSMsgType.TEXT):
                    data = message.data.encode() if isinstance(message.data, str) else message.data
                    # What is typed is activity; a terminal that is merely open is not.
                    if counts:
                        sandbox.touch()
                    await session.write(data)
        finally:
            session.detach(client)
            if client.is_closing:
                # The peer must have read the close frame before the connection goes, or a reset eats it.
                await asyncio.wait(helpers[:1], timeout=CLOSE_SECONDS)
            for task in helpers:
                task.cancel()
            await asyncio.gather(*helpers, return_exceptions=True)
    return ws


async def _ping(ws: web.WebSocketResponse) -> None:
    with suppress(ConnectionError):
        while True:
            await asyncio.sleep(PING_SECONDS)
            await ws.ping()
