"""The first process of a sandbox: closes the sandbox around itself, then is its toolbox for good.

In order: what is made (files, names, network), what is limited, and last what is given up: the uid (L1),
capabilities, then by Landlock the files, ports and signals, then system calls. Each step that fails ends the
process, and the keeper's report says which.
"""

import contextlib
import os
import select
import socket
import traceback
from typing import Any, NoReturn

from ..toolbox import agent, wire
from . import calls, fence, namespaces, privileges, tree
from .levels import OWN_NETWORK, OWN_PROCESSES, OWN_TREE, isolated


def become(
    request: dict[str, Any],
    config: dict[str, Any],
    program: bytes,
    alive: int,
    toolbox_fd: int,
    status: socket.socket,
    sources: tree.Sources,
) -> NoReturn:
    """Turn this fork into the sandbox's first process. `alive` hangs up when the keeper is gone."""
    level = request["level"]
    home = request["home"]
    try:
        if isolated(level) and request["uid"] is not None and level not in OWN_NETWORK:
            privileges.empty_bounding_set()
            namespaces.change_uid(request["uid"])
        calls.die_with_parent()
        poller = select.poll()
        poller.register(alive, 0)
        if poller.poll(0):  # The keeper died before the line above took effect.
            os._exit(1)
        os.setsid()
        calls.set_name(b"toolbox")
        os.umask(0o022)
        if level not in OWN_NETWORK:
            # Orphans are reaped by the toolbox, as if it had process number 1.
            calls.become_subreaper()
        if isolated(level):
            calls.hide_arguments()
            if level in OWN_TREE:
                home = tree.HOME
                tree.build_root(config, sources, request["hostname"], request["limits"]["tmp_size"])
            if level in OWN_NETWORK:
                namespaces.set_hostname(request["hostname"])
                namespaces.loopback_up()
                hand_out_proxy(status)
            if level in OWN_TREE:
                # Or a sandbox could put itself behind the engine in the order of killing for memory.
                calls.restrict(calls.AT_FDCWD, "/proc", read_only=True, devices=False, recursive=False)
            shared = request["uid"] is None and level not in OWN_PROCESSES
            privileges.limit(request["limits"], shared_uid=shared)
            privileges.drop_capabilities()
            if level not in OWN_TREE:
                fence.close_files_and_ports(request, config)
            privileges.load_filter(program)
            calls.set_dumpable(False)
        os.chdir(home)
        if isolated(level) and level not in OWN_TREE:
            with contextlib.suppress(FileExistsError):
                os.mkdir(".tmp", 0o700)
    except OSError as error:
        traceback.print_exc()
        fail(status, error)
    status.close()
    calls.close_all_but(toolbox_fd)
    agent.run(socket.socket(fileno=toolbox_fd), home, request["env"])


def hand_out_proxy(status: socket.socket) -> None:
    """Make the listener of the egress proxy in this network, and give it to the engine."""
    with namespaces.listen_for_proxy() as listener:
        wire.send_fds(status, wire.pack_json({"proxy": True}), [listener.fileno()])


def fail(status: socket.socket, error: OSError) -> NoReturn:
    """Report why there is no sandbox, and end."""
    text = error.strerror if error.filename is None else f"{error.filename}: {error.strerror}"
    with contextlib.suppress(OSError):
        wire.send_fds(status, wire.pack_json({"error": text}))
    os._exit(1)
