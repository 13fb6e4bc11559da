"""The house rules that a machine can check: style, types, layers, no hollow places, one version."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
BIN = Path(sys.executable).parent


def tracked(*patterns: str) -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "--", *patterns], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return [ROOT / line for line in listed.stdout.splitlines() if (ROOT / line).is_file()]


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "command",
    [
        pytest.param(["ruff", "check", "."], id="lint"),
        pytest.param(["ruff", "format", "--check", "."], id="format"),
        pytest.param(["mypy"], id="types"),
        pytest.param(["lint-imports"], id="layers"),
    ],
)
def test_checker_is_content(command: list[str]) -> None:
    done = subprocess.run([str(BIN / command[0]), *command[1:]], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_no_hollow_places() -> None:
    hollow = re.compile(
        r"except(?: Exception| BaseException)?: *pass|# *(?:TODO|FIXME|XXX)|raise NotImplementedError\b"
    )
    found = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in tracked("daytona_magics/*.py")
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if hollow.search(line)
    ]
    assert found == []


def test_ci_runs_the_command_of_the_readme() -> None:
    readme = (ROOT / "README.md").read_text()
    block = re.search(r"<!-- test-command -->\n```bash\n(.+?)\n```\n<!-- /test-command -->", readme, re.S)
    assert block, "README.md must hold the test command between its markers"
    printed = subprocess.run(
        ["sed", "-n", "/<!-- test-command -->/,/<!-- \\/test-command -->/p", "README.md"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert block[1] in printed
    assert "README.md" in (ROOT / ".ci/run").read_text()


def test_the_version_is_the_same_everywhere() -> None:
    version = re.search(r'__version__ = "(.+)"', (ROOT / "daytona_magics/__init__.py").read_text())
    assert version and f'version = "{version[1]}"' in (ROOT / "pyproject.toml").read_text()
    assert version[1] in (ROOT / "CHANGELOG.md").read_text()
