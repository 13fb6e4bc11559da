"""The keeper: the process outside a sandbox that makes it, waits for it and ends it.

It is forked from the zygote for one sandbox, makes what needs to be made outside, forks the sandbox's first
process (`first`), and reports. It ends the sandbox when the engine hangs up and when the zygote is gone.

With a process namespace of its own (L3, L2) the sandbox ends with its first process, by the kernel; the
keeper dies with the zygote, and the first process with the keeper. Without (L1 and below) processes of the
sandbox may have left their parents, sessions and groups. The keeper then is their subreaper: what loses its
parent becomes its child, and it kills until it has none. Where Landlock scopes signals it has entered a
domain around the sandbox's, in which "all processes" are those of the sandbox, so that one call kills them
all at the same instant; and root does the same by the sandbox's own uid. Should the keeper itself be killed,
the first process is killed by the kernel, and the zygote does the same for what is left.
"""

import contextlib
import os
import select
import signal
import socket
import time
from collections.abc import Collection
from typing import Any, NamedTuple, NoReturn

from ..toolbox import wire
from . import bwrap, calls, first, landlock, namespaces, tree
from .levels import OWN_PROCESSES, OWN_TREE, isolated

#: Uids that belong to others than one sandbox: killing "all of this uid" would kill strangers.
_SHARED_UIDS = (0, 65534)
#: Seconds to wait for what was killed before saying what hangs in the kernel; seconds between further tries.
_REAP_SECONDS = 5.0
_HANGING_PAUSE = 0.5


class Ways(NamedTuple):
    """How sandboxes are made: the plan, the system call filter, and the code that bubblewrap runs inside."""

    config: dict[str, Any]
    program: bytes
    code: bytes


def keep(
    request: dict[str, Any], ways: Ways, zygote: int, toolbox_fd: int, status: socket.socket
) -> NoReturn:
    """Be the keeper of one sandbox: start it, report it, wait for its end or for the order to end it."""
    level = request["level"]
    # Read by the first process: it hangs up when the keeper is gone.
    alive_read, alive_write = os.pipe()
    scoped, said = False, -1
    # Who ends the zygote's whole process group shall not end what has to clean up after it.
    os.setsid()
    try:
        # When memory runs out, sandboxes go before the engine and the notebook.
        with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "wb") as file:
            file.write(b"500")
        zygote_fd = os.pidfd_open(zygote)
        if level in OWN_PROCESSES:
            calls.die_with_parent()
        else:
            calls.become_subreaper()
            scoped = isolated(level) and _scope_signals(request["landlock_abi"], zygote)
        if os.getppid() != zygote:
            os._exit(1)
        if request["launcher"] == "bwrap":
            wrapped = (ways.config, ways.program, ways.code, toolbox_fd, status.fileno(), alive_read)
            pid, box, said = bwrap.start(request, *wrapped)
        else:
            pid, box = _fork(request, ways, zygote, (alive_read, alive_write), toolbox_fd, status)
    except OSError as error:
        first.fail(status, error)
    pidfd = os.pidfd_open(pid)
    calls.close_all_but(*{alive_write, status.fileno(), pidfd, box, zygote_fd, said} - {-1})
    calls.set_dumpable(False)
    with contextlib.suppress(OSError):
        wire.send_fds(status, wire.pack_json({"started": True}), [box])
    _wait(pid, pidfd, box, zygote_fd, status)
    if level not in OWN_PROCESSES:
        own = [request["uid"]] if isolated(level) and request["uid"] is not None else []
        if left := end_all(own, scoped=scoped):
            with contextlib.suppress(OSError):
                wire.send_fds(status, wire.pack_json({"hanging": _described(left)}))
            while end_all(own, scoped=scoped, seconds=0):
                time.sleep(_HANGING_PAUSE)
    last = {"error": text} if said >= 0 and (text := bwrap.complaint(said)) else {"exit": True}
    with contextlib.suppress(OSError):
        wire.send_fds(status, wire.pack_json(last))
    os._exit(0)


def _fork(
    request: dict[str, Any],
    ways: Ways,
    zygote: int,
    alive: tuple[int, int],
    toolbox_fd: int,
    status: socket.socket,
) -> tuple[int, int]:
    """Make the namespaces of the level and fork the first process: its number and a pidfd of it.

    Raises OSError.
    """
    level = request["level"]
    sources = tree.Sources(ways.config.get("binds", ()), request["home"], request["system"], request["uid"])
    if level in OWN_PROCESSES:
        if request["uid"] is not None:
            if level in OWN_TREE:
                _take_as_root(sources)
            namespaces.change_uid(request["uid"])
        namespaces.unshare(mounts=level in OWN_TREE)
        # A change of uid has cancelled the order.
        calls.die_with_parent()
        if os.getppid() != zygote:
            os._exit(1)
    pid = os.fork()
    if pid == 0:
        try:
            os.close(alive[1])
            first.become(request, ways.config, ways.program, alive[0], toolbox_fd, status, sources)
        finally:
            os._exit(1)
    return pid, os.pidfd_open(pid)


def _take_as_root(sources: tree.Sources) -> None:
    """Take the sources with root's rights; where a container's root may not mount, pid 1 takes them."""
    try:
        sources.take()
    except PermissionError:
        sources.forget()


def _scope_signals(version: int, zygote: int) -> bool:
    """Enter a domain from which no signal leaves; True if it is certain that none does. Raises OSError."""
    if version < 6:
        return False
    calls.set_no_new_privileges()
    with landlock.Ruleset(version, files=False) as rules:
        rules.enter()
    try:
        os.kill(zygote, 0)
    except PermissionError:
        return True
    return False


def _wait(pid: int, pidfd: int, box: int, zygote_fd: int, status: socket.socket) -> None:
    """Wait until `pid` is reaped; kill the first process when the engine hangs up or the zygote is gone.

    `pid` is the first process or bubblewrap, which ends with it; `box` a pidfd of the first process.
    """
    poller = select.poll()
    poller.register(pidfd, select.POLLIN)
    poller.register(zygote_fd, select.POLLIN)
    poller.register(status, select.POLLIN | select.POLLRDHUP)
    while True:
        ready = {fd for fd, _ in poller.poll()}
        if pidfd in ready:
            os.waitpid(pid, 0)
            return
        # Only the engine holds the other end and it never writes: anything here is its hanging up.
        for fd in ready:
            poller.unregister(fd)
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(box, signal.SIGKILL)


def end_all(
    uids: Collection[int],
    *,
    scoped: bool = False,
    spared: frozenset[int] = frozenset(),
    seconds: float = _REAP_SECONDS,
) -> list[int]:
    """Kill this process's children but `spared`, and theirs as they come, until none is left.

    `uids`: uids that belong to ended sandboxes alone; all processes of one are killed at once. `scoped`: this
    process is in a domain in which it reaches the sandbox's processes and no other. Returns what is still
    there after `seconds`, having been killed: it waits in the kernel for something that does not come.
    """
    deadline = time.monotonic() + seconds
    while True:
        _reap(spared)
        left = [pid for pid in calls.children() if pid not in spared]
        if not left or time.monotonic() > deadline:
            return left
        if scoped:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(-1, signal.SIGKILL)
        elif os.geteuid() == 0:
            for uid in uids:
                _kill_as(uid)
        for pid in left:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.001)


def _described(pids: Collection[int]) -> str:
    """Processes for people: ``sleep (pid 12, state D)``, the first three."""
    found = []
    for pid in pids:
        with contextlib.suppress(OSError), open(f"/proc/{pid}/stat", "rb") as file:
            name, _, rest = file.read().decode("utf-8", "replace").partition("(")[2].rpartition(")")
            found.append(f"{name} (pid {pid}, state {rest.split()[0]})")
    return ", ".join(found[:3]) + (f" and {len(found) - 3} more" if len(found) > 3 else "")


def _reap(spared: frozenset[int]) -> None:
    """Reap children that have ended, but not `spared`, whose ends are somebody else's to see."""
    for pid in calls.children():
        if pid not in spared:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)


def _kill_as(uid: int) -> None:
    """Kill every process of `uid` at the same instant, unless others may have it."""
    if uid in _SHARED_UIDS:
        return
    pid = os.fork()
    if pid == 0:
        try:
            os.setgroups([])
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
            if os.getuid() == os.geteuid() == uid:
                os.kill(-1, signal.SIGKILL)
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
