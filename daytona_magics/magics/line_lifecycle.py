"""The verbs about the notebook's own sandbox: create, use, list, info, restart, reset, keep."""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from daytona_magics import sandboxes
from daytona_magics.errors import SandboxUsageError
from daytona_magics.magics import line_git_source, line_git_sync, secrets
from daytona_magics.notebook.card import Card, Table, duration
from daytona_magics.notebook.status import Teller, note, wait
from daytona_magics.sandboxes import actions, labels, reaping, worktree
from daytona_magics.sandboxes.endpoint import engine_facts
from daytona_magics.sandboxes.report import state_of

if TYPE_CHECKING:
    from daytona_magics.sandboxes.binding import Binding


class Handle:
    """A sandbox as a value of the notebook: shows its card, gives access to the SDK's object.

    Attributes:
        sandbox: the SDK's ``AsyncSandbox``; its coroutines run on the package's loop thread.
    """

    def __init__(self, binding: Binding, sandbox: Any, tree: worktree.Worktree | None = None) -> None:
        self.sandbox = sandbox
        self._card = card(binding, sandbox, tree)

    @property
    def id(self) -> str:
        return str(self.sandbox.id)

    @property
    def name(self) -> str:
        return str(self.sandbox.name)

    @property
    def state(self) -> str:
        return state_of(self.sandbox)

    @property
    def labels(self) -> dict[str, str]:
        return dict(self.sandbox.labels or {})

    @property
    def env(self) -> dict[str, str]:
        return dict(self.sandbox.env or {})

    @property
    def cpu(self) -> float:
        """CPUs."""
        return float(self.sandbox.cpu)

    @property
    def memory(self) -> float:
        """GiB."""
        return float(self.sandbox.memory)

    @property
    def disk(self) -> float:
        """GiB."""
        return float(self.sandbox.disk)

    @property
    def gpu(self) -> float:
        return float(self.sandbox.gpu or 0)

    def __repr__(self) -> str:
        return repr(self._card)

    def _repr_html_(self) -> str:
        return self._card._repr_html_()


class SilentHandle(Handle):
    """A handle for those who assign it; what was done has been said already."""

    def _ipython_display_(self) -> None:
        """Nothing to add."""


def card(binding: Binding, sandbox: Any, tree: worktree.Worktree | None = None) -> Card:
    """The card of a sandbox.

    Args:
        tree: where the notebook works in it, when that was looked for.
    """
    endpoint = binding.endpoint
    bound = binding.sandbox is not None and binding.sandbox.id == sandbox.id
    level = sandbox.labels.get(labels.ISOLATION, "")
    where = endpoint.title if endpoint else ""
    embedded = endpoint is not None and endpoint.kind == "embedded"
    facts = engine_facts() if embedded else {}
    if level and embedded:
        where = f"embedded engine, isolation {level}"
    info = binding.channel.info if bound and binding.channel is not None else None
    auto_delete = sandbox.auto_delete_interval
    deletes = "when it stops" if auto_delete == 0 else f"{duration(auto_delete)} after it stopped"
    return Card(
        sandbox.name,
        [
            ("runs on", where),
            ("because", endpoint.reason if endpoint else ""),
            ("id", sandbox.id),
            ("open", "; ".join(facts.get("open") or ()) if level != "L3" else ""),
            ("size", _size(sandbox, facts.get("limits"))),
            ("network", network(sandbox, facts.get("network"), endpoint.kind if endpoint else "")),
            ("Python", info.python if info else ""),
            ("context", binding.context if bound else ""),
            ("folder", tree.folder if tree else ""),
            ("branch", tree.branch if tree else ""),
            ("sync", tree.sync if tree else ""),
            ("pushed", line_git_sync.told(binding) if bound else ""),
            ("GitHub", tree.page if tree else ""),
            ("stops", stops(sandbox)),
            ("deleted", deletes if auto_delete is not None and auto_delete >= 0 else "never by itself"),
            ("created", when(sandbox.created_at)),
        ],
        state=state_of(sandbox),
        foot=()
        if bound
        else ("Not this notebook's sandbox: `%sandbox use " + str(sandbox.name) + "` binds to it.",),
    )


def stops(sandbox: Any) -> str:
    """When it stops by itself, with the time of day if nothing happens before."""
    minutes = sandbox.auto_stop_interval
    if not minutes:
        return "never by itself"
    said = f"after {duration(minutes)} without activity"
    try:
        last = datetime.fromisoformat(str(sandbox.last_activity_at).replace("Z", "+00:00"))
    except ValueError:
        return said
    due = (last + timedelta(minutes=minutes)).astimezone()
    return f"{said}, now at {due:%Y-%m-%d %H:%M}" if state_of(sandbox) == "started" else said


def _size(sandbox: Any, limits: Any) -> str:
    """What the sandbox may use; for the embedded engine with how far each is more than a wish.

    Args:
        limits: the engine's own words, {state, reason} by name; None for another endpoint.
    """
    asked = {
        "cpu": f"{sandbox.cpu:g} CPU",
        "memory": f"{sandbox.memory:g} GiB memory",
        "disk": f"{sandbox.disk:g} GiB disk",
    }
    if not sandbox.cpu:
        return ""
    if not isinstance(limits, dict):
        return ", ".join(asked.values())
    states = {name: (limits.get(name) or {}).get("state", "advisory") for name in asked}
    return ", ".join(f"{text} ({states[name]})" for name, text in asked.items())


def network(sandbox: Any, facts: Any, kind: str) -> str:
    """What the sandbox may reach, by its own settings.

    Args:
        facts: the embedded engine's words about this machine's network, when it has one.
        kind: of the endpoint.
    """
    if kind == "embedded" and not facts:
        return "none"
    if getattr(sandbox, "network_block_all", False):
        return "blocked"
    allowed = [getattr(sandbox, f"{kind}_allow_list", None) for kind in ("network", "domain")]
    listed = ", ".join(item for item in allowed if item)
    if listed:
        return f"only {listed}"
    return {
        "embedded": "public addresses, by HTTP and HTTPS through the engine's proxy",
        # No answer of the cloud's API names the tier.
        "cloud": "as the organization's tier allows: tiers 1 and 2 only essential services, whatever is set "
        "here, tiers 3 and 4 all public addresses",
    }.get(kind, "")


def when(stamp: Any) -> str:
    """In: when("2026-11-21T19:10:50.123Z")  Out: '2026-11-21 19:10:50 UTC'"""
    return (
        re.sub(r"\.\d+", "", str(stamp or ""))
        .replace("T", " ")
        .replace("Z", " UTC")
        .replace("+00:00", " UTC")
    )


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
