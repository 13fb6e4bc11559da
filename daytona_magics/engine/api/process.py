"""Running commands and code once, and what the toolbox says about itself."""

from __future__ import annotations

import base64
import binascii
import hmac
import json
from dataclasses import replace
from typing import Any

from aiohttp import web

from daytona_magics.engine.api import charts
from daytona_magics.engine.api.context import context, sandbox_of, used
from daytona_magics.engine.api.errors import json_body
from daytona_magics.engine.api.models import whole
from daytona_magics.engine.errors import ApiError
from daytona_magics.engine.toolbox.client import ExecuteResult, Toolbox

routes = web.RouteTableDef()

SANDBOX = "/toolbox/{sandbox}"

# Node reads TypeScript from stdin since 22.18 and 23.6; the check asks it, versions are not compared.
_TYPESCRIPT_CHECK = ["node", "-e", "process.exit(process.features.typescript ? 0 : 3)"]


def _output(result: ExecuteResult) -> dict[str, Any]:
    return {"exitCode": result.exit_code, "result": result.output.decode("utf-8", "replace")}


def _text(body: dict[str, Any], name: str) -> str | None:
    value = body.get(name)
    if value is not None and not isinstance(value, str):
        raise ApiError(400, f"{name} must be a text")
    return value or None


def _envs(body: dict[str, Any]) -> dict[str, str]:
    envs = body.get("envs") or {}
    if not isinstance(envs, dict) or not all(isinstance(v, str) for v in envs.values()):
        raise ApiError(400, "envs must be an object whose values are texts")
    return envs


def _timeout(body: dict[str, Any]) -> float | None:
    return whole(body.get("timeout") or 0, "timeout", 0) or None


@routes.post(f"{SANDBOX}/process/execute")
async def execute(request: web.Request) -> web.Response:
    """Pipe a command to the shell; stderr is part of the result."""
    sandbox = sandbox_of(request)
    body = await json_body(request)
    command = _text(body, "command")
    if command is None or not command.strip():
        raise ApiError(400, "command is required")
    with used(request, sandbox):
        running = sandbox.toolbox.execute(
            command, cwd=_text(body, "cwd"), env=_envs(body), timeout=_timeout(body)
        )
        result = await context(request).sandboxes.limiter.explained(sandbox.record.id, running)
    return web.json_response(_output(result))


@routes.post(f"{SANDBOX}/process/code-run")
async def code_run(request: web.Request) -> web.Response:
    """Run a program text in a fresh interpreter."""
    sandbox = sandbox_of(request)
    body = await json_body(request)
    code = body.get("code")
    if not isinstance(code, str):
        raise ApiError(400, "code is required")
    argv = body.get("argv") or []
    if not isinstance(argv, list) or not all(isinstance(word, str) for word in argv):
        raise ApiError(400, "argv must be a list of texts")
    with used(request, sandbox):
        toolbox = sandbox.toolbox
        language = body.get("language") or "python"
        program = await _interpreter(toolbox, language)
        wrapped = charts.wrap(code) if language == "python" else None
        source = wrapped[0] if wrapped else code
        running = toolbox.run_program(
            [*program, *argv], stdin=source.encode(), env=_envs(body), timeout=_timeout(body)
        )
        result = await context(request).sandboxes.limiter.explained(sandbox.record.id, running)
    output, found = charts.split(result.output, wrapped[1]) if wrapped else (result.output, [])
    result = replace(result, output=output)
    return web.json_response({**_output(result), "artifacts": {"charts": found}})


async def _interpreter(toolbox: Toolbox, language: object) -> list[str]:
    """The command that reads a program of ``language`` from its standard input.

    Raises:
        ApiError: 400 when the sandbox has none.
    """
    if language == "python":
        return ["python3", "-u", "-"]
    if language not in ("javascript", "typescript"):
        raise ApiError(400, f"code can be python, javascript or typescript, not {language!r}")
    if (await toolbox.execute("command -v node")).exit_code != 0:
        raise ApiError(
            400, f"this sandbox has no Node.js, so it cannot run {language}; install nodejs on this machine"
        )
    if language == "javascript":
        return ["node", "-"]
    if (await toolbox.run_program(_TYPESCRIPT_CHECK)).exit_code != 0:
        raise ApiError(400, "the Node.js of this sandbox cannot run typescript; version 22.18 or newer can")
    return ["node", "--input-type=module-typescript", "-"]


@routes.get(f"{SANDBOX}/work-dir")
async def work_dir(request: web.Request) -> web.Response:
    """The folder commands start in."""
    return web.json_response({"dir": sandbox_of(request).toolbox.work_dir})


@routes.get(f"{SANDBOX}/user-home-dir")
async def user_home_dir(request: web.Request) -> web.Response:
    """The user's home."""
    return web.json_response({"dir": sandbox_of(request).toolbox.home})


@routes.get(f"{SANDBOX}/version")
async def version(request: web.Request) -> web.Response:
    """Version of the toolbox inside and of the engine."""
    toolbox = sandbox_of(request).toolbox
    return web.json_response({"version": toolbox.version, "engine": context(request).version})


@routes.post(f"{SANDBOX}/init")
async def initialize(request: web.Request) -> web.Response:
    """The platform hands a toolbox its token here; this one has the engine's, and takes no other."""
    sandbox_of(request).toolbox  # noqa: B018  a stopped sandbox has none
    token = (await json_body(request)).get("token")
    if not isinstance(token, str) or not token:
        raise ApiError(400, "token is required")
    own = request.headers.get("Authorization", "").partition(" ")[2].strip()
    if not hmac.compare_digest(token.encode("utf-8", "replace"), own.encode("utf-8", "replace")):
        raise ApiError(403, "this toolbox has the embedded engine's token, and takes no other one")
    return web.json_response({"message": "the embedded engine has given this toolbox its token already"})


def decode_envs(encoded: str) -> dict[str, str]:
    """Environment variables as the SDK packs them into a subprotocol (base64url of JSON, no padding).

    Raises:
        ApiError: 400.
    """
    try:
        value = json.loads(base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4)))
    except (ValueError, binascii.Error) as error:
        raise ApiError(400, f"the environment in the subprotocol cannot be decoded: {error}") from error
    if not isinstance(value, dict):
        raise ApiError(400, "the environment in the subprotocol is not an object")
    return _envs({"envs": value})
