"""The sandbox's pseudo-terminal as a byte stream: one WebSocket, opened the way the SDK opens it.

The SDK's own PTY handle waits in steps of 100 ms for the connection, so this file opens the same URL with the
same headers and subprotocols itself; a test pins all three against the SDK's call. Nothing else of the
package knows how a PTY is reached.

The API key travels in a header. Handshake errors of aiohttp carry the request's headers, so they never leave
this file: every failure becomes a :class:`PtyError` raised outside the ``except`` block, so that it has no
``__context__``.
"""

from __future__ import annotations

import asyncio
import base64
import importlib.metadata
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode, urlsplit

import aiohttp

from daytona_magics.engine import loopback
from daytona_magics.runtime.proxies import through

if TYPE_CHECKING:
    from daytona import AsyncSandbox

EXIT_CONTROL = "X-Daytona-Pty-Exit-Control"
ENVS_PREFIX = "X-Daytona-Pty-Envs~"
#: Our own offer to the embedded engine, which takes it up where it can.
HAND_OVER_PREFIX = "X-Daytona-Magics-Hand-Over~"
#: Seconds between WebSocket pings, as the SDK sends them (they keep proxies from dropping a silent line).
KEEPALIVE = 20.0
MAX_MESSAGE = 4 << 20
#: The platform refuses client messages over 64 KiB.
MAX_SEND = 32 << 10
COLS, ROWS = 200, 50


class PtyError(Exception):
    """The PTY could not be opened, or broke.

    Attributes:
        status: HTTP status of a refused upgrade; None when there was no HTTP answer.
        refused_here: nobody listens at an address of this very machine.
    """

    def __init__(self, message: str, status: int | None = None, refused_here: bool = False) -> None:
        super().__init__(message)
        self.status = status
        self.refused_here = refused_here


def is_loopback(url: str) -> bool:
    """Whether a URL points at this machine, so that no proxy may ever see its bearer.

    In:  is_loopback("http://127.0.0.1:8000/x"), is_loopback("https://proxy.example.com")
    Out: (True, False)
    """
    return loopback.is_loopback(urlsplit(url).hostname)


@dataclass(frozen=True)
class Shape:
    """What a new PTY session is like: its size in characters, and its folder ("" is the sandbox's own)."""

    cols: int = COLS
    rows: int = ROWS
    cwd: str = ""


@dataclass(frozen=True)
class HandOver:
    """Who shall get the terminal instead of a shell: the program inside that takes terminals at ``socket``.

    Attributes:
        socket: path of a unix socket; ``~/`` is the sandbox user's home.
        patience: seconds until somebody has to be there; with 0 a shell starts when nobody is.
    """

    socket: str
    patience: float = 0.0

    @property
    def offer(self) -> str:
        """The subprotocol that offers it."""
        coded = json.dumps({"socket": self.socket, "patience": self.patience})
        return HAND_OVER_PREFIX + _packed(coded)


@dataclass(frozen=True)
class PtyAddress:
    """Where a sandbox's PTYs are, and what opens them.

    Attributes:
        base: ``{toolbox_proxy_url}/{sandbox id}``, without a trailing slash.
        headers: the SDK's request headers, the bearer among them; kept out of ``repr``.
    """

    base: str
    headers: Mapping[str, str]

    def __repr__(self) -> str:
        return f"PtyAddress({self.base!r})"

    @classmethod
    def of(cls, sandbox: AsyncSandbox, api_key: str) -> PtyAddress:
        """The address of a sandbox's PTYs, from public attributes of the SDK's sandbox object."""
        version = importlib.metadata.version("daytona")
        headers = {
            "Accept": "*/*",
            "Authorization": f"Bearer {api_key}",
            "User-Agent": f"sdk-python-async/{version}",
            "X-Daytona-Source": "sdk-python-async",
            "X-Daytona-SDK-Version": version,
        }
        return cls(f"{sandbox.toolbox_proxy_url}/{sandbox.id}", headers)

    @property
    def loopback(self) -> bool:
        """Whether it is on this very machine."""
        return is_loopback(self.base)

    def create_connect(self, session: str, shape: Shape | None = None) -> str:
        """URL that creates a PTY session and connects to it in one step."""
        shape = shape or Shape()
        query = {"id": session, "cols": str(shape.cols), "rows": str(shape.rows)}
        if shape.cwd:
            query["cwd"] = shape.cwd
        return f"{self._ws}/process/pty/create-connect?{urlencode(query)}"

    def connect(self, session: str) -> str:
        """URL that connects to an existing PTY session."""
        return f"{self._ws}/process/pty/{quote(session, safe='')}/connect"

    @property
    def create(self) -> str:
        """URL that creates a PTY session without connecting (the older two-step form)."""
        return f"{self.base}/process/pty"

    @property
    def _ws(self) -> str:
        return re.sub(r"^http", "ws", self.base)


def subprotocols(envs: Mapping[str, str] | None) -> list[str]:
    """What is offered in the upgrade: the exit control message, and the session's environment.

    In:  subprotocols(None)
    Out: ['X-Daytona-Pty-Exit-Control']
    """
    offered = [EXIT_CONTROL]
    if envs:
        offered.append(ENVS_PREFIX + _packed(json.dumps(dict(envs))))
    return offered


def _packed(text: str) -> str:
    return base64.urlsafe_b64encode(text.encode()).rstrip(b"=").decode()


class PtySocket:
    """A connected PTY session. ``send`` only queues; ``receive`` returns the next bytes.

    Attributes:
        session: name of the PTY session, needed to delete it later.
        exit_text: what the server said when the session's process ended; empty while it runs.
        exit_code: of the session's program; None while it runs, and when nobody said it.
        ended: whether the server closed the session in good order (its process is gone).
        handed: how the terminal went where it was offered to; None when its program is a shell.
    """

    def __init__(
        self,
        session: str,
        http: aiohttp.ClientSession,
        ws: aiohttp.ClientWebSocketResponse,
        handed: HandOver | None = None,
    ) -> None:
        self.session = session
        self.exit_text = ""
        self.exit_code: int | None = None
        self.ended = False
        self.handed = handed
        self._http = http
        self._ws = ws
        self._outgoing = bytearray()
        self._sending = False  # the writer waits for room
        self._wake = asyncio.Event()
        self._empty = asyncio.Event()
        self._writer = asyncio.create_task(self._write(), name="dm-pty-writer")

    @classmethod
    async def open(
        cls,
        address: PtyAddress,
        session: str,
        *,
        envs: Mapping[str, str] | None = None,
        shape: Shape | None = None,
        existing: bool = False,
        hand_over: Sequence[HandOver] = (),
        timeout: float = 10.0,
    ) -> PtySocket:
        """Create a PTY session and connect to it.

        Args:
            address: where.
            session: a name no other session of the sandbox has.
            envs: environment of the session's shell, on top of the sandbox's.
            shape: size and folder of a new session.
            existing: connect to a session that is there already, and make none.
            hand_over: offered to an engine on this machine only, which takes up the first that it can.
            timeout: seconds for the whole of it.

        Raises:
            PtyError: with the HTTP status if the server answered.
        """
        http = aiohttp.ClientSession()
        failure: PtyError
        try:
            offers = {one.offer: one for one in hand_over} if address.loopback else {}
            made = cls._upgrade(http, address, session, envs, shape or Shape(), existing, list(offers))
            ws = await asyncio.wait_for(made, timeout)
            return cls(session, http, ws, offers.get(ws.protocol or ""))
        except PtyError as error:
            failure = PtyError(str(error), error.status)
        except (TimeoutError, asyncio.TimeoutError):
            failure = PtyError(f"no connection within {timeout:g} s")
        except (aiohttp.ClientError, OSError) as error:
            refused = isinstance(error, aiohttp.ClientConnectorError)
            failure = PtyError(_plain(error), refused_here=refused and is_loopback(address.base))
        except BaseException:
            await http.close()
            raise
        await http.close()
        raise failure

    @staticmethod
    async def _upgrade(
        http: aiohttp.ClientSession,
        address: PtyAddress,
        session: str,
        envs: Mapping[str, str] | None,
        shape: Shape,
        existing: bool,
        offers: list[str],
    ) -> aiohttp.ClientWebSocketResponse:
        async def way(url: str) -> dict[str, Any]:
            return {} if is_loopback(url) else await through(url)

        async def connect(url: str, offered: list[str]) -> aiohttp.ClientWebSocketResponse | int:
            try:
                ws: aiohttp.ClientWebSocketResponse = await http.ws_connect(
                    url,
                    headers=address.headers,
                    protocols=offered,
                    heartbeat=KEEPALIVE,
                    autoping=True,
                    max_msg_size=MAX_MESSAGE,
                    timeout=aiohttp.ClientWSTimeout(ws_close=0.5),
                    **await way(url),
                )
                return ws
            except aiohttp.WSServerHandshakeError as error:
                return error.status

        if existing:
            made = await connect(address.connect(session), subprotocols(None))
        else:
            # First, because a server accepts the first that it knows.
            made = await connect(address.create_connect(session, shape), [*offers, *subprotocols(envs)])
        if made == 404 and not existing:
            body: dict[str, Any] = {"id": session, "cols": shape.cols, "rows": shape.rows}
            body |= {"envs": dict(envs or {})} | ({"cwd": shape.cwd} if shape.cwd else {})
            proxy = await way(address.create)
            async with http.post(address.create, json=body, headers=address.headers, **proxy) as answer:
                status = answer.status
            made = await connect(address.connect(session), subprotocols(None)) if status < 300 else status
        if isinstance(made, int):
            raise PtyError(f"the sandbox's terminal answered HTTP {made}", made)
        return made

    def send(self, data: bytes) -> None:
        """Send bytes to the PTY, or queue them; they leave in order."""
        if not self._outgoing and not self._sending and len(data) <= MAX_SEND and self._send_now(data):
            return
        self._outgoing += data
        self._empty.clear()
        self._wake.set()

    def _send_now(self, data: bytes) -> bool:
        """Give bytes to the connection without waking the writer; False when they are still to be sent."""
        step = self._ws.send_bytes(data)
        try:
            # Up to where it would wait for room; the bytes are with the connection by then.
            step.send(None)
        except StopIteration:
            return True
        except (aiohttp.ClientError, OSError):
            return False  # the writer meets the same, and closes
        step.close()
        return True

    async def flushed(self) -> None:
        """Wait until all that was sent has left, or cannot leave any more."""
        if not self._writer.done() and self._outgoing:
            await self._empty.wait()

    async def _write(self) -> None:
        try:
            while True:
                await self._wake.wait()
                self._wake.clear()
                while self._outgoing:
                    piece = bytes(self._outgoing[:MAX_SEND])
                    del self._outgoing[:MAX_SEND]
                    self._sending = True
                    await self._ws.send_bytes(piece)
                    self._sending = False
                self._empty.set()
        except (aiohttp.ClientError, OSError):
            # The reading side sees the same loss and reports it; closing makes sure that it does.
            await self._http.close()
        finally:
            self._empty.set()

    async def receive(self) -> bytes:
        """The next bytes. Returns at once, without yielding to the loop, when some have already arrived.

        Raises:
            PtyError: the connection or the session ended; the message says how.
        """
        while True:
            try:
                message = await self._ws.receive()
            except (aiohttp.ClientError, OSError) as error:
                message = aiohttp.WSMessage(aiohttp.WSMsgType.ERROR, _plain(error), None)
            if message.type is aiohttp.WSMsgType.BINARY:
                data: bytes = message.data
                return data
            if message.type is aiohttp.WSMsgType.TEXT:
                self._control(message.data)
                continue
            if message.type is aiohttp.WSMsgType.CLOSE:
                self.ended = True
                self.exit_text = self.exit_text or _closing(str(message.extra or ""))
                if self.exit_code is None:
                    self.exit_code = _exit_code(message.extra)
            reason = self.exit_text or f"connection closed ({self._ws.close_code or 'lost'})"
            raise PtyError(reason)

    def _control(self, text: str) -> None:
        try:
            control = json.loads(text)
        except (ValueError, RecursionError):
            return
        if not isinstance(control, dict):
            return
        if control.get("status") == "exited":
            self.ended = True
            self.exit_text, self.exit_code = _ended(control), _code_of(control)
        elif control.get("status") == "error":
            self.exit_text = f"the terminal reported: {control.get('error')!s:.200}"

    async def close(self) -> None:
        """Close the socket, waiting at most half a second for the other side. Idempotent."""
        self._writer.cancel()
        if not self._ws.closed:
            await self._ws.close()
        await self._http.close()

    async def abort(self) -> None:
        """Drop the socket without a word: for connections known to be dead."""
        self._writer.cancel()
        await self._http.close()


def _ended(report: dict[str, Any]) -> str:
    return f"the terminal's program ended with exit code {report.get('exitCode')!s:.20}"


def _code_of(report: dict[str, Any]) -> int | None:
    code = report.get("exitCode")
    return code if isinstance(code, int) and abs(code) < 1 << 31 else None


def _exit_code(reason: object) -> int | None:
    try:
        report = json.loads(str(reason or ""))
    except (ValueError, RecursionError):
        return None
    return _code_of(report) if isinstance(report, dict) else None


def _closing(reason: str) -> str:
    """A close frame's reason, which is JSON when the session's program ended."""
    try:
        report = json.loads(reason)
    except (ValueError, RecursionError):
        return reason[:200]
    return _ended(report) if isinstance(report, dict) and "exitCode" in report else reason[:200]


def _plain(error: BaseException) -> str:
    """An error's own words, without anything a request carried."""
    if isinstance(error, aiohttp.ClientConnectorError):
        return f"cannot connect: {error.os_error.strerror or type(error.os_error).__name__}"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return type(error).__name__
