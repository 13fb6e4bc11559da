"""The web terminal: the page at port 22222 of every sandbox, and the shell behind it.

The page (``widgets/js/src/web_terminal.ts``, bundled when the package is built) opens one WebSocket, which
gets a new shell; the shell ends when the page leaves. The page reports what it has shown. More than
`MAX_UNSHOWN` bytes are never on their way, and while they are the terminal is not read, so that a program
which prints without end waits, as it does for any terminal.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import html
import json
import secrets
from collections import deque
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from aiohttp import WSMsgType, web

from daytona_magics.engine.api.errors import PROXY
from daytona_magics.engine.api.pty import MAX_SIDE, open_session
from daytona_magics.engine.api.pty_session import PtySession, control, exit_reason
from daytona_magics.engine.errors import ApiError
from daytona_magics.engine.life.sandbox import Sandbox
from daytona_magics.engine.preview.address import Wanted, is_own_origin
from daytona_magics.engine.preview.upgrade import is_websocket
from daytona_magics.engine.toolbox.client import PtyExit

PORT = 22222
SCRIPT = Path(__file__).parent / "static" / "web_terminal.js"
#: Ids of its terminals begin like this.
PREFIX = "web-"
MAX_TERMINALS = 32
MAX_UNSHOWN, MAX_WAITING = 1 << 20, 1 << 20
MAX_MESSAGE = 1 << 20
CLOSE_SECONDS = 5.0

_PAGE = """<!doctype html><html lang=en><meta charset=utf-8><title>{title}</title>
<meta name=viewport content="width=device-width"><meta name=color-scheme content="light dark">
<style>body{{margin:8px;background:#111316}}#terminal{{height:calc(100vh - 16px)}}
@media(prefers-color-scheme:light){{body{{background:#fff}}}}</style>
<main id=terminal aria-label=Terminal data-title="{title}"></main><script type=module>{script}</script></html>
"""


async def serve(
    request: web.Request, sandbox: Sandbox, wanted: Wanted, *, counts: bool
) -> web.StreamResponse:
    """Answer a request to the terminal's port.

    Args:
        counts: whether what is typed keeps the sandbox awake.

    Raises:
        ApiError: 403 for a page of another origin, 404, 503.
    """
    if wanted.path == "/" and request.method in ("GET", "HEAD"):
        return _page(sandbox)
    if wanted.path != "/ws" or not is_websocket(request):
        raise ApiError(404, "the web terminal is at /", source=PROXY)
    # In the path form whoever knows the token may ask, and the page has no origin to be told by.
    if not wanted.by_path and not is_own_origin(request):
        raise ApiError(403, "pages of other origins cannot use the web terminal", source=PROXY)
    if sum(name.startswith(PREFIX) for name in sandbox.ptys) >= MAX_TERMINALS:
        raise ApiError(503, f"this sandbox has {MAX_TERMINALS} open web terminals", source=PROXY)
    session = await open_session(
        sandbox,
        {
            "id": PREFIX + secrets.token_hex(8),
            "cols": _side(request, "cols", 80),
            "rows": _side(request, "rows", 24),
            "envs": {"TERM": "xterm-256color", "COLORTERM": "truecolor"},
        },
    )
    try:
        return await _carry(request, sandbox, session, counts)
    finally:
        if session.end is None:
            await session.kill()


def _side(request: web.Request, name: str, default: int) -> int:
    given = request.query.get(name, "")
    return (
        min(max(int(given), 1), MAX_SIDE)
        if given.isascii() and given.isdigit() and len(given) < 6
        else default
    )


@cache
def _script() -> str:
    try:
        # Inside an HTML element nothing may look like its end.
        return SCRIPT.read_text("utf-8").replace("</script", "<\\/script").replace("<!--", "<\\!--")
    except FileNotFoundError:
        raise ApiError(
            503, "the web terminal's page was not built: install the package with pip", source=PROXY
        ) from None


def _page(sandbox: Sandbox) -> web.Response:
    script = _script()
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; font-src data:;"
        " connect-src ws: wss:; base-uri 'none'; form-action 'none'"
    )
    return web.Response(
        text=_PAGE.format(title=html.escape(f"{sandbox.record.name} · terminal"), script=script),
        content_type="text/html",
        headers={
            "Content-Security-Policy": policy,
            "Cache-Control": "no-store",
            "Referrer-Policy": "no-referrer",
            "X-Content-Type-Options": "nosniff",
        },
    )


class _Screen:
    """The page as the terminal sees it: takes what is printed, and makes the terminal wait."""

    def __init__(self, ws: web.WebSocketResponse, session: PtySession) -> None:
        self._ws, self._session = ws, session
        self._queue: deque[bytes] = deque()
        self._waiting = self._unshown = 0
        self._end: PtyExit | None = None
        self._news = asyncio.Event()

    def push(self, reads: Sequence[bytes]) -> None:
        """Reads of the terminal."""
        self._queue.extend(reads)
        self._waiting += sum(map(len, reads))
        if self._waiting > MAX_WAITING:
            self._session.hold(True)
        self._news.set()

    def finish(self, end: PtyExit) -> None:
        """The shell ended."""
        self._end = end
        self._news.set()

    def shown(self, size: int) -> None:
        """The page has shown so many bytes."""
        self._unshown = max(self._unshown - size, 0)
        self._news.set()

    async def run(self) -> None:
        """Send until the shell ends; then say how, and close."""
        await self._ws.send_str(control("connected"))
        while self._end is None or self._queue:
            await self._news.wait()
            self._news.clear()
            while self._queue and self._unshown < MAX_UNSHOWN:
                data = self._queue.popleft()
                self._waiting -= len(data)
                self._unshown += len(data)
                await self._ws.send_bytes(data)
            if self._waiting <= MAX_WAITING // 2:
                self._session.hold(False)
        await self._ws.close(code=1000 if self._end.exit_code == 0 else 1011, message=exit_reason(self._end))


async def _carry(
    request: web.Request, sandbox: Sandbox, session: PtySession, counts: bool
) -> web.WebSocketResponse:
    ws = web.WebSocketResponse(compress=False, max_msg_size=MAX_MESSAGE, heartbeat=20.0)
    await ws.prepare(request)
    screen = _Screen(ws, session)
    session.attach(screen)
    sender = asyncio.ensure_future(screen.run())
    try:
        async for message in ws:
            if message.type == WSMsgType.BINARY:
                # What is typed is activity; a terminal that is merely open is not.
                if counts:
                    sandbox.touch()
                await session.write(message.data)
            elif message.type == WSMsgType.TEXT:
                _obey(message.data, screen, session)
    finally:
        session.detach(screen)
        if session.end is not None:
            await asyncio.wait([sender], timeout=CLOSE_SECONDS)
        sender.cancel()
        await asyncio.gather(sender, return_exceptions=True)
    return ws


def _obey(text: str, screen: _Screen, session: PtySession) -> None:
    """What the page says of itself; anything else is left alone."""
    try:
        said = json.loads(text)
        kind = said["type"]
        if kind == "shown":
            screen.shown(max(int(said["bytes"]), 0))
        elif kind == "resize":
            cols, rows = (min(max(int(said[name]), 1), MAX_SIDE) for name in ("cols", "rows"))
            session.resize(cols, rows)
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return
