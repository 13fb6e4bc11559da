"""``%%sandbox --bg``: the cell as a job, which outlives the cell, and the kernel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from daytona_magics.errors import SandboxError, SandboxUsageError

if TYPE_CHECKING:
    from daytona_magics.notebook.card import Table
    from daytona_magics.notebook.job import Job
    from daytona_magics.runtime.channel import Channel
    from daytona_magics.runtime.records import ExecRequest
    from daytona_magics.sandboxes.binding import Binding


def check(options: Any) -> None:
    """Refuse what a job cannot do.

    Raises:
        SandboxUsageError: an option needs the cell to be waited for, or several sandboxes.
    """
    if not options.bg:
        if options.keep is not None:
            raise SandboxUsageError("--keep is for jobs", hint="%%sandbox --bg --keep 2h")
        return
    if options.output:
        raise SandboxUsageError(
            "-o needs the cell's end, and --bg does not wait for it",
            hint="Take what the job made when it has ended: job.result(), or a file by `%sandbox download`.",
        )
    if options.stdin:
        raise SandboxUsageError("--stdin and --bg: nobody sits at a job's keyboard")


def start(shell: Any, options: Any, request: ExecRequest, binding: Binding, channel: Channel) -> Job | None:
    """Hand the cell over; returns its handle, which shows its card, at once."""
    (handle,) = _submit(options, [request], [(binding, channel)])
    if options.out is None:
        return handle
    shell.user_ns[options.out] = handle
    handle._ipython_display_()
    return None


def start_many(
    shell: Any, options: Any, requests: Sequence[ExecRequest], ties: Sequence[tuple[Binding, Channel]]
) -> Table | None:
    """Hand the cell over to several sandboxes; returns the handles as a table, at once.

    Raises:
        SandboxError: one did not take it; the message says in which sandboxes it runs.
    """
    from daytona_magics.notebook.card import Table

    handles = _submit(options, requests, ties)
    rows = [
        (tie.bound().name, job.id, job.name, job.state) for job, (tie, _) in zip(handles, ties, strict=True)
    ]
    table = Table(
        ("sandbox", "job", "cell", "state"),
        rows,
        handles,
        foot="%sandbox logs ID  shows output, %sandbox wait ID  waits, %sandbox cancel ID  ends one.",
    )
    if options.out is None:
        return table
    shell.user_ns[options.out] = table
    return None


def _submit(
    options: Any, requests: Sequence[ExecRequest], ties: Sequence[tuple[Binding, Channel]]
) -> list[Job]:
    from daytona_magics.notebook.job import Job
    from daytona_magics.notebook.status import wait
    from daytona_magics.sandboxes import jobs

    async def submit(tell: Any) -> list[Job]:
        made: list[Job] = []
        for request, (tie, channel) in zip(requests, ties, strict=True):
            try:
                look = await jobs.submit(tie, channel, tell, replace(request, job=True), options.keep or 0.0)
            except SandboxError as error:
                if not made:
                    raise
                running = ", ".join(
                    f"{job.id} in {one.bound().name}" for job, (one, _) in zip(made, ties, strict=False)
                )
                raise SandboxError(f"{tie.bound().name}: {error}; started were {running}") from None
            made.append(Job(tie, look))
        return made

    return wait(
        submit,
        "starting the job",
        quiet=options.quiet,
        cancelled="stopped waiting; the job may have started: `%sandbox jobs` says",
    )
