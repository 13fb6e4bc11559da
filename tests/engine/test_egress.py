"""The proxy at work: requests, tunnels, flow control, live changes, the host's own proxy."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import os
import socket
import time

import pytest

from daytona_magics.engine.proxy.dialing import system_resolver
from daytona_magics.engine.proxy.gate import MAX_CONNECTIONS, Timing
from daytona_magics.engine.proxy.policy import Policy
from daytona_magics.engine.proxy.settings import HostNetwork
from daytona_magics.engine.proxy.upstream import Upstream
from tests.engine.egress_house import LISTED, House, echo, house


async def origin(own: House) -> str:
    own.names.answers["ok.test"] = [["127.0.0.1"]]
    return f"http://ok.test:{await own.serve(own.origin)}"


async def test_requests_follow_each_other_on_one_connection() -> None:
    async with house() as own:
        base = await origin(own)
        reader, writer = await own.connect()
        for path in ("/a?b=c", "/chunked", "/nothing", "/interim"):
            writer.write(
                f"GET {base}{path} HTTP/1.1\r\nHost: evil.test\r\nProxy-Connection: keep-alive\r\n"
                "Proxy-Authorization: Basic eDp5\r\nConnection: keep-alive, X-Hop\r\nX-Hop: 1\r\nTE: x\r\n"
                "Upgrade: h2c\r\nAccept: */*\r\n\r\n".encode()
            )
            head = await reader.readuntil(b"\r\n\r\n")
            if path == "/interim":
                assert head.startswith(b"HTTP/1.1 103 ")
                head = await reader.readuntil(b"\r\n\r\n")
            assert b"Connection: keep-alive" in head
            if path == "/chunked":
                assert await reader.readuntil(b"0\r\n\r\n") == b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
            elif path != "/nothing":
                await reader.readexactly(2 if path == "/interim" else 5)
        # Pipelined: both requests are there before the first answer.
        writer.write(
            f"GET {base}/1 HTTP/1.1\r\n\r\nGET {base}/2 HTTP/1.1\r\nConnection: close\r\n\r\n".encode()
        )
        both = await reader.read(-1)
        assert both.count(b"hello") == 2
        writer.close()
    place = base.removeprefix("http://").encode()
    assert own.heads[0].startswith(b"GET /a?b=c HTTP/1.1\r\nHost: " + place + b"\r\n")
    first = own.heads[0].lower()
    assert b"accept: */*" in first and b"connection: close" in first
    for gone in (b"evil.test", b"proxy", b"x-hop", b"te:", b"upgrade"):
        assert gone not in first


async def test_bodies_of_every_kind() -> None:
    async with house() as own:
        base = await origin(own)
        assert (await own.get(base + "/until-close")).endswith(
            b"X-Kept: 1\r\nConnection: close\r\n\r\nto the end"
        )
        old = await own.say(f"GET {base}/chunked HTTP/1.0\r\n\r\n".encode())
        assert b"Transfer-Encoding" not in old and old.endswith(b"\r\n\r\nabcde")
        assert (await own.say(f"HEAD {base}/x HTTP/1.1\r\nConnection: close\r\n\r\n".encode())).count(
            b"hello"
        ) == 0
        own.bodies.clear()
        post = f"POST {base}/post HTTP/1.1\r\nConnection: close\r\n"
        assert b"hello" in await own.say((post + "Content-Length: 4\r\n\r\nbody").encode())
        chunked = (
            post + "Transfer-Encoding: chunked\r\n\r\n4;ext=1\r\nbody\r\nA\r\n0123456789\r\n0\r\nX: y\r\n\r\n"
        )
        assert b"hello" in await own.say(chunked.encode())
        expecting = post + "Content-Length: 4\r\nExpect: 100-continue\r\n\r\nbody"
        assert (await own.say(expecting.encode())).startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 ")
        assert own.bodies == [b"body", b"body0123456789", b"body"]
        assert b"expect" not in own.heads[-1].lower()
        # A server that has heard enough: its answer arrives though the body never does.
        early = await own.say(f"POST {base}/early HTTP/1.1\r\nContent-Length: 100000\r\n\r\nx".encode())
        assert early.startswith(b"HTTP/1.1 413 Too much") and early.endswith(b"much")


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("/two-lengths", b"ambiguous"),
        ("/none", b"without an answer"),
        ("/noise", b"not HTTP/1.1"),
        ("/switch", b"nobody asked for"),
        ("/huge", b"more than 65536 bytes"),
    ],
)
async def test_servers_that_answer_badly(path: str, says: bytes) -> None:
    async with house() as own:
        answer = await own.get(await origin(own) + path)
        assert answer.startswith(b"HTTP/1.1 502 ") and says in answer


async def test_an_answer_that_is_cut_short_is_not_made_whole() -> None:
    async with house() as own:
        answer = await own.get(await origin(own) + "/cut")
        assert b"Content-Length: 50" in answer and answer.endswith(b"hello")


async def test_a_tunnel_carries_both_ways_and_keeps_half_closes() -> None:
    async with house() as own:
        port = await own.serve(echo)
        head, reader, writer = await own.tunnel(f"127.0.0.1:{port}")
        assert head == b"HTTP/1.1 200 Connection established\r\n\r\n"
        writer.write(b"ping")
        assert await reader.readexactly(4) == b"ping"
        writer.write(b"last words")
        writer.write_eof()
        # The other direction goes on after the end of this one.
        assert await asyncio.wait_for(reader.read(-1), 20) == b"last words"
        writer.close()
        # Bytes that were sent before the answer arrive, too.
        eager = await own.connect()
        eager[1].write(f"CONNECT 127.0.0.1:{port} HTTP/1.1\r\n\r\nearly bytes".encode())
        eager[1].write_eof()
        assert (await asyncio.wait_for(eager[0].read(-1), 20)).endswith(b"\r\n\r\nearly bytes")
        eager[1].close()
        counters = own.egress.counters("box")
        assert counters and counters.requests == 2 and counters.refused == 0


async def test_forty_megabytes(record_property: pytest.RecordProperty) -> None:
    piece, count = os.urandom(1 << 20), 40

    async def send(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (count << 20))
        for _ in range(count):
            writer.write(piece)
            await writer.drain()

    async with house() as own:
        port = await own.serve(send)
        for way in ("tunnel", "plain"):
            start, digest, left = time.monotonic(), hashlib.sha256(), count << 20
            if way == "tunnel":
                _, reader, writer = await own.tunnel(f"127.0.0.1:{port}")
                writer.write(b"GET / HTTP/1.1\r\n\r\n")
            else:
                reader, writer = await own.connect()
                writer.write(f"GET http://127.0.0.1:{port}/ HTTP/1.1\r\n\r\n".encode())
            await reader.readuntil(b"\r\n\r\n")
            while left:
                data = await reader.read(1 << 20)
                assert data
                digest.update(data)
                left -= len(data)
            rate = count / (time.monotonic() - start)
            record_property(f"{way}_mb_per_s", round(rate))
            print(f"{way}: {rate:.0f} MB/s, with server, client and hashing in the same thread")
            whole = hashlib.sha256()
            for _ in range(count):
                whole.update(piece)
            assert digest.digest() == whole.digest()
            writer.close()


async def test_who_does_not_read_slows_the_sender_down() -> None:
    unread = asyncio.Event()

    async def ignore(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        reader._transport.pause_reading()  # type: ignore[attr-defined]
        await unread.wait()

    async with house() as own:
        port = await own.serve(ignore)
        with socket.create_connection(("127.0.0.1", own.port)) as client:
            client.sendall(f"CONNECT 127.0.0.1:{port} HTTP/1.1\r\n\r\n".encode())
            loop = asyncio.get_running_loop()
            client.setblocking(False)
            await loop.sock_recv(client, 4096)
            sent = 0
            with pytest.raises(asyncio.TimeoutError):
                while sent < 512 << 20:
                    await asyncio.wait_for(loop.sock_sendall(client, b"x" * (1 << 20)), 2)
                    sent += 1 << 20
            # What the kernel keeps on its way, and no more.
            assert sent < 64 << 20
        unread.set()


async def test_two_hundred_connections_at_once() -> None:
    async with house() as own:
        port = await own.serve(echo)

        async def one(number: int) -> None:
            head, reader, writer = await own.tunnel(f"127.0.0.1:{port}")
            assert head.startswith(b"HTTP/1.1 200 ")
            text = b"%d" % number * 1000
            for _ in range(3):
                writer.write(text)
                assert await reader.readexactly(len(text)) == text
            writer.close()

        await asyncio.wait_for(asyncio.gather(*map(one, range(200))), 60)
        assert own.accepted == 200


async def test_more_connections_than_a_sandbox_may_have(monkeypatch: pytest.MonkeyPatch) -> None:
    assert MAX_CONNECTIONS >= 200
    monkeypatch.setattr("daytona_magics.engine.proxy.gate.MAX_CONNECTIONS", 3)
    async with house() as own:
        port = await own.serve(echo)
        open_ones = [await own.tunnel(f"127.0.0.1:{port}") for _ in range(3)]
        answer = await own.say(b"")
        assert answer.startswith(b"HTTP/1.1 503 more than")
        open_ones[0][2].close()
        await asyncio.sleep(0.2)
        again, _, writer = await own.tunnel(f"127.0.0.1:{port}")
        assert again.startswith(b"HTTP/1.1 200 ")
        for _, _, each in [*open_ones, (b"", None, writer)]:
            each.close()


async def test_a_refusal_says_why_everywhere() -> None:
    async with house(Policy(block_all=True)) as own:
        answer = await own.say(b"CONNECT 127.0.0.1:443 HTTP/1.1\r\n\r\n")
        sentence = b"127.0.0.1:443 is refused: --network-block-all is set for this sandbox"
        first, *rest = answer.split(b"\r\n")
        assert first.startswith(b"HTTP/1.1 403 " + sentence)
        assert any(line.startswith(b"X-Daytona-Magics-Error: " + sentence) for line in rest)
        assert rest[-1].startswith(sentence)
        counters = own.egress.counters("box")
        assert counters and counters.refused == 1 and sentence.decode() in counters.last_refusal


async def test_new_settings_cut_what_they_forbid() -> None:
    async with house() as own:
        port = await own.serve(echo)
        base = await origin(own)
        _, reader, writer = await own.tunnel(f"127.0.0.1:{port}")
        for harmless in (Policy.parse(allow_list="127.0.0.0/8"), LISTED):
            own.apply(harmless)
            writer.write(b"still there")
            assert await reader.readexactly(11) == b"still there"
        own.apply(Policy())
        assert await asyncio.wait_for(reader.read(1), 5) == b""
        writer.close()
        assert b" 403 " in (await own.tunnel(f"127.0.0.1:{port}"))[0]
        assert b" 403 " in await own.get(base)
        own.apply(LISTED)
        assert b"hello" in await own.get(base)


async def test_a_connection_that_is_being_made_when_the_settings_change_is_not_made() -> None:
    async with house() as own:
        port = await own.serve(echo)
        asked, go = asyncio.Event(), asyncio.Event()

        async def slow(host: str, port: int) -> list[str]:
            asked.set()
            await go.wait()
            return ["127.0.0.1"]

        own.egress._gates["box"]._dialer._resolver = slow
        waiting = asyncio.ensure_future(own.tunnel(f"slow.test:{port}"))
        await asyncio.wait_for(asked.wait(), 10)
        own.apply(Policy(block_all=True))
        go.set()
        assert b" 403 " in (await waiting)[0]


async def test_idle_connections_end() -> None:
    async with house(timing=Timing(first=0.2, between=0.2, idle=0.3, watch=0.1)) as own:
        port = await own.serve(echo)
        assert await own.say(b"", within=10) == b""
        _, reader, writer = await own.tunnel(f"127.0.0.1:{port}")
        for _ in range(8):
            await asyncio.sleep(0.1)
            writer.write(b"x")
            assert await reader.readexactly(1) == b"x"
        assert await asyncio.wait_for(reader.read(1), 10) == b""
        writer.close()


async def test_a_sandbox_has_only_a_few_lookups_running() -> None:
    async with house() as own:
        go, running, most = asyncio.Event(), 0, 0

        async def slow(host: str, port: int) -> list[str]:
            nonlocal running, most
            running += 1
            most = max(most, running)
            await go.wait()
            running -= 1
            return ["10.0.0.1"]

        own.egress._gates["box"]._dialer._resolver = slow
        asking = [asyncio.ensure_future(own.get(f"http://n{number}.test/")) for number in range(30)]
        while not most:
            await asyncio.sleep(0.05)
        await asyncio.sleep(0.3)
        # Who gives up does not make room for another one.
        for each in asking[:10]:
            each.cancel()
        await asyncio.sleep(0.3)
        go.set()
        answers = await asyncio.gather(*asking[10:])
        assert most <= 8 and all(b" 403 " in answer for answer in answers)


async def test_the_systems_own_resolver() -> None:
    assert "127.0.0.1" in await system_resolver("localhost", 80)
    with pytest.raises(OSError):
        await system_resolver("nothing-leaves.invalid", 80)


async def test_the_first_address_that_answers_is_taken() -> None:
    async with house(Policy.parse(allow_list="127.0.0.1/32,127.0.0.3/32")) as own:
        base = await origin(own)
        # Not allowed, then nobody there, then the one.
        own.names.answers["ok.test"] = [["127.0.0.2", "::1", "127.0.0.3", "127.0.0.1"]]
        assert b"hello" in await own.get(base)
        own.names.answers["ok.test"] = [["127.0.0.3"]]
        answer = await own.get(base)
        assert answer.startswith(b"HTTP/1.1 502 ") and b"connection refused" in answer
        answer = await own.get("http://nowhere.test/")
        assert answer.startswith(b"HTTP/1.1 502 ") and b"cannot be resolved" in answer


class HostProxy:
    """A proxy as a company has one: wants a password, resolves names itself."""

    def __init__(self) -> None:
        self.heads: list[bytes] = []

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        self.heads.append(head)
        if base64.b64encode(b"me:p@ss") not in head:
            writer.write(b"HTTP/1.1 407 Who are you\r\nContent-Length: 0\r\n\r\n")
        elif head.startswith(b"CONNECT"):
            writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
            await echo(reader, writer)
        else:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nvia")


def behind(port: int, password: str = "p%40ss", **more: str) -> HostNetwork:
    url = f"http://me:{password}@127.0.0.1:{port}"
    return HostNetwork(Upstream.of({"http_proxy": url, "https_proxy": url, **more}))


async def test_through_the_hosts_own_proxy() -> None:
    proxy = HostProxy()
    async with house() as outer:
        port = await outer.serve(proxy)
        async with house(Policy(), behind(port)) as own:
            # The name is resolved by the host's proxy alone.
            head, reader, writer = await own.tunnel("pypi.org:443")
            assert head.startswith(b"HTTP/1.1 200 ")
            writer.write(b"x")
            assert await reader.readexactly(1) == b"x"
            writer.close()
            assert (await own.get("http://deb.test/x")).endswith(b"via")
            assert proxy.heads[0].startswith(b"CONNECT pypi.org:443 HTTP/1.1\r\n")
            assert proxy.heads[1].startswith(b"GET http://deb.test/x HTTP/1.1\r\nHost: deb.test\r\n")
            # What this machine can resolve is checked as ever.
            own.names.answers["inner.test"] = [["10.0.0.1"]]
            for refused in ("inner.test:443", "127.0.0.1:443", "metadata.internal:80", "localhost:80"):
                assert b" 403 " in (await own.tunnel(refused))[0], refused
            own.apply(Policy.parse(allow_list="0.0.0.0/0"))
            assert b" 403 " in (await own.tunnel("pypi.org:443"))[0]
            own.apply(Policy.parse(domain_list="*.org"))
            assert b" 200 " in (await own.tunnel("pypi.org:443"))[0]
        async with house(Policy(), behind(port, "wrong")) as own:
            refused = (await own.tunnel("pypi.org:443"))[0]
            assert b"the proxy of this machine refuses pypi.org:443: 407 Who are you" in refused
        # A sandbox's creator may name a proxy for it.
        async with house(Policy()) as own:
            url = f"http://me:p%40ss@127.0.0.1:{port}"
            access = own.egress.admit("other", Policy(), own_network=False, outbound=url)
            own.port = access.port or 0
            user = access.environment["HTTPS_PROXY"].removeprefix("http://").partition("@")[0]
            header = "Proxy-Authorization: Basic " + base64.b64encode(user.encode()).decode()
            assert (await own.get("http://deb.test/y", header)).endswith(b"via")
        async with house(LISTED, behind(port, no_proxy="ok.test")) as own:
            seen = len(proxy.heads)
            assert b"hello" in await own.get(await origin(own))
            assert len(proxy.heads) == seen
