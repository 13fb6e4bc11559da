"""What a gate does with an allowed connection: copy bytes both ways, or carry one request and its answer.

Nothing is buffered beyond one piece per direction: a piece is read when the one before it has been taken by
the other side, so a fast sender is slowed down by the kernel's own flow control. The end of one direction is
passed on while the other goes on.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
from dataclasses import dataclass

from daytona_magics.engine.proxy import http1
from daytona_magics.engine.proxy.dialing import Refused
from daytona_magics.engine.proxy.http1 import Malformed, Request, Response, Wire
from daytona_magics.engine.proxy.targets import BadTarget, Target, parse_authority, shown
from daytona_magics.engine.proxy.upstream import Proxy

#: Seconds until a server's first byte of an answer; some think for minutes.
ANSWER_SECONDS = 900.0
HEAD_SECONDS = 60.0
MAX_INTERIM = 20
# Reading and writing what is ready does not let anybody else run; this many pieces in a row are fair.
_TURN = 4

_ABSOLUTE = re.compile(r"(?i:http)://([^/?#]*)((?:[/?][^#]*)?)\Z")


@dataclass(frozen=True)
class Plain:
    """A plain request's destination: where, and the path with its query there."""

    target: Target
    path: str

    @property
    def host_header(self) -> bytes:
        return str(self.target).removesuffix(":80").encode()


def parse_plain(request: Request) -> Plain:
    """The destination of a request in absolute form.

    Raises:
        Malformed: it has another form.
    """
    text = request.target.decode("ascii")
    found = _ABSOLUTE.match(text)
    if found is None:
        scheme = text.partition("://")[0].lower() if "://" in text else ""
        if scheme == "https":
            raise Malformed(400, "https goes through CONNECT, which this client did not use")
        if scheme:
            raise Malformed(400, f"{shown(scheme)} does not leave a sandbox; only http and https do")
        raise Malformed(400, "this is the way out of the sandbox, a proxy: ask it for http://… or by CONNECT")
    try:
        target = parse_authority(found[1], 80)
    except BadTarget as error:
        raise Malformed(400, str(error)) from None
    path = found[2] or ("*" if request.method == b"OPTIONS" else "/")
    return Plain(target, f"/{path}" if path.startswith("?") else path)


async def tunnel(near: Wire, far: Wire) -> None:
    """Copy both ways until both sides have ended, or one breaks."""
    pumps = {asyncio.ensure_future(_pump(near, far)), asyncio.ensure_future(_pump(far, near))}
    try:
        done, _ = await asyncio.wait(pumps, return_when=asyncio.FIRST_EXCEPTION)
        for pump in done:
            with contextlib.suppress(OSError):
                pump.result()
    finally:
        for pump in pumps:
            pump.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)


async def _pump(source: Wire, sink: Wire) -> None:
    turn = 0
    while data := await source.piece():
        await sink.send(data)
        turn += 1
        if turn % _TURN == 0:
            await asyncio.sleep(0)
    sink.sock.shutdown(socket.SHUT_WR)


async def exchange(request: Request, plain: Plain, near: Wire, far: Wire, proxy: Proxy | None) -> bool:
    """Send one request on, and its answer back.

    Args:
        proxy: of the host, when ``far`` leads to it.

    Returns:
        whether the client's connection can carry another request.

    Raises:
        Malformed: by the client, before anything was answered.
        Refused: the server gave no answer.
    """
    body = http1.request_body(request)
    expects = [value.lower() for value in http1.values(request.headers, b"expect")]
    if expects == [b"100-continue"] and request.minor == 1 and not body.is_empty:
        await near.send(b"HTTP/1.1 100 Continue\r\n\r\n")
    elif expects and expects != [b"100-continue"]:
        raise Malformed(417, "only 100-continue can be expected")
    upload = asyncio.ensure_future(_upload(request, plain, body, near, far, proxy))
    answer = asyncio.ensure_future(answer_head(request, near, far))
    try:
        await asyncio.wait({upload, answer}, return_when=asyncio.FIRST_COMPLETED)
        if upload.done():
            # A server that has heard enough may close before it answers.
            with contextlib.suppress(OSError):
                upload.result()
        response = await answer
        whole = await send_answer(request, response, near, far)
        return whole and upload.done() and request.wants_more()
    finally:
        for task in (upload, answer):
            task.cancel()
        await asyncio.gather(upload, answer, return_exceptions=True)


async def _upload(
    request: Request, plain: Plain, body: http1.Body, near: Wire, far: Wire, proxy: Proxy | None
) -> None:
    # The destination, not what the client wrote into Host, says which site is asked.
    headers = [(b"Host", plain.host_header)]
    headers += http1.end_to_end(request.headers, b"host", b"content-length", b"expect")
    if body.chunked:
        headers.append((b"Transfer-Encoding", b"chunked"))
    elif body.length or http1.values(request.headers, b"content-length"):
        headers.append((b"Content-Length", b"%d" % (body.length or 0)))
    where = plain.path.encode()
    if proxy is not None:
        headers += proxy.authorization
        where = b"http://" + plain.host_header + (b"" if where == b"*" else where)
    headers.append((b"Connection", b"close"))
    await far.send(http1.write_head(request.method + b" " + where + b" HTTP/1.1", headers))
    async for data in near.body(body):
        await far.send(http1.chunk(data) if body.chunked else data)
        await asyncio.sleep(0)
    if body.chunked:
        await far.send(http1.chunk(b""))


async def answer_head(request: Request, near: Wire, far: Wire) -> Response:
    """The head of the answer; interim ones are passed on. Raises Refused when there is none."""
    for _ in range(MAX_INTERIM):
        try:
            head = await far.head(ANSWER_SECONDS, HEAD_SECONDS)
            if head is None:
                raise Refused(502, "the server closed the connection without an answer")
            response = http1.parse_response(head)
        except Malformed as error:
            raise Refused(502, f"the server's answer cannot be read: {error.message}") from None
        except OSError as error:
            raise Refused(502, f"the server broke the connection ({error.strerror})") from None
        if response.status >= 200:
            return response
        if response.status == 101:
            raise Refused(502, "the server changed to a protocol nobody asked for")
        if response.status != 100 and request.minor == 1:
            first = b"HTTP/1.1 %d %b" % (response.status, response.reason)
            await near.send(http1.write_head(first, http1.end_to_end(response.headers)))
    raise Refused(502, "the server says that it will answer, and does not")


async def send_answer(request: Request, response: Response, near: Wire, far: Wire) -> bool:
    """Pass an answer on; whether the client can know where it ends."""
    try:
        body = http1.response_body(response, request.method)
    except Malformed as error:
        raise Refused(502, error.message) from None
    headers = http1.end_to_end(response.headers, b"content-length")
    ends = body.length is not None
    if ends:
        headers += [(b"Content-Length", v) for v in http1.values(response.headers, b"content-length")[:1]]
    elif body.chunked and request.minor == 1:
        ends = True
        headers.append((b"Transfer-Encoding", b"chunked"))
    stays = ends and request.wants_more()
    headers.append((b"Connection", b"keep-alive" if stays else b"close"))
    await near.send(http1.write_head(b"HTTP/1.1 %d %b" % (response.status, response.reason), headers))
    chunked = ends and body.chunked
    try:
        async for data in far.body(body):
            await near.send(http1.chunk(data) if chunked else data)
            await asyncio.sleep(0)
    except Malformed:
        # Cut short: the client sees a broken body, not a complete one.
        return False
    if chunked:
        await near.send(http1.chunk(b""))
    return stays
