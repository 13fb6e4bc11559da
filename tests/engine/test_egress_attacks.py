"""Attacks on the way out, each with a control: listed, or with the guard off, the same request passes."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import socket
from collections.abc import AsyncIterator

import pytest

from daytona_magics.engine.proxy import http1, policy
from daytona_magics.engine.proxy.egress import Egress
from daytona_magics.engine.proxy.gate import Timing
from daytona_magics.engine.proxy.policy import Policy
from daytona_magics.engine.proxy.settings import HostNetwork
from tests.engine.egress_house import LISTED, House, Names, echo, house


@pytest.fixture
async def own() -> AsyncIterator[House]:
    async with house(Policy()) as made:
        yield made


@pytest.mark.parametrize("address", ["127.0.0.1", "127.8.9.10", "[::1]", "[::ffff:127.0.0.1]"])
async def test_loopback_of_the_host(own: House, address: str) -> None:
    kind = "::1" if address == "[::1]" else "127.8.9.10" if address == "127.8.9.10" else "127.0.0.1"
    port = await own.serve(echo, kind)
    assert (
        b"is refused: the address is not public (this machine" in (await own.tunnel(f"{address}:{port}"))[0]
    )
    assert b" 403 " in await own.get(f"http://{address}:{port}/")
    assert own.accepted == 0
    # Control: IPv4 in a list; an IPv6 address cannot be listed, so there with the guard off.
    if kind == "::1":
        own.apply(Policy(own=lambda _: False))
        ranges, policy._RANGES[:] = list(policy._RANGES), []
        try:
            assert b" 200 " in (await own.tunnel(f"{address}:{port}"))[0]
        finally:
            policy._RANGES[:] = ranges
    else:
        own.apply(Policy.parse(allow_list="127.0.0.0/8"))
        assert b" 200 " in (await own.tunnel(f"{address}:{port}"))[0]
    assert own.accepted == 1


async def test_unspecified_address_is_loopback_too(own: House) -> None:
    port = await own.serve(echo)
    for spelled in ("0.0.0.0", "[::]", "[::ffff:0.0.0.0]"):
        assert b" 403 " in (await own.tunnel(f"{spelled}:{port}"))[0]
    assert own.accepted == 0
    own.apply(Policy.parse(allow_list="0.0.0.0/32"))
    assert b" 200 " in (await own.tunnel(f"0.0.0.0:{port}"))[0]


@pytest.mark.parametrize(
    "name", ["10.0.0.1", "192.168.1.1", "172.16.0.1", "169.254.169.254", "100.64.0.1", "[fd00:ec2::254]"]
)
async def test_private_networks_and_metadata(own: House, name: str) -> None:
    dialled: list[str] = []

    async def dial(target: object, addresses: list[object], who: str = "") -> tuple[socket.socket, object]:
        dialled.extend(map(str, addresses))
        near, far = socket.socketpair()
        far.close()
        near.setblocking(False)
        return near, addresses[0]

    with pytest.MonkeyPatch.context() as patch:
        # Nothing of this machine's network is touched, whatever it is.
        patch.setattr("daytona_magics.engine.proxy.dialing._connect", dial)
        own.names.answers["inner.test"] = [[name.strip("[]")]]
        for host in (name, "inner.test"):
            assert b" 403 " in (await own.tunnel(f"{host}:80"))[0]
            assert b" 403 " in await own.get(f"http://{host}/latest/meta-data/")
        own.apply(Policy.parse(allow_list="0.0.0.0/0"))
        assert b" 403 " in (await own.tunnel(f"{name}:80"))[0]
        assert dialled == []
        if not name.startswith("["):
            own.apply(Policy.parse(allow_list=f"{name}/32"))
            for host in (name, "inner.test"):
                assert b" 200 " in (await own.tunnel(f"{host}:80"))[0]
            assert dialled == [name, name]


async def test_names_that_resolve_to_the_host(own: House) -> None:
    port = await own.serve(echo)
    own.names.answers["localtest.example"] = [["127.0.0.1"]]
    for name in ("localtest.example", "LocalTest.Example.", "localtest.example."):
        assert b" 403 " in (await own.tunnel(f"{name}:{port}"))[0]
    # A domain entry does not make a private address public.
    own.apply(Policy.parse(domain_list="localtest.example"))
    assert b" 403 " in (await own.tunnel(f"localtest.example:{port}"))[0]
    assert own.accepted == 0
    own.apply(LISTED)
    assert b" 200 " in (await own.tunnel(f"LocalTest.Example.:{port}"))[0]


async def test_rebinding(own: House) -> None:
    """First answer allowed, second not: the name is asked for once, and the first address is used."""
    port = await own.serve(echo, "127.0.0.1")
    await own.serve(echo, "127.0.0.2")
    own.apply(LISTED)
    own.names.answers["rebind.test"] = [["127.0.0.1"], ["127.0.0.2"]]
    head, _, writer = await own.tunnel(f"rebind.test:{port}")
    assert b" 200 " in head and own.names.asked == ["rebind.test"]
    assert writer.get_extra_info("peername")[1] == own.port
    writer.close()
    # The next connection gets the second answer, which is checked as well.
    assert b" 403 " in (await own.tunnel(f"rebind.test:{port}"))[0]
    assert own.accepted == 1
    # One answer with both: only the allowed one is tried.
    own.names.answers["both.test"] = [["127.0.0.2", "127.0.0.1"]]
    assert b" 200 " in (await own.tunnel(f"both.test:{port}"))[0]
    # Control: to one who trusts the name, the second answer leads in.
    own.apply(Policy.parse(allow_list="127.0.0.0/8"))
    own.names.answers["rebind.test"] = [["127.0.0.2"]]
    second = await own.serve(echo, "127.0.0.2")
    assert b" 200 " in (await own.tunnel(f"rebind.test:{second}"))[0]


@pytest.mark.parametrize(
    "host",
    ["0177.0.0.1", "0x7f.0.0.1", "0x7f000001", "2130706433", "127.1", "127.0.1", "0127.0.0.1", "127.0.0.01"],
)
async def test_other_spellings_of_an_address(own: House, host: str) -> None:
    port = await own.serve(echo)
    own.apply(Policy.parse(allow_list="0.0.0.0/0,127.0.0.0/8"))
    assert b" 400 " in (await own.tunnel(f"{host}:{port}"))[0]
    assert b" 400 " in await own.get(f"http://{host}:{port}/")
    assert own.names.asked == [] and own.accepted == 0
    # Control: the system's resolver takes most of them for this machine.
    with contextlib.suppress(OSError):
        assert socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][4][0].split(".")[0] in ("127", "87")
    assert b" 200 " in (await own.tunnel(f"127.0.0.1:{port}"))[0]


@pytest.mark.parametrize(
    "target",
    [
        *(
            "user@127.0.0.1:{0}",
            "ok.test@127.0.0.1:{0}",
            "127.0.0.1:{0}@ok.test:80",
            "ok.test:80#@127.0.0.1:{0}",
        ),
        *(
            "127.0.0.1\\@ok.test:{0}",
            "127.0.0.1%00.ok.test:{0}",
            "[::1%25lo]:{0}",
            "127.0.0.1:{0}:80",
            "127.0.0.1",
        ),
        *("127.0.0.1:{0}/", "http://127.0.0.1:{0}", "127.0.0.1:0{0}00", "127.0.0.1: {0}", "*:{0}", "..:{0}"),
    ],
)
async def test_targets_that_could_be_read_in_two_ways(own: House, target: str) -> None:
    port = await own.serve(echo)
    own.names.answers["ok.test"] = [["127.0.0.1"]]
    own.apply(LISTED)
    assert b" 400 " in (await own.tunnel(target.format(port)))[0]
    assert own.accepted == 0
    assert b" 200 " in (await own.tunnel(f"ok.test:{port}"))[0]


async def test_a_redirect_is_a_request_like_any_other(own: House) -> None:
    inner = await own.serve(own.origin, "127.0.0.2")

    async def redirect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        to = f"http://127.0.0.2:{inner}/secret"
        writer.write(f"HTTP/1.1 302 Found\r\nLocation: {to}\r\nContent-Length: 0\r\n\r\n".encode())

    outer = await own.serve(redirect)
    script = "import urllib.request as u; print(u.build_opener(u.ProxyHandler({'http': %r})).open(%r).read())"
    code = script % (f"http://127.0.0.1:{own.port}", f"http://127.0.0.1:{outer}/")

    async def follow() -> str:
        process = await asyncio.create_subprocess_exec(
            "python3", "-c", code, stdout=-1, stderr=-2, env={"PATH": "/usr/bin:/bin:/usr/local/bin"}
        )
        return (await process.communicate())[0].decode()

    own.apply(LISTED)
    refused = await follow()
    assert "403" in refused and "127.0.0.2" in refused and own.heads == []
    own.apply(Policy.parse(allow_list="127.0.0.1/32,127.0.0.2/32"))
    assert "hello" in await follow() and own.heads[0].startswith(b"GET /secret ")


async def test_ports_of_ssh_and_mail(own: House) -> None:
    own.names.answers["git.test"] = [["203.0.113.7"]]
    for port, what in ((22, b"port 22 (SSH)"), (25, b"port 25 (mail)")):
        head = (await own.tunnel(f"git.test:{port}"))[0]
        assert b" 403 " in head and what in head and b"UDP, ICMP and raw TCP do not exist" in head
    # Control: what a list names is let through to be connected to, here to a port where nobody answers.
    own.apply(LISTED)
    own.names.answers["git.test"] = [["127.0.0.1"]]
    assert b" 403 " not in (await own.tunnel("git.test:22"))[0]


SMUGGLED = [
    "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "Content-Length: 4\r\nContent-Length: 5\r\n\r\nbody!",
    "Content-Length: 4\r\nContent-Length: 4\r\n\r\nbody",
    "Content-Length: +4\r\n\r\nbody",
    "Content-Length: 4, 4\r\n\r\nbody",
    "Content-Length: 0x4\r\n\r\nbody",
    "Content-Length: -1\r\n\r\n",
    "Content-Length:\r\n\r\n",
    "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
    "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
    " Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "X: 1\r\n folded\r\n\r\n",
    "X: 1\nTransfer-Encoding: chunked\r\n\r\n",
    "X: a\rb\r\n\r\n",
    "X: a\0b\r\n\r\n",
    "X\r\n\r\n",
    ": x\r\n\r\n",
    "X(: x\r\n\r\n",
]


@pytest.mark.parametrize("rest", SMUGGLED, ids=range(len(SMUGGLED)))
async def test_smuggling_by_heads(own: House, rest: str) -> None:
    own.apply(LISTED)
    port = await own.serve(own.origin)
    start = f"POST http://127.0.0.1:{port}/ HTTP/1.1\r\n"
    inner = f"GET http://127.0.0.1:{port}/smuggled HTTP/1.1\r\n\r\n"
    answer = await own.say((start + rest + inner).encode("latin-1"))
    assert answer.startswith(b"HTTP/1.1 400 ") and answer.count(b"HTTP/1.1") == 1
    assert own.heads == []
    # Control: said in one way only, both requests are served.
    fine = (
        start + "Content-Length: 4\r\n\r\nbody" + inner.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n")
    )
    assert (await own.say(fine.encode())).count(b"hello") == 2


@pytest.mark.parametrize(
    "chunks",
    ["4\nbody\r\n0\r\n\r\n", "0x4\r\nbody\r\n0\r\n\r\n", "-1\r\n\r\n", "4\r\nbody!\r\n0\r\n\r\n", "g\r\n"],
)
async def test_smuggling_by_chunks(own: House, chunks: str) -> None:
    own.apply(LISTED)
    port = await own.serve(own.origin)
    start = f"POST http://127.0.0.1:{port}/ HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
    inner = f"GET http://127.0.0.1:{port}/smuggled HTTP/1.1\r\n\r\n"
    answer = await own.say((start + chunks + inner).encode())
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert not any(b"smuggled" in head for head in own.heads) and own.bodies == []


async def test_what_is_sent_on_is_written_anew(own: House) -> None:
    """Line ends, spaces and names that another parser might read differently never arrive."""
    own.apply(LISTED)
    port = await own.serve(own.origin)
    head = f"get http://127.0.0.1:{port}/x HTTP/1.1\r\nhost:a\r\nHOST: b\r\nConnection: host, close\r\n"
    assert b"hello" in await own.say(head.encode() + b"X:\t y \r\n\r\n")
    assert (
        own.heads[0]
        == f"get /x HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nX: y\r\nConnection: close\r\n\r\n".encode()
    )


@pytest.mark.parametrize(
    "line",
    [
        "GET / HTTP/1.1",
        "GET https://ok.test/ HTTP/1.1",
        "GET ftp://ok.test/ HTTP/1.1",
        "GET gopher://127.0.0.1:25/_HELO HTTP/1.1",
        "GET file:///etc/passwd HTTP/1.1",
        "GET http:/ok.test/ HTTP/1.1",
        "GET http:///etc/passwd HTTP/1.1",
        "GET http://ok.test/a#b HTTP/1.1",
        "GET http://ok.test/a b HTTP/1.1",
        "GET  http://ok.test/ HTTP/1.1",
        "GET http://ok.test/ HTTP/2.0",
        "GET http://ok.test/ HTTP/1.1 ",
        "GET http://ok.test/",
        "PRI * HTTP/2.0",
        "GET http://ok.test/\u00e9 HTTP/1.1",
        "CONNECT ok.test HTTP/1.1",
        "CONNECT / HTTP/1.1",
        "\x16\x03\x01\x02\x00\x01",
    ],
)
async def test_request_lines_that_are_not_for_a_proxy(own: House, line: str) -> None:
    own.apply(LISTED)
    own.names.answers["ok.test"] = [["127.0.0.1"]]
    assert (await own.say(f"{line}\r\n\r\n".encode("latin-1"))).startswith(b"HTTP/1.1 400 ")


async def test_line_breaks_in_a_target_write_no_header(own: House) -> None:
    own.apply(LISTED)
    port = await own.serve(own.origin)
    for broken in (
        f"http://127.0.0.1:{port}/\r\nX-Injected: 1",
        f"http://127.0.0.1:{port}/%0d%0aX-Injected:%201",
    ):
        await own.say(f"GET {broken} HTTP/1.1\r\nConnection: close\r\n\r\n".encode())
    assert [b"\r\nX-Injected" in head for head in own.heads] == [False]
    assert b"%0d%0aX-Injected" in own.heads[0]


async def test_huge_heads(own: House) -> None:
    own.apply(LISTED)
    port = await own.serve(own.origin)
    start = f"GET http://127.0.0.1:{port}/ HTTP/1.1\r\nConnection: close\r\n"
    assert b" 431 " in await own.say((start + "X: " + "x" * http1.MAX_HEAD + "\r\n\r\n").encode())
    assert b" 431 " in await own.say((start + "X: x\r\n" * (http1.MAX_HEADERS + 1) + "\r\n").encode())
    assert b" 431 " in await own.say(b"x" * (1 << 20))
    assert b"hello" in await own.say((start + "X: " + "x" * (http1.MAX_HEAD - 200) + "\r\n\r\n").encode())


async def test_slow_loris() -> None:
    async with house(LISTED, timing=Timing(head=0.5, watch=0.1, idle=1.0)) as own:
        port = await own.serve(own.origin)
        reader, writer = await own.connect()
        answer = asyncio.ensure_future(reader.read(-1))
        for letter in f"GET http://127.0.0.1:{port}/ HTTP/1.1\r\nX: {'x' * 500}":
            writer.write(letter.encode())
            if (await asyncio.wait({answer}, timeout=0.02))[0]:
                break
        assert (await asyncio.wait_for(answer, 10)).startswith(b"HTTP/1.1 408 ")
        writer.close()
        # A body that never comes ends, too.
        half = f"POST http://127.0.0.1:{port}/ HTTP/1.1\r\nContent-Length: 10\r\n\r\nhalf".encode()
        assert await own.say(half, within=15) == b""
        assert b"hello" in await own.get(f"http://127.0.0.1:{port}/")


async def test_no_datagram_leaves(own: House) -> None:
    """The gate is TCP: nothing listens for UDP, and SOCKS, which could carry it, is not spoken."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.connect(("127.0.0.1", own.port))
        udp.send(b"dns?")
        udp.settimeout(5)
        with pytest.raises(ConnectionRefusedError):
            udp.recv(10)
    for hello in (b"\x05\x01\x00", b"\x04\x01\x00\x50\x7f\x00\x00\x01\x00"):
        answer = await own.say(hello + b"\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 400 ")


def authorization(user: str, token: str) -> str:
    return "Proxy-Authorization: Basic " + base64.b64encode(f"{user}:{token}".encode()).decode()


async def test_tokens_of_sandboxes_that_share_a_listener() -> None:
    names = Names()
    egress = Egress(HostNetwork(), names)
    egress.start()
    try:
        access = {id: egress.admit(id, Policy(block_all=True), own_network=False) for id in ("one", "two")}
        own = House(egress, names, access["one"].port or 0)
        origin = await own.serve(own.origin)
        egress.apply("one", LISTED)
        token = {id: access[id].environment["HTTPS_PROXY"].split(":")[2].split("@")[0] for id in access}
        assert access["one"].environment["HTTPS_PROXY"] == f"http://one:{token['one']}@127.0.0.1:{own.port}"
        url = f"http://127.0.0.1:{origin}/"
        for wrong in (
            "X: none",
            authorization("one", token["two"]),
            authorization("two", token["one"]),
            authorization("one", ""),
            authorization("", token["one"]),
            authorization("one", token["one"][:-1]),
            authorization("one", token["one"] + "x"),
            authorization("three", token["one"]),
            "Proxy-Authorization: Bearer " + token["one"],
            "Proxy-Authorization: Basic !!!",
            "Authorization: " + authorization("one", token["one"]).split(": ")[1],
            authorization("one", token["one"]) + "\r\n" + authorization("one", token["one"]),
        ):
            answer = await own.get(url, wrong)
            assert answer.startswith(b"HTTP/1.1 407 ") and b"Proxy-Authenticate: Basic" in answer, wrong
        assert own.heads == []
        # A sandbox's token opens its own gate, with its own settings, and does not go further.
        assert b"hello" in await own.get(url, authorization("one", token["one"]))
        assert b"authorization" not in own.heads[0].lower()
        assert b"network-block-all" in await own.get(url, authorization("two", token["two"]))
        # Within a connection it cannot be exchanged for another one.
        reader, writer = await own.connect()
        for user, expected in (("one", b" 200 "), ("one", b" 200 "), ("two", b" 407 ")):
            writer.write(f"GET {url} HTTP/1.1\r\n{authorization(user, token[user])}\r\n\r\n".encode())
            assert expected in await reader.readuntil(b"\r\n\r\n")
            if expected == b" 200 ":
                await reader.readexactly(5)
        writer.close()
        # A sandbox that has ended has no token.
        egress.shut("one")
        assert b" 407 " in await own.get(url, authorization("one", token["one"]))
    finally:
        await egress.close()
