"""The README's first command, word for word, in a fresh clone: it ends in a working ``%%sandbox`` cell."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest

from tests.closed_network import FORWARDER_VARIABLE

ROOT = Path(__file__).parents[2]
START_SECONDS = 600
#: How this machine reaches its package index; nothing else of the environment is kept.
KEPT = ("LANG", "TERM", "PIP_", "SSL_", "REQUESTS_CA", "CURL_CA", "NODE_", "npm_config_")
#: The system's own programs, so that ``python3`` is Debian's.
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def start_command() -> str:
    text = (ROOT / "README.md").read_text()
    block = re.search(r"<!-- start-command -->\n```bash\n(.+?)\n```\n<!-- /start-command -->", text, re.S)
    assert block, "README.md must hold the start command between its markers"
    return block[1]


@pytest.fixture(scope="module")
def clone() -> Iterator[tuple[Path, dict[str, str]]]:
    """A clone of the committed state, and a bare environment with a home of its own."""
    if os.geteuid() != 0:
        reason = "the README's first command installs a Debian package, which needs root"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    with tempfile.TemporaryDirectory(prefix="dm-readme-", ignore_cleanup_errors=True) as folder:
        home = Path(folder, "person")
        home.mkdir()
        repository = home / "daytona-magics"
        subprocess.run(["git", "clone", "-q", str(ROOT), str(repository)], check=True)
        environment = {name: value for name, value in os.environ.items() if name.startswith(KEPT)}
        environment |= {
            "PATH": SYSTEM_PATH,
            "HOME": str(home),
            "XDG_RUNTIME_DIR": folder,
            "DAYTONA_MAGICS_HOME": str(home / "state"),
            # "0" is pip's word for it: what is never imported need not be compiled.
            "PIP_NO_COMPILE": "0",
        }
        if FORWARDER_VARIABLE in os.environ:
            proxy = os.environ[FORWARDER_VARIABLE]
            environment |= {"http_proxy": proxy, "https_proxy": proxy, "no_proxy": "127.0.0.1,localhost"}
        yield repository, environment
        if (repository / ".venv/bin/python").exists():
            stop = [".venv/bin/python", "-m", "daytona_magics.engine", "stop"]
            subprocess.run(stop, cwd=repository, env=environment, check=False, timeout=30)


def wait_for_server(home: Path, process: subprocess.Popen[bytes], log: Path) -> dict[str, str]:
    """The record of a Jupyter Server that listens; it is written a little before."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        for record in home.glob(".local/share/jupyter/runtime/jpserver-*.json"):
            with contextlib.suppress(ValueError, OSError):  # half written, not yet there
                found = dict(json.loads(record.read_text()))
                socket.create_connection(("127.0.0.1", found["port"]), 5).close()
                return found
        assert process.poll() is None, f"the command ended early:\n{log.read_text()[-3000:]}"
        time.sleep(0.2)
    raise AssertionError(f"no Jupyter Server after {START_SECONDS} s:\n{log.read_text()[-3000:]}")


async def run_in_server(server: dict[str, str], code: str) -> list[dict[str, object]]:
    """Start a kernel through the server, as a browser does, and return the outputs of one cell."""
    headers = {"Authorization": f"token {server['token']}"}
    url = server["url"].replace("localhost", "127.0.0.1")
    async with aiohttp.ClientSession(headers=headers) as session:
        async with session.post(f"{url}api/kernels", json={"name": "python3"}) as answer:
            answer.raise_for_status()
            kernel = (await answer.json())["id"]
        outputs: list[dict[str, object]] = []
        async with session.ws_connect(f"{url}api/kernels/{kernel}/channels") as socket:
            for source in ("%load_ext daytona_magics", code):
                header = {"msg_id": uuid.uuid4().hex, "msg_type": "execute_request", "session": "readme"}
                header |= {"username": "", "version": "5.3", "date": "2026-01-01T00:00:00Z"}
                content = {"code": source, "silent": False, "allow_stdin": False, "store_history": True}
                message = {"header": header, "parent_header": {}, "metadata": {}, "content": content}
                await socket.send_json({**message, "channel": "shell", "buffers": []})
                while True:
                    got = json.loads((await asyncio.wait_for(socket.receive(), 60)).data)
                    if got["parent_header"].get("msg_id") != header["msg_id"] or got["channel"] != "iopub":
                        continue
                    outputs.append({"type": got["msg_type"], **got["content"]})
                    if got["msg_type"] == "status" and got["content"]["execution_state"] == "idle":
                        break
        async with session.delete(f"{url}api/kernels/{kernel}") as answer:
            answer.raise_for_status()
        return outputs


@pytest.mark.timeout(900)
def test_first_command_leads_to_a_running_cell_and_the_quickstart_runs(
    clone: tuple[Path, dict[str, str]],
) -> None:
    repository, environment = clone
    log = repository.parent / "command.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            ["bash", "-c", start_command()],
            cwd=repository,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        server = wait_for_server(repository.parent, process, log)
        outputs = asyncio.run(run_in_server(server, "%%sandbox\nprint('it runs')\n40 + 2"))
        printed = "".join(str(o["text"]) for o in outputs if o["type"] == "stream" and o["name"] == "stdout")
        assert "it runs" in printed, outputs
        results = [o["data"] for o in outputs if o["type"] == "execute_result"]
        assert [dict(r)["text/plain"] for r in results] == ["42"], outputs  # type: ignore[call-overload]
        executed = subprocess.run(
            ["bash", "-c", ". .venv/bin/activate && jupyter execute notebooks/01_quickstart.ipynb"],
            cwd=repository,
            env=environment,
            capture_output=True,
            text=True,
            timeout=240,
        )
        assert executed.returncode == 0, executed.stderr[-3000:]
    finally:
        # A command that has ended early left its reason above.
        with contextlib.suppress(ProcessLookupError, subprocess.TimeoutExpired):
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(15)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
