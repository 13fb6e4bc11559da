"""The verbs that change the state of sandboxes: start, stop, pause, archive, recover, resize, fork; tree."""

from __future__ import annotations

from typing import Any

from daytona_magics import sandboxes
from daytona_magics.errors import SandboxUsageError
from daytona_magics.magics.handles import Handle, SilentHandle, when
from daytona_magics.notebook.card import Card, Table, size
from daytona_magics.notebook.status import Teller, wait
from daytona_magics.sandboxes import states
from daytona_magics.sandboxes.report import state_of


def _all(options: Any, act: Any, doing: str, said: str) -> Any:
    """Do it to those named, say what became of each, and return handles: one, or a table of several."""
    binding = sandboxes.current()

    async def change(tell: Teller) -> Any:
        boxes = await act(binding, tell, options.names, sure=options.yes)
        tell.note(said.format(", ".join(box.name for box in boxes), "is" if len(boxes) == 1 else "are"))
        return boxes

    boxes = wait(
        change, f"{doing} the sandbox", quiet=options.quiet, cancelled=f"stopped waiting while {doing}"
    )
    if len(boxes) == 1:
        return SilentHandle(binding, boxes[0])
    return table(binding, boxes)


def table(binding: Any, boxes: list[Any]) -> Table:
    """Sandboxes as a table; a sequence of handles for programs."""
    rows = [(box.name, state_of(box), box.id, when(box.created_at)) for box in boxes]
    return Table(("name", "state", "id", "created"), rows, [Handle(binding, box) for box in boxes])


def start(shell: Any, options: Any) -> Any:
    """``%sandbox start [NAME ...]``"""
    return _all(options, states.start, "starting", "{} {} started")


def stop(shell: Any, options: Any) -> Any:
    """``%sandbox stop [--force] [NAME ...]``"""

    def act(binding: Any, tell: Any, names: Any, *, sure: bool) -> Any:
        return states.stop(binding, tell, names, sure=sure, force=options.force)

    kept = "{} {} stopped: variables are lost, files kept"
    return _all(options, act, "stopping", kept if options.names else f"{kept}; the next cell starts it again")


def pause(shell: Any, options: Any) -> Any:
    """``%sandbox pause [NAME ...]``"""
    more = "" if options.names else "; the next cell wakes it"
    return _all(options, states.pause, "pausing", "{} {} paused: variables and processes are kept" + more)


def archive(shell: Any, options: Any) -> Any:
    """``%sandbox archive [NAME ...]``"""
    return _all(options, states.archive, "archiving", "{} {} archived: files are kept")


def recover(shell: Any, options: Any) -> Handle:
    """``%sandbox recover [NAME]``"""
    binding = sandboxes.current()

    async def act(tell: Teller) -> Any:
        box = await states.recover(binding, tell, options.name)
        tell.note(f"{box.name} is {state_of(box)} again: variables are lost, files kept")
        return box

    return SilentHandle(binding, wait(act, "recovering the sandbox", quiet=options.quiet))


def resize(shell: Any, options: Any) -> Handle:
    """``%sandbox resize [NAME] --cpu COUNT --memory GIB --disk GIB``"""
    given = {name: getattr(options, name) for name in ("cpu", "memory", "disk")}
    wanted = {name: value for name, value in given.items() if value is not None}
    if not wanted:
        raise SandboxUsageError(
            "%sandbox resize: nothing to change was given",
            hint="%sandbox resize --cpu 2 --memory 4   (memory and disk in GiB)",
        )
    binding = sandboxes.current()

    async def act(tell: Teller) -> Any:
        box = await states.resize(binding, tell, options.name, wanted, sure=options.yes)
        tell.note(f"{box.name} has {box.cpu:g} CPU, {box.memory:g} GiB memory and {box.disk:g} GiB disk now")
        return box

    return SilentHandle(binding, wait(act, "resizing the sandbox", quiet=options.quiet))


def fork(shell: Any, options: Any) -> Handle:
    """``%sandbox fork [NAME] [--of NAME] [--use]``"""
    binding = sandboxes.current()

    async def act(tell: Teller) -> Any:
        box = await states.fork(binding, tell, options.name, of=options.of, use=options.use, sure=options.yes)
        more = "" if options.use else f"; cells run in it with  %%sandbox -s {box.name}"
        tell.note(f"{box.name} begins with a copy of the files, and with no variables{more}")
        return box

    return Handle(
        binding,
        wait(act, "forking the sandbox", quiet=options.quiet, cancelled="stopped waiting"),
    )


def tree(shell: Any, options: Any) -> Table:
    """``%sandbox tree [NAME]``"""
    binding = sandboxes.current()
    found = wait(lambda tell: states.family(binding, tell, options.name), "asking for the forks")
    bound = binding.sandbox.id if binding.sandbox is not None else ""
    rows = [
        (
            "\u00a0\u00a0" * max(0, depth - 1) + ("└ " if depth else "") + box.name,
            state_of(box),
            when(box.created_at),
            "this notebook's" if box.id == bound else "",
        )
        for depth, box in found
    ]
    return Table(("sandbox", "state", "created", ""), rows, [box for _, box in found])


def resources(shell: Any, options: Any) -> Card:
    """``%sandbox resources [NAME]``"""
    binding = sandboxes.current()
    box, sample = wait(lambda tell: states.usage(binding, tell, options.name), "asking for the resources")
    return Card(
        box.name,
        [
            ("CPU", f"{sample.cpu_used_pct:.0f} % of {box.cpu:g}"),
            ("memory", _share(sample.mem_used, sample.mem_total)),
            ("disk", _share(sample.disk_used, sample.disk_total)),
        ],
        state=state_of(box),
        foot=["`nproc` and `free` in a sandbox may show the machine's figures instead of these limits."],
    )


def _share(used: int, total: int) -> str:
    return f"{size(used)} of {size(total)}" if total else size(used)
