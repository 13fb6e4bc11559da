"""Run the parity suite against given versions of ipykernel, each in a virtual environment of its own.

python -m tests.parity 6.31.0 7.3.0 7.4.0
python -m tests.parity --folder /var/tmp/parity 7.3.0
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
#: What the cells use besides the package itself.
PACKAGES = (
    *("pytest>=8.3", "pytest-timeout", "pytest-asyncio"),
    *("matplotlib", "pandas", "jinja2", "rich", "tqdm", "ipywidgets"),
    *("plotly", "nbformat", "altair", "bokeh", "polars", "sympy"),
)


def environment(folder: Path, version: str) -> Path:
    """Make (or find) the virtual environment with this ipykernel; returns its interpreter."""
    home = folder / f"ipykernel-{version}"
    python = home / "bin" / "python"
    if not python.exists():
        venv.create(home, with_pip=True)
    pinned = f"ipykernel=={version}"
    install = [python, "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    subprocess.run([*install, "-e", str(ROOT), pinned, *PACKAGES], check=True)
    return python


def main() -> int:
    """Run the suite once for each version; returns the highest exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.parity", description=__doc__)
    parser.add_argument("versions", nargs="+", metavar="VERSION", help="versions of ipykernel")
    parser.add_argument("--folder", type=Path, help="where the virtual environments are kept")
    options = parser.parse_args()
    folder = options.folder or Path(tempfile.mkdtemp(prefix="parity-"))
    worst = 0
    for version in options.versions:
        python = environment(folder, version)
        print(f"--- ipykernel {version}", flush=True)
        command = [python, "-m", "pytest", "-q", "tests/parity"]
        worst = max(worst, subprocess.run(command, cwd=ROOT, check=False).returncode)
    return worst


if __name__ == "__main__":
    sys.exit(main())
