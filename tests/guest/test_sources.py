# ruff: noqa: UP031  (cells are written as they are typed)
"""The guest's sources run on Python 3.8 and import nothing but the standard library."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

import daytona_magics.runtime.guest

FOLDER = Path(daytona_magics.runtime.guest.__file__).parent
SOURCES = sorted(FOLDER.glob("*.py"))


#: Packages that a sandbox may have.
OPTIONAL = {"IPython", "PIL", "jedi", "numpy", "pandas", "polars", "pyarrow", "pytz", "traitlets"}


def imported(node: ast.AST) -> list[str]:
    """The modules an import statement names."""
    if isinstance(node, ast.ImportFrom):
        return [node.module or ""] if node.level == 0 else []
    return [name.name for name in node.names] if isinstance(node, ast.Import) else []


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: p.name)
def test_compiles_for_python_38(path: Path) -> None:
    tree = ast.parse(path.read_text(), feature_version=(3, 8))
    # What a function imports of the sandbox's own packages, it imports for an object of theirs.
    functions = (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
    later = {id(node) for function in functions for node in ast.walk(function)}
    for node in ast.walk(tree):
        if id(node) in later and {name.split(".")[0] for name in imported(node)} & OPTIONAL:
            continue
        if isinstance(node, ast.ImportFrom) and node.level == 0:
            assert (node.module or "").split(".")[0] in {*sys.stdlib_module_names, "guest"}
        elif isinstance(node, ast.Import):
            assert {n.name.split(".")[0] for n in node.names} <= set(sys.stdlib_module_names)


def test_daemon_and_attach_do_not_import_asyncio(tmp_path: Path) -> None:
    shutil.copytree(FOLDER, tmp_path / "guest", ignore=shutil.ignore_patterns("__pycache__"))
    code = (
        "import sys; sys.path.insert(0, %r)\nfrom guest import attach\n"
        "assert not {'asyncio', 'socket', 'json', 'typing', 're'} & set(sys.modules), sorted(sys.modules)\n"
        "from guest import daemon, server\nassert not {'asyncio'} & set(sys.modules), sorted(sys.modules)"
    )
    # -S: a site-packages .pth may import anything before us.
    subprocess.run([sys.executable, "-I", "-S", "-c", code % str(tmp_path)], check=True)


@cache
def other_pythons() -> list[str]:
    found = [shutil.which("python3.%d" % minor) for minor in range(8, 16)]
    found += [str(p) for p in Path("~/.pyenv/versions").expanduser().glob("3.*/bin/python3")]
    real = {os.path.realpath(p): p for p in found if p}
    real.pop(os.path.realpath(sys.executable), None)
    return [path for path in real.values() if new_enough(path)]


def new_enough(python: str) -> bool:
    """Whether this Python starts (a version manager's stand-in may not) and is one the guest supports."""
    check = [python, "-c", "import sys; sys.exit(sys.version_info < (3, 8))"]
    return subprocess.run(check, capture_output=True, check=False).returncode == 0


@pytest.mark.parametrize(
    "python", other_pythons() or [pytest.param("", marks=pytest.mark.skip("no other Python"))]
)
def test_runs_on_another_python(python: str, tmp_path: Path) -> None:
    shutil.copytree(FOLDER, tmp_path / "guest", ignore=shutil.ignore_patterns("__pycache__"))
    from . import harness

    before, harness.MODULE[:] = list(harness.MODULE), [python, "-m", "guest"]
    os.environ["PYTHONPATH"], old = str(tmp_path), os.environ.get("PYTHONPATH")
    try:
        guest = harness.Guest(PYTHONPATH=str(tmp_path))
        try:
            client = guest.client()
            assert (
                client.run("print('hi')\n!echo sub\nimport sys; sys.version_info >= (3, 8)").result == "True"
            )
            assert client.run("1/0").error["ename"] == "ZeroDivisionError"
            assert client.run("import asyncio; await asyncio.sleep(0, 5)").result == "5"
            assert len(client.run("for i in range(100000): print(i)").out) == 588890
            assert client.bash("echo $BASH_VERSION").status == "ok"
        finally:
            guest.close()
    finally:
        harness.MODULE[:] = before
        if old is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = old
