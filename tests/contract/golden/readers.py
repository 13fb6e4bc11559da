"""What the Python clients make of a transcript: each function asks one question and tells the answer as JSON.

`SYNC` and `ASYNC` hold the same questions for the two clients, `replay.mjs` beside the TypeScript tests holds
them for the third; a refusal is told as the class and the status of the error.
"""

from __future__ import annotations

import asyncio
import base64
import io
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from daytona import (
    AsyncDaytona,
    Daytona,
    DaytonaConfig,
    DaytonaError,
    FileDownloadRequest,
    FileUpload,
    SessionExecuteRequest,
)
from daytona.common.pty import PtySize

from tests.contract.golden.scenarios import MISSING, ODD, UPLOADS
from tests.contract.golden.scripted_server import COMMAND, KEY, SANDBOX
from tests.contract.golden.transcript import connections, load

PLAIN = {"PS1": "$ ", "TERM": "dumb"}
SIZE = PtySize(cols=80, rows=24)
FIRST = next(iter(UPLOADS))
COMMAND_TEXT = "printf '\\303\\251 <out>\\n'; exit 4"
PATHS = [*ODD, MISSING, "golden/folder"]


def typed(name: str) -> bytes:
    """What a recorded client typed into a terminal."""
    steps = [step for connection in connections(load(name)) for step in connection.steps]
    return next((step.data for step in steps if step.kind == ">binary"), b"")


def code_of(name: str) -> dict[str, Any]:
    """The request that a recorded client sent to the interpreter."""
    steps = [step for connection in connections(load(name)) for step in connection.steps]
    found: dict[str, Any] = json.loads(next(step.data for step in steps if step.kind == ">text"))
    return found


def refusal(error: DaytonaError) -> list[Any]:
    """The class and the status of an error."""
    return [type(error).__name__, error.status_code]


def downloads(answers: Any) -> dict[str, Any]:
    """Each file's content, or why there is none."""
    return {
        one.source: base64.b64encode(one.result).decode()
        if isinstance(one.result, bytes)
        else [one.error_details.status_code, one.error_details.error_code]
        for one in answers
    }


class Context:
    """Of an interpreter's context a client needs only its id."""

    def __init__(self, id: str) -> None:
        self.id = id


def _interpreted(result: Any) -> dict[str, Any]:
    error = result.error and [result.error.name, result.error.value, result.error.traceback]
    return {"stdout": result.stdout, "stderr": result.stderr, "error": error}


def _options(name: str) -> dict[str, Any]:
    asked = code_of(name)
    context = asked.pop("contextId", None)
    return {**asked, **({"context": Context(context)} if context else {})}


def sync_terminal(sandbox: Any, name: str) -> Any:
    handle = sandbox.process.create_pty_session(name.removeprefix("pty-"), envs=PLAIN, pty_size=SIZE)
    seen = bytearray()
    handle.send_input(typed(name))
    ended = handle.wait(on_data=seen.extend, timeout=30)
    handle.disconnect()
    return {"output": seen.decode(), "exit_code": ended.exit_code, "error": ended.error}


def sync_logs(sandbox: Any, name: str) -> Any:
    out: list[str] = []
    err: list[str] = []
    process = sandbox.process
    asyncio.run(process.get_session_command_logs_async("golden-logs", COMMAND, out.append, err.append))
    logs = process.get_session_command_logs("golden-logs", COMMAND)
    return {"followed": ["".join(out), "".join(err)], "read": [logs.output, logs.stdout, logs.stderr]}


def sync_command(sandbox: Any, name: str) -> Any:
    wanted = SessionExecuteRequest(command=COMMAND_TEXT, run_async=False)
    done = sandbox.process.execute_session_command("golden-command", wanted)
    return [done.cmd_id, done.exit_code, done.stdout, done.stderr]


def sync_upload(sandbox: Any, name: str) -> Any:
    if name.endswith("-stream"):
        sandbox.fs.upload_file_stream(io.BytesIO(UPLOADS[FIRST]), FIRST)
    else:
        sandbox.fs.upload_files([FileUpload(source=data, destination=path) for path, data in UPLOADS.items()])
    return "accepted"


def sync_stop(sandbox: Any, name: str) -> Any:
    # That it returns is the answer; a request on its way may still change the state that is shown.
    sandbox.stop(timeout=30)
    return "over"


async def async_terminal(sandbox: Any, name: str) -> Any:
    seen = bytearray()
    handle = await sandbox.process.create_pty_session(
        name.removeprefix("pty-"), on_data=seen.extend, envs=PLAIN, pty_size=SIZE
    )
    await handle.send_input(typed(name))
    ended = await handle.wait()
    await handle.disconnect()
    return {"output": seen.decode(), "exit_code": ended.exit_code, "error": ended.error}


async def async_logs(sandbox: Any, name: str) -> Any:
    out: list[str] = []
    err: list[str] = []
    process = sandbox.process
    await process.get_session_command_logs_async("golden-logs", COMMAND, out.append, err.append)
    logs = await process.get_session_command_logs("golden-logs", COMMAND)
    return {"followed": ["".join(out), "".join(err)], "read": [logs.output, logs.stdout, logs.stderr]}


async def async_command(sandbox: Any, name: str) -> Any:
    wanted = SessionExecuteRequest(command=COMMAND_TEXT, run_async=False)
    done = await sandbox.process.execute_session_command("golden-command", wanted)
    return [done.cmd_id, done.exit_code, done.stdout, done.stderr]


async def async_upload(sandbox: Any, name: str) -> Any:
    async def pieces() -> AsyncIterator[bytes]:
        yield UPLOADS[FIRST]

    if name.endswith("-stream"):
        await sandbox.fs.upload_file_stream(pieces(), FIRST)
    else:
        files = [FileUpload(source=data, destination=path) for path, data in UPLOADS.items()]
        await sandbox.fs.upload_files(files)
    return "accepted"


async def async_stop(sandbox: Any, name: str) -> Any:
    await sandbox.stop(timeout=30)
    return "over"


def _ask(kinds: dict[str, Any], name: str) -> Any:
    """The question for a transcript: that of its own name, else the longest beginning of it."""
    return kinds[max((kind for kind in kinds if name.startswith(kind)), key=len)]


SYNC: dict[str, Callable[[Any, str], Any]] = {
    "bulk-download": lambda sandbox, _: downloads(
        sandbox.fs.download_files([FileDownloadRequest(source=path) for path in PATHS])
    ),
    "bulk-download-missing": lambda sandbox, _: sandbox.fs.download_file(MISSING),
    "bulk-upload": sync_upload,
    "pty": sync_terminal,
    "session-command": sync_command,
    "session-logs": sync_logs,
    "interpreter": lambda sandbox, name: _interpreted(sandbox.code_interpreter.run_code(**_options(name))),
    "socket-io": sync_stop,
}


async def _async_download(sandbox: Any, name: str) -> Any:
    return downloads(await sandbox.fs.download_files([FileDownloadRequest(source=path) for path in PATHS]))


async def _async_missing(sandbox: Any, name: str) -> Any:
    return await sandbox.fs.download_file(MISSING)


async def _async_code(sandbox: Any, name: str) -> Any:
    return _interpreted(await sandbox.code_interpreter.run_code(**_options(name)))


ASYNC: dict[str, Callable[[Any, str], Awaitable[Any]]] = {
    "bulk-download": _async_download,
    "bulk-download-missing": _async_missing,
    "bulk-upload": async_upload,
    "pty": async_terminal,
    "session-command": async_command,
    "session-logs": async_logs,
    "interpreter": _async_code,
    "socket-io": async_stop,
}


def config(url: str, name: str) -> DaytonaConfig:
    """A client's configuration: it listens to events only where they are what is replayed."""
    key = "wrong" if name == "socket-io-refused" else KEY
    polling = not name.startswith("socket-io")
    return DaytonaConfig(api_key=key, api_url=f"{url}/api", target="local", use_deprecated_polling=polling)


def read_sync(url: str, name: str) -> Any:
    """What the synchronous client makes of the transcript ``name``, served at ``url``."""
    client = Daytona(config(url, name))
    try:
        return _ask(SYNC, name)(client.get(SANDBOX), name)
    except DaytonaError as error:
        return refusal(error)
    finally:
        if client._event_dispatcher is not None and client._event_dispatcher.is_connected:
            # Else it tries to come back for as long as this process lives.
            client._event_dispatcher.disconnect()
        client._sandbox_api.api_client.rest_client.pool_manager.clear()


async def read_async(url: str, name: str) -> Any:
    """What the asynchronous client makes of it."""
    async with AsyncDaytona(config(url, name)) as client:
        try:
            return await _ask(ASYNC, name)(await client.get(SANDBOX), name)
        except DaytonaError as error:
            return refusal(error)
