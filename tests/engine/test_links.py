"""The link network through the unmodified SDK: members by name and id, both ways, and nobody else."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from daytona import CreateSandboxFromSnapshotParams, Daytona
from daytona.common.errors import DaytonaBadRequestError, DaytonaNotFoundError

from tests.engine_process import IsolatedEngine, isolated_engine, wait_until

#: Answers who it is to GET, the body to POST, and echoes what follows an Upgrade.
SERVER = r"""
import socketserver, sys
class Who(socketserver.StreamRequestHandler):
    def handle(self):
        head, length, upgrade = [], 0, False
        while (line := self.rfile.readline().strip()):
            head.append(line)
            name, _, value = line.lower().partition(b": ")
            length = int(value) if name == b"content-length" else length
            upgrade = upgrade or name == b"upgrade"
        if upgrade:
            self.wfile.write(b"HTTP/1.1 101 Switching\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")
            while data := self.request.recv(65536):
                self.wfile.write(data)
            return
        host = next(h for h in head if h.lower().startswith(b"host: "))
        body = self.rfile.read(length) or b"I am " + sys.argv[1].encode() + b", " + host
        self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = daemon_threads = True
with Server(("127.0.0.1", int(sys.argv[2])), Who) as server:
    print(server.server_address[1], flush=True)
    server.serve_forever()
"""

#: A raw connection by CONNECT: an upgrade, then bytes both ways.
UPGRADED = """
import os, socket, sys, urllib.parse
proxy = urllib.parse.urlsplit(os.environ["HTTP_PROXY"])
s = socket.create_connection((proxy.hostname, proxy.port))
s.settimeout(60)
s.sendall(f"CONNECT {sys.argv[1]} HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n".encode())
def until(end):
    seen = b""
    while not seen.endswith(end):
        seen += s.recv(1)
    return seen
print(until(b"\\r\\n\\r\\n").split(b" ")[1].decode())
s.sendall(b"GET /ws HTTP/1.1\\r\\nHost: x\\r\\nConnection: Upgrade\\r\\nUpgrade: websocket\\r\\n\\r\\n")
print(until(b"\\r\\n\\r\\n").split(b" ")[1].decode())
if len(sys.argv) > 2:
    open(sys.argv[2]).read()
s.sendall(b"\\x00\\xffbytes"); print(until(b"bytes")); s.shutdown(1); print(s.recv(1))
"""


def run(box: Any, command: str) -> str:
    return str(box.process.exec(command, timeout=90).result)


def own_port(box: Any) -> int:
    """The port that is the sandbox's own where all share the machine's."""
    return int(run(box, "echo $PORT"))


def serve(box: Any, who: str, port: int) -> int:
    """Start the server in a sandbox; returns its port."""
    box.fs.upload_file(SERVER.encode(), "server.py")
    run(box, f"rm -f port; setsid python3 server.py {who} {port} > port 2> ~/server.err &")
    wait_until(lambda: run(box, "cat port"), f"the server in {who} listens")
    return int(run(box, "cat port"))


def curl(box: Any, host: str, port: int, *more: str) -> str:
    return run(box, f"curl -sS {' '.join(more)} 'http://{host}:{port}/'")


def urllib(box: Any, host: str, port: int) -> str:
    ask = f"import urllib.request as u; print(u.urlopen('http://{host}:{port}/').read().decode(), end='')"
    return run(box, f'python3 -c "{ask}"')


def unknown(said: str, host: str) -> bool:
    """Is it what the way out says about any name that nobody has?"""
    return said.startswith((f"the name {host.lower()} cannot be resolved", f"{host.lower()}:")) and (
        "cannot be resolved" in said
    )


def link(daytona: Any, base: Any, **more: Any) -> Any:
    return daytona.create(CreateSandboxFromSnapshotParams(linked_sandbox=base.id, ephemeral=True, **more))


@dataclass
class Family:
    """A parent and a child that are linked, and a stranger; the port of each one's server."""

    parent: Any
    child: Any
    stranger: Any
    ports: dict[str, int]

    def port(self, box: Any) -> int:
        return self.ports[box.id]


def family(daytona: Any, port: int = 0) -> Family:
    parent = daytona.create(CreateSandboxFromSnapshotParams(name="Base-1"))
    child = link(daytona, parent, name="worker.one")
    stranger = daytona.create(CreateSandboxFromSnapshotParams(name="stranger"))
    boxes = {"parent": parent, "child": child, "stranger": stranger}
    return Family(
        parent,
        child,
        stranger,
        {box.id: serve(box, who, port or own_port(box)) for who, box in boxes.items()},
    )


@pytest.fixture(scope="module")
def kin(daytona: Any) -> Iterator[Family]:
    made = family(daytona, 3000)
    yield made
    daytona.delete(made.parent)
    daytona.delete(made.stranger)


def test_both_ways_by_name_and_by_id(kin: Family) -> None:
    assert kin.child.linked_sandbox_id == kin.parent.id
    for here, there, who in ((kin.child, kin.parent, "parent"), (kin.parent, kin.child, "child")):
        for host in (there.name, there.id):
            said = f"I am {who}, Host: {host.lower()}:3000"
            assert curl(here, host, 3000) == said
            assert urllib(here, host, 3000) == said
    # Its own name, as on any network with aliases.
    assert curl(kin.child, kin.child.name, 3000).startswith("I am child")
    # A host has one spelling in any letters, with or without the final dot.
    for host in ("BASE-1", "base-1.", f"{kin.parent.id.upper()}"):
        assert curl(kin.child, host, 3000).startswith("I am parent"), host
    variables = run(kin.child, "echo $NO_PROXY $no_proxy").split()
    assert len(variables) == 2 and not any(
        n in v for v in variables for n in (kin.parent.name, kin.parent.id)
    )


def test_connect_carries_anything(kin: Family) -> None:
    assert curl(kin.child, kin.parent.name, 3000, "--proxytunnel").startswith("I am parent")
    kin.child.fs.upload_file(UPGRADED.encode(), "upgraded.py")
    said = run(kin.child, f"python3 upgraded.py {kin.parent.name}:3000 2>&1")
    assert said == "200\n101\nb'\\x00\\xffbytes'\nb''\n"


def test_a_large_body_comes_back_whole(kin: Family) -> None:
    run(kin.child, "head -c 20000000 /dev/urandom > big")
    for more in ("", "--proxytunnel"):
        sent = f"curl -sS {more} --data-binary @big -o back http://{kin.parent.name}:3000/ && cmp big back"
        assert run(kin.child, f"{sent} && echo same") == "same\n"


def test_a_port_where_nothing_listens(kin: Family) -> None:
    said = curl(kin.child, kin.parent.name, 3999, "-w", "%{http_code}")
    assert said.startswith(
        "linked sandbox Base-1 cannot be reached: nothing in the sandbox listens on port 3999"
    )
    assert said.endswith("502")


def test_the_settings_are_about_the_internet(kin: Family) -> None:
    """A blocked member reaches its group and nothing else, and a change does not cut what is open there."""
    kin.child.fs.upload_file(UPGRADED.encode(), "upgraded.py")
    run(kin.child, f"mkfifo go; setsid python3 -u upgraded.py {kin.parent.id}:3000 go > held 2>&1 &")
    wait_until(lambda: "101" in run(kin.child, "cat held"), "the tunnel is open")
    for settings in ({"network_block_all": True}, {"network_allow_list": "203.0.113.0/24"}):
        kin.child.update_network_settings(**settings)
        assert curl(kin.child, kin.parent.name, 3000).startswith("I am parent")
        assert "is refused" in curl(kin.child, "198.51.100.7", 80)
    run(kin.child, "timeout 60 sh -c 'echo > go'")
    wait_until(lambda: "b''" in run(kin.child, "cat held"), "the tunnel has carried its bytes")
    assert "bytes" in run(kin.child, "cat held")
    kin.child.update_network_settings(network_block_all=False)


#: What a sandbox might write to reach one it is not linked with, {} being its name or id.
SPELLINGS = (
    "{}",
    "{}.",
    "{}..",
    ".{}",
    "a@{}",
    "base-1@{}",
    "base-1%00.{}",
    "{}%2e",
    "[{}]",
    "%20{}",
    "{}.localdomain",
)


def ask_raw(box: Any, first: str, *headers: str) -> str:
    """Send a request as it is to the way out, and return all of the answer."""
    code = (
        "import os,socket,sys,base64,urllib.parse as p\n"
        "u=p.urlsplit(os.environ['HTTP_PROXY'])\n"
        "s=socket.create_connection((u.hostname,u.port)); s.settimeout(60)\n"
        "first,*more=__import__('json').loads(sys.argv[1])\n"
        "s.sendall('\\r\\n'.join([first,*more,'Connection: close','','']).encode('latin-1'))\n"
        "if first.startswith('CONNECT'): s.sendall(b'GET / HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n')\n"
        "out=b''\n"
        "while d:=s.recv(65536): out+=d\n"
        "print(out.decode('latin-1'))"
    )
    box.fs.upload_file(code.encode(), "ask.py")
    words = json.dumps([first, *headers]).replace("'", "'\\''")
    return run(box, f"python3 ask.py '{words}' 2>&1")


def test_nobody_else_is_reached(kin: Family, daytona: Any) -> None:
    """Names and ids of a sandbox outside, in every spelling, from a member to outside and the other way."""
    other = link(daytona, kin.stranger, name="others-child")
    cases = [
        (kin.child, kin.stranger),
        (kin.parent, other),
        (kin.stranger, kin.parent),
        (other, kin.child),
    ]
    try:
        for here, there in cases:
            for host in (there.name, there.name.upper(), there.id, there.id.upper()):
                said = curl(here, host, 3000)
                assert unknown(said, host), said
        for spelling in SPELLINGS:
            where = spelling.format(kin.stranger.id) + ":3000"
            for first in (f"GET http://{where}/ HTTP/1.1", f"CONNECT {where} HTTP/1.1"):
                said = ask_raw(kin.child, first, f"Host: {kin.stranger.id}:3000")
                assert said.startswith("HTTP/1.1 4") or said.startswith("HTTP/1.1 502"), (first, said)
                assert "I am" not in said, first
        # What a Host header says does not matter, whoever it names.
        said = ask_raw(
            kin.child, f"GET http://{kin.parent.id}:3000/ HTTP/1.1", f"Host: {kin.stranger.id}:3000"
        )
        assert f"I am parent, Host: {kin.parent.id}:3000" in said
        # Controls: the very same requests, by a member.
        member = f"CONNECT {kin.stranger.id}:3000 HTTP/1.1"
        assert "I am stranger" in ask_raw(other, member)
        assert "I am stranger" in ask_raw(other, f"GET http://{kin.stranger.name.upper()}.:3000/ HTTP/1.1")
        assert curl(other, kin.stranger.name, 3000).startswith("I am stranger")
    finally:
        daytona.delete(other)


def test_a_member_that_is_gone_says_so(daytona: Any, kin: Family) -> None:
    base = daytona.create(CreateSandboxFromSnapshotParams(name="short"))
    one, two = link(daytona, base, name="one"), link(daytona, base, name="two")
    serve(one, "one", 3000)
    assert curl(two, "one", 3000) == "I am one, Host: one:3000"  # Children reach each other.
    one.stop()
    with pytest.raises(DaytonaNotFoundError):
        daytona.get(one.id)
    for host in ("one", one.id):
        said = curl(two, host, 3000, "-w", "%{http_code}")
        assert said == "linked sandbox one cannot be reached: it has been deleted\n502"
    # The name is free; who takes it outside is no member.
    taken = daytona.create(CreateSandboxFromSnapshotParams(name="one"))
    serve(taken, "taken", 3000)
    assert "has been deleted" in curl(two, "one", 3000)
    daytona.delete(taken)
    # Control: inside it is one again.
    serve(again := link(daytona, base, name="one"), "again", 3000)
    assert curl(base, "one", 3000).startswith("I am again")
    base.stop()
    said = curl(again, "short", 3000, "-w", "%{http_code}")
    assert said == "linked sandbox short cannot be reached: it is not running (state: stopped)\n502"
    daytona.delete(base)
    for child in (two, again):
        with pytest.raises(DaytonaNotFoundError):
            daytona.get(child.id)


def test_a_link_is_for_ephemeral_sandboxes(daytona: Any, kin: Family) -> None:
    for days in (None, 5):
        with pytest.raises(DaytonaBadRequestError, match="must be ephemeral"):
            daytona.create(
                CreateSandboxFromSnapshotParams(linked_sandbox=kin.parent.id, auto_delete_interval=days)
            )
    assert kin.stranger.linked_sandbox_id is None


def test_names_work_where_the_network_is_shared() -> None:
    """At L1 sandboxes have the machine's network; names work the same, and only in the group."""
    with isolated_engine(DAYTONA_MAGICS_ISOLATION="L1") as engine:
        _at_level_1(engine)


def _at_level_1(engine: IsolatedEngine) -> None:
    kin = family(Daytona(engine.config()))
    for here, there, who in ((kin.child, kin.parent, "parent"), (kin.parent, kin.child, "child")):
        for host in (there.name, there.id):
            assert curl(here, host, kin.port(there)).startswith(f"I am {who}, Host: {host.lower()}")
    assert urllib(kin.child, kin.parent.name, kin.port(kin.parent)).startswith("I am parent")
    for host in (kin.stranger.name, kin.stranger.id):
        assert unknown(curl(kin.child, host, kin.port(kin.stranger)), host)
