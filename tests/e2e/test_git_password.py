"""A git server that asks for a password must not hang a cell nor touch the stream it prints on.

Both the server and git run inside one sandbox, which has a loopback of its own: ``git http-backend`` behind
a small HTTP server that answers 401 to whoever has no password, as the forges do for a private repository.
Nobody is there to answer (as under nbclient), so git can ask nobody and must say so at once.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator

import pytest

from tests.kernel_client import Cell, Kernel

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="this machine has no git")

#: Seconds within which a cell must have ended: git gives up by itself, nothing waits for a time-out.
SOON = 15.0
SCHEMES = [
    "http",
    pytest.param(
        "https",
        marks=pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl to make a certificate"),
    ),
]
#: Serves every repository below the current folder to user:right. argv: port file, then the certificate.
SERVER = r"""
import base64, http.server, os, ssl, subprocess, sys
RIGHT = "Basic " + base64.b64encode(b"user:right").decode()
class Git(http.server.BaseHTTPRequestHandler):
    def serve(self):
        if self.headers.get("Authorization") != RIGHT:
            open("refused", "a").write(self.path + "\n")
            self.send_response(401)
            self.send_header("WWW-Authenticate", 'Basic realm="private"')
            self.send_header("Content-Length", "0")
            return self.end_headers()
        path, _, query = self.path.partition("?")
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        cgi = dict(GIT_PROJECT_ROOT=os.getcwd(), GIT_HTTP_EXPORT_ALL="1", PATH_INFO=path, QUERY_STRING=query,
                   REQUEST_METHOD=self.command, CONTENT_TYPE=self.headers.get("Content-Type", ""),
                   CONTENT_LENGTH=str(len(body)), REMOTE_USER="user")
        done = subprocess.run(["git", "http-backend"], input=body, stdout=-1, env={**os.environ, **cgi})
        head, _, content = done.stdout.partition(b"\r\n\r\n")
        self.send_response(200)
        for line in head.decode().splitlines():
            self.send_header(*line.split(": ", 1))
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
    do_GET = do_POST = serve
    def log_message(self, *_): pass
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Git)
if sys.argv[2:]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(sys.argv[2])
    server.socket = context.wrap_socket(server.socket, server_side=True)
open("port.new", "w").write(str(server.server_port))
os.rename("port.new", sys.argv[1])
server.serve_forever()
"""
START = f"""%%sandbox
import os, shutil, subprocess, sys, time
open("server.py", "w").write({SERVER!r})
os.environ["GIT_CONFIG_GLOBAL"] = os.path.expanduser("~/gitconfig")
def sh(text): subprocess.run(text, shell=True, check=True, capture_output=True)
sh("git config --global http.sslVerify false; git config --global user.name me;"
   "git config --global user.email me@example.invalid; git init -q made; cd made; echo inside > file;"
   "git add file; git commit -q -m one; cd ..; git clone -q --bare made private.git")
if shutil.which("openssl"):
    sh("openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=127.0.0.1 -keyout a.key -out a.crt;"
       "cat a.key a.crt > both.pem")
def serve(name, *more):
    subprocess.Popen([sys.executable, "server.py", name, *more])
    deadline = time.monotonic() + 20
    while not os.path.exists(name):
        assert time.monotonic() < deadline, name
        time.sleep(0.01)
    return open(name).read()
print("http", serve("http.port"))
if os.path.exists("both.pem"): print("https", serve("https.port", "both.pem"))
"""


@pytest.fixture(scope="module")
def kernel() -> Iterator[Kernel]:
    with Kernel() as made:
        yield made


@pytest.fixture(scope="module")
def ports(kernel: Kernel) -> dict[str, str]:
    """The port of every scheme, on the loopback of the sandbox."""
    cell = kernel.run(START)
    assert cell.status == "ok", cell
    # Cells of bash have an environment of their own.
    assert kernel.run("%%sandbox bash\nexport GIT_CONFIG_GLOBAL=~/gitconfig").status == "ok"
    words = cell.stdout.split()
    return dict(zip(words[::2], words[1::2], strict=True))


@pytest.fixture(autouse=True)
def same_guest_and_fine_afterwards(kernel: Kernel, ports: dict[str, str]) -> Iterator[None]:
    """The worker of the cell before and the next cell are the same, and the next cell is quick."""
    mark = f"mark_{time.monotonic_ns()}"
    assert kernel.run(f"%%sandbox\n{mark} = __import__('os').getpid()").status == "ok"
    yield
    after = kernel.run(f"%%sandbox\nimport os\nprint('fine', {mark} == os.getpid())")
    assert (after.status, after.stdout) == ("ok", "fine True\n"), after
    assert after.seconds < 5
    assert kernel.run("%%sandbox bash\necho bash too").stdout == "bash too\n"
    left = kernel.run("%%sandbox bash\nps -eo args= | grep '[g]it.clone' || true")
    assert left.stdout == ""


def ask(kernel: Kernel, code: str) -> Cell:
    """Run a cell that clones without a password; checks that the server asked for one, and the time."""
    kernel.run("%%sandbox bash\nrm -rf refused copy")
    cell = kernel.run(code, timeout=60, allow_stdin=False)
    assert cell.seconds < SOON, cell
    refused = kernel.run("%%sandbox bash\ncat refused; ls -d copy 2>/dev/null || true")
    assert refused.stdout == "/private.git/info/refs?service=git-upload-pack\n", refused
    said = cell.stdout + cell.stderr
    assert "could not read Username" in said, cell
    assert "daytona_magics" not in cell.traceback and not cell.notes, cell
    return cell


NUMBERED = "".join(f"{i}\n" for i in range(2000))


@pytest.mark.parametrize("scheme", SCHEMES)
def test_with_the_password_the_server_really_serves(
    kernel: Kernel, ports: dict[str, str], scheme: str
) -> None:
    url = f"{scheme}://user:right@127.0.0.1:{ports[scheme]}/private.git"
    cell = kernel.run(f"%%sandbox bash\nrm -rf copy; git clone -q {url} copy && cat copy/file")
    assert (cell.status, cell.stdout) == ("ok", "inside\n"), cell


@pytest.mark.parametrize("scheme", SCHEMES)
def test_python_subprocess(kernel: Kernel, ports: dict[str, str], scheme: str) -> None:
    url = f"{scheme}://127.0.0.1:{ports[scheme]}/private.git"
    cell = ask(
        kernel,
        "%%sandbox\nimport subprocess\nfor i in range(1000): print(i)\ntry:\n"
        f"    subprocess.run(['git', 'clone', {url!r}, 'copy'], check=True)\n"
        "finally:\n    for i in range(1000, 2000): print(i)",
    )
    assert (cell.status, cell.ename) == ("error", "CalledProcessError"), cell
    assert "exit status 128" in cell.traceback
    assert cell.stdout == NUMBERED


@pytest.mark.parametrize("scheme", SCHEMES)
def test_python_exclamation_mark(kernel: Kernel, ports: dict[str, str], scheme: str) -> None:
    """As in IPython the command's failure is no exception; the exit code is there for who asks."""
    url = f"{scheme}://127.0.0.1:{ports[scheme]}/private.git"
    cell = ask(kernel, f"%%sandbox\n!git clone {url} copy\nprint(_exit_code)\nassert not _exit_code")
    assert (cell.status, cell.ename) == ("error", "AssertionError"), cell
    assert cell.stdout.endswith("128\n")


@pytest.mark.parametrize("scheme", SCHEMES)
def test_bash(kernel: Kernel, ports: dict[str, str], scheme: str) -> None:
    url = f"{scheme}://127.0.0.1:{ports[scheme]}/private.git"
    cell = ask(kernel, f"%%sandbox bash\nset -e\nseq 0 999\ngit clone {url} copy\necho not reached")
    assert cell.status == "error" and "128" in cell.error["evalue"], cell
    assert cell.stdout == "".join(f"{i}\n" for i in range(1000))
    cell = ask(
        kernel, f"%%sandbox bash\nseq 0 999\ngit clone {url} copy || code=$?\nseq 1000 1999\nexit $code"
    )
    assert cell.status == "error" and "128" in cell.error["evalue"], cell
    assert cell.stdout == NUMBERED


@pytest.mark.parametrize("wrong", ["user@", "user:wrong@"], ids=["only a user", "a wrong password"])
def test_half_a_password(kernel: Kernel, ports: dict[str, str], wrong: str) -> None:
    """With a user in the address git asks for the password; a wrong one is refused without a question."""
    url = f"http://{wrong}127.0.0.1:{ports['http']}/private.git"
    cell = kernel.run(f"%%sandbox bash\ngit clone {url} copy2", allow_stdin=False)
    assert cell.status == "error" and "128" in cell.error["evalue"] and cell.seconds < SOON, cell
    assert "could not read Password" in cell.stderr or "Authentication failed" in cell.stderr, cell
