"""The sources of what runs in a browser: strict TypeScript, no CDN, nothing that parses text as HTML."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from daytona_magics.widgets import assets
from tests.typescript.node_sdk import NODE, node_modules

ROOT = Path(__file__).parents[2]
SOURCES = ROOT / "daytona_magics" / "widgets" / "js"


@pytest.mark.timeout(300)
def test_types_are_right(tmp_path: Path) -> None:
    modules = node_modules()
    work = tmp_path / "js"
    shutil.copytree(SOURCES, work, ignore=shutil.ignore_patterns("node_modules"))
    (work / "node_modules").symlink_to(modules)
    tsc = [str(NODE), str(modules / "typescript" / "bin" / "tsc"), "-p", "."]
    done = subprocess.run(tsc, cwd=work, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stdout
    # The control: a mistake is found.
    with (work / "src" / "widgets" / "dom.ts").open("a") as file:
        file.write("export const wrong: number = 'text';\n")
    done = subprocess.run(tsc, cwd=work, capture_output=True, text=True, timeout=200, check=False)
    assert "TS2322" in done.stdout


def test_text_stays_text_and_nothing_comes_from_elsewhere() -> None:
    sources = "\n".join(path.read_text() for path in sorted((SOURCES / "src" / "widgets").rglob("*.ts")))
    for word in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function"):
        assert word not in sources
    # The name of SVG's elements is no address that anybody asks.
    assert not re.search(r"https?://", sources.replace("http://www.w3.org/2000/svg", ""))


def test_bundles_stay_small() -> None:
    # Bytes; what every widget brings along, and what a page fetches once.
    assert len(assets.bundle("loader.js")) < 4_000
    assert len(assets.bundle("core.js")) < 130_000
    assert len(assets.bundle("terminal.js")) < 430_000
