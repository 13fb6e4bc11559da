"""A package index on this machine: TLS, a password, a wheel that lies beside the index's own path."""

from __future__ import annotations

import base64
import hashlib
import io
import ssl
import subprocess
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

USER, PASSWORD = "reader", "index-s3cret"


def make_wheel(name: str) -> bytes:
    """A pure wheel, version 1.0, whose module says hello."""
    packed = io.BytesIO()
    info = f"{name}-1.0.dist-info"
    with zipfile.ZipFile(packed, "w") as wheel:
        wheel.writestr(f"{name}.py", "def hello():\n    return 'hello from the index'\n")
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        wheel.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{info}/RECORD", f"{name}.py,,\n{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n")
    return packed.getvalue()


class IndexServer:
    """Serves ``/root/simple/NAME/``, and files below ``/files``; everything wants the password.

    Attributes:
        url: with the password in it.
        seen: the paths that were asked for with the password, in order.
        certificate: what to trust, when it speaks TLS.
    """

    def __init__(self, folder: Path, *names: str, tls: bool = True) -> None:
        self.seen: list[str] = []
        self.certificate = folder / "index.pem"
        self._files = {f"/files/{name}-1.0-py3-none-any.whl": make_wheel(name) for name in names}
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        if tls:
            key = folder / "index.key"
            subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
            command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *subject]
            made = [*command, "-keyout", str(key), "-out", str(self.certificate)]
            subprocess.run(made, check=True, capture_output=True)
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(self.certificate, key)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        port = self._server.server_address[1]
        scheme = "https" if tls else "http"
        self.url = f"{scheme}://{USER}:{PASSWORD}@localhost:{port}/root/simple/"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def page(self, name: str) -> bytes:
        links = [
            f'<a href="../../..{path}#sha256={hashlib.sha256(data).hexdigest()}">{Path(path).name}</a>'
            for path, data in self._files.items()
            if path.startswith(f"/files/{name}-")
        ]
        return f"<!DOCTYPE html><html><body>{''.join(links)}</body></html>".encode()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        index = self
        expected = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if self.headers["Authorization"] != expected:
                    self._answer(401, b"who are you", "text/plain")
                    return
                index.seen.append(self.path)
                if self.path in index._files:
                    self._answer(200, index._files[self.path], "application/octet-stream")
                elif self.path.startswith("/root/simple/"):
                    self._answer(200, index.page(self.path.split("/")[3]), "text/html")
                else:
                    self._answer(200, b"what only administrators should see", "text/plain")

            def _answer(self, status: int, body: bytes, kind: str) -> None:
                self.send_response(status)
                if status == 401:
                    self.send_header("WWW-Authenticate", 'Basic realm="index"')
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Silent."""

        return Handler
