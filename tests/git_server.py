"""A git server over HTTP, for tests: git's own ``http-backend`` behind basic authentication.

A program of its own (standard library only) that a test uploads into a sandbox and runs there:

    python3 git_server.py FOLDER [CERTIFICATE]

It reads a user name and a password, a line each, from its standard input, and serves the repositories in
FOLDER on two ports of 127.0.0.1, or of the address in variable ADDRESS, which it writes to FOLDER/ports. It
appends ``port path authorization`` of every request to FOLDER/log. The first part of a path says how:

    /private/NAME    needs the login
    /public/NAME     reading needs nothing, pushing does
    /slow/NAME       like private, but an answer waits until there is a file FOLDER/release
    /elsewhere/NAME  is redirected to /private/NAME on the other port
    /forbidden/NAME  answers 403 and repeats what it was told, as hostile servers may
    /stalled/NAME    never answers
"""

import base64
import os
import ssl
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

FOLDER = Path(sys.argv[1])
ADDRESS = os.environ.get("ADDRESS", "127.0.0.1")
USER, PASSWORD = sys.stdin.readline().strip(), sys.stdin.readline().strip()
EXPECTED = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()


class Handler(BaseHTTPRequestHandler):
    """One request."""

    def do_GET(self) -> None:
        self._serve(b"")

    def do_POST(self) -> None:
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
        else:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self._serve(body)

    def log_message(self, *_: object) -> None:
        """Nothing on stderr."""

    def _say(self, status: int, text: str, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", str(len(text.encode())))
        self.end_headers()
        self.wfile.write(text.encode())

    def _serve(self, body: bytes) -> None:
        given = self.headers.get("Authorization", "")
        target = urlsplit(self.path)
        port = self.server.server_address[1]
        with (FOLDER / "log").open("a") as log:
            log.write(f"{port} {self.path} {given}\n")
        _, how, rest = target.path.split("/", 2)
        if how == "elsewhere":
            other = next(p for p in PORTS if p != port)
            to = f"http://{ADDRESS}:{other}/private/{rest}?{target.query}"
            self._say(302, "over there", Location=to)
        elif how == "forbidden" and given:
            self._say(403, f"you said {given}, {PASSWORD}, http://{USER}:{PASSWORD}@{ADDRESS}/")
        elif how == "stalled":
            time.sleep(60)
        elif given != EXPECTED and (how != "public" or "receive-pack" in self.path):
            self._say(401, "who are you?", WWW_Authenticate='Basic realm="test"')
        else:
            while how == "slow" and not (FOLDER / "release").exists():
                time.sleep(0.02)
            self._run(f"/{rest}", target.query, body)

    def _run(self, path: str, query: str, body: bytes) -> None:
        env = {
            **os.environ,
            "GIT_PROJECT_ROOT": str(FOLDER),
            "GIT_HTTP_EXPORT_ALL": "1",
            "REMOTE_USER": USER,
            "REMOTE_ADDR": "127.0.0.1",
            "REQUEST_METHOD": self.command,
            "PATH_INFO": path,
            "QUERY_STRING": query,
            "CONTENT_TYPE": self.headers.get("Content-Type", ""),
            "CONTENT_LENGTH": str(len(body)),
            "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
            "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
        }
        done = subprocess.run(["git", "http-backend"], input=body, env=env, capture_output=True, check=False)
        head, _, answer = done.stdout.partition(b"\r\n\r\n")
        headers = dict(line.split(": ", 1) for line in head.decode().split("\r\n") if ": " in line)
        self.send_response(int(headers.pop("Status", "200 OK").split()[0]))
        for name, value in headers.items():
            self.send_header(name, value)
        # Without it a TLS client would take the end of the connection for an attack.
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)


(FOLDER / "log").touch()
# Where the network is shared, a sandbox has a block of ports that begins at PORT.
FIRST = int(os.environ.get("PORT") or 0)
SERVERS = [ThreadingHTTPServer((ADDRESS, FIRST and FIRST + n), Handler) for n in range(2)]
PORTS = [server.server_address[1] for server in SERVERS]
if len(sys.argv) > 2:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(sys.argv[2])
    SERVERS[1].socket = context.wrap_socket(SERVERS[1].socket, server_side=True)
(FOLDER / "ports.new").write_text(" ".join(map(str, PORTS)))
(FOLDER / "ports.new").rename(FOLDER / "ports")
threading.Thread(target=SERVERS[1].serve_forever, daemon=True).start()
SERVERS[0].serve_forever()
