"""``%%sandbox``: run the body of a cell in the notebook's sandbox."""

from __future__ import annotations

import sys
import traceback
from typing import TYPE_CHECKING, Any

from daytona_magics.errors import CellFailed, SandboxInterrupted, SandboxUsageError
from daytona_magics.magics import (
    background,
    cell_files,
    grammar,
    helptext,
    languages,
    secrets,
    several,
    variables,
    whole,
)
from daytona_magics.magics.parser import HelpWanted, parse

if TYPE_CHECKING:
    from daytona_magics.notebook.outcome import CellOutput
    from daytona_magics.notebook.pump import Pump
    from daytona_magics.runtime.channel import Channel
    from daytona_magics.runtime.records import ExecRequest
    from daytona_magics.sandboxes.binding import Binding


def run_cell(shell: Any, line: str, body: str | None, *, carried: bool = False) -> Any:
    """Run a cell in the sandbox.

    Args:
        shell: the InteractiveShell.
        line: what follows ``%%sandbox`` on its line.
        body: the rest of the cell; None or blank runs nothing.
        carried: the magic is not in the notebook: the body is the whole cell, and a mark says where it ran.

    Returns:
        the last expression's value as a :class:`RemoteValue`, which becomes ``Out[n]``; None without one;
        a :class:`CellOutput` with ``--no-raise``; with several sandboxes always the outcomes of all.

    Raises:
        RemoteError, ExitCodeError, CellTimeout, WorkerDied: the cell failed in the sandbox.
        SandboxInterrupted: it was interrupted, and the sandbox knows.
        SandboxError: there is no way to a sandbox. The cell never runs on the host instead.
    """
    from daytona_magics.notebook.card import Help

    if cell_files.is_verb(line):
        return cell_files.run_verb(shell, line, body)
    try:
        options = parse(grammar.CELL, line)
    except HelpWanted as wanted:
        return Help(helptext.of(wanted.command))
    except SandboxUsageError as error:
        raise variables.explained(line, error) from None
    body = languages.prepare(options, body)
    if body is None or not body.strip():
        _checked(shell, options)
        return Help(f"The cell is empty: nothing was run.\n\n{helptext.of(grammar.CELL)}")
    code = body if carried else "\n" + body
    return run_prepared(shell, options, code, f"Cell In[{cell_number(shell)}]", carried=carried)


def _checked(shell: Any, options: Any) -> tuple[dict[str, str], variables.Carrier]:
    """The cell's environment and what it carries; wrong options are found before anything is done."""
    if options.out is not None and not options.out.isidentifier():
        raise SandboxUsageError(f"--out {options.out}: not a variable name")
    background.check(options)
    return secrets.environment(options.env), variables.carrier(shell, options)


def run_prepared(shell: Any, options: Any, code: str, name: str, *, carried: bool = False) -> Any:
    """Run code under settled options (:func:`.languages.prepare`); returns and raises as :func:`run_cell`.

    Args:
        code: begins with the magic's own line, empty, where there is one, so that numbers in tracebacks are
            those of the cell as it stands in the notebook.
        name: the file name tracebacks show.
    """
    env, carrier = _checked(shell, options)
    try:
        ties = languages.tried(options, lambda: several.targets(options))
        request = _request(shell, options, env, code, name, ties[0][0])
        if several.many(options):
            return several.run_cell(shell, options, request, ties, carrier)
        loaded = carrier.loaded(request, ties[0][0])
        if options.bg:
            return background.start(shell, options, loaded, *ties[0])
        found = [ties[0]]
        outcome, pump = languages.tried(
            options,
            lambda: _run(
                options, loaded, carried, carrier, *(found.pop() if found else several.targets(options)[0])
            ),
        )
        if outcome.error is None:
            shell.user_ns.update(carrier.taken(ties[0][0]))
    except SandboxInterrupted:
        raise
    except KeyboardInterrupt:
        # Between two waits the interrupt is Python's own; the reader gets the same words either way.
        raise SandboxInterrupted("interrupted before the cell was sent, or after it had ended") from None
    if options.out is not None:
        shell.user_ns[options.out] = outcome
    if outcome.error is not None:
        if options.no_raise and isinstance(outcome.error, CellFailed):
            show_error(outcome.error)
            pump.show_behind()
            return outcome
        if pump.behind:
            _when_shown(shell, pump)
        raise outcome.error
    if options.no_raise:
        return outcome
    return None if options.out is not None else outcome.result


def _request(
    shell: Any, options: Any, env: dict[str, str], code: str, name: str, binding: Binding
) -> ExecRequest:
    from daytona_magics.runtime.channel import ExecRequest, new_id

    return ExecRequest(
        id=new_id(),
        context=options.context or binding.context,
        **languages.fields(options),
        code=code,
        name=name,
        cwd=options.cwd,
        env={**binding.env, **env},
        timeout=binding.config.timeout if options.timeout is None else options.timeout,
        number=cell_number(shell),
    )


def _run(
    options: Any,
    request: ExecRequest,
    carried: bool,
    carrier: variables.Carrier,
    binding: Binding,
    channel: Channel,
) -> tuple[CellOutput, Pump]:
    from daytona_magics.notebook import flow, spool
    from daytona_magics.notebook.pump import Pump
    from daytona_magics.sandboxes import executing

    if carried and not options.quiet:
        whole.mark(whole.called(binding.bound().name))
    pump = Pump(
        lambda sink, window: executing.begin(
            binding, channel, request, carrier.watched(sink, window), window, keep_above=flow.KEEP_ABOVE
        ),
        lambda level: channel.interrupt(request.id, level),
        lambda number, answer: channel.answer(
            request.id, number, answer.text, error=answer.error, end=answer.end
        ),
        owner=binding.bound().id,
        timeout=request.timeout,
        capture=options.out is not None,
        quiet=options.quiet,
        trust=binding.config.trust,
        flow=flow.Flow(
            flow.limits(binding.config), spool.ChannelSpool(channel, request.id), quiet=options.quiet
        ),
    )
    outcome = pump.run()
    if pump.cleared and carried and not options.quiet:
        whole.mark(whole.called(binding.bound().name))
    if options.language in ("python", "fresh"):
        outcome.exit_code = None
    return outcome, pump


def _when_shown(shell: Any, pump: Pump) -> None:
    """IPython shows the error that is about to be raised; what the cell sent after it follows."""

    def follow(result: Any = None) -> None:
        shell.events.unregister("post_run_cell", follow)
        pump.show_behind()

    shell.events.register("post_run_cell", follow)


def cell_number(shell: Any) -> int:
    """The number in this cell's ``In[n]``. IPython 9 counts up before running a cell, 8 after it; the list
    of inputs has grown by this cell in both."""
    history = getattr(getattr(shell, "history_manager", None), "input_hist_raw", None)
    return len(history) - 1 if history else int(getattr(shell, "execution_count", 0))


def show_error(error: BaseException) -> None:
    render = getattr(error, "_render_traceback_", None)
    lines = render() if render else traceback.format_exception_only(error)
    print("\n".join(lines), file=sys.stderr)
