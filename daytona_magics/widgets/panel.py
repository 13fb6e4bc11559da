"""A sandbox at a glance, and what can be done to it: state, resources, deadlines, what runs, all others.

The page shows what :mod:`.panel_watch` keeps up to date while somebody looks; what the page asks to be done
goes through the same functions as the verbs. Whoever clicks is asked before anything is lost, and nothing of
somebody else's is touched before its name was typed: both is checked here again, not only in the page.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import traitlets

from daytona_magics.errors import SandboxError
from daytona_magics.notebook import mode as modes
from daytona_magics.notebook.card import counted, duration
from daytona_magics.sandboxes import actions, attaching, glances, jobs, reaping, running, states, terminals
from daytona_magics.sandboxes import client as sdk
from daytona_magics.widgets import panel_facts as facts
from daytona_magics.widgets import panel_opening as opening
from daytona_magics.widgets import watching
from daytona_magics.widgets.live import CallError, LiveWidget
from daytona_magics.widgets.panel_watch import Watcher

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from daytona_magics.notebook.mode import Mode
    from daytona_magics.sandboxes.binding import Binding

#: Longest that "keep" can ask for, in minutes.
MOST_MINUTES = 30 * 1440
PARTS = ("ports", "processes", "others")


class SandboxPanel(LiveWidget):
    """The notebook's sandbox, and all the others.

    Args:
        binding: whose sandbox; by default this kernel's.
        mode: where the notebook's cells run; by default this shell's.
        others: begin with the list of all sandboxes open.

    In:  SandboxPanel()
    Out: a panel with the state, resources and deadlines of the sandbox, what runs in it, and buttons
    """

    kind = "sandbox-panel"
    calls = (
        "watch", "refresh", "change", "keep", "mode", "context", "cancel", "end", "bind", "reap", "open",
        "shut", "doctor",
    )  # fmt: skip

    resources = traitlets.Dict().tag(sync=True)
    inside = traitlets.Dict().tag(sync=True)
    others = traitlets.Dict().tag(sync=True)
    told = traitlets.Dict().tag(sync=True)

    def __init__(
        self, binding: Binding | None = None, *, mode: Mode | None = None, others: bool = False
    ) -> None:
        from daytona_magics import sandboxes

        known = binding or sandboxes.current()
        self._mode = mode or modes.of(running())
        self._watcher = Watcher(known, self._mode, self._shown)
        self._watcher.opens = opening.there()
        self._children: list[LiveWidget] = []
        self._lists = others
        super().__init__(known, view={**self._watcher.view(), "lists": others})

    def _shown(self, part: str, value: dict[str, Any]) -> None:
        if self.comm is not None:
            setattr(self, part, {**value, "lists": self._lists} if part == "view" else value)

    @property
    def seen_at(self) -> float:
        """When somebody last had it in sight, by the monotonic clock."""
        return self._watcher.seen_at

    @seen_at.setter
    def seen_at(self, value: float) -> None:
        """A message alone is no look: a view tells when it comes into sight and when it leaves."""

    def sandbox_changed(self, now: watching.Standing) -> None:
        self._watcher.compare()

    def released(self) -> None:
        self._watcher.close()
        for child in self._children:
            child.close()

    # -- looking ---------------------------------------------------------------------------------------------

    async def call_watch(self, given: dict[str, Any], _: list[bytes]) -> None:
        """A view is in sight with these parts open, or it is out of sight."""
        view, parts = _text(given, "view", 64), given.get("parts")
        opened = frozenset(one for one in parts if one in PARTS) if isinstance(parts, list) else frozenset()
        if given.get("on") is True:
            self._watcher.seen(view, opened)
        else:
            self._watcher.unseen(view)

    async def call_refresh(self, given: dict[str, Any], _: list[bytes]) -> None:
        """Ask for all that is shown."""
        await self._watcher.refresh()

    async def call_doctor(self, given: dict[str, Any], _: list[bytes]) -> dict[str, Any]:
        """What this machine offers, and why not more."""
        return {"text": await asyncio.to_thread(opening.doctor, self.binding)}

    # -- changing --------------------------------------------------------------------------------------------

    async def _doing(self, text: str, act: Callable[[_Voice], Coroutine[Any, Any, str]]) -> None:
        """Do something that takes a while, and say what it became."""
        if self._watcher.doing:
            raise CallError("refused", f"{self._watcher.doing} first has to end")
        voice = _Voice(self._watcher, text)
        try:
            said = await act(voice)
            self.told = {"text": facts.short(" ".join([*voice.notes, said]).strip(), 600), "error": False}
        finally:
            voice.progress("")
            self._watcher.again("guest", "resources", "ports", "processes", "others")
            self._watcher.compare()

    async def call_change(self, given: dict[str, Any], _: list[bytes]) -> None:
        """Start, stop, pause, archive, recover, reset or delete a sandbox.

        Without ``id`` the notebook's own is meant. ``sure`` is the name of a sandbox that is to be deleted,
        or that is somebody else's, as the reader typed or confirmed it.
        """
        what, key, sure = _text(given, "what", 20), _text(given, "id", 100, ""), _text(given, "sure", 500, "")
        box = self._known(key)
        own = self.binding.sandbox is not None and box.id == self.binding.sandbox.id
        why = await asyncio.to_thread(states.theirs, self.binding, box)
        if (why or what == "delete") and sure != str(box.name):
            said = why or "is deleted with all its files"
            raise CallError("confirm", f"{box.name} {said}: its name has to be given first")
        names = [] if own else [box.id]
        acts: dict[str, Callable[[_Voice], Coroutine[Any, Any, str]]] = {
            "start": lambda tell: self._start(tell, names, own),
            "stop": lambda tell: self._stop(tell, names),
            "pause": lambda tell: self._then(
                states.pause(self.binding, tell, names, sure=True),
                "Paused: variables and processes are kept.",
            ),
            "archive": lambda tell: self._then(
                states.archive(self.binding, tell, names, sure=True), "Archived: files are kept."
            ),
            "recover": lambda tell: self._then(
                states.recover(self.binding, tell, None if own else box.id), "Recovered: files are kept."
            ),
            "reset": lambda tell: self._then(actions.reset(self.binding, tell), ""),
            "delete": lambda tell: self._delete(tell, names),
        }
        if what not in acts or (what == "reset" and not own):
            raise CallError("refused", f"a panel cannot {what!r}")
        await self._doing(f"{what} {box.name}", acts[what])

    async def _then(self, act: Coroutine[Any, Any, Any], said: str) -> str:
        await act
        return said

    async def _start(self, tell: _Voice, names: list[str], own: bool) -> str:
        if own:
            await watching.start(self.binding)
            return "Started."
        boxes = await states.start(self.binding, tell, names, sure=True)
        return f"{boxes[0].name} is started."

    async def _stop(self, tell: _Voice, names: list[str]) -> str:
        boxes = await states.stop(self.binding, tell, names, sure=True, force=False)
        return f"{boxes[0].name} is stopped: variables are lost, files kept."

    async def _delete(self, tell: _Voice, names: list[str]) -> str:
        await actions.delete(self.binding, tell, names, sure=True)
        for key in names:
            self._watcher.boxes.pop(key, None)
        return ""

    def _known(self, key: str) -> Any:
        """The sandbox with this id among those that are shown; the notebook's own without one."""
        own = self.binding.sandbox
        if own is not None and key in ("", own.id):
            return own
        box = self._watcher.boxes.get(key)
        if box is None:
            raise CallError("refused", "this sandbox is not in the list any more", "Refresh")
        return box

    async def call_keep(self, given: dict[str, Any], _: list[bytes]) -> None:
        """Let the notebook's sandbox stay started for so many minutes without activity; 0: for ever."""
        minutes = given.get("minutes")
        if isinstance(minutes, bool) or not isinstance(minutes, int) or not 0 <= minutes <= MOST_MINUTES:
            raise CallError("refused", f"minutes are a number from 0 to {MOST_MINUTES}")

        async def keep(tell: _Voice) -> str:
            await actions.keep(self.binding, tell, minutes)
            ends = f"after {duration(minutes)} without activity" if minutes else "never by itself"
            return f"It now stops {ends}."

        await self._doing("keep", keep)

    async def call_mode(self, given: dict[str, Any], _: list[bytes]) -> None:
        """Whether every cell of the notebook runs in the sandbox."""
        if self._mode is None:
            raise CallError("refused", "the magics are not loaded here", "%load_ext daytona_magics")
        if given.get("on") is True:
            self._mode.start("", tagged=False, quiet=False)
            said = "From the next cell on, every cell runs in the sandbox; %%local runs one here."
        else:
            self._mode.stop()
            said = "Cells run on this machine again; %%sandbox still runs one in the sandbox."
        self.told = {"text": said, "error": False}
        self._watcher.compare()

    async def call_context(self, given: dict[str, Any], _: list[bytes]) -> None:
        """Give a context new workers: its variables are lost."""
        name = _text(given, "name", 200)

        async def reset(tell: _Voice) -> str:
            channel = await self.channel()
            await channel.reset([name])
            return f"Context {name} has new workers: its variables are lost, files kept."

        await self._doing(f"reset {name}", reset)

    async def call_cancel(self, given: dict[str, Any], _: list[bytes]) -> None:
        """End a job or a cell, as gently as it lets us."""
        key = _text(given, "id", 64)
        channel = await self.channel()
        look = await channel.look(key)
        self.told = {"text": f"Ending {facts.short(look.name, 120)} …", "error": False}
        done = facts.short(await jobs.cancel(channel, look), 300)
        self.told = {"text": f"{facts.short(look.name, 120)}: {done.rstrip('.')}.", "error": False}
        self._watcher.again("guest")

    async def call_end(self, given: dict[str, Any], _: list[bytes]) -> None:
        """End a session or a terminal with its processes."""
        key, kind = _text(given, "id", 400), _text(given, "kind", 20)
        box = await self.sandbox()
        if kind == "session":
            await sdk.asked(box.process.delete_session(key), "ending the session")
        elif kind == "terminal" and not key.startswith(glances.OF_CELLS):
            await terminals.end(box, key)
        else:
            raise CallError("refused", "this is the notebook's own line to the sandbox")
        self.told = {"text": f"The {kind} is ended.", "error": False}
        self._watcher.again("processes", "ports")

    async def call_bind(self, given: dict[str, Any], _: list[bytes]) -> None:
        """Bind the notebook to another sandbox."""
        box, sure = self._known(_text(given, "id", 100)), _text(given, "sure", 500, "")
        why = await asyncio.to_thread(states.theirs, self.binding, box)
        if why and sure != str(box.name):
            raise CallError("confirm", f"{box.name} {why}: its name has to be given first")

        async def use(tell: _Voice) -> str:
            async with self.binding.locked():
                found = await attaching.attach(self.binding, box.id, tell)
            return f"This notebook's cells run in {found.name} now."

        await self._doing(f"bind to {box.name}", use)

    async def call_reap(self, given: dict[str, Any], _: list[bytes]) -> None:
        """Stop, or delete, what dead kernels of this machine left."""
        delete = given.get("delete") is True

        async def reap(tell: _Voice) -> str:
            found = await reaping.reap(self.binding, tell, delete=delete)
            failed = [one for one in found if not one.ok]
            did = [one for one in found if one.done in ("stopped", "deleted")]
            said = f"{counted(len(did), 'sandbox')} of dead kernels {'deleted' if delete else 'stopped'}."
            if failed:
                raise SandboxError(f"{said} {counted(len(failed), 'sandbox')} failed: {failed[0].done}")
            return said if found else "No dead kernel of this machine left anything."

        await self._doing("reap", reap)

    # -- other widgets ---------------------------------------------------------------------------------------

    async def call_open(self, given: dict[str, Any], _: list[bytes]) -> dict[str, str]:
        """Make another widget of this sandbox; the page shows it below."""
        kind, of = _text(given, "kind", 40), given.get("of")
        if kind not in self._watcher.opens:
            raise CallError("refused", f"there is no widget {kind!r}")
        await self.sandbox()
        run = next((one for one in self.inside.get("runs", ()) if one["id"] == of), None)
        child = await asyncio.to_thread(opening.make, kind, self.binding, of, run)
        # It belongs to the panel's cell, whichever cell ran last.
        child._cell = self._cell
        self._children = [*self._children[-7:], child]
        for old in self._children[:-8]:
            old.close()
        return {"model": str(child.model_id), "kind": kind}

    async def call_shut(self, given: dict[str, Any], _: list[bytes]) -> None:
        """End a widget that was opened here."""
        key = _text(given, "model", 100)
        for child in [one for one in self._children if one.model_id == key]:
            self._children.remove(child)
            child.close()

    # -- what stays ------------------------------------------------------------------------------------------

    def record(self) -> tuple[str, str]:
        """The sandbox as it was last seen."""
        made = facts.card(self._watcher.view(), self.inside)
        return repr(made), made._repr_html_()


class _Voice:
    """Tells the panel what is being done."""

    def __init__(self, watcher: Watcher, doing: str) -> None:
        self._watcher = watcher
        self.notes: list[str] = []
        self.progress(doing)

    def progress(self, text: str) -> None:
        self._watcher.doing = facts.short(text, 200)
        self._watcher.compare()

    def note(self, text: str) -> None:
        sentence = text[:1].upper() + text[1:]
        self.notes.append(sentence if sentence.endswith(".") else f"{sentence}.")


def _text(given: dict[str, Any], key: str, most: int, default: str | None = None) -> str:
    value = given.get(key, default)
    if not isinstance(value, str) or len(value) > most or "\0" in value:
        raise CallError("refused", f"{key} is missing")
    return value
