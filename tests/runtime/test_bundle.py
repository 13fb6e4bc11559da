"""The guest's archive: the same every time, and runnable by any plain Python."""

from __future__ import annotations

import importlib.util
import io
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import daytona_magics
from daytona_magics.runtime.bundle import GUEST_FOLDER, RUN, bundle, run_soon


def build_elsewhere() -> bytes:
    program = (
        "import sys; from daytona_magics.runtime.bundle import bundle; sys.stdout.buffer.write(bundle().data)"
    )
    return subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, timeout=30).stdout


def test_two_processes_build_the_same_bytes() -> None:
    assert build_elsewhere() == build_elsewhere()


def test_a_plain_python_runs_it(tmp_path: Path) -> None:
    path = tmp_path / bundle().name
    path.write_bytes(bundle().data)
    done = subprocess.run(
        [sys.executable, "-I", "-S", str(path), "version"],
        check=True,
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.stdout.strip() == daytona_magics.__version__


def started(path: Path, data: bytes) -> str:
    """What the guest says of its version when it is started the way the channel starts it."""
    path.write_bytes(data)
    command = [sys.executable, "-I", "-S", "-c", RUN, str(path), "version"]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=30).stdout.strip()


def test_bytecode_is_used_by_this_python_and_ignored_by_others(tmp_path: Path) -> None:
    data = bundle().data
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        names = archive.namelist()
    assert names and not [name for name in names if not name.endswith(".py")]
    front = data[: data.index(b"PK\x03\x04")]
    assert started(tmp_path / "only-bytecode", front) == daytona_magics.__version__
    magic = repr(importlib.util.MAGIC_NUMBER).encode()
    foreign = repr(b"\x00" + importlib.util.MAGIC_NUMBER[1:]).encode().ljust(len(magic))
    assert front.count(magic) == 1
    other = front[: front.index(magic)] + foreign + front[front.index(magic) + len(magic) :]
    length = int(data.split(b"\n", 1)[0]) + len(foreign) - len(magic)
    other = b"%d\n" % length + other.split(b"\n", 1)[1]
    assert started(tmp_path / "sources", other + data[len(front) :]) == daytona_magics.__version__
    # Without its sources that Python has nothing to run.
    with pytest.raises(subprocess.CalledProcessError):
        started(tmp_path / "nothing", other)


@pytest.mark.parametrize("module", ["guest", "guest.multi"])
def test_modules_know_their_source(tmp_path: Path, module: str) -> None:
    path = tmp_path / bundle().name
    path.write_bytes(bundle().data)
    program = RUN.replace(
        "sys.exit(", f"import {module}; print(end={module}.__loader__.get_source({module!r}))#"
    )
    done = subprocess.run([sys.executable, "-ISc", program, str(path)], capture_output=True, timeout=30)
    name = "__init__" if module == "guest" else module.partition(".")[2]
    assert done.stdout == (GUEST_FOLDER / f"{name}.py").read_bytes(), done.stderr


def test_a_file_on_its_way_is_waited_for(tmp_path: Path) -> None:
    path, data = tmp_path / bundle().name, bundle().data
    command = [sys.executable, "-I", "-S", "-c", run_soon("json"), str(path), str(len(data)), "version"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        with path.open("wb", buffering=0) as file:
            file.write(data[:1000])
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(0.3)
            file.write(data[1000:])
        assert process.communicate(timeout=30)[0].strip() == daytona_magics.__version__


def test_the_name_says_version_and_content() -> None:
    assert bundle().name.startswith(f"guest-{daytona_magics.__version__}-")
    assert len(bundle().data) < 800_000
