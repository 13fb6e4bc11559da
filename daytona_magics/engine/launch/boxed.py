"""The first process of a sandbox that bubblewrap has made: gives up what is left to give up, then serves.

Started with the numbers of inherited descriptors: the request, the toolbox's socket, the keeper's status
socket, the pipe that hangs up with the keeper, and the file for error output.
"""

import base64
import os
import select
import socket
import sys
import traceback
from typing import NoReturn

from ..toolbox import agent, wire
from . import calls, first, namespaces, privileges
from .bwrap import HOME


def main() -> NoReturn:
    """Be the toolbox of a sandbox made by bubblewrap."""
    request_fd, toolbox_fd, status_fd, alive, errors = map(int, sys.argv[1:6])
    os.dup2(errors, 2)
    status = socket.socket(fileno=status_fd)
    try:
        agent.warm()
        with open(request_fd, "rb") as file:
            request = wire.parse_json(file.read())
        if request["uid"] is not None:
            privileges.empty_bounding_set()
            namespaces.change_uid(request["uid"])
        calls.die_with_parent()
        poller = select.poll()
        poller.register(alive, 0)
        if poller.poll(0):  # The keeper died before the line above took effect.
            os._exit(1)
        calls.set_name(b"toolbox")
        os.umask(0o022)
        calls.hide_arguments()
        first.hand_out_proxy(status)
        privileges.limit(request["limits"])
        privileges.drop_capabilities()
        privileges.load_filter(base64.b64decode(request["program"]))
        calls.set_dumpable(False)
        os.chdir(HOME)
    except OSError as error:
        traceback.print_exc()
        first.fail(status, error)
    status.close()
    calls.close_all_but(toolbox_fd)
    os.set_inheritable(toolbox_fd, False)  # Bubblewrap handed it through an exec.
    agent.run(socket.socket(fileno=toolbox_fd), HOME, request["env"])
