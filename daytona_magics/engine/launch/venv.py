"""The Python environment in a sandbox's home: where ``pip install`` writes.

A virtual environment is a few links and text files, so it is written by hand in under a millisecond, without
a process and without ensurepip: ``~/.venv`` with links to the host's interpreter, a ``pip`` that runs the
module the host has installed, and ``_host.pth``, which makes the packages importable that the engine's own
Python sees, behind the sandbox's own. The host's folders are read-only inside; an upgrade lands in the home
and is found first.

With ``DAYTONA_MAGICS_HOST_PACKAGES=0`` in the engine's environment new sandboxes get a bare Python: of the
packages of the machine only ``pip`` can be imported.

The text in it names no place of the sandbox: the home is ``/home/daytona`` at L3 and a path of the host
below, and the same home may be started at both. ``sudo``, ``apt`` and ``apt-get`` beside it are described in
``inside/sudo.py``.
"""

import functools
import os
import sys
from collections.abc import Mapping
from pathlib import Path

#: Folder of the environment in a home, and of its programs.
FOLDER = ".venv"
PROGRAMS = ".venv/bin"

_FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW_FILE = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC

#: Starts a program with the Python beside it: for sh two empty strings and a command, for Python a string.
_START = """#!/bin/sh
''''exec "${0%%/*}/python" %s"$0" "$@" #'''
"""
#: Not ``python -m pip``, which looks into the current folder for modules first.
_PIP = """\
import importlib.util, runpy, sys
if importlib.util.find_spec("pip") is None:
    sys.exit("pip is missing from the Python that this machine lends its sandboxes (%s):"
             " install it there, beside daytona-magics" % sys.base_prefix)
sys.argv[0] = "pip"
runpy.run_module("pip", run_name="__main__", alter_sys=True)
"""
#: A plain line in a .pth file would add a folder without reading the .pth files in it. What these add may be
#: sources that are not lent to sandboxes; below L3 they are there and closed, which programs do not expect.
_HOST_PACKAGES = """# Makes the packages of the machine importable, behind those installed here.
import os, site, sys
before = set(sys.path)
for folder in %(folders)r:
    site.addsitedir(folder)
for path in set(sys.path) - before:
    try:
        os.close(os.open(path, os.O_RDONLY))
    except PermissionError:
        sys.path.remove(path)
    except OSError:
        continue
"""
#: One package of the machine and no other, and not seen as installed: pip counts only what is on sys.path.
_PIP_ONLY = """# Makes pip of the machine importable, and nothing else of its packages.
import importlib.machinery, sys
class Pip:
    def find_spec(self, name, path=None, target=None):
        if name == "pip":
            return importlib.machinery.PathFinder.find_spec(name, %(folders)r)
sys.meta_path.append(Pip())
"""
_ACTIVATE = """# Use with: . ~/.venv/bin/activate  (every process of a sandbox starts with it already active)
VIRTUAL_ENV="$HOME/.venv"
case ":$PATH:" in *":$VIRTUAL_ENV/bin:"*) ;; *) PATH="$VIRTUAL_ENV/bin:$PATH" ;; esac
export VIRTUAL_ENV PATH
unset PYTHONHOME
hash -r 2>/dev/null || true
"""


def host_packages() -> bool:
    """Whether sandboxes can import the packages of the engine's own Python: unless the environment says 0."""
    return os.environ.get("DAYTONA_MAGICS_HOST_PACKAGES", "").strip().lower() not in (
        "0",
        "no",
        "false",
        "off",
    )


def environment(home: str, path: str) -> dict[str, str]:
    """Variables that make the environment in `home` the one in use; `path` is the PATH so far.

    Most installers for one user put programs into ``~/.local/bin``, so they are found there.

    In : environment("/home/daytona", "/usr/bin")["PATH"]
    Out: '/home/daytona/.venv/bin:/home/daytona/.local/bin:/usr/bin'
    """
    return {"PATH": f"{home}/{PROGRAMS}:{home}/.local/bin:{path}", "VIRTUAL_ENV": f"{home}/{FOLDER}"}


def write(home: int, uid: int | None) -> None:
    """Make the environment in the new, still private folder open as `home`, owned by `uid` if given.

    Raises OSError.
    """
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    writer = _Writer(home, uid)
    try:
        for folder in (
            FOLDER,
            PROGRAMS,
            f"{FOLDER}/include",
            f"{FOLDER}/lib",
            f"{FOLDER}/lib/{version}",
            f"{FOLDER}/lib/{version}/site-packages",
        ):
            writer.folder(folder)
        writer.link(f"{FOLDER}/lib64", "lib")
        writer.link(f"{PROGRAMS}/python", _interpreter())
        for name in ("python3", version):
            writer.link(f"{PROGRAMS}/{name}", "python")
        for name, text in _files(version).items():
            writer.file(f"{FOLDER}/{name}", text, 0o755 if name.startswith("bin/") else 0o644)
    finally:
        writer.close()


class _Writer:
    """Makes folders, links and files below one folder descriptor and gives them to `uid`."""

    def __init__(self, top: int, uid: int | None) -> None:
        self._uid = uid
        self._open = {"": top}

    def _place(self, path: str) -> tuple[str, int]:
        parent, _, name = path.rpartition("/")
        return name, self._open[parent]

    def folder(self, path: str) -> None:
        name, parent = self._place(path)
        os.mkdir(name, 0o755, dir_fd=parent)
        fd = self._open[path] = os.open(name, _FOLDER_FLAGS, dir_fd=parent)
        if self._uid is not None:
            os.fchown(fd, self._uid, self._uid)

    def link(self, path: str, target: str) -> None:
        name, parent = self._place(path)
        os.symlink(target, name, dir_fd=parent)
        if self._uid is not None:
            os.chown(name, self._uid, self._uid, dir_fd=parent, follow_symlinks=False)

    def file(self, path: str, text: bytes, mode: int) -> None:
        name, parent = self._place(path)
        fd = os.open(name, _NEW_FILE, mode, dir_fd=parent)
        try:
            os.write(fd, text)
            if self._uid is not None:
                os.fchown(fd, self._uid, self._uid)
        finally:
            os.close(fd)

    def close(self) -> None:
        for path, fd in self._open.items():
            if path:
                os.close(fd)


def _interpreter() -> str:
    """The interpreter outside of any virtual environment, as ``venv`` would link it."""
    return getattr(sys, "_base_executable", "") or sys.executable


@functools.cache
def _files(version: str) -> Mapping[str, bytes]:
    """Path below the environment -> content, the same for every home."""
    inside = Path(__file__).with_name("inside")
    sudo = (_START % "-I -S ").encode() + (inside / "sudo.py").read_bytes()
    config = (
        f"home = {os.path.dirname(_interpreter())}\n"
        f"include-system-site-packages = {'true' if _shows_base() else 'false'}\n"
        f"version = {sys.version_info.major}.{sys.version_info.minor}.{sys.version_info.micro}\n"
        f"executable = {os.path.realpath(_interpreter())}\n"
    )
    texts = {
        "pyvenv.cfg": config,
        "bin/activate": _ACTIVATE,
        f"lib/{version}/site-packages/_host.pth": "import _host_packages\n",
        f"lib/{version}/site-packages/_host_packages.py": _host_packages(sys.path),
        **{f"bin/{name}": _START % "" + _PIP for name in ("pip", "pip3", version.replace("python", "pip"))},
    }
    files = {name: os.fsencode(text) for name, text in texts.items()}
    return {**files, **{f"bin/{name}": sudo for name in ("sudo", "apt", "apt-get")}}


def _shows_base() -> bool:
    """Whether the engine's Python sees the packages of the one below it; a virtual environment may not."""
    if not host_packages():
        return False
    if sys.prefix == sys.base_prefix:
        return True
    base = os.path.realpath(sys.base_prefix) + "/"
    return any(
        folder.endswith("-packages") and os.path.realpath(folder).startswith(base) for folder in sys.path
    )


def _host_packages(path: list[str]) -> str:
    """The module that ``_host.pth`` imports, for the package folders of `path`, in their order."""
    folders = [folder for folder in path if folder.endswith("-packages")]
    return (_HOST_PACKAGES if host_packages() else _PIP_ONLY) % {"folders": folders}
