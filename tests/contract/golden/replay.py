"""Transcripts served to the three clients: who reads which, and what the TypeScript program is told."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.contract.golden.readers import (
    COMMAND_TEXT,
    PATHS,
    PLAIN,
    code_of,
    config,
    read_async,
    read_sync,
    typed,
)
from tests.contract.golden.scenarios import SENDERS, STREAM_SENDERS, UPLOADS
from tests.contract.golden.scripted_server import COMMAND, SANDBOX, ScriptedServer, ServerLoop
from tests.contract.golden.transcript import FOLDER, Step, load
from tests.typescript import node_sdk

CLIENTS = ("python", "python-async", "typescript")


def names() -> list[str]:
    """The recorded transcripts."""
    return sorted(path.stem for path in FOLDER.glob("*.txt"))


def reads(client: str, name: str) -> bool:
    """Whether a transcript is for this client: what a sender sent is for that sender only."""
    sender = name.removeprefix("bulk-upload-")
    return sender not in (*SENDERS, *STREAM_SENDERS) or sender.removesuffix("-stream") == client


@contextmanager
def serving(
    transcripts: dict[str, list[Step]], sandbox: dict[str, Any], check: bool = True
) -> Iterator[dict[str, ScriptedServer]]:
    """A server for each transcript."""
    with ServerLoop() as loop:
        servers = {
            name: ScriptedServer(
                loop, steps, sandbox, "poll" if name == "socket-io-refused" else "event", check
            )
            for name, steps in transcripts.items()
        }
        try:
            yield servers
        finally:
            for server in servers.values():
                server.close()


def read(client: str, servers: dict[str, ScriptedServer]) -> dict[str, Any]:
    """What ``client`` makes of each transcript."""
    urls = {name: server.url for name, server in servers.items()}
    if client == "python":
        return {name: read_sync(url, name) for name, url in urls.items()}
    if client == "python-async":
        return asyncio.run(_all(urls))
    asked = [_asked(name, url) for name, url in urls.items()]
    with node_sdk.programs() as folder:
        done = node_sdk.run(folder, "replay.mjs", env={}, stdin=json.dumps(asked))
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    return told


async def _all(urls: dict[str, str]) -> dict[str, Any]:
    return {name: await read_async(url, name) for name, url in urls.items()}


def _asked(name: str, url: str) -> dict[str, Any]:
    asked = {
        "name": name,
        "url": url,
        "key": config(url, name).api_key,
        "sandbox": SANDBOX,
        "paths": PATHS,
        "files": {path: base64.b64encode(data).decode() for path, data in UPLOADS.items()},
        "envs": PLAIN,
        "command": COMMAND_TEXT,
        "number": COMMAND,
    }
    if name.startswith("pty-"):
        asked["typed"] = base64.b64encode(typed(name)).decode()
    if name.startswith("interpreter-"):
        asked["asked"] = code_of(name)
    return asked


def recorded(client: str) -> dict[str, list[Step]]:
    """The transcripts for ``client``."""
    return {name: load(name) for name in names() if reads(client, name)}
