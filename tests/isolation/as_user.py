"""Runs a module as an ordinary user that exists nowhere else, from a root process.

    python -m tests.isolation.as_user UID HOME MODULE [ARGUMENTS]

Python may live where that user cannot walk (/root), so in a private mount namespace such folders are replaced
by open ones that hold what Python needs and nothing else. Then the uid is changed, and the module run as if
by ``python -m``.
"""

import ctypes
import os
import runpy
import sys
import tempfile
from pathlib import Path

from daytona_magics.engine.launch import calls, namespaces, visible
from tests import forks, in_memory, scraps, uids

ROOT = str(Path(__file__).resolve().parents[2])


def become(uid: int, home: str) -> None:
    """Change this process into one of user `uid` with home `home`. Raises OSError.

    For 0, who it is already, only the folders are opened: to the accounts of sandboxes.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    new_mounts, recursive_private = 0x20000, 1 << 14 | 1 << 18
    calls.check(libc.unshare(new_mounts), "unshare")
    calls.check(libc.mount(b"none", b"/", None, recursive_private, None), "mount")
    hidden: dict[str, list[tuple[int, str]]] = {}
    for path in [*(bind[0] for bind in visible.plan().binds), ROOT, home]:
        closed = next((str(p) for p in reversed(Path(path).parents) if not p.stat().st_mode & 1), None)
        if path.startswith("/tmp/") and in_memory.roomy():
            closed = "/tmp"
        if closed is not None:
            tree = calls.clone_tree(path, read_only=path != home)
            hidden.setdefault(closed, []).append((tree, path))
    for folder, trees in hidden.items():
        mode = b"mode=1777" if folder == "/tmp" else b"mode=0755"
        calls.check(libc.mount(b"tmpfs", folder.encode(), b"tmpfs", 0, mode), "mount")
        for fd, path in trees:
            os.makedirs(path, exist_ok=True)
            calls.attach(fd, path)
    if uid != os.geteuid():
        namespaces.change_uid(uid)
    os.environ.update(HOME=home, TMPDIR="/tmp", PYTHONDONTWRITEBYTECODE="1")
    os.chdir(ROOT)


def run_tests(*files: str, timeout: float = 170, as_root: bool = False, **env: str) -> str:
    """Run files of tests as such a user; returns what pytest said, asserts that it was content.

    Args:
        timeout: in seconds.
        as_root: stay root, and have only Python where every account can walk.
        env: more environment.
    """
    uid = 0 if as_root else uids.account(1_810_000)
    home = tempfile.mkdtemp(prefix="dm-user-", dir="/tmp")
    try:
        os.chown(home, uid, uid)
        options = ["-q", "-p", "no:cacheprovider", "--no-header", "-rfE", f"--basetemp={home}/pytest"]
        done = forks.run(
            ["-m", "tests.isolation.as_user", str(uid), home, "pytest", *options, *files],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": forks.search_path(os.environ), **env},
            timeout=timeout,
        )
    finally:
        scraps.remove(home)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-3000:]
    return done.stdout


if __name__ == "__main__":
    _, uid, home, *sys.argv = sys.argv
    become(int(uid), home)
    # What it orders must not be done by the account that it was.
    if forks.divide():
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
