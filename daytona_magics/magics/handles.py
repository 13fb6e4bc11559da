"""A sandbox as a value of the notebook, and the card that shows it.

A handle draws its card when it is made: what is shown later is how the sandbox stood then.
"""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from daytona_magics.magics import line_git_sync
from daytona_magics.notebook.card import Card, duration
from daytona_magics.sandboxes import labels, worktree
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
            ("size", size(sandbox, facts.get("limits"))),
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


def size(sandbox: Any, limits: Any) -> str:
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
