"""A page that a server in the sandbox serves, in a frame of the notebook.

The frame's address is signed: it proves by itself that the browser may see one port, for an hour at most. It
goes to the page in the reply to one call, and the page navigates the frame with it without ever writing it
into the document; traits, events and the record never hold it. It is taken back when the widget closes.

The browser is told nothing of what happens in a frame of another origin. So this side looks at the page
itself (:mod:`daytona_magics.sandboxes.previewing`): whether the server answers, whether the page may be
framed, and whether it changed since a cell ran. Looking is no activity, so an open preview keeps no sandbox
awake.

A widget may be in several views (two tabs of a browser), each at a port and a path of its own. What is known
of a port, its address above all, is one thing for all of them (:class:`_Door`).
"""

from __future__ import annotations

import asyncio
import html
import time
import weakref
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from daytona_magics.errors import SandboxError, SandboxUsageError
from daytona_magics.runtime.loop import loop_thread
from daytona_magics.sandboxes import listening, previewing, serving
from daytona_magics.sandboxes.previewing import Seen, Signed
from daytona_magics.widgets import watching
from daytona_magics.widgets.live import CallError, LiveWidget

if TYPE_CHECKING:
    from collections.abc import Callable

    from daytona_magics.sandboxes.binding import Binding
    from daytona_magics.sandboxes.report import Reporter

#: A signed address that ends sooner, in seconds or as a part of its whole time, is not given to another view.
FRESH, PART = 300.0, 0.5
#: Ports that one widget knows the addresses of; of more, the one that was asked for longest ago ends.
MOST_DOORS = 8
#: Bytes of a server's output that are shown beside a preview.
LOG_BYTES = 8192
#: Characters of the page's text in the record.
RECORDED = 600


class Preview(LiveWidget):
    """What a server in the sandbox serves.

    Args:
        port: where it listens, 1 to 65535.
        path: what to show first.
        binding: whose sandbox; by default this kernel's.
        seconds: how long an address given to the browser is good for, 10 to 86,400; it is renewed in time.
        seen: how the page looked a moment ago, for the record.

    In:  Preview(3000, "/docs")
    Out: the page, with an address bar, widths of devices, and reloading after cells that changed it
    """

    kind = "preview"
    calls = ("open", "look", "ports", "log")

    def __init__(
        self,
        port: int,
        path: str = "/",
        *,
        binding: Binding | None = None,
        seconds: int = previewing.SIGNED_SECONDS,
        seen: Seen | None = None,
    ) -> None:
        if not 10 <= seconds <= 86_400:
            raise SandboxUsageError(f"an address is good for 10 to 86,400 seconds, not {seconds}")
        self.port, self.path = previewing.check_port(port), previewing.check_path(path)
        self._seconds, self._seen = seconds, seen
        self._seen_at = self.port, self.path
        self._doors: dict[tuple[str, int, str], _Door] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self._over = False
        self._unfollow: Callable[[], None] = lambda: None
        super().__init__(binding, view={"port": self.port, "path": self.path})
        if self._live:
            self._unfollow = _follow_cells(self)

    def released(self) -> None:
        """Its addresses stop working."""
        self._unfollow()
        self._over = True
        for key in list(self._doors):
            self._close(key)

    # -- what the page asks for ----------------------------------------------------------------------------

    async def call_open(self, given: dict[str, Any], _: list[bytes]) -> dict[str, Any]:
        """An address for a frame, and how the page looks; ``renew``: the number of one that is to end."""
        door, told = await self._look(given, files=True)
        if told["status"]:
            renew = given.get("renew")
            before = door.number
            signed = await door.address(self._seconds, renew if isinstance(renew, int) else 0)
            if 0 < before < door.number:
                # Other views may have the one that has ended.
                self.emit("renewed", port=door.port, number=door.number)
            left = max(0.0, signed.expires - time.time())
            told.update(url=signed.url, listener=signed.listener, below=signed.path)
            told.update(left=left, number=door.number)
        return told

    async def call_look(self, given: dict[str, Any], _: list[bytes]) -> dict[str, Any]:
        """How the page looks."""
        return (await self._look(given, files=given.get("files") is True))[1]

    async def call_ports(self, given: dict[str, Any], _: list[bytes]) -> dict[str, Any]:
        """Which programs of the sandbox listen."""
        await self._started()
        answer = await listening.ask(self.binding, 0)
        return {"ports": [[one.port, one.command] for one in answer.listeners.values()]}

    async def call_log(self, given: dict[str, Any], _: list[bytes]) -> dict[str, Any]:
        """The end of what the server printed, when ``%sandbox serve`` started it."""
        channel = await self.channel()
        server = await serving.find(channel, str(_port(given, self.port)))
        look = await channel.look(server.look.id, LOG_BYTES)
        return {
            "lines": serving.lines(look.tail, 200),
            "running": look.state != "done",
            "code": look.exit_code,
            "id": look.id[:8],
        }

    # -- the way there -------------------------------------------------------------------------------------

    async def _started(self, *, ask: bool = False) -> Any:
        """The sandbox, when it is started; no channel is opened, because that would be activity."""
        now = watching.standing(self.binding)
        if ask or now.state != "started":
            now = await watching.asked(self.binding)
            self.stand(now)
        if now.state != "started":
            raise CallError(now.state, now.text)
        return self.binding.bound()

    async def _look(self, given: dict[str, Any], *, files: bool) -> tuple[_Door, dict[str, Any]]:
        """Where a view is, and what it is told of the page there."""
        try:
            port, path = _port(given, self.port), previewing.check_path(given.get("path", self.path))
        except SandboxUsageError as error:
            raise CallError("refused", str(error), error.hint) from None
        self.port, self.path = port, path
        if self.view != (where := {"port": port, "path": path}):
            # A page that is loaded again begins where its reader was.
            self.view = where
        door = self._door(await self._started(), port)
        try:
            seen = await door.eye.look(path, files=files)
        except SandboxError:
            # Also when it was stopped a moment ago, which then is what there is to say.
            await self._started(ask=True)
            raise
        self._seen, self._seen_at = seen, (port, path)
        said = {name: value for name, value in vars(seen).items() if name not in ("links", "text")}
        return door, {**said, "port": port, "path": path, "public": bool(door.sandbox.public)}

    def _door(self, sandbox: Any, port: int) -> _Door:
        if self._over:
            raise CallError("refused", "this preview has ended")
        endpoint = self.binding.endpoint
        url = endpoint.api_url if endpoint else ""
        key = sandbox.id, port, url
        found = self._doors.pop(key, None)
        if found is None:
            marked = endpoint is not None and endpoint.kind == "embedded"
            found = _Door(sandbox, port, previewing.Eye(sandbox, port, marked=marked))
        self._doors[key] = found
        for other in list(self._doors):
            if (other[0], other[2]) != (sandbox.id, url) or len(self._doors) > MOST_DOORS:
                self._close(other)
        return found

    def _close(self, key: tuple[str, int, str]) -> None:
        task = asyncio.ensure_future(self._doors.pop(key).close())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    # -- what stays ----------------------------------------------------------------------------------------

    def record(self) -> tuple[str, str]:
        """The page as it was last seen: title, status and the beginning of its text."""
        port, path = self._seen_at
        head = f"Preview of port {port} in sandbox {self._name()}: {path}"
        lines = [head, *(f"  {line}" for line in described(self._seen))]
        shown = [f"<div>{html.escape(line)}</div>" for line in described(self._seen)]
        text = (self._seen.text if self._seen else "")[:RECORDED]
        if text:
            lines += ["", *(f"  | {line}" for line in text.splitlines())]
            shown.append(
                f'<pre style="white-space:pre-wrap;max-height:12em;overflow:auto">{html.escape(text)}</pre>'
            )
        return "\n".join(lines), f"<div><strong>{html.escape(head)}</strong>{''.join(shown)}</div>"


class _Door:
    """A port of a sandbox, for all views of it: who looks at it, and the signed address they share.

    Attributes:
        number: counts the addresses; 0 before the first.
    """

    def __init__(self, sandbox: Any, port: int, eye: previewing.Eye) -> None:
        self.sandbox, self.port, self.eye, self.number = sandbox, port, eye, 0
        self._signed: Signed | None = None
        self._signing, self._over = asyncio.Lock(), False

    async def address(self, seconds: int, renew: int = 0) -> Signed:
        """The address, good for a while; another one where that number, or an earlier one, has to end."""
        # Two views that ask at once get the same one: what nobody knows of could not be taken back.
        async with self._signing:
            if self._over:
                raise CallError("refused", "this preview has ended")
            signed = self._signed
            enough = min(FRESH, seconds * PART)
            if signed is None or renew >= self.number or signed.expires - time.time() < enough:
                await self._take_back()
                signed = self._signed = await previewing.sign(self.sandbox, self.port, seconds)
                self.number += 1
            return signed

    async def close(self) -> None:
        """Take the address back."""
        self._over = True
        # One that is being made is taken back, too.
        async with self._signing:
            with suppress(SandboxError):
                await self._take_back()
        await self.eye.close()

    async def _take_back(self) -> None:
        signed, self._signed = self._signed, None
        if signed is not None and signed.expires > time.time():
            await previewing.revoke(self.sandbox, signed)


def _port(given: dict[str, Any], usual: int) -> int:
    return previewing.check_port(given.get("port", usual))


def described(seen: Seen | None) -> list[str]:
    """What was seen, in words; no line for what nobody has looked at."""
    if seen is None:
        return []
    if not seen.answered:
        return [f"no answer: {seen.reason}"]
    where = f", leads to {seen.to}" if seen.to else ""
    said = [f"HTTP {seen.status}{where}"]
    return [*said, f"“{seen.title}”"] if seen.title else said


async def seen_now(binding: Binding, tell: Reporter, port: int, path: str) -> Seen:
    """How a page looks, in a sandbox that is made or started if need be."""
    sandbox = await binding.usable(tell)
    tell.progress(f"asking port {port}")
    marked = binding.endpoint is not None and binding.endpoint.kind == "embedded"
    eye = previewing.Eye(sandbox, port, marked=marked)
    try:
        return await eye.look(path)
    finally:
        await eye.close()


def _follow_cells(widget: Preview) -> Callable[[], None]:
    """From now on the views hear of it when a cell has ended; returns what ends that."""
    from IPython import get_ipython

    shell = get_ipython()
    if shell is None:
        return lambda: None
    # The shell must not keep alive what nobody else does.
    known = weakref.ref(widget)

    def ended(*_: Any) -> None:
        one = known()
        if one is None:
            shell.events.unregister("post_run_cell", ended)
        else:
            loop_thread().loop.call_soon_threadsafe(lambda: one.emit("cell"))

    def unfollow() -> None:
        with suppress(ValueError):
            shell.events.unregister("post_run_cell", ended)

    shell.events.register("post_run_cell", ended)
    return unfollow
