"""A server for previews to show: a page from files, one that wants no frame, a hostile one, a web socket."""

import base64
import hashlib
import http.server
import sys

PORT = int(sys.argv[1])
TYPES = {"html": "text/html", "css": "text/css", "js": "text/javascript"}
ATTACK = """<!doctype html><title>trying</title><button id=go>go</button><pre id=out></pre><script>
const tried = {};
async function attempt(name, act) {
  try { tried[name] = String(await act()); } catch (error) { tried[name] = "refused: " + error.name; }
}
const base = location.pathname.split("daytona-magics/")[0];
(async () => {
  await attempt("parent", () => parent.document.title);
  await attempt("storage", () => localStorage.setItem("x", "1") || "written");
  await attempt("cookie", () => document.cookie || "empty");
  await attempt("read", async () =>
    (await fetch(base + "api/contents", {credentials: "include"})).status);
  await attempt("popup", () => window.open("about:blank") ? "opened" : "blocked");
  await attempt("dialog", () => alert("stolen") || "shown");
  parent.postMessage({call: "v-1", name: "start"}, "*");
  document.getElementById("out").textContent = JSON.stringify(tried);
})();
document.getElementById("go").onclick = () => {
  try { top.location = "about:blank#taken"; } catch (error) { document.title = "refused: " + error.name; }
};
</script>"""


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if self.headers.get("Upgrade", "").lower() == "websocket":
            self._socket()
        elif path == "/deny":
            self._say(200, "<h1>no frames</h1>", "html", {"X-Frame-Options": "DENY"})
        elif path == "/attack":
            self._say(200, ATTACK, "html")
        elif path == "/away":
            self._say(302, "", "html", {"Location": "http://127.0.0.1:1/secret"})
        else:
            name = path.lstrip("/") or "index.html"
            try:
                with open(name, encoding="utf-8") as file:
                    self._say(200, file.read(), name.rpartition(".")[2])
            except OSError:
                self._say(404, "<h1>missing</h1>", "html")

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self._say(200, f"{len(body)} {self.headers.get('Cookie')}", "txt")

    def _say(self, status: int, text: str, kind: str, headers: "dict[str, str] | None" = None) -> None:
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", TYPES.get(kind, "text/plain"))
        self.send_header("Content-Length", str(len(body)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def _socket(self) -> None:
        known = self.headers["Sec-WebSocket-Key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
        self.send_response(101)
        self.send_header("Upgrade", "websocket")
        self.send_header("Connection", "Upgrade")
        self.send_header("Sec-WebSocket-Protocol", self.headers["Sec-WebSocket-Protocol"])
        accept = base64.b64encode(hashlib.sha1(known.encode()).digest()).decode()
        self.send_header("Sec-WebSocket-Accept", accept)
        self.end_headers()
        self.wfile.write(b"\x81\x05hello")
        self.wfile.flush()
        self.rfile.read(1)
        self.close_connection = True


print(f"serving on {PORT}", flush=True)
http.server.ThreadingHTTPServer(("127.0.0.1", PORT), Handler).serve_forever()
