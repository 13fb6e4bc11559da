"""``%%sandbox --bg``: the cell as a job, which outlives the cell, and the kernel."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from daytona_magics.errors import SandboxUsageError

if TYPE_CHECKING:
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
    if options.sandbox is not None and any(mark in options.sandbox for mark in ",*?=["):
        raise SandboxUsageError("--bg starts one job: name one sandbox with -s")


def start(shell: Any, options: Any, request: ExecRequest, binding: Binding, channel: Channel) -> Job | None:
    """Hand the cell over; returns its handle, which shows its card, at once."""
    from daytona_magics.notebook.job import Job
    from daytona_magics.notebook.status import wait
    from daytona_magics.sandboxes import jobs

    job = replace(request, job=True)
    look = wait(
        lambda tell: jobs.submit(binding, channel, tell, job, options.keep or 0.0),
        "starting the job",
        quiet=options.quiet,
        cancelled="stopped waiting; the job may have started: `%sandbox jobs` says",
    )
    handle = Job(binding, look)
    if options.out is None:
        return handle
    shell.user_ns[options.out] = handle
    handle._ipython_display_()
    return None
