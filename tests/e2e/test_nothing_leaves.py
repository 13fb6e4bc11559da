"""Nothing leaves the machine: checks that the closed network the suite runs in is really closed."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path
from urllib.error import HTTPError, URLError

import pytest

from tests.__main__ import CONTROL_HOST
from tests.closed_network import FORWARDER_VARIABLE, LOG_VARIABLE


@pytest.fixture
def forwarder() -> str:
    url = os.environ.get(FORWARDER_VARIABLE)
    if url is None:
        reason = "not in the closed network: run the suite as root with `python -m tests`"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return url


def requests_seen() -> list[dict[str, object]]:
    lines = Path(os.environ[LOG_VARIABLE]).read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_there_is_no_way_out_but_the_forwarder(forwarder: str) -> None:
    routes = Path("/proc/net/route").read_text().splitlines()[1:]
    assert routes == []
    with pytest.raises(OSError, match="unreachable"):
        socket.create_connection(("192.0.2.1", 443), timeout=5)


def test_positive_control_the_index_answers_through_the_forwarder_and_is_logged(
    forwarder: str, tmp_path: Path
) -> None:
    before = len(requests_seen())
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--no-deps",
        "--no-cache-dir",
        "--dest",
        str(tmp_path),
    ]
    subprocess.run([*command, "--proxy", forwarder, "six"], check=True, capture_output=True, timeout=110)
    assert list(tmp_path.glob("six-*"))
    assert any(request["passed"] for request in requests_seen()[before:])


def test_any_other_host_is_refused_and_logged(forwarder: str) -> None:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({"http": forwarder}))
    with pytest.raises((HTTPError, URLError)):
        opener.open(f"http://{CONTROL_HOST}/", timeout=10)
    assert {"host": CONTROL_HOST, "passed": False}.items() <= requests_seen()[-1].items()
