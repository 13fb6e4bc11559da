"""Keeping the panel's figures true while somebody looks, at little cost.

Changes of state come as events: the SDK's objects are subscribed to them, so their state is right without
asking. Here they are only compared with what was shown, a few times a second, which asks nobody. What no
event tells (resources, deadlines, ports, what others made) is asked for in turn, at most one request in
``EVERY`` seconds; the guest is asked only when something of it runs or has just ended, because a question to
it counts as activity, and looking must not keep a sandbox awake.

A page that shows the panel says so, and again every minute; when nobody has said it for a while, or the view
is out of sight, the watch ends and nothing is asked at all.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from daytona_magics.errors import SandboxGone, SandboxUnreachable
from daytona_magics.notebook.card import size
from daytona_magics.runtime import decode
from daytona_magics.sandboxes import actions, glances
from daytona_magics.sandboxes import client as sdk
from daytona_magics.sandboxes.report import Silent, state_of
from daytona_magics.widgets import panel_facts as facts

if TYPE_CHECKING:
    from daytona_magics.notebook.mode import Mode
    from daytona_magics.sandboxes.binding import Binding

#: Seconds between two requests (with those of :mod:`.watching` at most one in five); between two comparisons;
#: that a view counts as seen without saying so again.
EVERY, LOOK, LEASE = 7.0, 0.3, 90.0
#: Seconds between two questions of a kind; in between it is another's turn.
PERIODS = {"resources": 5.0, "box": 10.0, "guest": 5.0, "ports": 20.0, "processes": 30.0, "others": 60.0}
#: Samples of the sparklines that are kept.
SAMPLES = 120

Push = Callable[[str, dict[str, Any]], None]


class Watcher:
    """Watches one binding for the views of one panel. On the loop thread.

    Args:
        binding: whose sandbox.
        mode: where the notebook's cells run; None where that is not known.
        push: called with "view", "resources", "inside" or "others" and what the page shall show.

    Attributes:
        doing: what is being done now, told to the page; "" when nothing is.
        boxes: the sandboxes of the list, by id.
    """

    def __init__(self, binding: Binding, mode: Mode | None, push: Push) -> None:
        self.binding, self._mode, self._push = binding, mode, push
        self.doing, self.opens = "", [""]
        self.boxes: dict[str, Any] = {}
        self._views: dict[str, tuple[float, frozenset[str]]] = {}
        self._shown: dict[str, dict[str, Any]] = {}
        self._asked: dict[str, float] = {}
        self._next = 0.0
        self._problem: dict[str, str] = {}
        self._looked = binding.sandbox is not None
        self._of: Any = None
        self._carrying: tuple[str, ...] = ()
        self._running = False
        self._samples: list[list[float]] = []
        self._totals: dict[str, str] = {}
        self._inside: dict[str, Any] = {}
        self._states: dict[str, str] = {}
        self._task: asyncio.Task[None] | None = None
        self._listing: asyncio.Task[None] | None = None

    # -- who looks -------------------------------------------------------------------------------------------

    def seen(self, view: str, opened: frozenset[str]) -> None:
        """A view is on somebody's screen, with these parts open."""
        before = self.opened
        self._views[view] = time.monotonic() + LEASE, opened
        if len(self._views) > 100:
            self._views.pop(next(iter(self._views)))
        for part in self.opened - before:
            self._asked.pop(part, None)
        if self._task is None or self._task.done():
            self._task = asyncio.ensure_future(self._watch())

    def unseen(self, view: str) -> None:
        """It is not any more."""
        self._views.pop(view, None)

    @property
    def opened(self) -> frozenset[str]:
        """The parts that somebody has open and in sight."""
        now = time.monotonic()
        parts = [opened for until, opened in self._views.values() if until > now]
        return frozenset().union(*parts, ("resources",)) if parts else frozenset()

    @property
    def seen_at(self) -> float:
        """When somebody last had it in sight, by the monotonic clock."""
        return time.monotonic() if self.opened else float("-inf")

    def close(self) -> None:
        """Nobody looks any more, for good."""
        self._views.clear()
        if self._task is not None:
            self._task.cancel()

    # -- the watch -------------------------------------------------------------------------------------------

    async def _watch(self) -> None:
        if not self._looked:
            await self._first()
        while self.opened:
            self.compare()
            part = self._due()
            # What somebody has just opened is asked for at once, what is only kept up to date in turn.
            if part and not self.doing and (part not in self._asked or time.monotonic() >= self._next):
                asked = await self._ask(part)
                self._next = time.monotonic() + EVERY * asked
            await asyncio.sleep(LOOK)

    async def _first(self) -> None:
        """Find this kernel's sandbox, if there is one; starts and makes nothing."""
        await self._guarded(actions.look(self.binding, Silent()))
        self._looked = True

    def compare(self) -> None:
        """Show what has changed; asks nobody."""
        box, channel = self.binding.sandbox, self.binding.channel
        if box is not self._of:
            self._of = box
            self._samples, self._totals, self._inside = [], {}, {}
            self._asked = {key: at for key, at in self._asked.items() if key == "others"}
            self._problem = {}
            self._show("resources", {"samples": [], "totals": {}})
            self._show("inside", {})
        carrying = channel.carrying if channel is not None and not channel.closed else ()
        if carrying != self._carrying:
            self._carrying = carrying
            self._asked.pop("guest", None)
            self._next = min(self._next, time.monotonic() + LOOK)
            self._running = self._running or bool(carrying)
        self._show("view", self.view())
        states = {key: state_of(one) for key, one in self.boxes.items()}
        if states != self._states:
            self._states = states
            self._listing = asyncio.ensure_future(self.show_others())

    def view(self) -> dict[str, Any]:
        """What the head of the panel shows now."""
        mode, box = self._mode, self.binding.sandbox
        gone = self.binding.gone or (box is not None and state_of(box) == "destroyed")
        return {
            "phase": "gone"
            if gone
            else "bound"
            if box is not None
            else "none"
            if self._looked
            else "looking",
            "box": facts.bound(self.binding, box) if box is not None else None,
            "mode": {
                "there": mode is not None,
                "on": mode is not None and mode.on,
                "tagged": mode is not None and mode.tagged,
            },
            "line": self.binding.channel is not None and not self.binding.channel.closed,
            "problem": self._problem,
            "doing": self.doing,
            "opens": list(self.opens),
        }

    def _show(self, part: str, value: dict[str, Any]) -> None:
        if self._shown.get(part) != value:
            self._shown[part] = value
            self._push(part, {**value, "now": time.time()})

    # -- asking ----------------------------------------------------------------------------------------------

    def _due(self) -> str:
        """What is most overdue of what somebody wants to see; "" for nothing."""
        now, opened = time.monotonic(), self.opened
        box = self.binding.sandbox
        there = box is not None and not self.binding.gone
        started = there and state_of(box) == "started"
        wanted = {
            "box": there and bool(self._problem),
            "resources": started and not self._problem,
            "guest": started and self._line() and ("guest" not in self._asked or self._running),
            "ports": started and "ports" in opened,
            "processes": started and "processes" in opened,
            "others": "others" in opened and self.binding.client is not None,
        }
        late = {
            part: now - self._asked.get(part, -1e9) - PERIODS[part] for part, want in wanted.items() if want
        }
        part = max(late, key=lambda one: late[one], default="")
        return part if part and late[part] >= 0 else ""

    def _line(self) -> bool:
        channel = self.binding.channel
        return channel is not None and not channel.closed

    async def _ask(self, part: str) -> int:
        """Ask for a part; returns how many requests that took."""
        self._asked[part] = time.monotonic()
        ask: Callable[[], Awaitable[int]] = getattr(self, f"_ask_{part}")
        return await self._guarded(ask()) or 1

    async def _guarded(self, call: Awaitable[Any]) -> Any:
        """Await; what goes wrong becomes what the panel says."""
        try:
            value = await call
        except SandboxGone as error:
            self._problem = _told("gone", error)
        except SandboxUnreachable as error:
            self._problem = _told("unreachable", error)
        except Exception as error:  # noqa: BLE001 - a sandbox's answers are anything, and the watch goes on
            box = self.binding.sandbox
            # While it is stopping, questions to it fail: that is no news.
            if box is None or state_of(box) == "started":
                self._problem = _told("failed", error)
        else:
            return value
        return None

    async def refresh(self) -> None:
        """Ask for everything that somebody wants to see, now."""
        self._asked.clear()
        box = self.binding.sandbox
        await self._guarded(self._ask_box() if box is not None else actions.look(self.binding, Silent()))
        for part in ("guest", "resources", "ports", "processes", "others"):
            if self._due_now(part):
                await self._ask(part)
        self._next = time.monotonic() + EVERY
        self.compare()

    def _due_now(self, part: str) -> bool:
        box = self.binding.sandbox
        if part == "others":
            return "others" in self.opened and self.binding.client is not None
        if box is None or state_of(box) != "started" or self._problem:
            return False
        return self._line() if part == "guest" else part in self.opened

    def again(self, *parts: str) -> None:
        """These parts are to be asked for soon."""
        for part in parts:
            self._asked.pop(part, None)
        self._next = min(self._next, time.monotonic())

    async def _ask_box(self) -> int:
        box = self.binding.sandbox
        if box is None or self.binding.gone:
            return 1
        try:
            await box.refresh_data(request_timeout=glances.WITHIN)
        except sdk.error_class() as error:
            if sdk.not_found(error):
                raise self.binding.lost() from None
            raise sdk.translate(error, f"asking for the state of {box.name}") from None
        if state_of(box) == "destroyed":
            raise self.binding.lost()
        self._problem = {}
        return 1

    async def _ask_resources(self) -> int:
        found = await glances.usage(self.binding.bound())
        memory, disk = _share(found.memory, found.memory_total), _share(found.disk, found.disk_total)
        self._samples = [*self._samples, [time.time(), found.cpu, memory, disk]][-SAMPLES:]
        self._totals = {
            "cpu": f"{found.cpu:.0f} %",
            "memory": _of(found.memory, found.memory_total),
            "disk": _of(found.disk, found.disk_total),
        }
        self._show("resources", {"samples": self._samples, "totals": self._totals})
        return 1

    async def _ask_guest(self) -> int:
        channel = self.binding.channel
        if channel is None or channel.closed:
            return 1
        status = await channel.status()
        runs = [facts.run(decode.look(one)) for one in status.get("executions", ())]
        self._running = any(one["state"] in ("running", "queued") for one in runs)
        newest = runs[-facts.MOST_RUNS :][::-1]
        found = facts.contexts(self.binding, status.get("contexts", ()), runs)
        self._set(contexts=found, runs=newest)
        return 1

    async def _ask_ports(self) -> int:
        self._set(ports=await glances.ports(self.binding.bound()))
        return 1

    async def _ask_processes(self) -> int:
        box = self.binding.bound()
        sessions, terminals = await glances.sessions(box), await glances.terminals(box)
        self._set(
            sessions=[
                {
                    "id": facts.short(one.id),
                    "commands": [[facts.short(text), code] for text, code in one.commands],
                }
                for one in sessions
            ],
            terminals=[
                {
                    "id": facts.short(one.name),
                    "running": one.running,
                    "folder": facts.short(one.folder),
                    "ofCells": one.of_cells,
                }
                for one in terminals
            ],
        )
        return 2

    def _set(self, **parts: Any) -> None:
        self._inside = {**self._inside, **parts}
        self._show("inside", self._inside)

    async def _ask_others(self) -> int:
        found = await actions.listed(self.binding, Silent(), {}, mine=False)
        self.boxes = {box.id: box for box in found[: facts.MOST_BOXES]}
        await self.show_others()
        return 1 + len(found) // 100

    async def show_others(self) -> None:
        """Show the list anew, as far as it is known."""
        boxes = list(self.boxes.values())

        def rows() -> list[dict[str, Any]]:
            return [facts.row(self.binding, box) for box in boxes]

        shown = await asyncio.to_thread(rows)
        self._states = {key: state_of(one) for key, one in self.boxes.items()}
        kept = [row for row in shown if row["state"] not in ("destroyed",)]
        self._show("others", {"rows": kept, "loaded": True})


def _told(code: str, error: BaseException) -> dict[str, str]:
    return {
        "code": code,
        "text": facts.short(error, 600),
        "hint": facts.short(getattr(error, "hint", "") or "", 300),
    }


def _share(used: int, total: int) -> float:
    return round(min(100.0, used / total * 100), 1) if total else 0.0


def _of(used: int, total: int) -> str:
    return f"{size(used)} of {size(total)}" if total else size(used)
