"""Shells in the sandbox, in the page: xterm.js there, a PTY session of the platform here.

The kernel holds the connection, so the page never has a token. Every tab is a :class:`terminal_shell.Shell`;
its bytes go to all views of the widget in messages of their own, each with the number of its first byte:

    page                                        kernel
    call attach                           -->   the tabs, and what is kept of each
                                          <--   {"tab": 1, "at": 4096} and the bytes
    {"shown": [[1, 69632]]}               -->   more may be sent (no receipt, no answer)
    call key {"tab": 1} and the bytes     -->   answered at once
    call type {"tab": 1} and more of them -->   answered when they have left for the sandbox
                                          <--   {"tabs": [...], "speaker": view}: something changed

A view that sees a number it does not expect attaches again. With several views one *speaks*: its size is
the terminal's, and it alone answers what programs ask of a terminal. It is the view last typed into.

What the notebook keeps is the text of the screens as a view last reported them.
"""

from __future__ import annotations

import asyncio
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from daytona_magics.errors import SandboxError, SandboxUsageError, printable
from daytona_magics.runtime.loop import loop_thread
from daytona_magics.runtime.transport import PtyAddress, PtyError
from daytona_magics.sandboxes import files, glances, terminals
from daytona_magics.widgets import watching
from daytona_magics.widgets.live import CallError, LiveWidget
from daytona_magics.widgets.terminal_record import Screens
from daytona_magics.widgets.terminal_shell import Shell, as_view
from daytona_magics.widgets.terminal_stream import Stream

if TYPE_CHECKING:
    from daytona import AsyncSandbox

    from daytona_magics.sandboxes.binding import Binding

#: Tabs of one widget, characters of a tab's name, and of a side of a terminal.
MOST_TABS, LONGEST_NAME, LARGEST_SIDE = 16, 60, 1000
#: Bytes that one message types, and that are a key.
MOST_TYPED, MOST_OF_A_KEY = 64 << 10, 256


@dataclass
class Tab:
    """A tab: its name, what it runs, and its shell."""

    id: int
    name: str
    cwd: str = ""
    command: str = ""
    session: str = ""
    shell: Shell | None = None
    stream: Stream = field(default_factory=Stream)

    def as_view(self) -> dict[str, Any]:
        return {"id": self.id, "name": self.name, **as_view(self.shell)}


class Terminal(LiveWidget):
    """Shells in the notebook's sandbox, in tabs. The first opens when the widget is first shown.

    Args:
        command: typed into the first shell.
        cwd: folder of the shells; "" is the sandbox's own.
        name: of the first tab.
        binding: whose sandbox; by default this kernel's.

    Raises:
        SandboxUsageError: the command has more than one line.

    In:  Terminal("htop", name="processes")
    Out: a terminal that takes keys, also while a cell runs
    """

    kind = "terminal"
    bundle = "terminal.js"
    calls = (
        *("attach", "open", "key", "type", "resize", "close_tab", "rename", "restart", "reconnect"),
        *("sessions", "join", "end", "speak", "screen"),
    )
    prompt = ("key",)

    def __init__(
        self, command: str = "", *, cwd: str = "", name: str = "", binding: Binding | None = None
    ) -> None:
        if "\n" in command or "\r" in command:
            raise SandboxUsageError("a terminal's command is one line", hint="%%sandbox bash runs many.")
        self._first = Tab(1, _name(name) or command[:LONGEST_NAME] or "shell 1", cwd, command)
        self._tabs: dict[int, Tab] = {}
        self._numbers, self._swept, self._speaker = 0, False, ""
        self._screens = Screens()
        self._ending: set[asyncio.Task[None]] = set()
        super().__init__(binding)

    def released(self) -> None:
        """Nobody needs the shells any more: they end."""
        tabs, self._tabs = self._tabs, {}
        for tab in tabs.values():
            if tab.shell is not None:
                task = asyncio.ensure_future(tab.shell.end())
                self._ending.add(task)
                task.add_done_callback(self._ending.discard)

    # -- what the page asks for ------------------------------------------------------------------------------

    async def call_attach(self, given: dict[str, Any], _: list[bytes]) -> Any:
        """A view is there, or has lost its place: the tabs (or one), and what is kept of each."""
        only = given.get("tab")
        tabs = [tab for tab in self._tabs.values() if only in (None, tab.id)]
        if only is None:
            self._speaker = _word(given, "view")
            self._changed()
        told, buffers = [], []
        for tab in tabs:
            missing, modes, kept = tab.stream.replay()
            if tab.shell is not None:
                tab.shell.watched = True
                tab.stream.seen(tab.stream.sent)
            told.append({**tab.as_view(), "missing": missing, "at": tab.stream.sent})
            buffers += [modes, kept]
        value = {"tabs": told, "fresh": self._numbers == 0, "speaker": self._speaker, "sandbox": self._name()}
        return value, buffers

    async def call_open(self, given: dict[str, Any], _: list[bytes]) -> dict[str, Any]:
        """A new tab; ``first`` is the one that every view asks for when there was none."""
        cols, rows = _sides(given)
        if given.get("first") is True:
            if self._numbers:
                return {"tab": 0}
            tab = self._first
        else:
            tab = Tab(self._numbers + 1, f"shell {self._numbers + 1}", self._first.cwd)
        return await self._add(tab, cols, rows)

    async def call_join(self, given: dict[str, Any], _: list[bytes]) -> dict[str, Any]:
        """A tab on a terminal that is there already."""
        session = _word(given, "session")
        if session.startswith(glances.OF_CELLS):
            raise CallError("refused", "cells run through this terminal")
        cols, rows = _sides(given)
        tab = Tab(self._numbers + 1, session[:LONGEST_NAME], session=session)
        return await self._add(tab, cols, rows)

    async def _add(self, tab: Tab, cols: int, rows: int) -> dict[str, Any]:
        if len(self._tabs) >= MOST_TABS:
            raise CallError("refused", f"{MOST_TABS} tabs are open: close one first")
        before, self._numbers = self._numbers, self._numbers + 1
        tab.id = self._numbers
        self._tabs[tab.id] = tab
        try:
            await self._connect(tab, cols, rows)
        except BaseException:
            self._tabs.pop(tab.id, None)
            # The first may be asked for again.
            self._numbers = before if before == 0 else self._numbers
            raise
        self._changed()
        return {"tab": tab.id}

    async def call_restart(self, given: dict[str, Any], _: list[bytes]) -> None:
        """A new shell in a tab whose shell has ended."""
        tab, (cols, rows) = self._tab(given), _sides(given)
        if tab.shell is None or tab.shell.state not in ("ended", "stopped", "cut"):
            raise CallError("refused", "this shell is running")
        tab.session, tab.command = "", ""
        # Meanwhile another view that asks for the same is refused: one of two shells would be nobody's.
        before, tab.shell = tab.shell, None
        try:
            await self._connect(tab, cols, rows)
        finally:
            tab.shell = tab.shell or before
        self._changed()

    async def _connect(self, tab: Tab, cols: int, rows: int) -> None:
        sandbox = await self._started()
        if not self._swept:
            self._swept = True
            await terminals.sweep(sandbox, self.binding)
        shell = Shell(
            sandbox,
            self._address(sandbox),
            tab.session or terminals.new_name(self.binding),
            existing=bool(tab.session),
            stream=tab.stream,
            send=lambda at, data: self._sent(tab, at, data),
            changed=self._changed,
        )
        try:
            await shell.open(cols, rows, await folder(sandbox, tab.cwd), tab.command)
        except PtyError as error:
            raise CallError("failed", f"A shell cannot be opened: {error}.") from None
        if tab.id not in self._tabs:
            # Closed meanwhile.
            await shell.end()
            return
        tab.shell = shell

    async def call_reconnect(self, given: dict[str, Any], _: list[bytes]) -> None:
        """Try again to reach a shell that was given up."""
        tab = self._tab(given)
        if tab.shell is not None:
            tab.shell.sandbox = await self._started()
            tab.shell.address = self._address(tab.shell.sandbox)
            await tab.shell.reconnect()

    async def call_key(self, given: dict[str, Any], buffers: list[bytes]) -> None:
        """A key, or a few."""
        shell, data = self._typed(given, buffers, MOST_OF_A_KEY)
        shell.put(data)

    async def call_type(self, given: dict[str, Any], buffers: list[bytes]) -> None:
        """Pastes."""
        shell, data = self._typed(given, buffers, MOST_TYPED)
        await shell.type(data)

    def _typed(self, given: dict[str, Any], buffers: list[bytes], most: int) -> tuple[Shell, bytes]:
        tab, data = self._tab(given), b"".join(buffers)
        if len(data) > most:
            raise CallError("refused", f"more than {most:,} bytes typed at once")
        if tab.shell is None or tab.shell.state in ("ended", "stopped", "cut"):
            raise CallError("ended", "this shell has ended")
        return tab.shell, data

    async def call_speak(self, given: dict[str, Any], _: list[bytes]) -> None:
        """This view is typed into from now on."""
        if self._speaker != (view := _word(given, "view")):
            self._speaker = view
            self._changed()

    async def call_resize(self, given: dict[str, Any], _: list[bytes]) -> None:
        """The speaking view has another size."""
        tab = self._tab(given)
        if tab.shell is not None and given.get("view") == self._speaker:
            tab.shell.resize(*_sides(given))

    async def call_rename(self, given: dict[str, Any], _: list[bytes]) -> None:
        """Another name for a tab."""
        self._tab(given).name = _name(_word(given, "name")) or f"shell {self._tab(given).id}"
        self._changed()

    async def call_close_tab(self, given: dict[str, Any], _: list[bytes]) -> None:
        """Close a tab and end its shell."""
        tab = self._tabs.pop(self._tab(given).id)
        self._changed()
        if tab.shell is not None:
            await tab.shell.end()

    async def call_sessions(self, given: dict[str, Any], _: list[bytes]) -> dict[str, Any]:
        """The terminals of the sandbox that are not tabs here."""
        sandbox = await self._started()
        here = {tab.shell.session for tab in self._tabs.values() if tab.shell is not None}
        found = [one for one in await terminals.listed(sandbox) if one.name not in here]
        rows = [[one.name, *one.size, one.folder, one.running] for one in found[:200]]
        return {"sessions": rows, "more": max(0, len(found) - 200)}

    async def call_end(self, given: dict[str, Any], _: list[bytes]) -> None:
        """End a terminal that is not a tab here."""
        session = _word(given, "session")
        if session.startswith(glances.OF_CELLS):
            raise CallError("refused", "cells run through this terminal")
        await terminals.end(await self._started(), session)

    async def call_screen(self, given: dict[str, Any], _: list[bytes]) -> None:
        """What a tab shows now, for the record."""
        self._screens.take(self._tab(given).id, given.get("lines"))
        self.renew_record()

    # -- the way there ---------------------------------------------------------------------------------------

    async def _started(self) -> AsyncSandbox:
        """The started sandbox, without the channel of cells; nothing is created or started by looking."""
        now = await watching.asked(self.binding)
        self.stand(now)
        if now.state != "started":
            raise CallError(now.state, now.text)
        return self.binding.bound()

    def _address(self, sandbox: AsyncSandbox) -> PtyAddress:
        assert self.binding.endpoint is not None
        return PtyAddress.of(sandbox, self.binding.endpoint.api_key)

    def _heard(self, widget: Any, content: Any, buffers: Sequence[memoryview]) -> None:
        shown = content.get("shown") if isinstance(content, dict) else None
        if isinstance(shown, list):
            loop_thread().submit(self._shown(shown))
        else:
            super()._heard(widget, content, buffers)

    async def _shown(self, pairs: list[Any]) -> None:
        for pair in pairs[: 4 * MOST_TABS]:
            match pair:
                case [int(number), int(at)] if number in self._tabs:
                    if (shell := self._tabs[number].shell) is not None:
                        shell.shown(at)

    def _sent(self, tab: Tab, at: int, data: bytes) -> None:
        if self.comm is not None and tab.id in self._tabs:
            self.send({"tab": tab.id, "at": at}, buffers=[data])

    def _changed(self) -> None:
        if self.comm is not None:
            self.send({"tabs": [tab.as_view() for tab in self._tabs.values()], "speaker": self._speaker})

    def _tab(self, given: dict[str, Any]) -> Tab:
        number = given.get("tab")
        tab = self._tabs.get(number) if isinstance(number, int) else None
        if tab is None:
            raise CallError("refused", "there is no such tab")
        return tab

    # -- what stays ------------------------------------------------------------------------------------------

    def record(self) -> tuple[str, str]:
        """The screens as a view last reported them."""
        tabs = [(tab.id, tab.name) for tab in (self._tabs or {1: self._first}).values()]
        return self._screens.record(f"Terminal of sandbox {self._name()}", tabs)


async def folder(sandbox: AsyncSandbox, path: str) -> str:
    """A folder of the sandbox as its terminals name it; "" stays "".

    Raises:
        SandboxError: there is none.
    """
    if not path:
        return ""
    where = await files.remote_path(sandbox, path)
    if not await files.is_folder(sandbox, where):
        raise SandboxError(
            f"there is no folder {path!r} in the sandbox", hint=f"%sandbox mkdir {shlex.quote(path)}"
        )
    return where


def _name(text: str) -> str:
    return printable(text, line=True).strip()[:LONGEST_NAME]


def _word(given: dict[str, Any], key: str) -> str:
    value = given.get(key)
    if not isinstance(value, str) or not 0 < len(value) <= 256 or not value.isprintable():
        raise CallError("refused", f"{key} is missing")
    return value


def _sides(given: dict[str, Any]) -> tuple[int, int]:
    cols, rows = given.get("cols"), given.get("rows")
    if not (isinstance(cols, int) and isinstance(rows, int)):
        raise CallError("refused", "the size is missing")
    return min(max(cols, 2), LARGEST_SIDE), min(max(rows, 1), LARGEST_SIDE)
