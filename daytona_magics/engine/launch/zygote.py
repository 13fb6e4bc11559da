"""The zygote: a warm Python from which sandboxes are forked.

Started by the launcher as a file, with ``-I -S`` and an empty environment, so that neither a site package nor
a variable of the host is in its memory. It imports everything once, then waits on its control socket, and
for every request forks a *keeper*. It has one thread, holds no secret, and ends when the engine hangs up.

The keeper makes the namespaces, forks pid 1, and stays outside to wait for it: only when the kernel has
reaped all of the sandbox does waiting for its pid 1 return. It dies with the zygote, and pid 1 with it.
"""

import contextlib
import gc
import os
import select
import signal
import socket
import sys
import traceback
import types
from typing import Any, NoReturn

if __name__ == "__main__":
    # Without site there are no installed packages: stand in for the package, without running its __init__.
    _package = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    for _name, _path in (("daytona_magics", ""), ("daytona_magics.engine", "engine")):
        _module = types.ModuleType(_name)
        _module.__path__ = [os.path.join(_package, _path)]
        sys.modules[_name] = _module
    from daytona_magics.engine.launch import zygote

    zygote.main(int(sys.argv[1]))

from ..toolbox import agent, wire
from . import calls, namespaces, privileges, seccomp, tree

#: A request brings the far ends of the toolbox's and the status socket, and a file for error output.
_REQUEST_FDS = 3
_LAST_FD = 0xFFFFFFFF


def main(control_fd: int) -> NoReturn:
    """Serve the engine on the socket `control_fd` until it hangs up, then exit."""
    control = socket.socket(fileno=control_fd)
    control.set_inheritable(False)
    for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(name, signal.SIG_DFL)
    # Keepers report their own ends; ignoring the signal has the kernel reap them.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        config = wire.parse_json(wire.recv_fds(control, wire.MAX_PACKET)[0])
        if config.get("v") != wire.VERSION:
            raise RuntimeError("the zygote and the engine are of different versions")
        program = seccomp.program() if config["isolate"] else b""
        agent.warm()
    except Exception as error:  # noqa: BLE001 - whatever it is, the engine must hear of it
        wire.send_fds(control, wire.pack_json({"error": f"the zygote cannot start: {error}"}))
        os._exit(1)
    gc.collect()
    gc.freeze()
    wire.send_fds(control, wire.pack_json({"ready": True}))
    while True:
        try:
            data, fds = wire.recv_fds(control, wire.MAX_PACKET)
        except OSError:
            data, fds = b"", []
        if not data:
            os._exit(0)
        _serve(control, data, fds, config, program)
        wire.close_fds(fds)


def _serve(
    control: socket.socket, data: bytes, fds: list[int], config: dict[str, Any], program: bytes
) -> None:
    """Fork a keeper for one request."""
    if len(fds) != _REQUEST_FDS:
        return
    zygote = os.getpid()
    try:
        pid = os.fork()
    except OSError as error:
        with contextlib.suppress(OSError), socket.socket(fileno=os.dup(fds[1])) as status:
            wire.send_fds(status, wire.pack_json({"error": f"no process can be started: {error.strerror}"}))
        return
    if pid:
        return
    toolbox_fd, status_fd, errors_fd = fds
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        control.detach()
        os.dup2(errors_fd, 2)
        _close_all_but(toolbox_fd, status_fd)
        _keep(wire.parse_json(data), config, program, zygote, toolbox_fd, socket.socket(fileno=status_fd))
    except BaseException:  # noqa: BLE001 - a fork must never return into the zygote's loop
        traceback.print_exc()
    finally:
        os._exit(1)


def _close_all_but(*kept: int) -> None:
    """Close every descriptor above stderr except `kept`."""
    low = 3
    for fd in sorted(kept):
        calls.close_range(low, fd - 1)
        low = fd + 1
    calls.close_range(low, _LAST_FD)


def _keep(
    request: dict[str, Any],
    config: dict[str, Any],
    program: bytes,
    zygote: int,
    toolbox_fd: int,
    status: socket.socket,
) -> NoReturn:
    """The keeper: start pid 1, report it, wait for its end or for the order to end it."""
    # Read by pid 1: it hangs up when the keeper is gone.
    alive_read, alive_write = os.pipe()
    sources = tree.Sources(config.get("binds", ()), request["home"])
    try:
        # When memory runs out, sandboxes go before the engine and the notebook.
        with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "wb") as file:
            file.write(b"500")
        if config["isolate"]:
            if request["uid"] is not None:
                _take_as_root(sources)
                namespaces.change_uid(request["uid"])
            namespaces.unshare_all()
        calls.die_with_parent()
        if os.getppid() != zygote:
            os._exit(1)
        if not config["isolate"]:
            calls.become_subreaper()
        pid = os.fork()
    except OSError as error:
        _fail(status, error)
    if pid == 0:
        try:
            os.close(alive_write)
            _first_process(request, config, program, alive_read, toolbox_fd, status, sources)
        finally:
            os._exit(1)
    os.close(alive_read)
    _close_all_but(alive_write, status.fileno())
    calls.set_dumpable(False)
    pidfd = os.pidfd_open(pid)
    with contextlib.suppress(OSError):
        wire.send_fds(status, wire.pack_json({"pid": pid}))
    _wait(pid, pidfd, status)
    if not config["isolate"]:
        _kill_orphans()
    with contextlib.suppress(OSError):
        wire.send_fds(status, wire.pack_json({"exit": True}))
    os._exit(0)


def _take_as_root(sources: tree.Sources) -> None:
    """Take the sources with root's rights; where a container's root may not mount, pid 1 takes them."""
    try:
        sources.take()
    except PermissionError:
        sources.forget()


def _fail(status: socket.socket, error: OSError) -> NoReturn:
    """Report why there is no sandbox, and end."""
    text = error.strerror if error.filename is None else f"{error.filename}: {error.strerror}"
    with contextlib.suppress(OSError):
        wire.send_fds(status, wire.pack_json({"error": text}))
    os._exit(1)


def _wait(pid: int, pidfd: int, status: socket.socket) -> None:
    """Wait until pid 1 is reaped; kill it when the engine hangs up."""
    poller = select.poll()
    poller.register(pidfd, select.POLLIN)
    poller.register(status, select.POLLIN | select.POLLRDHUP)
    while True:
        ready = {fd for fd, _ in poller.poll()}
        if pidfd in ready:
            os.waitpid(pid, 0)
            return
        # Only the engine holds the other end and it never writes: anything here is its hanging up.
        poller.unregister(status)
        os.kill(pid, signal.SIGKILL)


def _kill_orphans() -> None:
    """Without a pid namespace (L0): kill what the toolbox left behind, which is now ours."""
    while True:
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                continue
        with open(f"/proc/self/task/{os.getpid()}/children", encoding="ascii") as file:
            children = [int(word) for word in file.read().split()]
        if not children:
            return
        for child in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(-1, 0)


def _first_process(
    request: dict[str, Any],
    config: dict[str, Any],
    program: bytes,
    alive: int,
    toolbox_fd: int,
    status: socket.socket,
    sources: tree.Sources,
) -> None:
    """Pid 1: close the sandbox around itself, then be its toolbox for good."""
    home = request["home"]
    try:
        calls.die_with_parent()
        poller = select.poll()
        poller.register(alive, 0)
        if poller.poll(0):  # The keeper died before the line above took effect.
            os._exit(1)
        os.setsid()
        calls.set_name(b"toolbox")
        os.umask(0o022)
        if config["isolate"]:
            calls.hide_arguments()
            home = tree.HOME
            limits = request["limits"]
            tree.build_root(config, sources, request["hostname"], limits["tmp_size"])
            namespaces.set_hostname(request["hostname"])
            namespaces.loopback_up()
            privileges.limit(limits)
            privileges.drop_privileges(program)
            calls.set_dumpable(False)
        os.chdir(home)
    except OSError as error:
        traceback.print_exc()
        _fail(status, error)
    status.close()
    _close_all_but(toolbox_fd)
    agent.run(socket.socket(fileno=toolbox_fd), home, request["env"])
