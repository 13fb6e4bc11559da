"""The verbs about servers in the sandbox: serve, preview."""

from __future__ import annotations

import re
import shlex
from typing import TYPE_CHECKING, Any

from daytona_magics import sandboxes
from daytona_magics.errors import SandboxUsageError
from daytona_magics.magics import grammar, secrets
from daytona_magics.magics.parser import parse
from daytona_magics.notebook.card import Table
from daytona_magics.notebook.server import Server, stop
from daytona_magics.notebook.status import note, wait
from daytona_magics.sandboxes import jobs, previewing, projects, serving

if TYPE_CHECKING:
    from daytona_magics.notebook.card import Card
    from daytona_magics.widgets import Preview

#: How commands spell the port they listen on.
_PORT = re.compile(r"(?:^|\s)(?:--(?:[\w.]+[.-])?port[= ]|-p\s+|http\.server\s+|PORT=)(\d{1,5})(?=\s|$)")


def serve(shell: Any, options: Any) -> Server | Table | Preview | None:
    """``%sandbox serve [--port PORT] COMMAND``, ``--list``, ``--stop NAME|PORT``"""
    options = in_quotes(options, "serve")
    binding = sandboxes.current()
    if options.list or options.stop:
        if options.command or (options.list and options.stop):
            raise SandboxUsageError("--list and --stop each stand alone", hint="%sandbox serve --help")
        if options.list:
            return _listed(binding)
        server = stop(binding, options.stop)
        note(f"{server.label} has ended: {server.state}.")
        return None
    if not (options.command or "").strip():
        _look(binding, options)
    wanted = _wanted(options)
    timeout = serving.TIMEOUT if options.timeout is None else options.timeout
    known = wait(
        lambda tell: serving.serve(binding, tell, wanted, timeout=timeout, restart=options.restart),
        "starting the server",
        cancelled="stopped waiting; the server may be starting: `%sandbox serve --list`",
    )
    server = Server(binding, known)
    # As long as this kernel lives its sandbox stays up for it, as for any job.
    server.job.watch()
    return _shown(binding, known.port, "/", previewing.SIGNED_SECONDS) if options.preview else server


def in_quotes(options: Any, verb: str) -> Any:
    """A command in quotes may have options of ours behind it."""
    text = options.command or ""
    if not text.startswith(("'", '"')):
        return options
    try:
        command, *rest = shlex.split(text)
    except ValueError:
        return options
    # Else the quotes are part of the command line: '/opt/my app/run' --fast
    if not rest and text[-1] == text[0]:
        options.command = command
    elif rest and rest[0] in {flag for option in grammar.BY_NAME[verb].options for flag in option.flags}:
        found = parse(grammar.BY_NAME[verb], shlex.join(rest))
        for name, value in vars(found).items():
            if value not in (None, False) and name != "command":
                setattr(options, name, value)
        options.command = command
        if found.command:
            raise SandboxUsageError(
                f"{found.command!r} stands behind the command", hint=f"%sandbox {verb} --help"
            )
    return options


def _look(binding: Any, options: Any) -> None:
    """Without a command: that of the project in the folder."""
    if options.port is not None:
        previewing.check_port(options.port)
    found = wait(
        lambda tell: projects.look(binding, tell, options.cwd, options.port), "looking at the folder"
    )
    note(f"{found.kind}: `{found.command}`")
    options.command, options.port = found.command, found.port


def _wanted(options: Any) -> serving.Wanted:
    port = options.port
    if port is None:
        said = {int(one) for one in _PORT.findall(options.command)}
        if len(said) != 1:
            raise SandboxUsageError(
                "on which port does it listen?", hint=f"%sandbox serve --port PORT {options.command}"
            )
        port = said.pop()
    if options.name is not None and not re.fullmatch(r"[A-Za-z][\w.-]{0,63}", options.name, re.ASCII):
        raise SandboxUsageError(
            f"--name {options.name}: a name is a letter and then letters, digits, '.', '_' and '-'"
        )
    return serving.Wanted(
        options.command.strip(),
        previewing.check_port(port),
        options.name or "",
        options.cwd,
        secrets.environment(options.env),
        options.keep or 0.0,
    )


def _listed(binding: Any) -> Table:
    async def ask(tell: Any) -> list[serving.Server]:
        await binding.rediscover(tell)
        return [] if binding.sandbox is None else await serving.listed(await binding.ready(tell))

    found = [Server(binding, one) for one in wait(ask, "asking what is served")]
    return Table(
        ("name", "port", "state", "time", "job", "command"),
        [one.row() for one in found],
        found,
        empty="Nothing is served.",
        foot="%sandbox preview PORT  shows one, %sandbox serve --stop PORT  ends one." if found else "",
    )


def preview(shell: Any, options: Any) -> Preview | Card | str:
    """``%sandbox preview PORT [--path PATH] [--static]``, ``--pattern``"""
    if options.pattern:
        if options.port:
            raise SandboxUsageError("--pattern stands for every port", hint="%sandbox preview --pattern")
        return _pattern(sandboxes.current())
    if not options.port:
        raise SandboxUsageError(
            "which port?", hint="%sandbox preview 3000,  %sandbox serve --list  shows what is served."
        )
    port, path = _port(options.port), previewing.check_path(options.path or "/")
    expires = previewing.SIGNED_SECONDS if options.expires is None else options.expires
    if not 10 <= expires <= 86_400:
        raise SandboxUsageError(f"--expires {expires}: 10 to 86400 seconds")
    if options.static:
        return _recorded(sandboxes.current(), port, path)
    return _shown(sandboxes.current(), port, path, expires)


def _pattern(binding: Any) -> str:
    async def ask(tell: Any) -> str:
        return await previewing.pattern(await binding.usable(tell))

    return wait(ask, "asking for an address")


def _port(text: str) -> int:
    """A port, or the name of what is served."""
    if text.removeprefix(":").isdigit() or not re.match(r"[A-Za-z]", text):
        return previewing.check_port(text)
    binding = sandboxes.current()

    async def ask(tell: Any) -> serving.Server:
        return await serving.find(await jobs.here(binding, tell), text)

    return wait(ask, f"looking for {text}").port


def _recorded(binding: Any, port: int, path: str) -> Card:
    from daytona_magics.notebook.card import Card
    from daytona_magics.widgets.preview import described, seen_now

    seen = wait(lambda tell: seen_now(binding, tell, port, path), f"asking port {port}")
    facts = [("port", port), ("path", path), *(("page", line) for line in described(seen))]
    return Card(f"Preview of port {port}", facts, "ok" if seen.answered else "failed", seen.text.splitlines())


def _shown(binding: Any, port: int, path: str, seconds: int) -> Preview:
    from daytona_magics.widgets.preview import Preview, seen_now

    # Asked for by name: what is stopped is started, and what is missing made, before anything is shown.
    seen = wait(lambda tell: seen_now(binding, tell, port, path), f"asking port {port}")
    return Preview(port, path, binding=binding, seconds=seconds, seen=seen)
