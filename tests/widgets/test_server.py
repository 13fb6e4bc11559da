"""What the notebook's server does for kernels' connections, in a real Jupyter Server with a real kernel."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SERVER = """
import asyncio, socket, sys
from jupyter_server.serverapp import ServerApp
from tornado.websocket import websocket_connect

async def main(extensions):
    app = ServerApp(
        ip="127.0.0.1", port=0, open_browser=False, allow_root=True, log_level="ERROR",
        jpserver_extensions=extensions, root_dir=sys.argv[2],
    )
    app.initialize(argv=[])
    kernel = await app.kernel_manager.start_kernel()
    page = await websocket_connect(
        f"ws://127.0.0.1:{app.port}/api/kernels/{kernel}/channels?session_id=one&token={app.identity_provider.token}"
    )
    connections = app.web_app.settings["kernel_websocket_connection_class"]._open_sockets
    while not connections:
        await asyncio.sleep(0.01)
    (one,) = connections
    stream = one.websocket_handler.ws_connection.stream
    print("nodelay", stream.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
    page.close()
    await app.kernel_manager.shutdown_all(now=True)

asyncio.run(main({"daytona_magics.server_extension": True} if sys.argv[1] == "with" else {}))
"""


@pytest.mark.parametrize(("extension", "nodelay"), [("with", "1"), ("without", "0")])
def test_a_kernels_messages_do_not_wait_for_receipts(extension: str, nodelay: str, tmp_path: Path) -> None:
    # The folders' own: what this machine has installed and configured loads no extension.
    own = ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "HOME")
    done = subprocess.run(
        [sys.executable, "-c", SERVER, extension, str(tmp_path)],
        env={**os.environ, **{name: str(tmp_path / name) for name in own}, "JUPYTER_NO_CONFIG": "1"},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert f"nodelay {nodelay}" in done.stdout.splitlines(), done.stdout + done.stderr
