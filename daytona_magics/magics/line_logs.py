"""The verb ``logs``: a view that follows, where widgets are drawn; else, and when asked for, text."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from daytona_magics import sandboxes
from daytona_magics.errors import SandboxError, SandboxUsageError
from daytona_magics.magics import line_jobs
from daytona_magics.notebook.job import Job
from daytona_magics.notebook.status import note, wait
from daytona_magics.notebook.terminal import clean
from daytona_magics.sandboxes import client as sdk
from daytona_magics.sandboxes import files, jobs
from daytona_magics.sandboxes.report import Reporter

if TYPE_CHECKING:
    from daytona_magics.sandboxes.binding import Binding
    from daytona_magics.widgets import LogStream
    from daytona_magics.widgets.log_sources import Source

#: Lines that are shown as text of what is no job, unless told otherwise; bytes of a job's end for the record.
LINES, TAIL = 200, 64 << 10
_TEXTUAL = ("plain", "follow", "lines", "all", "to", "force", "forget")


def logs(shell: Any, options: Any) -> LogStream | None:
    """``%sandbox logs [SOURCE ...] [--plain] [--follow] [-n LINES]``"""
    from daytona_magics.widgets import display

    if options.lines is not None and options.lines < 1:
        raise SandboxUsageError(f"-n {options.lines}: at least one line")
    binding = sandboxes.current()
    textual = any(getattr(options, name) not in (None, False) for name in _TEXTUAL)
    if not textual and display.is_live(binding):
        words = options.sources or _running(binding)
        if words:
            return _view(binding, words)
    _text(shell, binding, options)
    return None


def _running(binding: Binding) -> list[str]:
    """Ids of what runs for this notebook."""

    async def ask(tell: Reporter) -> list[str]:
        await binding.rediscover(tell)
        if binding.sandbox is None:
            return []
        known = await jobs.listed(await binding.ready(tell))
        return [one.id for one in known if one.context == binding.context and one.state == "running"]

    return wait(ask, "asking what runs")


def _view(binding: Binding, words: list[str]) -> LogStream:
    from daytona_magics.widgets.log_stream import LogStream

    tail = ""
    sources: list[Job | Source | str] = []
    for word in words:
        source, end = _source(binding, word)
        sources.append(source)
        tail += end
    return LogStream(*sources, binding=binding, tail=tail)


def _source(binding: Binding, word: str) -> tuple[Job | Source | str, str]:
    """What a word names, and the end of its text where that is known at once."""
    if _is_path(word):
        wait(lambda tell: jobs.here(binding, tell), "connecting")
        return word, ""
    if word == "entrypoint" or word.startswith("session:"):
        return wait(lambda tell: _command(binding, tell, word), f"looking for {word}"), ""
    job = line_jobs.found(word)
    return job, wait(lambda tell: job.tail(TAIL), "reading the log")


def _is_path(word: str) -> bool:
    return word.startswith("~") or ("/" in word and not word.startswith("session:"))


async def _command(binding: Binding, tell: Reporter, word: str) -> Source:
    """The last command of a session, or the entrypoint."""
    from daytona_magics.widgets.log_sources import CommandSource

    await jobs.here(binding, tell)
    sandbox, name = binding.bound(), word.removeprefix("session:")
    try:
        if word == "entrypoint":
            await sandbox.process.get_entrypoint_session()
            return CommandSource("", "", "entrypoint")
        session = await sandbox.process.get_session(name)
    except sdk.error_class() as error:
        if sdk.not_found(error):
            what = "no entrypoint" if word == "entrypoint" else f"no session {name!r}"
            raise SandboxError(f"the sandbox has {what}") from None
        raise sdk.translate(error, f"looking for {word}") from None
    if not session.commands:
        raise SandboxError(f"no command was run in session {name!r} yet")
    last = session.commands[-1]
    return CommandSource(name, last.id or "", f"{name}: {last.command}")


# -- as text -------------------------------------------------------------------------------------------------


def _text(shell: Any, binding: Binding, options: Any) -> None:
    words = options.sources
    if len(words) > 1:
        raise SandboxUsageError("as text one log is shown at a time", hint="%sandbox logs A B  shows a view.")
    word = words[0] if words else None
    special = word is not None and (_is_path(word) or word == "entrypoint" or word.startswith("session:"))
    if not special:
        line_jobs.logs_as_text(word, options)
        return
    if options.follow or options.all or options.to or options.forget:
        raise SandboxUsageError(
            f"{word}: these options are for jobs and cells", hint="%sandbox download PATH  fetches a file."
        )
    assert word is not None
    lines = LINES if options.lines is None else options.lines
    said = clean(wait(lambda tell: _last(binding, tell, word, lines), f"reading {word}"))
    if said:
        sys.stdout.write(said if said.endswith("\n") else said + "\n")
    else:
        note(f"{word}: nothing there yet.")


async def _last(binding: Binding, tell: Reporter, word: str, lines: int) -> str:
    """The last lines of what is no job."""
    if _is_path(word):
        await jobs.here(binding, tell)
        return await files.last_lines(binding, tell, word, lines)
    source: Any = await _command(binding, tell, word)
    process = binding.bound().process
    try:
        if source.session:
            got = await process.get_session_command_logs(source.session, source.command)
        else:
            got = await process.get_entrypoint_logs()
    except sdk.error_class() as error:
        raise sdk.translate(error, f"reading {word}") from None
    text = got.output or (got.stdout or "") + (got.stderr or "")
    return "".join(text.splitlines(keepends=True)[-lines:])
