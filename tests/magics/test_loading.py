"""Loading is cheap, happens once, and can be undone."""

from __future__ import annotations

import subprocess
import sys

import pytest
from IPython.core.interactiveshell import InteractiveShell

from daytona_magics.magics import register, transform, unregister
from daytona_magics.magics.places import CARRIER

HEAVY = (
    "daytona",
    "aiohttp",
    "nh3",
    "daytona_magics.runtime.channel",
    "daytona_magics.engine",
    "http.client",
)


def test_nothing_heavy_is_imported_by_loading() -> None:
    code = (
        "import sys\nfrom IPython.core.interactiveshell import InteractiveShell\n"
        "shell = InteractiveShell.instance()\nbefore = set(sys.modules)\n"
        "import daytona_magics.magics.warming as w; w.DELAY = 60\n"
        "shell.run_line_magic('load_ext', 'daytona_magics')\nprint(*sorted(set(sys.modules) - before))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(ran.stdout.split())
    assert "daytona_magics.magics" in loaded
    assert not loaded & set(HEAVY), loaded
    assert len(loaded) < 36, loaded


@pytest.fixture
def shell() -> InteractiveShell:
    return InteractiveShell()


def test_register_and_unregister_are_idempotent(shell: InteractiveShell) -> None:
    transforms, configurables = list(shell.input_transformers_cleanup), list(shell.configurables)
    register(shell)
    register(shell)
    assert shell.input_transformers_cleanup.count(transform) == 1
    assert shell.find_line_magic("sandbox") and shell.find_cell_magic("sandbox")
    assert len(shell.configurables) == len(configurables) + 1
    unregister(shell)
    unregister(shell)
    assert shell.input_transformers_cleanup == transforms
    assert [type(c) for c in shell.configurables] == [type(c) for c in configurables]
    for name in ("sandbox", "local", CARRIER):
        assert shell.find_line_magic(name) is None and shell.find_cell_magic(name) is None


def test_percent_config_reaches_the_settings(shell: InteractiveShell) -> None:
    register(shell)
    try:
        shell.run_line_magic("config", "SandboxConfig.auto_stop = 30")
        assert next(c for c in shell.configurables if type(c).__name__ == "SandboxConfig").auto_stop == 30
    finally:
        unregister(shell)


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["%%sandbox\n", "x\n"], ["%%sandbox\n", "x\n"]),
        (["%%sandbox --help\n"], ["%%sandbox --help\n", "\n"]),
        (["# a\n", "\n", "%%sandbox bash\n", "x\n"], ["%%sandbox bash\n", "\n", "\n", "x\n"]),
        (["\n", "\t %%sandbox\n", "x\n"], ["%%sandbox\n", "\n", "x\n"]),
        (["x = 1\n", "# %%sandbox\n"], ["x = 1\n", "# %%sandbox\n"]),
        (["# %%sandbox\n", "x\n"], ["%%sandbox\n", "x\n"]),
        (["#%%sandbox bash -q\n", "x\n"], ["%%sandbox bash -q\n", "x\n"]),
        (["# a\n", "\n", "  ## %%sandbox\n", "%%bash\n", "x"], ["%%sandbox\n", "\n", "\n", "%%bash\n", "x"]),
        (["%%sandbox_git\n", "x\n"], ["%%sandbox_git\n", "x\n"]),
        (["# use %%sandbox for this\n", "x\n"], ["# use %%sandbox for this\n", "x\n"]),
        (["# %%sandboxes\n", "x\n"], ["# %%sandboxes\n", "x\n"]),
        (["%sandbox list\n"], ["%sandbox list\n"]),
        ([], []),
    ],
)
def test_transform_is_pure_and_idempotent(lines: list[str], expected: list[str]) -> None:
    before = list(lines)
    once = transform(lines)
    assert once == expected and lines == before
    assert transform(list(once)) == once


@pytest.mark.parametrize("typed", ["%%sandbox", "%%sandbox\n", "%%sandbox bash -q"])
def test_a_typed_magic_waits_for_its_body(shell: InteractiveShell, typed: str) -> None:
    """In a terminal Enter must not end the cell here: the next line would run on this machine."""
    check = shell.input_transformer_manager.check_complete
    before = check(typed)
    register(shell)
    try:
        assert check(typed) == before
    finally:
        unregister(shell)
    assert before[0] == "incomplete"


@pytest.mark.parametrize("below", ["ran = True", "\n# a note\nran = True", "%pwd\nran = True"])
def test_one_sign_too_few_is_refused_and_not_run_here(shell: InteractiveShell, below: str) -> None:
    register(shell)
    try:
        result = shell.run_cell(f"# a note\n%sandbox\n{below}")
        assert transform(["%sandbox\n", "%sandbox list\n"]) == ["%sandbox\n", "%sandbox list\n"]
        assert transform(["%sandbox\n"]) == ["%sandbox\n"]
    finally:
        unregister(shell)
    assert "ran" not in shell.user_ns
    assert "write %%sandbox to run them in the sandbox" in str(result.error_in_exec)


@pytest.mark.parametrize("cell", ["# %% sandbox\n{}", "# a note\n\n  ## %%  sandbox bash\n{}"])
def test_a_cell_title_that_looks_like_the_magic_is_refused_and_not_run_here(
    shell: InteractiveShell, cell: str
) -> None:
    code = cell.format("ran = True")
    register(shell)
    try:
        lines = code.splitlines(keepends=True)
        assert transform(transform(list(lines))) == transform(lines)
        assert shell.input_transformer_manager.check_complete(code)[0] != "incomplete"
        result = shell.run_cell(code)
    finally:
        unregister(shell)
    assert "ran" not in shell.user_ns
    assert type(result.error_in_exec).__name__ == "SandboxUsageError"
    assert "write # %%sandbox without a blank" in str(result.error_in_exec)
    # Without the extension it is a comment, as everywhere in Python.
    assert shell.run_cell(code).success and shell.user_ns["ran"]
