"""Bubblewrap as the maker of namespaces, where a security module lets it do what it refuses to Python.

Two ways. *Outer*: one bubblewrap around the zygote, in which sandboxes are made as ever (`outer_command`).
*Per sandbox*: one bubblewrap per sandbox (`start`), which makes the namespaces and the tree and then runs a
fresh Python as process number 1. It finds the toolbox's code in a zip file in memory, which it inherits, so
that no path to it is needed inside.

Arguments go through a descriptor, because everybody on the machine can read a command line; the environment
is empty, because the first process's would be readable inside. As root there is no user namespace:
bubblewrap runs with root's rights and the first process gives them up for the sandbox's uid.
"""

import base64
import contextlib
import io
import json
import marshal
import os
import struct
import sys
import zipfile
from collections.abc import Sequence
from importlib.util import MAGIC_NUMBER
from typing import Any, NoReturn

from ..toolbox import wire
from . import calls
from .fence import hidden_places
from .namespaces import INSIDE_UID

HOME = "/home/daytona"
#: How its complaints begin.
FAILED = "bubblewrap failed"

#: Rooms of the package whose code runs inside.
_ROOMS = ("launch", "toolbox")
#: Parts of the memory for temporary files: bubblewrap cannot bound several folders by one size.
_SCRATCH = (("/tmp", 2, "1777"), ("/dev/shm", 4, "1777"), ("/run", 8, "1777"), ("/var/tmp", 8, "1777"))


def outer_command(program: str) -> list[str]:
    """The words before the zygote's command that put it into an outer bubblewrap."""
    user = ["--unshare-user"] if os.geteuid() != 0 else []
    return [program, *user, "--die-with-parent", "--dev-bind", "/", "/", "--"]


def pack_code() -> bytes:
    """A zip file with the code that runs inside, compiled and, for what reads it, as it is."""
    engine = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        for name in ("daytona_magics/__init__", "daytona_magics/engine/__init__"):
            archive.writestr(f"{name}.pyc", _compiled("", name))
        for room in _ROOMS:
            folder = os.path.join(engine, room)
            for entry in sorted(os.listdir(folder)):
                if entry.endswith(".py"):
                    with open(os.path.join(folder, entry), encoding="utf-8") as file:
                        name, source = f"daytona_magics/engine/{room}/{entry[:-3]}", file.read()
                        archive.writestr(f"{name}.pyc", _compiled(source, name))
                        archive.writestr(f"{name}.py", source)
        start = "from daytona_magics.engine.launch import boxed\nboxed.main()\n"
        archive.writestr("__main__.pyc", _compiled(start, "__main__"))
    return target.getvalue()


def _compiled(source: str, name: str) -> bytes:
    # Without a time stamp to check against a source.
    return MAGIC_NUMBER + struct.pack("<III", 0, 0, 0) + marshal.dumps(compile(source, name, "exec"))


def start(
    request: dict[str, Any],
    config: dict[str, Any],
    program: bytes,
    code: bytes,
    toolbox: int,
    status: int,
    alive: int,
) -> tuple[int, int, int]:
    """Start bubblewrap with a sandbox in it.

    `toolbox`, `status` and `alive` are inherited by the first process. Returns bubblewrap's process number, a
    pidfd of the first process, and a descriptor from which `complaint` reads what bubblewrap says later.
    Raises OSError with what bubblewrap said when it fails.
    """
    info_read, info_write = os.pipe()
    said_read, said_write = os.pipe()
    message = {**request, "program": base64.b64encode(program).decode("ascii")}
    inherited = {
        "code": _in_memory(code),
        "request": _in_memory(wire.pack_json(message)),
        "toolbox": toolbox,
        "status": status,
        "alive": alive,
        "errors": os.dup(2),
    }
    words, files = _arguments(request, config, info_write)
    arguments = _in_memory(b"\0".join(os.fsencode(word) for word in words) + b"\0")
    command = [config["bwrap"], "--args", str(arguments), "--", *_python(inherited)]
    pid = os.fork()
    if pid == 0:
        _execute(command, [*inherited.values(), *files, arguments, info_write], said_write)
    wire.close_fds([info_write, said_write, inherited["code"], inherited["request"], inherited["errors"]])
    wire.close_fds([arguments, *files])
    try:
        first = _first_process(info_read)
    finally:
        os.close(info_read)
    if first is None:
        os.waitpid(pid, 0)
        raise OSError(0, complaint(said_read) or f"{FAILED} and said nothing")
    return pid, first, said_read


def complaint(said: int) -> str:
    """What bubblewrap has written to its error output, as one line; empty if nothing."""
    os.set_blocking(said, False)
    with contextlib.suppress(BlockingIOError):
        if text := os.read(said, 4000).decode("utf-8", "replace").strip():
            return f"{FAILED}: {text}".replace("\n", "; ")
    return ""


def _python(inherited: dict[str, int]) -> list[str]:
    """The command of the first process."""
    numbers = [str(inherited[name]) for name in ("request", "toolbox", "status", "alive", "errors")]
    return [sys.executable, "-I", "-S", "-X", "utf8", f"/proc/self/fd/{inherited['code']}", *numbers]


def _in_memory(data: bytes) -> int:
    """A file in memory that holds `data`, read from its start."""
    fd = os.memfd_create("toolbox", os.MFD_CLOEXEC)
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


def _execute(command: list[str], kept: list[int], errors: int) -> NoReturn:
    """In the fork: become bubblewrap."""
    try:
        os.dup2(errors, 2)
        calls.close_all_but(*kept)
        for fd in kept:
            os.set_inheritable(fd, True)
        calls.die_with_parent()
        os.execve(command[0], command, {})
    except OSError as error:
        os.write(2, f"{command[0]}: {error.strerror}".encode())
    finally:
        os._exit(127)


def _first_process(info: int) -> int | None:
    """A pidfd of the process that bubblewrap reports on `info`; None if it ended before."""
    data = b""
    while piece := os.read(info, 4096):
        data += piece
    try:
        return os.pidfd_open(int(json.loads(data)["child-pid"]))
    except (ValueError, KeyError, OSError):
        return None


def _arguments(request: dict[str, Any], config: dict[str, Any], info: int) -> tuple[list[str], list[int]]:
    """Bubblewrap's arguments, and the files in memory that they name."""
    words = ["--unshare-pid", "--unshare-ipc", "--unshare-uts", "--unshare-net", "--unshare-cgroup-try"]
    if request["uid"] is None:
        words += ["--unshare-user", "--uid", str(INSIDE_UID), "--gid", str(INSIDE_UID), "--cap-drop", "ALL"]
    words += ["--die-with-parent", "--new-session", "--as-pid-1", "--info-fd", str(info)]
    words += ["--hostname", request["hostname"]]
    words += ["--proc", "/proc", "--dev", "/dev"]
    size = int(request["limits"]["tmp_size"])
    for path, part, mode in _SCRATCH:
        words += ["--perms", mode, "--size", str(size // part), "--tmpfs", path]
    places = ["/etc/x", "/opt/x", "/root/x", "/var/lib/x", "/var/log/x", HOME]
    for folder in _parents([*places, *(inside for _, inside in config["binds"])]):
        # Made as a side effect, they would be open to their owner only.
        words += ["--perms", "0755", "--dir", folder]
    for inside, target in config["links"]:
        words += ["--symlink", target, inside]
    for source, inside in config["binds"]:
        words += ["--ro-bind", source, inside]
    words += ["--bind", request["home"], HOME]
    for path in _covered(config):
        if os.path.isdir(path):
            words += ["--perms", "0555", "--size", "4096", "--tmpfs", path, "--remount-ro", path]
        elif os.path.exists(path):
            words += ["--ro-bind", "/dev/null", path]
    files = []
    for name, text in _etc(request).items():
        files.append(_in_memory(text.encode("utf-8", "replace")))
        words += ["--perms", "0644", "--file", str(files[-1]), f"/etc/{name}"]
    words += ["--remount-ro", "/proc", "--remount-ro", "/dev", "--remount-ro", "/", "--chdir", HOME]
    return words, files


def _covered(config: dict[str, Any]) -> list[str]:
    """Where in the sandbox what is masked appears: one folder may be shown at several places."""
    found = set()
    for hidden in hidden_places(config["masks"]):
        for source, inside in config["binds"]:
            real = os.path.realpath(source)
            if hidden.startswith(real + "/"):
                found.add(inside + hidden[len(real) :])
    return sorted(found)


def _parents(paths: Sequence[str]) -> list[str]:
    """All folders above `paths` but the root, upper ones first."""
    found = set()
    for path in paths:
        while (path := os.path.dirname(path)) != "/":
            found.add(path)
    return sorted(found)


def _etc(request: dict[str, Any]) -> dict[str, str]:
    """The files of /etc that say who and where one is."""
    uid, hostname = request["uid"] or INSIDE_UID, request["hostname"]
    return {
        "bash.bashrc": "[ -z \"$PS1\" ] || PS1='\\u@\\h:\\w\\$ '\n",
        "group": f"daytona:x:{uid}:\nnogroup:x:65534:\n",
        "hostname": f"{hostname}\n",
        "hosts": f"127.0.0.1\tlocalhost {hostname}\n::1\tlocalhost ip6-localhost\n",
        "nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\nservices: files\nprotocols: files\n",
        "passwd": f"daytona:x:{uid}:{uid}:daytona:{HOME}:/bin/bash\n",
        "resolv.conf": "",
        "shells": "/bin/sh\n/bin/bash\n/usr/bin/bash\n",
    }
