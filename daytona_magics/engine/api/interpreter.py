"""Interpreter routes: contexts that keep their variables, and one WebSocket per execution.

The client sends one message ``{code, contextId?, envs?, timeout?}``; answers are
``{type: stdout|stderr, text}`` and ``{type: error, name, value, traceback}``. Close code 1000 is the end,
4008 says that the time was over.
"""

from __future__ import annotations

import asyncio
import codecs
import json
from contextlib import suppress
from datetime import datetime, timezone
from typing import Any

from aiohttp import WSCloseCode, WSMsgType, web

from daytona_magics.engine.api.context import sandbox_of, used
from daytona_magics.engine.api.errors import json_body
from daytona_magics.engine.api.following import while_connected
from daytona_magics.engine.api.process import SANDBOX
from daytona_magics.engine.errors import ApiError
from daytona_magics.engine.toolbox import interpreter_client
from daytona_magics.engine.toolbox.client import Toolbox, ToolboxError
from daytona_magics.engine.toolbox.interpreter_client import ContextInfo, Run
from daytona_magics.engine.toolbox.spool import ERR, OUT

routes = web.RouteTableDef()

CONTEXTS = f"{SANDBOX}/process/interpreter/context"
DEFAULT = "default"
#: Seconds an execution may take when the client says nothing, as the platform's.
DEFAULT_TIMEOUT = 600
TIMED_OUT = 4008
#: Seconds a client may take to send its request.
REQUEST_SECONDS = 30.0
PING_SECONDS = 20.0
MAX_REQUEST = 16 << 20


def _json(context: ContextInfo) -> dict[str, Any]:
    created = datetime.fromtimestamp(context.created, timezone.utc)
    return {
        "id": context.id,
        "cwd": context.cwd,
        "language": "python",
        "active": context.active,
        "createdAt": created.isoformat().replace("+00:00", "Z"),
    }


@routes.get(CONTEXTS)
async def list_contexts(request: web.Request) -> web.Response:
    """All contexts but the default one."""
    sandbox = sandbox_of(request)
    with used(request, sandbox):
        found = await interpreter_client.listing(sandbox.toolbox)
    return web.json_response({"contexts": [_json(context) for context in found]})


@routes.post(CONTEXTS)
async def create(request: web.Request) -> web.Response:
    """Make a context."""
    sandbox = sandbox_of(request)
    body = await json_body(request)
    cwd, language = body.get("cwd") or None, body.get("language") or "python"
    if language != "python":
        raise ApiError(400, f"an interpreter context runs python, not {language!r}")
    if cwd is not None and not isinstance(cwd, str):
        raise ApiError(400, "cwd must be a text")
    with used(request, sandbox):
        return web.json_response(_json(await interpreter_client.create(sandbox.toolbox, cwd)))


@routes.delete(f"{CONTEXTS}/{{context}}")
async def delete(request: web.Request) -> web.Response:
    """End a context."""
    sandbox = sandbox_of(request)
    with used(request, sandbox):
        await interpreter_client.delete(sandbox.toolbox, request.match_info["context"])
    return web.json_response({"message": "Context deleted successfully"})


@routes.get(f"{SANDBOX}/process/interpreter/execute")
async def execute(request: web.Request) -> web.StreamResponse:
    """Run one piece of code over a WebSocket."""
    sandbox = sandbox_of(request)
    toolbox = sandbox.toolbox
    if request.headers.get("Upgrade", "").lower() != "websocket":
        raise ApiError(400, "code is executed over a WebSocket")
    socket = web.WebSocketResponse(heartbeat=PING_SECONDS, max_msg_size=MAX_REQUEST, compress=False)
    with used(request, sandbox):
        await socket.prepare(request)
        code, reason = await _serve(socket, toolbox)
        with suppress(ConnectionError):
            await socket.close(code=code, message=reason.encode()[:120])
    return socket


async def _serve(socket: web.WebSocketResponse, toolbox: Toolbox) -> tuple[int, str]:
    """Read the request, run it and pass its output on: the close code and reason."""
    try:
        wanted = await _request(socket)
        if wanted is None:
            return WSCloseCode.OK, ""
        run = await interpreter_client.execute(toolbox, **wanted)
        await while_connected(socket, _send(socket, run))
    except ApiError as error:
        return WSCloseCode.UNSUPPORTED_DATA, str(error)
    except ToolboxError as error:
        return WSCloseCode.INTERNAL_ERROR, error.message
    except ConnectionError:
        return WSCloseCode.OK, ""
    return (TIMED_OUT, "the execution timed out") if run.outcome == "timeout" else (WSCloseCode.OK, "")


async def _request(socket: web.WebSocketResponse) -> dict[str, Any] | None:
    """What shall run, as arguments of `interpreter_client.execute`; None when the client left.

    Raises ApiError 400 for a message that makes no sense.
    """
    try:
        message = await socket.receive(timeout=REQUEST_SECONDS)
    except asyncio.TimeoutError:
        raise ApiError(400, f"no code came within {REQUEST_SECONDS:g} s") from None
    if message.type not in (WSMsgType.TEXT, WSMsgType.BINARY):
        return None
    try:
        body = json.loads(message.data)
    except (ValueError, RecursionError) as error:
        raise ApiError(400, "the request is not JSON") from error
    code = body.get("code") if isinstance(body, dict) else None
    if not isinstance(code, str):
        raise ApiError(400, "code is required and is a text")
    try:
        code.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as error:
        raise ApiError(400, "code is not valid text") from error
    envs, context, timeout = body.get("envs") or {}, body.get("contextId") or DEFAULT, body.get("timeout")
    if not isinstance(envs, dict) or not all(isinstance(value, str) for value in envs.values()):
        raise ApiError(400, "envs must be an object whose values are texts")
    if not isinstance(context, str):
        raise ApiError(400, "contextId must be a text")
    if timeout is None:
        timeout = DEFAULT_TIMEOUT
    if type(timeout) not in (int, float) or not 0 <= timeout < 1 << 31:
        raise ApiError(400, "timeout must be a number of seconds, 0 for no limit")
    return {"code": code, "envs": envs, "context": context, "timeout": float(timeout) or None}


async def _send(socket: web.WebSocketResponse, run: Run) -> None:
    decoders = {kind: codecs.getincrementaldecoder("utf-8")("replace") for kind in (OUT, ERR)}
    names = {OUT: "stdout", ERR: "stderr"}
    async for kind, data in run:
        if said := decoders[kind].decode(data):
            await socket.send_json({"type": names[kind], "text": said})
    for kind, decoder in decoders.items():
        if said := decoder.decode(b"", True):
            await socket.send_json({"type": names[kind], "text": said})
    if run.failure is not None:
        failure = run.failure
        await socket.send_json(
            {"type": "error", "name": failure.name, "value": failure.value, "traceback": failure.traceback}
        )
    elif run.outcome == "ended":
        await socket.send_json(
            {"type": "error", "name": "InterpreterEnded", "value": run.message, "traceback": run.message}
        )
