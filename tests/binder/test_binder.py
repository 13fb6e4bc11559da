"""What Binder does with ``binder/``, step by step, in a container like one of its pods.

A pod is Docker's system-call filter, uid 1000 with no way to more rights, 2 GB of memory and one CPU. A
virtual environment of Debian's Python stands for the one repo2docker makes; everything else are the image's
own files, run as they are. Then its server runs the quickstart, and the memory of everything in the container
is summed up meanwhile; and once more with a Landlock as old as Ubuntu 24.04's.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import socket
import subprocess
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import nbformat
import pytest

from tests.closed_network import FORWARDER_VARIABLE
from tests.containers import run_in_container, unavailable

ROOT = Path(__file__).parents[2]
HOME, ENVIRONMENT = "/home/jovyan", "/env"
REPOSITORY = f"{HOME}/daytona-magics"
UID, MEMORY = 1000, 2 << 30
#: What mybinder.org guarantees to a pod.
GUARANTEED = 450 << 20
KEPT = ("LANG", "PIP_", "SSL_", "REQUESTS_CA", "CURL_CA", "NODE_", "npm_config_")

Run = Callable[..., subprocess.CompletedProcess[str]]


class Image:
    """The folders that are written while the image is built, and commands in containers that have them."""

    def __init__(self, folder: Path) -> None:
        self.home, self.environment = folder / "home", folder / "env"
        self.repository = self.home / "daytona-magics"
        for made in (self.home, self.environment):
            made.mkdir()
        subprocess.run(["git", "clone", "-q", str(ROOT), str(self.repository)], check=True)
        subprocess.run(["chown", "-R", f"{UID}:{UID}", str(folder)], check=True)
        folder.chmod(0o755)
        self.log = ""

    def run(self, command: str, timeout: float = 300, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run a bash command in the repository's folder, as the person at the notebook."""
        settings = {name: value for name, value in os.environ.items() if name.startswith(KEPT)}
        if proxy := os.environ.get(FORWARDER_VARIABLE):
            settings |= {"http_proxy": proxy, "https_proxy": proxy, "no_proxy": "127.0.0.1,localhost"}
        settings |= {"HOME": HOME, "PATH": f"{ENVIRONMENT}/bin:/usr/local/bin:/usr/bin:/bin"}
        # The package shall be the installed one, compiled when it is installed.
        settings |= {"PYTHONPATH": "", "PYTHONDONTWRITEBYTECODE": "", **variables}
        cpu = str(min(os.sched_getaffinity(0)))
        return run_in_container(
            ["taskset", "-c", cpu, "bash", "-euo", "pipefail", "-c", command],
            profile="docker",
            uid=UID,
            memory=MEMORY,
            env=settings,
            binds=[(self.home, HOME, "rw"), (self.environment, ENVIRONMENT, "rw")],
            timeout=timeout,
            cwd=REPOSITORY,
            network=True,
        )


@pytest.fixture(scope="module")
def image() -> Iterator[Image]:
    if reason := unavailable():
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    with tempfile.TemporaryDirectory(prefix="dm-binder-", ignore_cleanup_errors=True) as folder:
        made = Image(Path(folder))
        steps = (
            f"/usr/bin/python3 -m venv {ENVIRONMENT}",
            # Binder compiles all of it here, which takes a processor longer than compiling what is imported.
            "pip install --no-compile --no-cache-dir -q -r binder/requirements.txt",
            "binder/postBuild",
        )
        done = made.run("; ".join(steps))
        made.log = done.stdout
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        yield made


def files(folder: Path) -> Iterator[Path]:
    return (Path(place, name) for place, _, names in os.walk(folder) for name in names)


def test_every_requirement_is_pinned() -> None:
    lines = (ROOT / "binder/requirements.txt").read_text().splitlines()
    needed = [line for line in lines if line and not line.startswith("#")]
    assert needed and all("==" in line for line in needed)
    for script in ("postBuild", "start"):
        assert os.access(ROOT / "binder" / script, os.X_OK)
    assert (ROOT / "binder/start").read_text().splitlines()[-1] == 'exec "$@"'


@pytest.mark.timeout(400)
def test_the_build_tests_itself_and_leaves_nothing_behind(image: Image) -> None:
    assert "isolation L1" in image.log and "\n42\n" in image.log and "state folder" in image.log
    left = [path for folder in (image.home, image.environment) for path in files(folder)]
    names = {path.name for path in left}
    # An engine's key in an image would be everybody's.
    assert not names & {"engine.json", "endpoint.json", "engine.log"}
    assert not (image.home / ".cache").exists()
    installed = [path for path in left if path.match("site-packages/daytona_magics/__pycache__/*.pyc")]
    assert installed, "nothing is compiled"
    status = ["git", "-c", f"safe.directory={image.repository}", "-C", str(image.repository)]
    changed = subprocess.run([*status, "status", "--porcelain"], capture_output=True, text=True, check=True)
    assert changed.stdout == ""


class Sampler:
    """The greatest sum of memory (PSS, bytes) of all processes in one container.

    Args:
        marker: a word in the command line of one of them.
    """

    def __init__(self, marker: str) -> None:
        self._marker, self._end, self.peak = marker.encode(), threading.Event(), 0
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> Sampler:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._end.wait(0.2):
            processes = [entry for entry in Path("/proc").iterdir() if entry.name.isdigit()]
            places = {self._place(entry) for entry in processes if self._marked(entry)} - {""}
            inside = [entry for entry in processes if self._place(entry) in places]
            self.peak = max(self.peak, sum(map(self._share, inside)))

    def _marked(self, process: Path) -> bool:
        with contextlib.suppress(OSError):
            return self._marker in (process / "cmdline").read_bytes()
        return False

    @staticmethod
    def _place(process: Path) -> str:
        # At L1 sandboxes have no process namespace of their own, so all of the container is in one.
        with contextlib.suppress(OSError):
            return os.readlink(process / "ns/pid") if os.readlink(process / "ns/pid") != _OWN else ""
        return ""

    @staticmethod
    def _share(process: Path) -> int:
        with contextlib.suppress(OSError, IndexError):
            text = (process / "smaps_rollup").read_text()
            return int(text.split("\nPss:")[1].split()[0]) * 1024
        return 0


_OWN = os.readlink("/proc/self/ns/pid")


def wait_for_server(image: Image, ended: threading.Event) -> dict[str, Any]:
    """The record of a Jupyter Server that listens; it is written a little before."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not ended.is_set():
        for record in image.home.glob(".local/share/jupyter/runtime/jpserver-*.json"):
            with contextlib.suppress(ValueError, OSError):  # half written, not yet there
                found = dict(json.loads(record.read_text()))
                socket.create_connection(("127.0.0.1", found["port"]), 5).close()
                return found
        time.sleep(0.1)
    raise AssertionError("no Jupyter Server")


async def run_quickstart(server: dict[str, Any], notebook: Path) -> tuple[str, dict[str, Any]]:
    """Run all cells as a browser does; returns all that was shown, and JupyterLab's notification settings."""
    cells = [cell for cell in nbformat.read(notebook, 4).cells if cell.cell_type == "code"]
    url, shown = server["url"].replace("localhost", "127.0.0.1"), ""
    async with aiohttp.ClientSession(headers={"Authorization": f"token {server['token']}"}) as session:
        async with session.get(
            f"{url}lab/api/settings/@jupyterlab/apputils-extension:notification"
        ) as answer:
            settings = dict(await answer.json())
        async with session.post(f"{url}api/kernels", json={"name": "python3"}) as answer:
            kernel = (await answer.json())["id"]
        async with session.ws_connect(f"{url}api/kernels/{kernel}/channels", max_msg_size=0) as socket:
            for cell in cells:
                wanted = {"code": cell.source, "silent": False, "allow_stdin": False, "store_history": True}
                header = {"msg_id": uuid.uuid4().hex, "msg_type": "execute_request", "session": "binder"}
                header |= {"username": "", "version": "5.3", "date": "2026-01-01T00:00:00Z"}
                message = {"header": header, "parent_header": {}, "metadata": {}, "content": wanted}
                await socket.send_json({**message, "channel": "shell", "buffers": []})
                ended = False
                while not ended:
                    got = json.loads((await asyncio.wait_for(socket.receive(), 120)).data)
                    if got["parent_header"].get("msg_id") != header["msg_id"] or got["channel"] != "iopub":
                        continue
                    content = got["content"]
                    failed = got["msg_type"] == "error" and "raises-exception" not in cell.metadata.get(
                        "tags", ()
                    )
                    assert not failed, f"{cell.source}\n{content}"
                    shown += str(content.get("text", "")) + str(content.get("data", {}).get("text/plain", ""))
                    ended = got["msg_type"] == "status" and content["execution_state"] == "idle"
        async with session.post(f"{url}api/shutdown") as answer:
            answer.raise_for_status()
    return shown, settings


@pytest.mark.timeout(400)
def test_the_server_runs_the_quickstart_isolated_and_in_the_memory_of_a_pod(
    image: Image, record_property: Callable[[str, object], None]
) -> None:
    marker, ended, outcome = uuid.uuid4().hex, threading.Event(), []
    command = "binder/start jupyter lab --no-browser --ip=127.0.0.1 --port=0 "
    command += f"--IdentityProvider.token={marker} --ServerApp.shutdown_no_activity_timeout=120"

    def serve() -> None:
        outcome.append(image.run(f"exec {command}", timeout=200))
        ended.set()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        with Sampler(marker) as sampler:
            server = wait_for_server(image, ended)
            notebook = image.repository / "notebooks/01_quickstart.ipynb"
            shown, settings = asyncio.run(run_quickstart(server, notebook))
    finally:
        thread.join()
    assert "isolation L1" in shown and "leaves open: " in shown and "is deleted" in shown, shown
    assert "| installed in here only |" in shown, "pip install in a sandbox did not work"
    assert "disposable" in outcome[0].stderr
    assert settings["schema"]["properties"]["fetchNews"]["default"] == "false", settings["schema"]
    record_property("peak_mib", sampler.peak >> 20)
    print(f"peak memory of server, kernel, engine and sandbox: {sampler.peak >> 20} MiB")
    assert 50 << 20 < sampler.peak <= GUARANTEED


@pytest.mark.timeout(200)
def test_on_an_old_kernel_the_pod_accepts_what_is_refused_elsewhere(image: Image) -> None:
    """Ubuntu 24.04's Landlock (ABI 4) cannot stop signals: level L0.5, which only ``start`` allows."""
    shutil.rmtree(image.home / ".ipython", ignore_errors=True)
    old = {"DAYTONA_MAGICS_LANDLOCK_ABI": "4"}
    refused = image.run("cd /; python -m daytona_magics doctor --json", **old)
    assert refused.returncode == 1, refused.stdout
    wrong = [check["finding"] for check in json.loads(refused.stdout)["checks"] if check["state"] == "failed"]
    assert "isolates at level L0.5 only, and the setting min_isolation asks for L1" in wrong[0]
    notebook, start = f"{REPOSITORY}/notebooks/01_quickstart.ipynb", f"{REPOSITORY}/binder/start"
    done = image.run(
        f"cd /; {start} python -m daytona_magics doctor --json; {start} jupyter execute {notebook}", **old
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    report = json.loads(done.stdout[: done.stdout.rindex("}") + 1])
    assert (report["isolation"], report["landlock_abi"]) == ("L0.5", 4)
    assert report["ok"] and report["endpoint"]["min_isolation"] == "L0.5"
