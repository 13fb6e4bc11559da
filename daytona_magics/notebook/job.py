"""A background job's handle, and its card.

The handle holds an id and asks the sandbox for everything else, so one made in another kernel, or after a
restart, is as good as the first. While somebody may be looking at its card, a watcher on the loop thread
looks at the job, and the card is redrawn from the kernel's own main loop between cells: a display updated
there belongs to its display id on every ipykernel, whatever cell came last.
"""

from __future__ import annotations

import asyncio
import html
import sys
import time
from collections.abc import Callable, Generator, Iterable
from contextlib import suppress
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from daytona_magics.errors import SandboxError, SandboxUnreachable, printable
from daytona_magics.notebook import flow, offers
from daytona_magics.notebook.card import Card, preformatted, size
from daytona_magics.notebook.pump import Pump
from daytona_magics.notebook.spool import NAME, Kept
from daytona_magics.notebook.status import in_kernel, wait
from daytona_magics.notebook.terminal import clean
from daytona_magics.runtime.loop import loop_thread
from daytona_magics.sandboxes import jobs

if TYPE_CHECKING:
    from daytona_magics.notebook.outcome import CellOutput
    from daytona_magics.runtime.channel import Channel
    from daytona_magics.runtime.events import Event
    from daytona_magics.runtime.records import Look
    from daytona_magics.sandboxes.binding import Binding

#: Seconds between two looks at a job: in its first ten, and later; bytes and lines of its end on the card.
SOON, LATER, EARLY, TAIL, LINES = 0.5, 2.0, 10.0, 4096, 8
_ENDS = {"ok": "ok", "error": "failed", "timeout": "failed", "died": "failed", "interrupted": "stopped"}
_serial = 0
#: By job, the displays with its card: whichever handle sees its end, all of them say so.
_shown: dict[str, list[str]] = {}


class Job:
    """A cell that runs in the sandbox beside the notebook's own. Awaitable: ``await job`` is its result.

    In:  job = _          # after a cell that began with %%sandbox --bg
         job.done(), job.wait().result()
    Out: (False, 42)

    Attributes:
        id: its name; the first characters of it are enough everywhere.
    """

    def __init__(self, binding: Binding, look: Look) -> None:
        self._binding, self._sandbox = binding, binding.bound()
        self._look, self._at = look, time.monotonic()
        self._lost = ""
        self._port = 0  # that its output has named
        self._displays: list[str] = []
        self._main: asyncio.AbstractEventLoop | None = None
        self._drawing = False
        self._drawn: dict[str, str] = {}
        self._watching = False
        self._tidying: asyncio.Future[None] | None = None

    @property
    def id(self) -> str:
        return self._look.id[:NAME]

    @property
    def full_id(self) -> str:
        """All of its id."""
        return self._look.id

    @property
    def name(self) -> str:
        """Which cell it was."""
        return printable(self._look.name, line=True)

    @property
    def state(self) -> str:
        """ "queued", "running", "ok", "failed", "stopped", or "lost"; as last seen, see :meth:`refresh`."""
        if self._lost:
            return "lost"
        return _ENDS.get(self._look.status, "failed") if self._look.state == "done" else self._look.state

    def __repr__(self) -> str:
        return f"<job {self.id}: {self.name}, {self.state}, {self._seconds():.0f} s>"

    # -- asking ------------------------------------------------------------------------------------------

    async def _channel(self) -> Channel:
        channel = self._binding.channel
        if self._binding.sandbox is not self._sandbox or channel is None or channel.closed:
            raise SandboxUnreachable(f"this notebook has let go of sandbox {self._sandbox.name}")
        return channel

    async def _refresh(self, tail: int = TAIL) -> Look:
        channel = await self._channel()
        try:
            self._look = await channel.look(self._look.id, tail)
        except SandboxUnreachable:
            raise
        except SandboxError:
            self._lost = "the sandbox was stopped or its side started anew: the job ended, its output is gone"
            raise SandboxError(f"job {self.id}: {self._lost}") from None
        self._at = time.monotonic()
        return self._look

    def refresh(self) -> Job:
        """Ask the sandbox how it is."""
        wait(lambda tell: self._refresh(), f"asking for job {self.id}")
        return self

    def done(self) -> bool:
        """Whether it has ended, well or not."""
        if self._look.state != "done" and not self._lost:
            self.refresh()
        return self._look.state == "done" or bool(self._lost)

    def wait(self, timeout: float | None = None) -> Job:
        """Wait for its end; an interrupt ends only the waiting.

        Args:
            timeout: seconds; None for as long as it takes.

        Raises:
            TimeoutError: it has not ended by then; it runs on.
        """
        wait(
            lambda tell: self._ended(timeout),
            f"waiting for job {self.id}",
            cancelled=f"stopped waiting; job {self.id} runs on in the sandbox",
        )
        self._draw_all()
        return self

    async def _ended(self, timeout: float | None) -> None:
        loop = asyncio.get_running_loop()
        until = loop.time() + timeout if timeout is not None else float("inf")
        pause = 0.02
        while (await self._refresh()).state != "done":
            if loop.time() >= until:
                raise TimeoutError(f"job {self.id} has not ended within {timeout:g} s; it runs on")
            await asyncio.sleep(min(pause, max(0.0, until - loop.time())))
            pause = min(0.5, pause * 1.5)
        self._tidy_soon()

    def _tidy_soon(self) -> None:
        """It has ended: when it was the last job, its sandbox need not stay up for it any more."""

        async def tidy() -> None:
            with suppress(SandboxError):
                await jobs.put_back(self._binding, await self._channel())

        if self._look.job and self._tidying is None:
            self._tidying = asyncio.ensure_future(tidy())

    def cancel(self) -> str:
        """End it and what it started: Ctrl-C first, then harder. Returns what was done."""

        async def end() -> str:
            did = await jobs.cancel(await self._channel(), self._look)
            await self._refresh()
            self._tidy_soon()
            return did

        did = clean(wait(lambda tell: end(), f"cancelling job {self.id}", cancelled="it may be running on"))
        self._draw_all()
        return did

    # -- output ------------------------------------------------------------------------------------------

    def _replay(self, *, live: bool, capture: bool, whole: bool = False) -> CellOutput:
        """Its output from the beginning, through a pump of its own."""
        global _serial
        _serial += 1
        channel = wait(lambda tell: self._channel(), "connecting")
        config = self._binding.config
        limits = flow.limits(config)
        if whole:
            limits = flow.Limits(0, limits.rate)
        pump = Pump(
            lambda sink, window: channel.follow(self._look.id, sink, 0, window, so_far=not live),
            lambda level: channel.interrupt(self._look.id, level),
            # Displays shown again are others than those on the page.
            owner=f"{self._sandbox.id}-log-{_serial}",
            capture=capture,
            quiet=capture,
            trust=config.trust,
            flow=flow.Flow(limits, Kept(channel, self._look.id)),
            detach=f"stopped following; {self.name} ({self.id}) is not touched by that",
        )
        return pump.run()

    def logs(self, lines: int | None = None, *, follow: bool = False, all: bool = False) -> CellOutput | None:
        """Show its output from the beginning, displays and errors too.

        Args:
            lines: only the last so many lines of its text.
            follow: go on showing until it ends; an interrupt ends only the showing.
            all: also what is more than the setting show_limit.
        """
        if lines is not None:
            look = wait(lambda tell: self._refresh(1 << 20), "reading the log")
            sys.stdout.write("".join(clean(look.tail).splitlines(keepends=True)[-lines:]))
            return None
        outcome = self._replay(live=follow, capture=False, whole=all)
        if outcome.result is not None:
            sys.displayhook(outcome.result)
        return outcome

    @property
    def output(self) -> str:
        """Its text so far, stdout and stderr; up to 64 MiB (what is cut is said)."""
        outcome = self._replay(live=False, capture=True)
        return outcome.stdout + outcome.stderr

    async def tail(self, limit: int) -> str:
        """The last bytes of its text. On the loop thread."""
        return (await self._refresh(limit)).tail

    async def stream(self, sink: Callable[[Event], None]) -> None:
        """Give all events there are so far to ``sink``, text byte for byte (as surrogates where it is none).

        On the loop thread.
        """
        await (await self._channel()).follow(self._look.id, sink, so_far=True, errors="surrogateescape")

    async def forget(self) -> None:
        """Let the sandbox delete its output. On the loop thread."""
        await (await self._channel()).forget(self._look.id)

    async def interrupt(self) -> str:
        """Send it Ctrl-C; returns what that did. On the loop thread."""
        return await (await self._channel()).interrupt(self._look.id, 1)

    def result(self, timeout: float | None = None) -> Any:
        """Wait for its end; its value, or None.

        Raises:
            RemoteError, ExitCodeError, CellTimeout, WorkerDied, SandboxInterrupted: how it ended.
            TimeoutError: it has not ended within ``timeout`` seconds.
        """
        self.wait(timeout)
        outcome = self._replay(live=True, capture=True)
        if outcome.error is not None:
            raise outcome.error
        return outcome.result

    def __await__(self) -> Generator[Any, None, Any]:
        async def ended() -> Any:
            await asyncio.wrap_future(loop_thread().submit(self._ended(None)))
            return self.result()

        return ended().__await__()

    # -- the card ----------------------------------------------------------------------------------------

    def _seconds(self) -> float:
        running = self._look.state == "running" and not self._lost
        return self._look.seconds + (time.monotonic() - self._at if running else 0.0)

    def _card(self) -> Card:
        look = self._look
        ours = look.exit_code is None or look.language in ("python", "fresh")
        code = "" if ours else f"exit code {look.exit_code}"
        facts: list[tuple[str, object]] = [
            ("job", self.id),
            ("sandbox", self._sandbox.name),
            ("time", length(self._seconds())),
            ("printed", size(look.printed) if look.printed else ""),
            ("ended", code if look.state == "done" else ""),
        ]
        foot = [self._lost] if self._lost else [f"`%sandbox logs {self.id}` · `%sandbox wait {self.id}`"]
        if look.state != "done" and not self._lost:
            foot = [
                f"`%sandbox logs --follow {self.id}` · `%sandbox cancel {self.id}`",
                survives(self._sandbox.auto_stop_interval),
            ]
            self._port = self._port or next(iter(offers.Offers().seen("", look.tail)), 0)
            if self._port:
                foot.append(offers.hint(self._port))
        elif look.dropped:
            foot.append("Its output is gone: it made room for newer output.")
        return Card(f"{self.name} in the background", facts, self.state, foot)

    def _bundle(self) -> dict[str, str]:
        card = self._card()
        last = "\n".join(clean(self._look.tail).rstrip("\n").splitlines()[-LINES:])
        plain, markup = repr(card), card._repr_html_()
        if last:
            plain += "\n" + "\n".join(f"  | {line}" for line in last.splitlines())
            markup += preformatted(html.escape(_plain(last)))
        return {"text/plain": plain, "text/html": markup}

    def _ipython_display_(self) -> None:
        from IPython.display import publish_display_data

        global _serial
        _serial += 1
        name = f"daytona-magics-job-{self.id}-{time.time_ns()}-{_serial}"
        if in_kernel() is None:
            print(self._bundle()["text/plain"])
            return
        publish_display_data(self._bundle(), transient={"display_id": name})
        self._displays.append(name)
        _shown.setdefault(self.full_id, []).append(name)
        with suppress(RuntimeError):  # no loop: a shell that runs none between cells
            self._main = asyncio.get_running_loop()
        self.watch()

    def watch(self) -> None:
        """Look at it until it ends: keeps its sandbox awake, its card fresh, and tidies up afterwards."""
        if not self._watching and self._look.state != "done" and not self._lost:
            self._watching = True
            loop_thread().submit(self._watch())

    async def _watch(self) -> None:
        began = beat = time.monotonic()
        try:
            while self._look.state != "done" and not self._lost:
                await asyncio.sleep(SOON if time.monotonic() - began < EARLY else LATER)
                try:
                    await self._refresh()
                except SandboxUnreachable:
                    if self._binding.sandbox is not self._sandbox:
                        return
                except SandboxError:
                    break
                if 0 < self._binding.config.heartbeat <= time.monotonic() - beat:
                    beat = time.monotonic()
                    await jobs.stay_awake(self._binding)
                self._draw_soon()
            self._tidy_soon()
        finally:
            self._watching = False
            self._draw_soon()

    def _draw_soon(self) -> None:
        """Have the main loop redraw the card; one request at a time, however busy it is."""
        if self._main is not None and self._displays and not self._drawing:
            self._drawing = True
            try:
                self._main.call_soon_threadsafe(self._draw)
            except RuntimeError:
                self._main = None  # the kernel ends

    def _draw(self) -> None:
        self._drawing = False
        shell = in_kernel()
        if shell is None:
            return
        bundle = self._bundle()
        if bundle != self._drawn:
            self._publish(shell, bundle, self._displays)

    def _draw_all(self) -> None:
        """Redraw the cards that other handles of it have shown, too; on the main thread."""
        if (shell := in_kernel()) is not None:
            self._publish(shell, self._bundle(), _shown.get(self.full_id, ()))

    def _publish(self, shell: Any, bundle: dict[str, str], names: Iterable[str]) -> None:
        self._drawn = bundle
        for name in names:
            shell.display_pub.publish(bundle, transient={"display_id": name}, update=True)


def _plain(text: str) -> str:
    """Without the colours, which HTML does not know."""
    import re

    return re.sub(r"\x1b\[[0-9;]*m", "", text)


def length(seconds: float) -> str:
    """In: length(3725)  Out: '1 h 02 min'"""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def survives(auto_stop: int | float | None) -> str:
    """Until when a sandbox stays up without this kernel, by its auto-stop time in minutes."""
    if not auto_stop:
        return "It survives without this kernel; its sandbox never stops by itself."
    now = datetime.now()
    until = now + timedelta(minutes=float(auto_stop))
    day = "" if until.date() == now.date() else f"{until:%Y-%m-%d} "
    return f"It survives without this kernel until {day}{until:%H:%M}."
