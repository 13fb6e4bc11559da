"""``%%sandbox -s NAME[,NAME...]``: the cell in another sandbox, or in several at once."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from daytona_magics.errors import CellFailed, SandboxError, SandboxUsageError, SeveralFailed
from daytona_magics.magics import background

if TYPE_CHECKING:
    from daytona_magics.magics.variables import Carrier
    from daytona_magics.notebook.card import Table
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

    main = sandboxes.current()
    channel = main.open_channel()
    if channel is not None and options.sandbox is None:
        return [(main, channel)]
    from daytona_magics.notebook.status import wait

    cancelled = "cancelled before the cell was sent"
    if channel is None:
        from IPython import get_ipython

        from daytona_magics.magics.line_login import ask_if_missing

        ask_if_missing(get_ipython())
    if options.sandbox is None:
        return [(main, wait(main.ready, "getting a sandbox", quiet=options.quiet, cancelled=cancelled))]
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


def run_cell(
    shell: Any, options: Any, request: ExecRequest, ties: Ties, carrier: Carrier
) -> Results | Table | None:
    """Run the cell in all of them.

    Args:
        request: the cell; each sandbox gets it under an id of its own, in its own context.
        ties: where.
        carrier: what it brings to all of them, and gives: by name, what each sandbox gave.

    Returns:
        the outcomes by sandbox, or the jobs with ``--bg``; None with ``--out``, which keeps them.

    Raises:
        SeveralFailed: it failed in at least one, and has ended in all.
        SandboxInterrupted: it was interrupted.
    """
    from daytona_magics.notebook.several import Several
    from daytona_magics.runtime.records import new_id

    context = getattr(options, "context", None)
    own = [
        replace(loaded, id=new_id(), context=context or tie.context)
        for loaded, (tie, _) in zip(carrier.loaded_all(request, [tie for tie, _ in ties]), ties, strict=True)
    ]
    if options.bg:
        return background.start_many(shell, options, own, ties)
    carriers = [carrier.another() for _ in ties]
    made = Several(
        [_run(*one, *tie) for one, tie in zip(zip(own, carriers, strict=True), ties, strict=True)],
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
    if not results.failed or options.no_raise:
        shell.user_ns.update(_given(ties, carriers, results))
    if results.failed:
        error = SeveralFailed(results.errors, len(results), results)
        if not options.no_raise or not all(isinstance(one, CellFailed) for one in results.errors.values()):
            raise error
        print("\n".join(error._render_traceback_()), file=sys.stderr)
    return results if options.out is None or options.no_raise else None


def _given(ties: Ties, carriers: list[Carrier], results: Results) -> dict[str, dict[str, Any]]:
    """The variables that were asked for, each a dictionary by sandbox of those where the cell ended well."""
    given: dict[str, dict[str, Any]] = {}
    for (tie, _), carrier in zip(ties, carriers, strict=True):
        name = tie.bound().name
        if results[name].ok:
            for variable, value in carrier.taken(tie).items():
                given.setdefault(variable, {})[name] = value
    return given


def _run(own: ExecRequest, carrier: Carrier, tie: Binding, channel: Channel) -> Run:
    from daytona_magics.notebook.several import Run
    from daytona_magics.sandboxes import executing

    sandbox = tie.bound()
    return Run(
        name=sandbox.name,
        owner=sandbox.id,
        start=lambda sink, window: executing.execute(
            tie, channel, own, carrier.watched(sink, window), window
        ),
        interrupt=lambda level: channel.interrupt(own.id, level),
        answer=lambda number, answer: channel.answer(
            own.id, number, answer.text, error=answer.error, end=answer.end
        ),
    )


def create_many(
    binding: Binding, count: int, params: dict[str, Any], size: dict[str, int], *, quiet: bool
) -> Any:
    """``%sandbox create -n COUNT``: the sandboxes side by side, as a table of handles.

    Raises:
        SandboxUsageError: a count or names that cannot be.
        SandboxError: some could not be created; the message names them, those that exist, and what to do.
    """
    from daytona_magics.magics.line_states import table
    from daytona_magics.notebook.status import wait
    from daytona_magics.sandboxes import labels, making
    from daytona_magics.sandboxes.several import MOST

    if not 1 <= count <= MOST:
        raise SandboxUsageError(f"-n {count}: between 1 and {MOST} sandboxes can be created at once")
    pattern = params.pop("name", None) or f"{labels.make_name(binding.who().title)}-{{i}}"
    if "{i}" not in pattern and count > 1:
        pattern += "-{i}"
    names = [pattern.replace("{i}", str(number)) for number in range(1, count + 1)]
    found = wait(
        lambda tell: making.create_many(binding, tell, names, params, size),
        f"creating {count} sandboxes",
        quiet=quiet,
        cancelled="the creation was cancelled; nothing was left behind",
    )
    made = {name: box for name, box in found.items() if not isinstance(box, SandboxError)}
    failed = {name: error for name, error in found.items() if isinstance(error, SandboxError)}
    if failed:
        said = "; ".join(f"{name}: {error}" for name, error in failed.items())
        exist = f"{', '.join(made)} exist. " if made else ""
        raise SandboxError(
            f"{len(failed)} of {count} sandboxes could not be created: {said}",
            hint=f"{exist}Once more:  " + "  ".join(f"%sandbox create -n 1 --name {name}" for name in failed),
        )
    return table(binding, list(made.values()))
