"""The setting that hides the packages installed beside the engine: what is shown, written and said.

What runs in such a sandbox is in ``tests/parity/test_bare.py``.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pip
import pytest
import traitlets

from daytona_magics.engine.launch import venv, visible
from tests.engine_process import IsolatedEngine

OWN_PREFIX = sys.prefix != sys.base_prefix


@pytest.mark.parametrize("told", ["0", "no", " False ", "off"])
def test_packages_are_left_out_but_for_pip(monkeypatch: pytest.MonkeyPatch, told: str) -> None:
    shown = visible.plan()
    assert shown.shows(os.path.realpath(traitlets.__file__)) and shown.shows(os.path.realpath(pip.__file__))
    monkeypatch.setenv("DAYTONA_MAGICS_HOST_PACKAGES", told)
    hidden = visible.plan()
    assert hidden.shows(os.path.realpath(pip.__file__)) and hidden.shows(os.path.realpath(sys.executable))
    if OWN_PREFIX:
        assert not hidden.shows(os.path.realpath(traitlets.__file__))
        path = visible.base_environment("a", "/home/daytona")["PATH"].split(":")
        assert f"{sys.prefix}/bin" not in path and f"{sys.base_prefix}/bin" in path
    assert not venv._shows_base()


@pytest.mark.parametrize("told", ["", "1", "yes"])
def test_they_are_there_otherwise(monkeypatch: pytest.MonkeyPatch, told: str) -> None:
    monkeypatch.setenv("DAYTONA_MAGICS_HOST_PACKAGES", told)
    assert venv.host_packages() and visible.plan().shows(os.path.realpath(traitlets.__file__))


def test_what_is_written_makes_pip_importable_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = str(Path(pip.__file__).parents[1])
    program = tmp_path / "program.py"
    names = ("pip", "pip._vendor", "traitlets")
    ask = f"import importlib.util as u; print([bool(u.find_spec(n)) for n in {names}])"
    for told, found in (("0", [True, True, False]), ("1", [True, True, True])):
        monkeypatch.setenv("DAYTONA_MAGICS_HOST_PACKAGES", told)
        program.write_text(venv._host_packages([folder]) + "\n" + ask)
        bare = [sys._base_executable, "-I", "-S", str(program)]  # type: ignore[attr-defined]
        said = subprocess.run(bare, capture_output=True, text=True, check=True).stdout
        assert said == f"{found}\n"


def test_the_command_s_help_names_the_setting(isolated_engine: IsolatedEngine) -> None:
    assert "DAYTONA_MAGICS_HOST_PACKAGES" in isolated_engine.command("--help").stdout
