"""A Flask app: pages, uploads and downloads, server-sent events, a WebSocket."""

import time

from flask import Flask, Response, redirect, request
from flask_sock import Sock

app = Flask(__name__)
sock = Sock(app)


@app.get("/")
def index():
    return "<h1>flask</h1><script>document.title = 'ran'</script>"


@app.post("/upload")
def upload():
    size = 0
    while piece := request.stream.read(1 << 20):
        size += len(piece)
    return {"bytes": size}


@app.get("/download/<int:size>")
def download(size):
    def pieces():
        left = size
        while left:
            yield bytes(min(left, 1 << 16))
            left -= min(left, 1 << 16)

    return Response(pieces(), mimetype="application/octet-stream")


@app.get("/events")
def events():
    mark = request.args["id"]

    def pieces():
        for n in range(3):
            yield f"event: tick\ndata: {n}\n\n"
            # The next one only when the client has said that it has this one.
            while seen.get(mark, -1) < n:
                time.sleep(0.01)

    return Response(pieces(), mimetype="text/event-stream")


seen = {}


@app.post("/seen/<int:n>")
def say_seen(n):
    seen[request.args["id"]] = n
    return "", 204


@app.get("/login")
def login():
    return redirect("/welcome?next=1")


@sock.route("/echo")
def echo(ws):
    while True:
        ws.send(ws.receive())


app.run(host="127.0.0.1", port=3001, threaded=True)
