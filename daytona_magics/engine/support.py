"""``engine support-bundle``: one archive of what somebody who helps needs to see, and of no secret.

In it are the log, what toolboxes said on stderr, the crash file, the doctor's report, the versions of
packages and the sandboxes' states. The database, the files of sandboxes and their environments are not.
Every text passes the log's masking once more, with the engine's key and the home folder's name taken out by
value.
"""

from __future__ import annotations

import importlib.metadata
import io
import json
import os
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from daytona_magics.engine import address, doctor, logs, places
from daytona_magics.engine.log import masked

#: Most bytes of one file in the bundle.
MAX_FILE = 2 << 20
_PACKAGES = ("daytona", "aiohttp", "python-socketio", "ipykernel", "ipython", "jupyter-server", "jupyterlab")


def write(target: Path, state: Path | None) -> list[str]:
    """Write the bundle (tar.gz, mode 0600) and return the names of what is in it.

    Args:
        target: the archive; it must not exist.
        state: the engine's state folder; None when there is none yet.

    Raises:
        FileExistsError: ``target`` is there already.
    """
    hidden = _secrets(state)
    handle = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    names = []
    with os.fdopen(handle, "wb") as raw, tarfile.open(fileobj=raw, mode="w:gz") as archive:
        for name, text in _contents(state):
            data = _redacted(text, hidden).encode("utf-8", "backslashreplace")
            info = tarfile.TarInfo(f"daytona-magics/{name}")
            info.size, info.mtime, info.mode = len(data), int(time.time()), 0o600
            archive.addfile(info, io.BytesIO(data))
            names.append(name)
    return names


def _redacted(text: str, hidden: dict[str, str]) -> str:
    for secret, instead in hidden.items():
        text = text.replace(secret, instead)
    return masked(text)


def _secrets(state: Path | None) -> dict[str, str]:
    """What is replaced by value, longest first."""
    found = {str(Path.home()): "~"} if str(Path.home()) not in ("/", "/root") else {}
    for path in (state / "endpoint.json", state / "engine.json") if state else ():
        try:
            kept = json.loads(path.read_text())
        except (OSError, ValueError):
            continue
        for name in ("key", "api_key"):
            if isinstance(kept, dict) and isinstance(kept.get(name), str) and kept[name]:
                found[kept[name]] = "***"
    return dict(sorted(found.items(), key=lambda item: -len(item[0])))


def _contents(state: Path | None) -> Iterator[tuple[str, str]]:
    yield "versions.json", json.dumps(_versions(), indent=2)
    report = doctor.collect(start=False)
    yield "doctor.json", json.dumps(report, indent=2, default=str)
    yield "doctor.txt", doctor.text(doctor.sections(report), 100)
    record = places.live_record()
    status = places.call(record, "GET", "/api/engine/status") if record else None
    yield "status.json", json.dumps(_without_names(status), indent=2)
    if state is None:
        return
    for path in logs.files(state):
        yield path.name, _tail(path)
    yield "engine.crash", _tail(state / "engine.crash")
    stderr = state / "stderr"
    for path in sorted(stderr.glob("*.err")) if stderr.is_dir() else ():
        yield f"stderr/{path.name}", _tail(path)


def _without_names(status: dict[str, Any] | None) -> dict[str, Any]:
    """The engine's status; sandboxes by id and state, since a name may tell what somebody works on."""
    shown = dict(status or {"running": False})
    if "sandboxes" in shown:
        shown["sandboxes"] = [{"id": one["id"], "state": one["state"]} for one in shown["sandboxes"]]
    return shown


def _versions() -> dict[str, str]:
    found = {}
    for name in ("daytona-magics", *_PACKAGES):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def _tail(path: Path) -> str:
    try:
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - MAX_FILE))
            return file.read().decode("utf-8", "replace")
    except OSError as error:
        return f"cannot be read: {error}"


def run(target: str | None) -> int:
    """The command: write the bundle, say where it is and what to do with it."""
    try:
        state: Path | None = logs.folder()
    except address.EngineStartError:
        state = None
    path = Path(target or f"daytona-magics-support-{time.strftime('%Y%m%d-%H%M%S')}.tar.gz").absolute()
    try:
        names = write(path, state)
    except FileExistsError:
        raise address.EngineStartError(f"{path} exists already; name another file with --output") from None
    print(f"{path}: {len(names)} files, {path.stat().st_size / 1e6:.2f} MB, secrets are masked")
    print(f"it contains {', '.join(names)}; look into it before you pass it on")
    return 0
