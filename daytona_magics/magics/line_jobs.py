"""The verbs about what runs, or ran: jobs, logs, wait, cancel, interrupt."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

from daytona_magics import sandboxes
from daytona_magics.errors import SandboxError, SandboxUsageError
from daytona_magics.notebook.card import Table, size
from daytona_magics.notebook.job import Job, length
from daytona_magics.notebook.status import note, wait
from daytona_magics.notebook.terminal import clean
from daytona_magics.runtime.events import Event, Gap, Stream
from daytona_magics.runtime.records import Look
from daytona_magics.sandboxes import files, jobs

#: Lines ``logs`` shows of what was printed between cells, unless told otherwise.
LOG_LINES = 200


def listed(shell: Any, options: Any) -> Table:
    """``%sandbox jobs``"""
    binding = sandboxes.current()

    async def ask(tell: Any) -> list[Look]:
        await binding.rediscover(tell)
        if binding.sandbox is None:
            return []
        return await jobs.listed(await binding.ready(tell))

    known = [one for one in wait(ask, "asking what runs") if options.all or one.context == binding.context]
    handles = [Job(binding, one) for one in known]
    rows = [_row(job, one, options.all) for job, one in zip(handles, known, strict=True)]
    head = ("id", "cell", "kind", "state", "started", "time", "printed", "output")
    return Table(
        (*head, "context") if options.all else head,
        rows,
        handles,
        empty="Nothing runs, and no output is kept.",
        foot="%sandbox logs ID  shows output, %sandbox cancel ID  ends what runs. The newest GiB of output"
        " is kept; what is older makes room."
        if rows
        else "",
    )


def _row(job: Job, one: Look, wide: bool) -> tuple[str, ...]:
    started = time.strftime("%H:%M:%S", time.localtime(one.started)) if _sane(one.started) else ""
    output = "made room" if one.dropped else "kept" if one.kept else ""
    if one.lost and not one.dropped:
        output = f"kept but for {size(one.lost)}"
    kind = ("job" if one.job else "cell") + (f", {one.language}" if one.language != "python" else "")
    row = (job.id, one.name, kind, job.state, started, length(one.seconds), size(one.printed), output)
    return (*row, one.context) if wide else row


def _sane(started: float | None) -> bool:
    return started is not None and 0 <= started < 2**40


def found(name: str | None, shell: Any = None, *, ended: bool = False) -> Job:
    """The job or cell whose id begins so; of None what runs, or with ``ended`` the job that ran last.

    Raises SandboxUsageError.
    """
    binding = sandboxes.current()
    return Job(*wait(lambda tell: jobs.find(binding, tell, name or "", ended=ended), "asking what runs"))


def logs_as_text(name: str | None, options: Any) -> None:
    """``%sandbox logs [ID] [--follow] [-n LINES]``, where it is no view."""
    if name is None and not options.follow:
        if options.to or options.forget or options.all:
            raise SandboxUsageError("of which job or cell?", hint="%sandbox jobs  lists them.")
        _between_cells(LOG_LINES if options.lines is None else options.lines)
        return
    job = found(name)
    if options.forget:
        _forget(job)
    elif options.to:
        _save(job, options.to, options.force)
    else:
        _show(job, options)


def _show(job: Job, options: Any) -> None:
    outcome = job.logs(options.lines, follow=options.follow, all=options.all)
    job.refresh()
    if job.state in ("running", "queued") and not options.follow:
        note(f"{job.name} ({job.id}) is still {job.state}: `%sandbox logs --follow {job.id}` shows the rest.")
    elif (
        outcome is not None and outcome.error is not None and not isinstance(outcome.error, KeyboardInterrupt)
    ):
        from daytona_magics.magics.cell import show_error

        show_error(outcome.error)
    elif outcome is not None and outcome.error is not None:
        note(f"It ended like this: {outcome.error}")


def _between_cells(lines: int) -> None:
    binding = sandboxes.current()
    text = clean(wait(lambda tell: files.between_cells(binding, tell, lines), "reading the log"))
    if text:
        sys.stdout.write(text)
    else:
        note("Nothing was printed between cells.")


def _forget(job: Job) -> None:
    if not job.done():
        raise SandboxUsageError(f"{job.id} is still running", hint=f"%sandbox cancel {job.id}")
    wait(lambda tell: job.forget(), "forgetting")
    note(f"The output of {job.name} ({job.id}) is deleted.")


def _save(job: Job, name: str, force: bool) -> None:
    """Write all of the text that the sandbox has so far, byte for byte; a file is whole or not there."""
    target = Path(name).expanduser()
    if target.exists() and not force:
        raise SandboxUsageError(f"{str(target)!r} exists on this machine", hint="--force overwrites it.")
    if not target.parent.is_dir():
        raise SandboxUsageError(f"there is no folder {str(target.parent)!r} on this machine")
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    counts = {"bytes": 0, "lost": 0}
    try:
        with part.open("xb") as file:

            def write(event: Event) -> None:
                if isinstance(event, Stream):
                    counts["bytes"] += file.write(event.text.encode("utf-8", "surrogateescape"))
                elif isinstance(event, Gap):
                    counts["lost"] += event.bytes

            wait(
                lambda tell: job.stream(write),
                f"fetching the output of {job.id}",
                cancelled="cancelled; nothing was written",
            )
        part.replace(target)
    except OSError as error:
        raise SandboxError(f"{str(target)!r} cannot be written: {error.strerror or error}") from None
    finally:
        part.unlink(missing_ok=True)
    note(f"{counts['bytes']:,} bytes → {target}")
    if counts["lost"]:
        note(f"{counts['lost']:,} bytes of the middle are missing: they were more than a sandbox keeps.")


def wait_(shell: Any, options: Any) -> Any:
    """``%sandbox wait [ID]``"""
    # Whether a job has ended already, when the next cell waits for it, is chance.
    return found(options.id, ended=True).result(options.timeout)


def cancel(shell: Any, options: Any) -> None:
    """``%sandbox cancel ID``"""
    job = found(options.id)
    if job.state not in ("running", "queued"):
        note(f"{job.name} ({job.id}) has ended already: {job.state}.")
        return
    note(f"{job.name} ({job.id}): {job.cancel().rstrip('.')}.")


def interrupt(shell: Any, options: Any) -> None:
    """``%sandbox interrupt [ID]``"""
    job = found(options.id)
    note(f"{job.name} ({job.id}): {clean(wait(lambda tell: job.interrupt(), 'interrupting')).rstrip('.')}.")
