"""A log as it grows: of jobs and cells, of sessions' commands, of files; several in one view.

What the sources say is written to the disk of this machine (:mod:`.log_store`) by a thread of the widget, no
faster than the disk takes it: the sandbox waits, the kernel's memory does not grow. Each view of it
(:mod:`.log_view`) is told what is new a few times in a second and asks for what it scrolls to.

Nothing here keeps a sandbox awake, makes one or starts one, unless somebody presses the button that does.
"""

from __future__ import annotations

import asyncio
import contextlib
import html
import time
from typing import TYPE_CHECKING, Any

from daytona_magics.errors import SandboxUsageError
from daytona_magics.notebook.job import Job
from daytona_magics.notebook.terminal import clean
from daytona_magics.runtime.loop import loop_thread
from daytona_magics.widgets import log_sources, log_text
from daytona_magics.widgets.live import CallError, LiveWidget
from daytona_magics.widgets.log_download import Downloads
from daytona_magics.widgets.log_feed import Feed, Writer
from daytona_magics.widgets.log_query import BadPattern, Query, query
from daytona_magics.widgets.log_sources import FileSource, JobSource, Source
from daytona_magics.widgets.log_store import LIMIT, NOTE, LogStore, Row
from daytona_magics.widgets.log_view import MOST_VIEWS, TICK, View
from daytona_magics.widgets.log_way import Way
from daytona_magics.widgets.watching import Standing

if TYPE_CHECKING:
    from daytona_magics.sandboxes.binding import Binding

#: Sources of one widget; lines of the record; characters of an open line that are shown.
MOST_SOURCES, RECORDED, OPEN = 64, 200, 2000
#: Seconds between two renewals of what the notebook keeps, while lines come: at first, and at last.
OFTEN, SELDOM = 3.0, 60.0
#: The view of pages that could not say yet what they want to see.
ANYBODY = "*"


class LogStream(LiveWidget):
    """Logs of the notebook's sandbox, followed.

    Args:
        sources: jobs, ids of jobs and cells (their first characters), or paths of files (with a slash, or
        ``~``).
        binding: whose sandbox; by default this kernel's.
        tail: the end of the log, when it is known already, for the record.
        limit: bytes on this machine's disk beyond which the oldest lines are dropped.

    Raises:
        SandboxUsageError: a source is none.

    In:  LogStream(job, "~/server.log")
    Out: a list that follows both, with colours, filter, search and download
    """

    kind = "log-stream"
    calls = (
        *("look", "rows", "find", "ack", "list", "add", "remove", "clear"),
        *("download", "piece", "abort"),
    )

    def __init__(
        self,
        *sources: Job | Source | str,
        binding: Binding | None = None,
        tail: str = "",
        limit: int = LIMIT,
    ) -> None:
        self._store = LogStore(limit)
        self._store.on_drop = self._wake
        self._feeds: list[Feed] = []
        self._views: dict[str, View] = {ANYBODY: View(self._store, Query())}
        self._known: dict[str, Source] = {}
        self._early = clean(tail)
        self._news: asyncio.Event | None = None
        self._pushing: asyncio.Task[None] | None = None
        self._leaving: asyncio.Task[None] | None = None
        self._wanted = [_source(one) for one in sources]
        self._told_end, self._tell_at, self._pause = 0, 0.0, OFTEN
        super().__init__(binding)
        self._way = Way(self.binding)
        self._downloads = Downloads(self._store, lambda: [one.source for one in self._feeds], self._way)
        self._writer = Writer(self._wake, self._disk_full)
        loop_thread().submit(self._begin(self._wanted))

    async def _begin(self, wanted: list[Source]) -> None:
        self._news = asyncio.Event()
        self._pushing = asyncio.ensure_future(self._push())
        for source in wanted:
            self._add(source)

    def add(self, source: Job | Source | str) -> LogStream:
        """Follow one more log. Raises SandboxUsageError when it is none."""
        made = _source(source)

        async def begin() -> None:
            self._add(made)

        loop_thread().submit(begin())
        return self

    def _add(self, source: Source) -> None:
        """On the loop thread."""
        for feed in self._feeds:
            if feed.source.key == source.key:
                feed.follow(self._way)
                return
        if len(self._feeds) >= MOST_SOURCES:
            raise CallError("refused", f"a log has at most {MOST_SOURCES} sources")
        feed = Feed(len(self._feeds), source, self._store, self._writer, self._wake)
        self._feeds.append(feed)
        feed.follow(self._way)

    def released(self) -> None:
        """Stop following, and give up what is kept of the log here."""
        self._writer.close()
        self._leaving = asyncio.ensure_future(self._leave())

    def sandbox_changed(self, now: Standing) -> None:
        """One that does not run says nothing more, one that runs again goes on: nobody need find that out."""
        if now.state == "started":
            for feed in self._feeds:
                feed.take_up()
            return
        for feed in self._feeds:
            feed.give_up(now.text)
        self._way.drop()

    def _disk_full(self, text: str) -> None:
        """On the writer's thread."""

        def lose() -> None:
            for feed in self._feeds:
                feed.give_up(text)

        loop_thread().loop.call_soon_threadsafe(lose)

    async def _leave(self) -> None:
        if self._pushing is not None:
            self._pushing.cancel()
        for feed in self._feeds:
            await feed.stop()
        await self._downloads.close()
        await self._way.close()
        await asyncio.to_thread(self._store.close)

    # -- telling the page --------------------------------------------------------------------------------

    def _wake(self, end: bool = False) -> None:
        """There is something new; with ``end`` what the notebook keeps of it is, too. Any thread."""
        news = self._news
        if news is not None and not news.is_set():
            loop_thread().loop.call_soon_threadsafe(news.set)
        if end:
            self.renew_record()

    async def _push(self) -> None:
        assert self._news is not None
        while True:
            # Woken by what is new; the record follows more slowly.
            wait = max(TICK, self._tell_at - time.monotonic()) if self._store.end != self._told_end else None
            with contextlib.suppress(TimeoutError, asyncio.TimeoutError):
                await asyncio.wait_for(self._news.wait(), wait)
            self._news.clear()
            self._renew_at_times()
            late = False
            for name, view in list(self._views.items()):
                if name == ANYBODY and len(self._views) > 1:
                    continue
                if not view.ready():
                    late = True
                    continue
                body = await asyncio.to_thread(view.news, self._extra(view))
                # Also where that was nothing to tell: a search goes on until it has looked at everything.
                late = late or view.behind > 0
                if body is not None and self.comm is not None:
                    self.send({"log": name, **body})
            await asyncio.sleep(TICK)
            if late:
                self._news.set()

    def _renew_at_times(self) -> None:
        """Let the notebook keep the lines that came, ever less often: a log may be followed for days."""
        now = time.monotonic()
        if self._store.end != self._told_end and now >= self._tell_at:
            self._told_end, self._tell_at = self._store.end, now + self._pause
            self._pause = min(2 * self._pause, SELDOM)
            self.renew_record()

    def _extra(self, view: View) -> dict[str, Any]:
        """What is told beside rows: the sources, and the lines that have not ended."""
        opened = []
        for feed in self._feeds:
            if feed.number not in view.query.hidden:
                for kind in view.query.kinds:
                    if line := feed.open(kind):
                        opened.append([feed.number, kind, *log_text.wire(line[-OPEN:], [])])
        return {"sources": [one.described() for one in self._feeds], "open": opened}

    # -- what the page asks for --------------------------------------------------------------------------

    async def call_look(self, given: dict[str, Any], _: list[bytes]) -> dict[str, Any]:
        """Say what a view wants to see; the answer is what it is told from now on."""
        name = _text(given, "view", 64)
        try:
            wanted = query(given)
            if name in self._views:
                view = self._views[name]
                await asyncio.to_thread(view.ask, wanted)
            else:
                view = View(self._store, wanted)
                others = [one for one in self._views if one != ANYBODY]
                for one in others[: max(0, len(others) - MOST_VIEWS + 1)]:
                    del self._views[one]
                self._views[name] = view
        except BadPattern as error:
            raise CallError("pattern", str(error)) from None
        view.following = given.get("following") is not False
        body = await asyncio.to_thread(view.news, self._extra(view), always=True)
        self._wake()
        return {**(body or {}), "sandbox": self._name()}

    def _view(self, given: dict[str, Any]) -> View:
        view = self._views.get(_text(given, "view", 64))
        if view is None:
            raise CallError("view", "this view was forgotten: there are too many of this log")
        return view

    async def call_rows(self, given: dict[str, Any], _: list[bytes]) -> dict[str, Any]:
        """The rows somebody scrolls to."""
        view = self._view(given)
        return await asyncio.to_thread(view.rows, _number(given, "from"), _number(given, "count"))

    async def call_find(self, given: dict[str, Any], _: list[bytes]) -> dict[str, Any]:
        """The next place in which something is found, or the one before."""
        view, step = self._view(given), -1 if given.get("step") == -1 else 1
        return await asyncio.to_thread(view.find, _number(given, "from"), step)

    async def call_ack(self, given: dict[str, Any], _: list[bytes]) -> None:
        """A page has drawn a message."""
        view = self._view(given)
        view.following = given.get("following") is not False
        view.heard(_number(given, "push"))

    async def call_list(self, given: dict[str, Any], _: list[bytes]) -> dict[str, Any]:
        """What else there is a log of."""
        found = await log_sources.known(self.binding, await self.channel())
        self._known = {one.key: one for one in found}
        return {"sources": [[one.key, one.name] for one in found[:500]], "more": max(0, len(found) - 500)}

    async def call_add(self, given: dict[str, Any], _: list[bytes]) -> None:
        """Follow one more."""
        key = _text(given, "key", 8192)
        await self.channel()
        self._add(self._known.get(key) or FileSource(key))
        self._wake()

    async def call_clear(self, given: dict[str, Any], _: list[bytes]) -> None:
        """Forget what is shown; what comes later is shown."""
        await asyncio.to_thread(self._store.clear)
        for view in self._views.values():
            view.again()
        self._early = ""
        self._wake()

    async def call_start(self, given: dict[str, Any], _: list[bytes]) -> None:
        """Make the sandbox usable, and go on following."""
        await super().call_start(given, _)
        for feed in self._feeds:
            feed.take_up()

    async def call_remove(self, given: dict[str, Any], _: list[bytes]) -> None:
        """Follow a source no longer; what it said stays."""
        number = _number(given, "source")
        if number < len(self._feeds):
            await self._feeds[number].remove()

    async def call_download(self, given: dict[str, Any], _: list[bytes]) -> None:
        """Begin to read the whole log; its pieces are asked for one by one."""
        source = given.get("source")
        await self._downloads.begin(_text(given, "id", 64), source if isinstance(source, int) else None)

    async def call_piece(self, given: dict[str, Any], _: list[bytes]) -> Any:
        """The next piece of it."""
        data = await self._downloads.piece(_text(given, "id", 64))
        return {"last": not data}, [data]

    async def call_abort(self, given: dict[str, Any], _: list[bytes]) -> None:
        """Nobody wants the rest."""
        await self._downloads.abort(_text(given, "id", 64))

    # -- what stays --------------------------------------------------------------------------------------

    def record(self) -> tuple[str, str]:
        """The last lines, as text and as HTML."""
        rows = self._store.rows(self._store.end - RECORDED, self._store.end)
        lines = [_told(one) for one in rows] or self._early.splitlines()[-RECORDED:]
        known = [one.source for one in self._feeds] or self._wanted
        names = ", ".join(one.name for one in known) or "log"
        before = self._store.lines - len(rows)
        head = f"Log of sandbox {self._name()}: {names}"
        more = f"… {before:,} lines before these" if before > 0 else ""
        ends = [f"{one.source.name}: {one.said}" for one in self._feeds if one.state == "ended"]
        plain = [head, *([more] if more else []), *(f"  {log_text.text(one)}" for one in lines), *ends]
        shown = "\n".join(log_text.markup(one) for one in lines)
        parts = [html.escape(one) for one in (more, *ends) if one]
        return (
            "\n".join(plain),
            f"<details open><summary>{html.escape(head)}</summary>"
            f'<pre style="max-height:24em;overflow:auto" tabindex="0">{shown}</pre>'
            + "".join(f"<div>{one}</div>" for one in parts)
            + "</details>",
        )


def _told(row: Row) -> str:
    """A row as the record has it."""
    return f"— {row.line} —" if row.kind == NOTE else row.line


def _source(given: Job | Source | str) -> Source:
    """What a person may call a source."""
    if isinstance(given, Source):
        return given
    if isinstance(given, Job):
        return JobSource(given.full_id, given.name, ended=given.state not in ("queued", "running"))
    if isinstance(given, str) and given.startswith(("~", "/", "./")):
        return FileSource(given)
    raise SandboxUsageError(
        f"{given!r} is no log: a job, or the path of a file of the sandbox is expected",
        hint="A path begins with / or ~; %sandbox jobs  lists jobs.",
    )


def _text(given: dict[str, Any], key: str, most: int) -> str:
    value = given.get(key)
    if not isinstance(value, str) or not 0 < len(value) <= most or "\0" in value:
        raise CallError("refused", f"{key} is missing")
    return value


def _number(given: dict[str, Any], key: str) -> int:
    value = given.get(key, 0)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 1 << 53:
        raise CallError("refused", f"{key} is not a number")
    return value
