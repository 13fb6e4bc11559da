"""Servers in the sandbox: a command as a background job, and waiting until its port answers.

Nothing of a server is remembered here. It is a job of the sandbox (:mod:`.jobs`) whose name says what it is
and whose id ends with a digest of how it was started, so a restarted kernel, or another one, finds it again
and can tell whether a command asked for anew is the one that runs.

    job's name   serve web :3000 npm run dev          ("-" where it was given no name)
    job's id     16 random hex digits, 16 of the SHA-256 of port, command, folder and variables
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NoReturn

from daytona_magics.errors import SandboxError, SandboxUsageError, printable
from daytona_magics.runtime.records import ExecRequest
from daytona_magics.sandboxes import jobs, listening

if TYPE_CHECKING:
    from daytona_magics.runtime.channel import Channel
    from daytona_magics.runtime.records import Look
    from daytona_magics.sandboxes.binding import Binding
    from daytona_magics.sandboxes.report import Reporter

#: Seconds a server has to answer; between two looks at it; one question to its port.
TIMEOUT, LOOK_EVERY, SLICE = 60.0, 0.25, 2.0
#: Bytes and lines of its output that are shown when it fails; characters of its last line while it starts.
TAIL, LINES, LAST = 8192, 20, 100
#: Characters of a command that its job's name holds.
NAMED = 600
_NAME = re.compile(r"serve (\S{1,64}) :([0-9]{1,5}) (.*)", re.DOTALL)
_COLOURS = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


@dataclass(frozen=True)
class Wanted:
    """What somebody asks for.

    Attributes:
        cwd: folder to run in; None for the folder the notebook's cells are in.
        env: variables beside the notebook's. ``PORT`` is the port unless it is among them.
        keep: seconds the sandbox stays up for it without this kernel; 0 leaves auto-stop as it is.
    """

    command: str
    port: int
    name: str = ""
    cwd: str | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    keep: float = 0.0

    def digest(self) -> str:
        """16 hex digits; the same for the same server."""
        said = json.dumps([self.port, self.command, self.cwd, sorted(self.env.items())])
        return hashlib.sha256(said.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Server:
    """A server of the sandbox, as its job says.

    Attributes:
        name: as it was given, "" for none.
        look: its job, as last seen.
        status: of its first answer's HTTP, None when nobody has asked.
        reused: it was running already.
    """

    name: str
    port: int
    command: str
    look: Look
    status: int | None = None
    reused: bool = False

    @property
    def running(self) -> bool:
        return self.look.state != "done"

    @property
    def label(self) -> str:
        """In: Server("web", 3000, ...).label  Out: 'web (port 3000)'"""
        return f"{self.name} (port {self.port})" if self.name else f"the server on port {self.port}"


def of(look: Look) -> Server | None:
    """The server that a job is, or None."""
    match = _NAME.fullmatch(look.name)
    if match is None or not look.job or not 0 < int(match[2]) < 65536:
        return None
    name = "" if match[1] == "-" else printable(match[1], line=True)
    return Server(name, int(match[2]), printable(match[3], line=True), look)


async def listed(channel: Channel) -> list[Server]:
    """All servers the sandbox knows, those that have ended too, oldest first."""
    return [server for one in await jobs.listed(channel) if (server := of(one)) is not None]


async def find(channel: Channel, what: str) -> Server:
    """The newest server with this name or port; one that runs comes before those that have ended.

    Raises:
        SandboxUsageError: there is none.
    """
    found = [one for one in await listed(channel) if what in (one.name, str(one.port), f":{one.port}")]
    if not found:
        raise SandboxUsageError(
            f"nothing is served as {what!r}", hint="%sandbox serve --list  shows what is."
        )
    return max(found, key=lambda one: (one.running, one.look.started or 0.0))


async def serve(
    binding: Binding, tell: Reporter, wanted: Wanted, *, timeout: float = TIMEOUT, restart: bool = False
) -> Server:
    """Start a server, unless it runs already, and wait until its port gives any HTTP answer.

    Args:
        timeout: seconds it has for that; it is not ended when they are over.
        restart: end what is served on this port or by this name, and start anew.

    Raises:
        SandboxUsageError: the port or the name serves something else.
        SandboxError: it ended, or did not answer in time; its last lines are in the message.
    """
    channel = await binding.ready(tell)
    running = [one for one in await listed(channel) if one.running]
    clashing = [
        one for one in running if one.port == wanted.port or (wanted.name and one.name == wanted.name)
    ]
    same = next((one for one in clashing if one.look.id.endswith(wanted.digest())), None)
    if same is not None and not restart:
        return await _ready(binding, channel, tell, same, timeout, reused=True)
    if clashing and not restart:
        raise SandboxUsageError(
            f"{clashing[0].label} runs another command, or the same in another folder or with other"
            f" variables: {clashing[0].command}",
            hint="--restart ends it and starts this one instead.",
        )
    for one in clashing:
        tell.progress(f"ending {one.label}")
        await stop(channel, one)
    await _free(binding, wanted.port)
    return await _ready(binding, channel, tell, await _begin(binding, channel, tell, wanted), timeout)


async def stop(channel: Channel, server: Server) -> str:
    """End a server and what it started; returns what was done."""
    return await jobs.cancel(channel, server.look)


async def _free(binding: Binding, port: int) -> None:
    """Raises SandboxUsageError, with the program's name, when something listens there."""
    holder = (await listening.ask(binding, 0)).listeners.get(port)
    if holder is not None:
        raise SandboxUsageError(
            f"port {port} is in use in the sandbox by {holder}, which %sandbox serve did not start",
            hint=f"%sandbox preview {port} shows it;  %sandbox exec kill {holder.pid}  ends it.",
        )


async def _begin(binding: Binding, channel: Channel, tell: Reporter, wanted: Wanted) -> Server:
    # What a server prints is read while it runs: Python would keep it back where no terminal is.
    env = {"PORT": str(wanted.port), "PYTHONUNBUFFERED": "1", **binding.env, **wanted.env}
    shown = printable(wanted.command, line=True)[:NAMED]
    request = ExecRequest(
        id=secrets.token_hex(8) + wanted.digest(),
        context=binding.context,
        language="bash",
        code=wanted.command,
        name=f"serve {wanted.name or '-'} :{wanted.port} {shown}",
        cwd=wanted.cwd,
        env=env,
        job=True,
    )
    look = await jobs.submit(binding, channel, tell, request, wanted.keep)
    return Server(wanted.name, wanted.port, shown, look)


async def _ready(
    binding: Binding,
    channel: Channel,
    tell: Reporter,
    server: Server,
    timeout: float,
    *,
    reused: bool = False,
) -> Server:
    """Wait until the server answers, telling how long it still has and what it printed last."""
    loop = asyncio.get_running_loop()
    until = loop.time() + timeout
    asking: asyncio.Task[listening.Answer] | None = None
    try:
        while True:
            left = until - loop.time()
            if asking is None:
                patience = max(1.0, min(listening.ANSWER_WITHIN, left))
                question = listening.ask(
                    binding, server.port, seconds=max(0.0, min(SLICE, left)), patience=patience
                )
                asking = asyncio.ensure_future(question)
            await asyncio.wait({asking}, timeout=LOOK_EVERY)
            look = await channel.look(server.look.id, TAIL)
            if look.state == "done":
                _ended(server, look)
            if asking.done():
                answer, asking = asking.result(), None
                if answer.status is not None:
                    return Server(server.name, server.port, server.command, look, answer.status, reused)
                if loop.time() >= until:
                    _late(server, look, answer, timeout)
            last = lines(look.tail, 1)
            said = f" · {last[0][:LAST]}" if last else ""
            tell.progress(f"{server.label} is starting, {max(0.0, left):.0f} s left{said}")
    finally:
        if asking is not None:
            asking.cancel()


def _ended(server: Server, look: Look) -> NoReturn:
    how = f"exit code {look.exit_code}" if look.exit_code is not None else look.status or "unknown"
    hint = f"%sandbox logs {look.id[:8]}  shows all of its output."
    if look.exit_code == 0:
        hint = f"A server stays in the foreground: leave out a trailing `&` and --daemon. {hint}"
    elif re.search(r"\s--(port|cwd|name|env|timeout|keep)\b", server.command):
        hint = f"Options of %sandbox serve stand before the command. {hint}"
    raise SandboxError(f"{server.label} ended before it answered ({how}){_quoted(look)}", hint=hint)


def _late(server: Server, look: Look, answer: listening.Answer, timeout: float) -> NoReturn:
    why = {
        "tls": f"; port {server.port} speaks HTTPS, and previews need plain HTTP",
        "other": f"; what listens on port {server.port} does not speak HTTP",
        "silent": f"; it listens on port {server.port} and gives no answer",
    }.get(answer.speaks, "")
    others = ", ".join(str(port) for port in answer.listeners if port != server.port)
    if answer.speaks == "closed":
        why = "; nothing listens there" + (f", but on {others}" if others else "")
    raise SandboxError(
        f"{server.label} gave no HTTP answer within {timeout:g} s{why}. It runs on{_quoted(look)}",
        hint=f"%sandbox logs -f {look.id[:8]}  follows its output,"
        f"  %sandbox serve --stop {server.port}  ends it, --timeout SECONDS waits longer.",
    )


def _quoted(look: Look) -> str:
    shown = lines(look.tail, LINES)
    return ":\n" + "\n".join(f"  | {line}" for line in shown) if shown else "; it printed nothing."


def lines(text: str, count: int) -> list[str]:
    """The last lines of a terminal's text, plain, without empty ones."""
    plain = _COLOURS.sub("", text).replace("\r\n", "\n").split("\n")
    shown = [line.rstrip("\r").rpartition("\r")[2] for line in plain]
    return [printable(line, line=True).rstrip() for line in shown if line.strip()][-count:]
