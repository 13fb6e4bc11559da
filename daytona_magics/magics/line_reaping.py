"""``%sandbox reap`` and ``%sandbox delete``."""

from __future__ import annotations

from typing import Any

from daytona_magics import sandboxes
from daytona_magics.errors import SandboxError, SandboxUsageError
from daytona_magics.magics import line_git_sync
from daytona_magics.magics.handles import when
from daytona_magics.notebook.card import Table, counted, duration
from daytona_magics.notebook.status import note, wait
from daytona_magics.sandboxes import actions, reaping


def reap(shell: Any, options: Any) -> Table:
    """``%sandbox reap [--delete] [--dry-run]``"""
    if options.delete and options.dry_run:
        raise SandboxUsageError("%sandbox reap: --delete and --dry-run contradict each other")
    binding = sandboxes.current()
    found = wait(
        lambda tell: reaping.reap(binding, tell, delete=options.delete, look_only=options.dry_run),
        "looking for sandboxes of earlier kernels",
        quiet=options.quiet,
        cancelled="stopped waiting; what was reaped stays reaped",
    )
    return _table(
        found,
        foot=""
        if options.delete or options.dry_run
        else "Files are kept: `%sandbox use NAME` continues one, `%sandbox reap --delete` deletes all.",
        empty="No earlier kernel of this machine left anything.",
    )


def _table(found: list[reaping.Reaped], *, foot: str, empty: str) -> Table:
    rows = [
        (one.sandbox.name, one.state, one.done, when(one.sandbox.created_at), _deleted(one.sandbox))
        for one in found
    ]
    return Table(("name", "was", "now", "created", "deletes itself"), rows, found, empty=empty, foot=foot)


def _deleted(box: Any) -> str:
    minutes = box.auto_delete_interval
    if minutes is None or minutes < 0:
        return "never"
    return "when it stops" if minutes == 0 else f"{duration(minutes)} after it stopped"


def delete(shell: Any, options: Any) -> Table | None:
    """``%sandbox delete [NAME ...] [--all --yes]``"""
    binding = sandboxes.current()
    if options.all:
        return _delete_all(binding, options)
    if binding.sandbox is not None and {*options.names} <= {binding.sandbox.name, binding.sandbox.id}:
        line_git_sync.before_delete(binding, sure=options.yes)
    wait(
        lambda tell: actions.delete(binding, tell, options.names, sure=options.yes),
        "deleting the sandbox",
        quiet=options.quiet,
        cancelled="stopped waiting while deleting",
    )
    return None


def _delete_all(binding: Any, options: Any) -> Table:
    if options.names:
        raise SandboxUsageError("%sandbox delete: name sandboxes, or write --all, not both")
    if not options.yes:
        raise SandboxUsageError(
            "%sandbox delete --all deletes every sandbox of this kernel and of dead kernels of this machine",
            hint="To do that:  %sandbox delete --all --yes    To look first:  %sandbox list --mine",
        )
    found, left = wait(
        lambda tell: reaping.delete_all(binding, tell),
        "deleting sandboxes",
        quiet=options.quiet,
        cancelled="stopped waiting; what was deleted stays deleted",
    )
    if left and not options.quiet:
        names = ", ".join(box.name for box in left[:10]) + (", …" if len(left) > 10 else "")
        note(f"{counted(len(left), 'sandbox')} left to living or unknown kernels: {names}")
    failed = [one for one in found if not one.ok]
    if failed:
        raise SandboxError(
            f"{len(failed)} of {len(found)} could not be deleted: "
            + "; ".join(f"{one.sandbox.name} {one.done}" for one in failed)
        )
    return _table(found, foot="", empty="There was nothing to delete.")
