"""The way out as programs inside a sandbox have it: pip, git, curl, raw sockets; settings by the SDK."""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from daytona import CreateSandboxFromSnapshotParams, Daytona
from daytona.common.errors import DaytonaBadRequestError

from tests.engine.index_server import PASSWORD, IndexServer
from tests.engine_process import IsolatedEngine, isolated_engine

#: The host as programs inside can name it: 127.0.0.1 is the sandbox itself to them.
HOST = "127.0.0.2"


class Quiet(SimpleHTTPRequestHandler):
    """Serves a folder."""

    def log_message(self, *_: object) -> None:
        """Silent."""


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Iterator[IndexServer]:
    server = IndexServer(tmp_path_factory.mktemp("index"), "greeting")
    yield server
    server.close()


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """A web server on the host, and its folder."""
    folder = tmp_path_factory.mktemp("web")
    (folder / "hello").write_text("hello from the host")
    server = ThreadingHTTPServer((HOST, 0), partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://{HOST}:{server.server_address[1]}", folder
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def engine(index: IndexServer) -> Iterator[IsolatedEngine]:
    settings = {
        "PIP_INDEX_URL": index.url,
        "PIP_CERT": str(index.certificate),
        "PIP_CONFIG_FILE": "/dev/null",
    }
    with isolated_engine(**settings) as own:
        own.client_env()
        yield own


@pytest.fixture(scope="module")
def daytona(engine: IsolatedEngine) -> Daytona:
    return Daytona(engine.config())


@pytest.fixture(scope="module")
def box(daytona: Daytona) -> Iterator[Any]:
    made = daytona.create()
    yield made
    daytona.delete(made)


def run(box: Any, command: str) -> str:
    return str(box.process.exec(command, timeout=90).result)


def test_pip_installs_from_an_index_with_a_password(
    box: Any, index: IndexServer, engine: IsolatedEngine
) -> None:
    said = run(box, "python3 -m pip install --no-cache-dir --target ~/lib greeting 2>&1")
    assert "Successfully installed greeting-1.0" in said, said
    assert (
        run(box, "PYTHONPATH=~/lib python3 -c 'import greeting; print(greeting.hello())'")
        == "hello from the index\n"
    )
    assert any(path.startswith("/files/greeting") for path in index.seen)
    # The password is nowhere inside, nor in what the engine writes down.
    everything = "env; cat /proc/[0-9]*/{environ,cmdline}; cat ~/.config/pip/* /etc/pip.conf; pip config list"
    inside = run(box, f"({everything}) 2>/dev/null")
    assert "index-0.daytona-magics.invalid" in inside and PASSWORD not in inside
    assert PASSWORD not in (engine.state / "engine.log").read_text()


def test_an_index_gives_only_what_it_links_to(box: Any, index: IndexServer) -> None:
    base = "http://index-0.daytona-magics.invalid"

    def get(path: str, *more: str) -> str:
        return run(box, f"curl -sS --path-as-is {' '.join(more)} '{base}{path}'")

    seen = len(index.seen)
    for path in (
        "/admin",
        "/files/greeting-1.0-py3-none-any.whl",
        "/root/simple/../../admin",
        "/root/simple/%2e%2e/%2e%2e/admin",
        "/.dm-00000000000000000000000000000000/admin",
    ):
        assert "only the index itself and what it links to" in get(path), path
    for more in (["-X", "DELETE"], ["-d", "x=1"], ["-X", "PUT"]):
        assert "only read" in get("/root/simple/greeting/", *more)
    assert len(index.seen) == seen
    page = get("/root/simple/greeting/")
    linked = page.split('href="')[1].split("#")[0].removeprefix(base)
    assert linked.startswith("/.dm-") and len(get(linked)) > 100
    code = linked.split("/")[1]
    assert "only the index itself" in get(f"/{code}/admin")
    # Control: with the password, the server itself gives what the proxy does not.
    assert "administrators" in run(box, "true") + _direct(index, "/admin")
    assert "serves no index at" in run(box, "curl -sS http://index-9.daytona-magics.invalid/")


def _direct(index: IndexServer, path: str) -> str:
    url = index.url.replace("/root/simple/", path)
    done = subprocess.run(
        ["curl", "-sS", "--cacert", str(index.certificate), "--noproxy", "*", url], capture_output=True
    )
    return done.stdout.decode()


def test_a_place_that_is_not_listed_and_one_that_is(box: Any, web: tuple[str, Path]) -> None:
    url, folder = web
    fetch = f"curl -sS {url}/hello"
    assert "is refused: the address is not public (this machine)" in run(box, fetch)
    box.update_network_settings(network_allow_list=f"{HOST}/32")
    try:
        assert run(box, fetch) == "hello from the host"
        assert "may reach only 127.0.0.2/32" in run(box, "curl -sS http://203.0.113.80/")
        subprocess.run(
            "git init -qb main r && cd r && echo x > f && git config user.email a@b && git config user.name n"
            " && git add f && git commit -qm 1 && git update-server-info && cp -r .git ../r.git",
            shell=True,
            cwd=folder,
            check=True,
        )
        assert run(box, f"cd ~ && git clone -q {url}/r.git cloned 2>&1; cat cloned/f") == "x\n"
        # Python's own client, and one whole request over CONNECT.
        assert run(
            box, f"python3 -c 'import urllib.request as u; print(u.urlopen(\"{url}/hello\").read())'"
        ) == ("b'hello from the host'\n")
        assert run(box, f"curl -sS --proxytunnel {url}/hello") == "hello from the host"
    finally:
        box.update_network_settings(network_block_all=False)
    assert box.network_allow_list is None and not box.network_block_all
    assert "is refused" in run(box, fetch)


def test_programs_that_know_no_proxy_reach_nothing(box: Any, web: tuple[str, Path]) -> None:
    host, port = web[0].removeprefix("http://").split(":")
    box.update_network_settings(network_allow_list=f"{HOST}/32")
    code = f"""
import socket
for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
    for where in [("203.0.113.80", 53), ("{host}", {port})]:
        try:
            s = socket.socket(socket.AF_INET, kind)
            s.settimeout(3)
            s.connect(where)
            s.send(b"x")
            s.recv(1)
            print("reached", where)
        except OSError as error:
            print(type(error).__name__)
"""
    said = run(box, f"python3 - <<'E'\n{code}\nE")
    assert "reached" not in said and said.count("\n") == 4, said
    box.update_network_settings(network_block_all=False)


def test_a_change_takes_effect_within_a_second(box: Any, web: tuple[str, Path]) -> None:
    url, _ = web
    box.update_network_settings(network_allow_list=f"{HOST}/32")
    ask = f"curl -s -o /dev/null -w '%{{http_code}} ' --max-time 2 {url}/hello"
    run(box, f"while sleep 0.05; do {ask}; done > ~/codes &")
    for settings, wanted in (
        ({"network_block_all": True}, "403"),
        ({"network_allow_list": f"{HOST}/32"}, "200"),
        ({"network_allow_list": "203.0.113.0/24"}, "403"),
    ):
        box.update_network_settings(**settings)
        done, seen = time.monotonic(), ""
        run(box, ": > ~/codes")
        while wanted not in seen:
            assert time.monotonic() - done < 10, seen
            seen = run(box, "cat ~/codes")
        # What comes after the change obeys it; one that was being answered may still be written.
        assert set(seen.split()[1:]) <= {wanted}
    run(box, "pkill -f 'sleep 0.05'; pkill curl")
    box.update_network_settings(network_block_all=False)


def test_settings_by_the_sdk(daytona: Daytona) -> None:
    lists = {"network_allow_list": " 10.0.0.0/8, 192.168.1.0/24", "domain_allow_list": "pypi.org"}
    made = daytona.create(CreateSandboxFromSnapshotParams(**lists))
    assert not made.network_block_all
    assert "10.0.0.0/8" in (made.network_allow_list or "") and made.domain_allow_list == "pypi.org"
    made.update_network_settings(network_block_all=True)
    assert made.network_block_all and made.network_allow_list is None and made.domain_allow_list is None
    assert "network-block-all" in run(made, "curl -sS http://pypi.org/")
    made.stop()
    made.start()
    assert daytona.get(made.id).network_block_all and "network-block-all" in run(
        made, "curl -sS http://pypi.org/"
    )
    made.update_network_settings(domain_allow_list="*.example.com")
    assert not made.network_block_all and made.domain_allow_list == "*.example.com"
    assert "may reach only *.example.com" in run(made, "curl -sS http://203.0.113.80/")
    with pytest.raises(DaytonaBadRequestError, match="is not an IPv4 CIDR"):
        made.update_network_settings(network_allow_list="pypi.org")
    with pytest.raises(DaytonaBadRequestError, match="is not a name"):
        made.update_network_settings(domain_allow_list="10.0.0.0/8")
    assert daytona.get(made.id).domain_allow_list == "*.example.com"
    made.update_network_settings(domain_allow_list="")
    assert made.domain_allow_list is None
    daytona.delete(made)
    blocked = daytona.create(
        CreateSandboxFromSnapshotParams(network_block_all=True, network_allow_list="0.0.0.0/0")
    )
    assert blocked.network_block_all and "network-block-all" in run(blocked, "curl -sS http://203.0.113.80/")
    daytona.delete(blocked)
    with pytest.raises(DaytonaBadRequestError, match="11 entries; 10 are allowed"):
        daytona.create(CreateSandboxFromSnapshotParams(network_allow_list=",".join(["10.0.0.0/8"] * 11)))


def test_own_variables_win_over_the_proxys(daytona: Daytona) -> None:
    made = daytona.create(
        CreateSandboxFromSnapshotParams(env_vars={"HTTP_PROXY": "mine", "PIP_INDEX_URL": "mine"})
    )
    assert run(made, "echo $HTTP_PROXY $PIP_INDEX_URL $https_proxy") == "mine mine http://127.0.0.1:3128\n"
    daytona.delete(made)


def test_at_level_0_nothing_is_promised() -> None:
    with isolated_engine(DAYTONA_MAGICS_ISOLATION="L0") as engine:
        client = Daytona(engine.config())
        with pytest.raises(DaytonaBadRequestError, match="at isolation level L0 nothing can limit"):
            client.create(CreateSandboxFromSnapshotParams(network_block_all=True))
        made = client.create()
        with pytest.raises(DaytonaBadRequestError, match="at isolation level L0 nothing can limit"):
            made.update_network_settings(network_block_all=True)


def test_sandboxes_that_share_the_machines_network(index: IndexServer) -> None:
    """At L1 the gate is told apart by a token, and everything else works the same."""
    settings = {
        "PIP_INDEX_URL": index.url,
        "PIP_CERT": str(index.certificate),
        "PIP_CONFIG_FILE": "/dev/null",
    }
    with isolated_engine(DAYTONA_MAGICS_ISOLATION="L1", **settings) as engine:
        client = Daytona(engine.config())
        open_one, closed = client.create(), client.create()
        closed.update_network_settings(network_block_all=True)
        said = run(open_one, "python3 -m pip install --no-cache-dir --target ~/lib greeting 2>&1")
        assert "Successfully installed greeting-1.0" in said, said
        assert "network-block-all" in run(closed, "curl -sS http://203.0.113.80/")
        # The other one's id, with the token of one's own or with none.
        token = "$(echo $HTTP_PROXY | sed 's/.*:\\([^@]*\\)@.*/\\1/')"
        for pair in (f"{open_one.id}:{token}", f"{open_one.id}:"):
            ask = f'curl -sS -x "http://127.0.0.1:${{HTTP_PROXY##*:}}" -U "{pair}" http://203.0.113.80/'
            assert "needs the user name and password" in run(closed, ask), pair
        own = ask.replace(f'"{open_one.id}:"', f'"{closed.id}:{token}"')
        assert "network-block-all" in run(closed, own)
