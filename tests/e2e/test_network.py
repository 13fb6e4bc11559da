"""The network of a sandbox from a notebook: set at creation, changed live, tested from inside."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests.kernel_client import Kernel


class _Hello(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "5")
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(b"hello")

    do_HEAD = do_GET

    def log_message(self, *_: object) -> None:
        """Silent."""


@pytest.fixture
def url() -> Iterator[str]:
    """A web server on this machine, which programs in a sandbox can name 127.0.0.2."""
    server = ThreadingHTTPServer(("127.0.0.2", 0), _Hello)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.2:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def test_network_of_a_notebooks_sandbox(url: str) -> None:
    fetch = f"%%sandbox\nimport urllib.request\nurllib.request.urlopen('{url}').read().decode()"
    with Kernel() as kernel:
        made = kernel.run("%sandbox create --network-block-all")
        assert made.status == "ok", made
        refused = kernel.run(fetch)
        assert refused.status == "error" and "--network-block-all is set" in refused.traceback
        assert "reaches  nothing" in str(kernel.run("%sandbox network").result)

        allowed = kernel.run("%sandbox network allow 127.0.0.2/32,pypi.org")
        assert "now reaches only 127.0.0.2/32, pypi.org" in allowed.notes, allowed
        assert kernel.run(fetch).result == "'hello'"
        tested = kernel.run(f"%sandbox network test {url} http://203.0.113.80/")
        assert "answers 200" in str(tested.result) and "may reach only 127.0.0.2/32" in str(tested.result)

        essential = kernel.run("%sandbox network allow essential").notes
        assert "pypi.org" in essential and "*.github.com" in essential
        elsewhere = kernel.run("%sandbox network test http://203.0.113.80/")
        assert "may reach only pypi.org" in str(elsewhere.result), elsewhere
        kernel.run("%sandbox network open")
        again = kernel.run(fetch)
        assert "the address is not public" in again.traceback
        wrong = kernel.run("%sandbox network allow 10.0.0.1")
        assert wrong.status == "error" and "has no mask" in wrong.traceback
        assert "10.0.0.1/32" in wrong.traceback


def test_pip_without_a_network_says_why_at_once() -> None:
    with Kernel() as kernel:
        made = kernel.run("%sandbox create --network-block-all")
        assert made.status == "ok", made
        why = "nothing was installed: pypi.org:443 is refused: --network-block-all is set for this sandbox"
        # What a test run is told of package indexes is no part of this.
        unset = (
            "import os\nfor name in [n for n in os.environ if n.startswith('PIP_')]: del os.environ[name]\n"
        )
        magic = kernel.run(f"%%sandbox\n{unset}%pip install no-such-package-here")
        assert magic.status == "error" and magic.error["evalue"].startswith(why), magic
        assert magic.stdout == "" and "Retrying" not in str(magic)
        bang = kernel.run("%%sandbox\n!pip install no-such-package-here\n_exit_code")
        assert bang.result == "1" and bang.stderr.startswith(why) and bang.stderr.count("\n") == 1, bang
        # What is there already needs no index.
        there = kernel.run("%%sandbox\n%pip install pip")
        assert there.status == "ok" and "already satisfied" in there.stdout, there
