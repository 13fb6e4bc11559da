"""Listening ports of a sandbox, as the SDK's own generated clients ask for them."""

from __future__ import annotations

from typing import Any

import pytest
from daytona_toolbox_api_client.api.port_api import PortApi
from daytona_toolbox_api_client.exceptions import BadRequestException

SERVER = """
import socket, sys, time
kept = [socket.create_server(("127.0.0.1", 8123)), socket.create_server(("0.0.0.0", 3000))]
kept.append(socket.create_server(("::1", 9001), family=socket.AF_INET6))
outgoing = socket.create_connection(("127.0.0.1", 8123))
print("up", flush=True)
time.sleep(600)
"""


def test_ports_are_those_that_programs_listen_on(sandbox: Any) -> None:
    ports = PortApi(sandbox.process._api_client.api_client)
    # The egress proxy's listener is not a program of the sandbox.
    assert ports.get_ports().ports == []
    assert ports.is_port_in_use(8123).is_in_use is False
    sandbox.fs.upload_file(SERVER.encode(), "server.py")
    sandbox.process.exec("python3 server.py > up & while [ ! -s up ]; do sleep 0.02; done")
    assert ports.get_ports().ports == [3000, 8123, 9001]
    assert ports.is_port_in_use(9001).is_in_use is True
    assert ports.is_port_in_use(9002).is_in_use is False
    for wrong in (0, 65536, -1):
        with pytest.raises(BadRequestException, match="1 to 65535"):
            ports.is_port_in_use(wrong)
