"""The TypeScript SDK from npm, unmodified, against the embedded engine: a program that does what users do."""

from __future__ import annotations

import json
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.engine_process import isolated_engine
from tests.typescript import node_sdk


@contextmanager
def telltale_proxy() -> Iterator[tuple[str, list[bytes]]]:
    """An HTTP proxy's URL, and the beginning of everything that was sent there."""
    heard: list[bytes] = []
    listener = socket.create_server(("127.0.0.1", 0))

    def listen() -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            with client:
                heard.append(client.recv(65536))
                client.sendall(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")

    thread = threading.Thread(target=listen, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", heard
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(5)


def _declared() -> list[str]:
    """The names of all steps, in the order in which the program imports their files."""
    program = (node_sdk.FOLDER / "smoke.mjs").read_text()
    files = re.findall(r"^import '\./(steps/\w+\.mjs)'", program, re.MULTILINE)
    texts = [(node_sdk.FOLDER / file).read_text() for file in files]
    return [name for text in texts for name in re.findall(r"^step\('([^']+)'", text, re.MULTILINE)]


@pytest.mark.timeout(400)
def test_the_typescript_sdk_unmodified() -> None:
    """Every step of the program holds, and nothing of it went to the proxy that its environment names."""
    with isolated_engine() as engine, node_sdk.programs() as folder, telltale_proxy() as (proxy, heard):
        env = {**engine.client_env(), "HTTP_PROXY": proxy, "http_proxy": proxy}
        tests = str(Path(__file__).resolve().parents[1])
        done = node_sdk.run(folder, "smoke.mjs", tests, str(node_sdk.NODE), env=env)
        told = [json.loads(line) for line in done.stdout.splitlines()]
        for line in told:
            print(f"{'ok    ' if line['ok'] else 'FAILED'} {line['ms']:6} ms  {line['step']}")
            if not line["ok"]:
                print(line["error"])
        failed = [line["step"] for line in told if not line["ok"]]
        assert not failed, f"steps that failed: {failed}"
        assert [line["step"] for line in told] == _declared(), done.stderr
        assert done.returncode == 0, done.stderr
        assert not heard, heard
        # The control: without the engine's NO_PROXY the same program's key goes to the proxy.
        del env["NO_PROXY"], env["no_proxy"]
        node_sdk.run(folder, "one_request.mjs", env=env)
        assert any(b"Bearer " + engine.key.encode() in request for request in heard), heard
