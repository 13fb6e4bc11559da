"""Session routes: shells that keep their state, commands in them, and the commands' logs.

A log is JSON with stdout and stderr apart for clients that accept it, or a WebSocket (``follow=true``) of
binary messages that each begin with the platform's three-byte marker of the stream they belong to.
"""

from __future__ import annotations

import json
from contextlib import aclosing, suppress
from typing import Any

from aiohttp import WSCloseCode, web

from daytona_magics.engine.api.context import sandbox_of, used
from daytona_magics.engine.api.errors import json_body
from daytona_magics.engine.api.following import while_connected
from daytona_magics.engine.api.process import SANDBOX
from daytona_magics.engine.errors import ApiError
from daytona_magics.engine.toolbox import session_client
from daytona_magics.engine.toolbox.client import ToolboxError
from daytona_magics.engine.toolbox.session_client import CommandInfo, Log, SessionInfo
from daytona_magics.engine.toolbox.spool import OUT

routes = web.RouteTableDef()

SESSIONS = f"{SANDBOX}/process/session"
#: Where the platform keeps the command its image starts with; sandboxes of the embedded engine start none.
ENTRYPOINT = "entrypoint"
MARKERS = {OUT: b"\x01\x01\x01"}
ERR_MARKER = b"\x02\x02\x02"
MAX_ID = 256
PING_SECONDS = 20.0
#: Most bytes of a log in one answer; a WebSocket brings all of it.
MAX_LOG = 16 << 20


def _command_json(command: CommandInfo) -> dict[str, Any]:
    code = {} if command.exit_code is None else {"exitCode": command.exit_code}
    return {"id": command.id, "command": command.command, **code}


def _session_json(session: SessionInfo) -> dict[str, Any]:
    return {"sessionId": session.id, "commands": [_command_json(command) for command in session.commands]}


def _name(request: web.Request) -> str:
    return request.match_info["session"]


def _text(body: dict[str, Any], name: str) -> str:
    value = body.get(name)
    if not isinstance(value, str):
        raise ApiError(400, f"{name} is required and is a text")
    return value


@routes.get(SESSIONS)
async def list_sessions(request: web.Request) -> web.Response:
    """All sessions with their commands."""
    sandbox = sandbox_of(request)
    with used(request, sandbox):
        found = await session_client.listing(sandbox.toolbox)
    return web.json_response([_session_json(session) for session in found])


@routes.post(SESSIONS)
async def create(request: web.Request) -> web.Response:
    """Start a session."""
    sandbox = sandbox_of(request)
    name = _text(await json_body(request), "sessionId")
    if not name or len(name) > MAX_ID or name == ENTRYPOINT or "/" in name or "\0" in name:
        raise ApiError(
            400, f"a session's id is a text of 1 to {MAX_ID} characters without '/', and not {ENTRYPOINT!r}"
        )
    with used(request, sandbox):
        await session_client.create(sandbox.toolbox, name)
    return web.Response(status=201)


@routes.get(f"{SESSIONS}/{ENTRYPOINT}")
async def entrypoint(request: web.Request) -> web.Response:
    """The session of the image's own command: there is one on the platform, and it has run nothing here."""
    sandbox_of(request).toolbox  # noqa: B018  a stopped sandbox has none
    return web.json_response(_session_json(SessionInfo(ENTRYPOINT)))


@routes.get(f"{SESSIONS}/{ENTRYPOINT}/logs")
async def entrypoint_logs(request: web.Request) -> web.StreamResponse:
    """The log of that session, which is empty."""
    sandbox_of(request).toolbox  # noqa: B018
    if not _follows(request):
        return web.json_response({"output": "", "stdout": "", "stderr": ""})
    socket = web.WebSocketResponse()
    await socket.prepare(request)
    await socket.close()
    return socket


@routes.get(f"{SESSIONS}/{{session}}")
async def get(request: web.Request) -> web.Response:
    """One session with its commands."""
    sandbox = sandbox_of(request)
    with used(request, sandbox):
        found = await session_client.listing(sandbox.toolbox, _name(request))
    return web.json_response(_session_json(found[0]))


@routes.delete(f"{SESSIONS}/{{session}}")
async def delete(request: web.Request) -> web.Response:
    """End a session."""
    sandbox = sandbox_of(request)
    with used(request, sandbox):
        await session_client.delete(sandbox.toolbox, _name(request))
    return web.Response(status=204)


@routes.post(f"{SESSIONS}/{{session}}/exec")
async def execute(request: web.Request) -> web.Response:
    """Run a command: 202 with its id at once, or 200 with its output when it has ended."""
    sandbox = sandbox_of(request)
    body = await json_body(request)
    command = _text(body, "command")
    if not command.strip():
        raise ApiError(400, "command is required")
    wait = not (body.get("runAsync") or body.get("async"))
    echo = not body.get("suppressInputEcho")
    with used(request, sandbox):
        toolbox = sandbox.toolbox
        number, code = await session_client.execute(toolbox, _name(request), command, wait=wait, echo=echo)
        if not wait:
            return web.json_response({"cmdId": number}, status=202)
        log = await _collect(await session_client.log(toolbox, _name(request), number, follow=False))
    return _json({"cmdId": number, "exitCode": code, **log})


def _json(value: dict[str, Any]) -> web.Response:
    """JSON in which text stays as it is: escaped, a log could be six times as long."""
    return web.Response(text=json.dumps(value, ensure_ascii=False), content_type="application/json")


async def _collect(log: Log) -> dict[str, str]:
    both, out, err = bytearray(), bytearray(), bytearray()
    async with aclosing(aiter(log)) as pieces:
        async for kind, data in pieces:
            if len(both) + len(data) > MAX_LOG:
                log.missing = f"an answer has at most {MAX_LOG >> 20} MiB of a log; follow it to see the rest"
                break
            both += data
            (out if kind == OUT else err).extend(data)
    if log.missing:
        note = f"\n[{log.missing}]\n".encode()
        both += note
        err += note
    texts = {"output": both, "stdout": out, "stderr": err}
    return {name: data.decode("utf-8", "replace") for name, data in texts.items()}


@routes.get(f"{SESSIONS}/{{session}}/command/{{command}}")
async def command(request: web.Request) -> web.Response:
    """One command of a session."""
    return web.json_response(_command_json(await _find(request)))


async def _find(request: web.Request) -> CommandInfo:
    sandbox, wanted = sandbox_of(request), request.match_info["command"]
    with used(request, sandbox):
        found = await session_client.listing(sandbox.toolbox, _name(request))
    for candidate in found[0].commands:
        if candidate.id == wanted:
            return candidate
    raise ApiError(404, f"there is no command {wanted!r} in the session", "PROCESS_NOT_FOUND")


@routes.post(f"{SESSIONS}/{{session}}/command/{{command}}/input")
async def send_input(request: web.Request) -> web.Response:
    """Write to the input of a running asynchronous command; a line end is added when there is none."""
    sandbox = sandbox_of(request)
    data = _text(await json_body(request), "data")
    if not data.endswith("\n"):
        data += "\n"
    with used(request, sandbox):
        await session_client.send_input(sandbox.toolbox, _name(request), request.match_info["command"], data)
    return web.Response(status=204)


def _follows(request: web.Request) -> bool:
    return request.query.get("follow", "").lower() == "true"


@routes.get(f"{SESSIONS}/{{session}}/command/{{command}}/logs")
async def logs(request: web.Request) -> web.StreamResponse:
    """The log of a command: all of it so far, or with ``follow=true`` over a WebSocket until it ends."""
    sandbox = sandbox_of(request)
    await _find(request)  # What does not exist is refused before the upgrade.
    number = request.match_info["command"]
    with used(request, sandbox):
        log = await session_client.log(sandbox.toolbox, _name(request), number, follow=_follows(request))
        if not _follows(request):
            return _json(await _collect(log))
        if request.headers.get("Upgrade", "").lower() != "websocket":
            raise ApiError(400, "following a log needs a WebSocket")
        return await _stream(request, log)


async def _stream(request: web.Request, log: Log) -> web.WebSocketResponse:
    socket = web.WebSocketResponse(heartbeat=PING_SECONDS, compress=False)
    await socket.prepare(request)
    code, reason = WSCloseCode.OK, b""
    try:
        with suppress(ConnectionError):  # The client may hang up while it is sent something.
            await while_connected(socket, _send(socket, log))
    except ToolboxError as error:
        code, reason = WSCloseCode.INTERNAL_ERROR, error.message.encode()[:120]
    await socket.close(code=code, message=reason)
    return socket


async def _send(socket: web.WebSocketResponse, log: Log) -> None:
    async for kind, data in log:
        await socket.send_bytes(MARKERS.get(kind, ERR_MARKER) + data)
    if log.missing:
        await socket.send_bytes(ERR_MARKER + f"\n[{log.missing}]\n".encode())
