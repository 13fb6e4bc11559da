"""The guest's archive: the same every time, and runnable by any plain Python."""

from __future__ import annotations

import io
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import daytona_magics
from daytona_magics.runtime.bundle import bundle


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


def rewritten(path: Path, change: Callable[[str, bytes], bytes | None]) -> Path:
    with zipfile.ZipFile(io.BytesIO(bundle().data)) as old, zipfile.ZipFile(path, "w") as new:
        for entry in old.infolist():
            data = change(entry.filename, old.read(entry))
            if data is not None:
                new.writestr(entry, data)
    return path


def test_bytecode_is_used_by_this_python_and_ignored_by_others(tmp_path: Path) -> None:
    def only_bytecode(name: str, data: bytes) -> bytes | None:
        return data if name.endswith(".pyc") else None

    def foreign_bytecode(name: str, data: bytes) -> bytes | None:
        return b"\x00\x00\r\n" + data[4:] if name.endswith(".pyc") else data

    for change in (only_bytecode, foreign_bytecode):
        path = rewritten(tmp_path / f"{change.__name__}.pyz", change)
        command = [sys.executable, "-I", "-S", str(path), "version"]
        done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=30)
        assert done.stdout.strip() == daytona_magics.__version__


def test_the_name_says_version_and_content() -> None:
    assert bundle().name.startswith(f"guest-{daytona_magics.__version__}-")
    assert len(bundle().data) < 400_000
