"""The verbs about the notebook's own sandbox: create, use, list, info, restart, reset, keep."""

from __future__ import annotations

import re
from typing import Any

from daytona_magics import sandboxes
from daytona_magics.errors import SandboxUsageError
from daytona_magics.magics import line_git_source, line_git_sync, secrets
from daytona_magics.magics.handles import Handle, SilentHandle, when
from daytona_magics.notebook.card import Card, Table, duration
from daytona_magics.notebook.status import Teller, note, wait
from daytona_magics.sandboxes import actions, reaping, worktree
from daytona_magics.sandboxes.report import state_of


def status(shell: Any, options: Any) -> Any:
    """The card of the notebook's sandbox, or what the first cell would do."""
    binding = sandboxes.current()

    async def look(tell: Teller) -> tuple[Any, worktree.Worktree | None]:
        return await actions.look(binding, tell), await worktree.look(binding)

    found, tree = wait(look, "asking for the state")
    if found is not None:
        return Handle(binding, found, tree)
    from daytona_magics.sandboxes.endpoint import choose

    choice = choose(binding.config)
    foot = ["The first `%%sandbox` cell creates one; `%sandbox help` lists everything."]
    return Card(
        "No sandbox yet",
        [
            (
                "cells run on",
                {"embedded": "the embedded engine, on this machine"}.get(choice.kind, choice.url),
            ),
            ("because", choice.reason),
        ],
        foot=[*foot, *([choice.offer] if choice.offer else [])],
    )


def create(shell: Any, options: Any) -> Handle | Table:
    """``%sandbox create``"""
    binding = sandboxes.current()
    params: dict[str, Any] = {
        "name": options.name,
        "snapshot": options.snapshot,
        "language": options.language,
        "env_vars": secrets.environment(options.env) or None,
        "auto_stop_interval": options.auto_stop,
        "auto_delete_interval": 0 if options.ephemeral else options.auto_delete,
        "labels": pairs(options.label, "--label"),
        "public": options.public or None,
        "network_block_all": options.network_block_all or None,
        "network_allow_list": options.network_allow_list,
        "domain_allow_list": _domains(options.domain_allow_list),
    }
    chosen = {name: value for name, value in params.items() if value is not None}
    sizes = {name: getattr(options, name) for name in ("cpu", "memory", "disk")}
    size = {name: value for name, value in sizes.items() if value is not None}
    if options.branch is not None and options.repo is None:
        raise SandboxUsageError("--branch goes with --repo")
    if options.include_dirty and options.repo is None:
        raise SandboxUsageError("--include-dirty goes with --repo .")
    if options.include_secrets and not options.include_dirty:
        raise SandboxUsageError("--include-secrets goes with --include-dirty")
    if options.repo is not None:
        if options.count is not None:
            raise SandboxUsageError("--repo makes a branch for this notebook: leave out --count")
        source = line_git_source.source_of(
            options.repo, options.branch, carry=options.include_dirty, secrets=options.include_secrets
        )
    if options.count is not None:
        from daytona_magics.magics.several import create_many

        many: Table = create_many(binding, options.count, chosen, size, quiet=options.quiet)
        return many
    made = wait(
        lambda tell: actions.create(binding, tell, chosen, size),
        "creating a sandbox",
        quiet=options.quiet,
        cancelled="the creation was cancelled; nothing was left behind",
    )
    if options.repo is not None:
        line_git_sync.begin_in_new(shell, binding, source, quiet=options.quiet)
    return Handle(binding, made)


def _domains(typed: str | None) -> str | None:
    if typed is None:
        return None
    from daytona_magics.sandboxes.network import spelled_out

    return ",".join(spelled_out([word.strip() for word in typed.split(",") if word.strip()]))


def pairs(items: list[str] | None, option: str) -> dict[str, str]:
    """In: pairs(["a=1"], "--label") Out: {"a": "1"}"""
    made = {}
    for item in items or ():
        key, equals, value = item.partition("=")
        if not key or not equals:
            raise SandboxUsageError(f"{option} {item}: write KEY=VALUE")
        made[key] = value
    return made


def check_context(name: str) -> None:
    """Refuse what is no name of a context.

    Raises:
        SandboxUsageError: it is none.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", name):
        raise SandboxUsageError(
            f"--context {name!r}: a name has letters, digits, dots and dashes, at most 64 of them"
        )


def use(shell: Any, options: Any) -> Handle:
    """``%sandbox use NAME``, ``%sandbox use --label KEY=VALUE``"""
    binding = sandboxes.current()
    wanted = pairs(options.label, "--label")
    if bool(options.name) == bool(wanted):
        raise SandboxUsageError(
            "%sandbox use takes a name, or labels", hint="%sandbox list  shows the sandboxes and their names."
        )
    if options.context is not None:
        check_context(options.context)
    found = wait(
        lambda tell: actions.use(binding, options.name, tell, wanted=wanted, context=options.context),
        f"looking for {options.name or 'the sandbox'}",
        quiet=options.quiet,
    )
    return Handle(binding, found)


def list_(shell: Any, options: Any) -> Table:
    """``%sandbox list``"""
    binding = sandboxes.current()
    wanted = pairs(options.label, "--label")
    found = wait(lambda tell: actions.listed(binding, tell, wanted, mine=options.mine), "listing sandboxes")
    if options.state:
        found = [box for box in found if state_of(box) == options.state]
    bound = binding.sandbox.id if binding.sandbox is not None else ""
    rows = [
        (
            ("→ " if box.id == bound else "") + box.name,
            state_of(box),
            reaping.owner(binding, box),
            when(box.created_at),
            f"{duration(box.auto_stop_interval)} idle" if box.auto_stop_interval else "never",
        )
        for box in found
    ]
    where = binding.endpoint.title if binding.endpoint else ""
    return Table(
        ("name", "state", "owner", "created", "stops after"),
        rows,
        found,
        empty=f"There are no sandboxes here ({where}).",
        foot=where,
    )


def info(shell: Any, options: Any) -> Any:
    """``%sandbox info [NAME]``"""
    if options.name is None:
        return status(shell, options)
    binding = sandboxes.current()
    return Handle(
        binding, wait(lambda tell: actions.get(binding, options.name, tell), f"looking for {options.name}")
    )


def restart(shell: Any, options: Any) -> Handle:
    """``%sandbox restart``"""
    return _change(options, actions.restart, "restarting", "{} was restarted: variables are lost, files kept")


def _change(options: Any, act: Any, doing: str, said: str) -> Handle:
    binding = sandboxes.current()

    async def change(tell: Teller) -> Any:
        sandbox = await act(binding, tell)
        tell.note(said.format(sandbox.name))
        return sandbox

    return SilentHandle(
        binding,
        wait(change, f"{doing} the sandbox", quiet=options.quiet, cancelled=f"stopped waiting while {doing}"),
    )


def reset(shell: Any, options: Any) -> None:
    """``%sandbox reset [--context NAME | --all]``"""
    if options.context is not None:
        if options.all:
            raise SandboxUsageError("%sandbox reset takes --context NAME or --all, not both")
        check_context(options.context)
    binding = sandboxes.current()
    wait(
        lambda tell: actions.reset(binding, tell, context=options.context or "", everything=options.all),
        "starting new workers",
        quiet=options.quiet,
    )


def keep(shell: Any, options: Any) -> None:
    """``%sandbox keep [DURATION]``"""
    binding = sandboxes.current()
    minutes = minutes_of(options.duration, binding.config.auto_stop)
    wait(lambda tell: actions.keep(binding, tell, minutes), "extending")
    ends = f"after {duration(minutes)} without activity" if minutes else "never by itself"
    kept = binding.bound().auto_delete_interval
    gone = f"; stopped, its files are kept for {duration(kept)}" if kept is not None and kept > 0 else ""
    note(f"{binding.bound().name} now stops {ends}{gone}")


def minutes_of(text: str, default: int) -> int:
    """In: minutes_of("2h", 15), minutes_of("forever", 15), minutes_of("default", 15)  Out: (120, 0, 15)"""
    if text in ("forever", "never"):
        return 0
    if text == "default":
        return default
    found = re.fullmatch(r"(\d+)\s*(m|min|h|d)?", text)
    if not found or not int(found.group(1)):
        raise SandboxUsageError(
            f"%sandbox keep {text}: write a time like 30m, 2h or 1d, or forever, or default"
        )
    return int(found.group(1)) * {"h": 60, "d": 1440}.get(found.group(2) or "m", 1)
