"""The notebooks run from top to bottom, and print what their saved outputs show (nbval, strict)."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from tests import forked_kernels
from tests.engine_process import IsolatedEngine

ROOT = Path(__file__).parents[2]
SANITIZE = Path(__file__).with_name("sanitize.cfg")
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


@pytest.mark.timeout(300)
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=[path.stem for path in NOTEBOOKS])
def test_notebook_prints_what_it_shows(notebook: Path, isolated_engine: IsolatedEngine) -> None:
    # An engine that is still starting makes a slow machine show a second status line.
    isolated_engine.client_env()
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q", "--nbval", str(notebook)]
    command += ["--nbval-sanitize-with", str(SANITIZE), "--nbval-cell-timeout", "120", "-o", "addopts="]
    env = {**isolated_engine.environ, **forked_kernels.variables()}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=[path.stem for path in NOTEBOOKS])
def test_saved_outputs_are_readable_and_tell_nothing(notebook: Path) -> None:
    """GitHub shows the outputs as saved: each code cell has run, and no path or key is in the file."""
    text = notebook.read_text()
    cells = [cell for cell in nbformat.reads(text, 4).cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    home = str(Path.home())
    for secret in (
        str(ROOT),
        f'"{home}/',
        f" {home}/",
        "dtn_",
        "Bearer ",
        os.environ.get("HOSTNAME") or "\0",
    ):
        assert secret not in text
