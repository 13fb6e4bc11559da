"""``%%sandbox -s NAME[,NAME...]``: the cell in another sandbox, or in several at once."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from daytona_magics.errors import CellFailed, SeveralFailed

if TYPE_CHECKING:
    from daytona_magics.notebook.results import Results
    from daytona_magics.notebook.several import Run
    from daytona_magics.runtime.channel import Channel
    from daytona_magics.runtime.records import ExecRequest
    from daytona_magics.sandboxes.binding import Binding

Ties = list[tuple["Binding", "Channel"]]


def targets(options: Any) -> Ties:
    """Where the cell runs: the notebook's sandbox, or those of ``--sandbox``; each started, its channel open.

    Raises:
        SandboxUsageError, SandboxGone, SandboxError: one is not there; then the cell runs nowhere.
    """
    from daytona_magics import sandboxes
    from daytona_magics.notebook.status import wait

    main = sandboxes.current()
    cancelled = "cancelled before the cell was sent"
    if options.sandbox is None:
        channel = main.open_channel() or wait(
            main.ready, "getting a sandbox", quiet=options.quiet, cancelled=cancelled
        )
        return [(main, channel)]
    from daytona_magics.sandboxes import several

    wanted = several.names(options.sandbox)
    return several.open_now(main, wanted) or wait(
        lambda tell: several.ready(main, wanted, tell),
        f"getting {options.sandbox}",
        quiet=options.quiet,
        cancelled=cancelled,
    )


def many(options: Any) -> bool:
    """Whether the cell is for several sandboxes, even if only one matches."""
    from daytona_magics.sandboxes import several

    if options.sandbox is None:
        return False
    wanted = several.names(options.sandbox)
    return len(wanted) > 1 or several.is_pattern(wanted[0])


def run_cell(shell: Any, options: Any, request: ExecRequest, ties: Ties) -> Results | None:
    """Run the cell in all of them.

    Args:
        request: the cell; each sandbox gets it under an id of its own, in its own context.
        ties: where.

    Returns:
        the outcomes by sandbox; None with ``--out``, which keeps them.

    Raises:
        SeveralFailed: it failed in at least one, and has ended in all.
        SandboxInterrupted: it was interrupted.
    """
    from daytona_magics.notebook.several import Several

    made = Several(
        [_run(request, tie, channel) for tie, channel in ties],
        timeout=request.timeout,
        capture=options.out is not None,
        quiet=options.quiet,
        trust=ties[0][0].config.trust,
    )
    results = made.run()
    if request.language == "python":
        for outcome in results.values():
            outcome.exit_code = None
    if options.out is not None:
        shell.user_ns[options.out] = results
    if results.failed:
        error = SeveralFailed(results.errors, len(results), results)
        if not options.no_raise or not all(isinstance(one, CellFailed) for one in results.errors.values()):
            raise error
        print("\n".join(error._render_traceback_()), file=sys.stderr)
    return results if options.out is None or options.no_raise else None


def _run(request: ExecRequest, tie: Binding, channel: Channel) -> Run:
    from daytona_magics.notebook.several import Run
    from daytona_magics.runtime.channel import new_id

    own = replace(request, id=new_id(), context=tie.context)
    sandbox = tie.bound()
    return Run(
        name=sandbox.name,
        owner=sandbox.id,
        start=lambda sink, window: tie.run(channel, own, sink, window),
        interrupt=lambda level: channel.interrupt(own.id, level),
        answer=lambda number, answer: channel.answer(
            own.id, number, answer.text, error=answer.error, end=answer.end
        ),
    )
