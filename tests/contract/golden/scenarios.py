"""What is recorded: each scenario talks to a live engine over `Wire` and thereby writes its transcript.

What must not depend on time waits for what it depends on: a command that prints on one stream and then on the
other reads a line between them, which is sent when the first has arrived.
"""

from __future__ import annotations

import base64
import json
import re
import shlex
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests.contract.golden.transcript import BINARY, CLOSE, TEXT, Step, connections, header, load
from tests.contract.golden.wire import Wire

EXIT_CONTROL = "X-Daytona-Pty-Exit-Control"
#: Names that a careless header breaks, and what is in the files.
ODD = {
    "golden/plain": b"plain\r\n\x00\xff--daytona\r\n",
    "golden/empty": b"",
    'golden/quote" and space': b"quote",
    "golden/back\\slash": b"backslash",
    "golden/percent%22;semi=colon'": b"percent",
    "golden/gr\u00f6\u00dfe \u2603": b"unicode",
    "golden/tab\there": b"tab",
}
MISSING = "golden/missing \u2603"
UPLOADS = {"golden/up/one \u2603.txt": b"first\r\n", 'golden/up/two".bin': bytes(range(256))}
SENDERS = ("python", "python-async", "typescript")
STREAM_SENDERS = ("python-stream", "python-async-stream", "typescript-stream")


@dataclass
class Live:
    """A running engine with a sandbox, of a synchronous SDK client."""

    url: str
    key: str
    sandbox: Any
    steps: list[Step] = field(default_factory=list)
    words: dict[str, str] = field(default_factory=dict)
    #: What each sender sent; taken from its transcript when nothing was captured.
    sent: dict[str, bytes] = field(default_factory=dict)

    def begin(self) -> None:
        """A new transcript."""
        self.steps = []
        self.words = {self.sandbox.id: "{sandbox}", self.url.partition("//")[2]: "{host}", self.key: "{key}"}

    def wire(self, name: str) -> Wire:
        """A new connection."""
        return Wire(self.url, self.steps, self.words, name)

    def path(self, rest: str) -> str:
        """The target of a toolbox route."""
        return f"/toolbox/{self.sandbox.id}/{rest}"

    def described(self) -> dict[str, Any]:
        """What the engine says about the sandbox."""
        found: dict[str, Any] = json.loads(self._ask("GET", f"/api/sandbox/{self.sandbox.id}"))
        return found

    def _ask(self, method: str, path: str, body: Any = None) -> bytes:
        data = None if body is None else json.dumps(body).encode()
        headers = {"Authorization": f"Bearer {self.key}", "Content-Type": "application/json"}
        request = urllib.request.Request(f"{self.url}{path}", data, headers, method=method)
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=30) as answer:
            said: bytes = answer.read()
        return said

    def elsewhere(self, name: str, method: str, path: str, body: Any = None) -> None:
        """A request over another connection, of which the transcript only knows that it was made."""
        self.steps.append(Step("*", name.encode()))
        self._ask(method, path, body)

    def post(self, name: str, path: str, body: Any) -> bytes:
        """A POST with JSON that is part of the transcript; the answer's body."""
        with self.wire(name) as wire:
            wire.request("POST", self.path(path), json.dumps(body).encode(), Content_Type="application/json")
            return wire.answer()


Scenario = Callable[[Live], None]
SCENARIOS: dict[str, Scenario] = {}


def scenario(name: str) -> Callable[[Scenario], Scenario]:
    """Register a scenario under the name of its transcript."""

    def register(function: Scenario) -> Scenario:
        SCENARIOS[name] = function
        return function

    return register


@scenario("bulk-download")
def bulk_download(live: Live) -> None:
    for path, content in ODD.items():
        live.sandbox.fs.upload_file(content, path)
    live.sandbox.process.exec("mkdir -p golden/folder; rm -rf golden/missing*")
    live.post("download", "files/bulk-download", {"paths": [*ODD, MISSING, "golden/folder"]})


@scenario("bulk-download-missing")
def bulk_download_missing(live: Live) -> None:
    live.sandbox.process.exec("rm -rf golden/missing*")
    live.post("download", "files/bulk-download", {"paths": [MISSING]})


def _send_as(sender: str) -> Scenario:
    """Send what a client sends, but cut into other pieces."""

    def run(live: Live) -> None:
        live.sandbox.process.exec("rm -rf golden/up")
        sent = live.sent.get(sender) or connections(load(f"bulk-upload-{sender}"))[0].steps[0].data
        head, _, body = sent.replace(b"{boundary}", b"golden-boundary").partition(b"\r\n\r\n")
        headers = {"Content_Type": header(head + b"\r\n", "Content-Type") or ""}
        if header(head + b"\r\n", "Transfer-Encoding"):
            headers["Transfer_Encoding"] = "chunked"
        with live.wire("upload") as wire:
            wire.request("POST", live.path("files/bulk-upload"), body, **headers)
            live.steps[-1].data = sent
            wire.answer()
        for path, content in list(UPLOADS.items())[: 1 if sender in STREAM_SENDERS else None]:
            assert live.sandbox.fs.download_file(path) == content, path

    return run


for _sender in (*SENDERS, *STREAM_SENDERS):
    SCENARIOS[f"bulk-upload-{_sender}"] = _send_as(_sender)


@scenario("bulk-upload-refused")
def bulk_upload_refused(live: Live) -> None:
    live.sandbox.process.exec("mkdir -p golden/folder")
    lines = []
    for n, path in enumerate(["golden/folder", "golden/good"]):
        lines += ["--limit", f'Content-Disposition: form-data; name="files[{n}].path"', "", path]
        lines += [
            "--limit",
            f'Content-Disposition: form-data; name="files[{n}].file"; filename="x"',
            "",
            "data",
        ]
    body = "\r\n".join([*lines, "--limit--", ""]).encode()
    with live.wire("upload") as wire:
        path = live.path("files/bulk-upload")
        wire.request("POST", path, body, Content_Type="multipart/form-data; boundary=limit")
        wire.answer()


def _terminal(live: Live, wire: Wire, name: str, *protocols: str) -> None:
    envs = base64.urlsafe_b64encode(b'{"PS1":"$ ","TERM":"dumb"}').rstrip(b"=").decode()
    path = f"process/pty/create-connect?id={name}&cols=80&rows=24"
    wire.upgrade(live.path(path), f"X-Daytona-Pty-Envs~{envs}", *protocols)


def _in_terminal(live: Live, name: str, command: str, *protocols: str) -> None:
    """Run ``command`` in place of the shell; what the shell itself printed is left out."""
    with live.wire("terminal") as wire:
        _terminal(live, wire, name, *protocols)
        wire.receive(lambda opcode, data: opcode == TEXT and b"connected" in data)
        # Typed in two parts: its echo is no beginning.
        program = shlex.quote('printf "BEG""IN "; ' + command)
        wire.send(BINARY, f"exec sh -c {program}\n".encode())
        wire.closed()
    for step in live.steps:
        if step.kind == "<binary":
            step.data = step.data[step.data.index(b"BEGIN") :]


@scenario("pty-exit-0")
def pty_exit_0(live: Live) -> None:
    _in_terminal(live, "exit-0", r"printf '\303\251 \033[1mbold\033[0m\n'", EXIT_CONTROL)


@scenario("pty-exit-3")
def pty_exit_3(live: Live) -> None:
    _in_terminal(live, "exit-3", "exit 3", EXIT_CONTROL)


@scenario("pty-signal")
def pty_signal(live: Live) -> None:
    _in_terminal(live, "signal", "kill -9 $$", EXIT_CONTROL)


@scenario("pty-without-control")
def pty_without_control(live: Live) -> None:
    _in_terminal(live, "without-control", "exit 3")


@scenario("pty-in-use")
def pty_in_use(live: Live) -> None:
    live.elsewhere("create", "POST", live.path("process/pty"), {"id": "in-use"})
    with live.wire("terminal") as wire:
        _terminal(live, wire, "in-use", EXIT_CONTROL)
    live.elsewhere("delete", "DELETE", live.path("process/pty/in-use"))


#: One stream after the other, and a character in two halves.
_TALK = "; ".join(
    [
        "printf 'out\\n'",
        "read -r go",
        "printf '\\303\\251rr\\n' >&2",
        "read -r go",
        "printf '\\303'",
        "read -r go",
        "printf '\\251nd'",
    ]
)


@scenario("session-command")
def session_command(live: Live) -> None:
    name = "golden-command"
    live.sandbox.process.create_session(name)
    wanted = {"command": "printf '\\303\\251 <out>\\n'; exit 4", "runAsync": False}
    number = json.loads(live.post("execute", f"process/session/{name}/exec", wanted))["cmdId"]
    for step in live.steps:
        step.data = step.data.replace(number.encode(), b"{command}")
    live.sandbox.process.delete_session(name)


@scenario("session-logs")
def session_logs(live: Live) -> None:
    from daytona import SessionExecuteRequest

    process, name = live.sandbox.process, "golden-logs"
    process.create_session(name)
    wanted = SessionExecuteRequest(command=_TALK, run_async=True, suppress_input_echo=True)
    number = process.execute_session_command(name, wanted).cmd_id
    live.words[number] = "{command}"
    command = live.path(f"process/session/{name}/command/{number}")
    with live.wire("follow") as wire:
        wire.upgrade(f"{command}/logs?follow=true")
        for ending in (b"out\n", b"rr\n", b"\xc3"):
            wire.receive(lambda _, data, ending=ending: data.endswith(ending))
            live.elsewhere("input", "POST", f"{command}/input", {"data": "x"})
        wire.closed()
    with live.wire("all so far") as wire:
        wire.request("GET", f"{command}/logs")
        wire.answer()
    process.delete_session(name)


def _interpret(live: Live, **request: Any) -> None:
    with live.wire("execute") as wire:
        wire.upgrade(live.path("process/interpreter/execute"))
        wire.send(TEXT, json.dumps(request).encode())
        wire.closed()


@scenario("interpreter-output")
def interpreter_output(live: Live) -> None:
    _interpret(live, code='import sys\nsys.stdout.write("out é ☃\\n")')


@scenario("interpreter-stderr")
def interpreter_stderr(live: Live) -> None:
    _interpret(live, code='import os, sys\nsys.stderr.write(os.environ["WHO"] + "\\n")', envs={"WHO": "mé"})


@scenario("interpreter-error")
def interpreter_error(live: Live) -> None:
    _interpret(live, code='raise ValueError("no \\u2603")')


@scenario("interpreter-timeout")
def interpreter_timeout(live: Live) -> None:
    _interpret(live, code="import time\ntime.sleep(600)", timeout=1)


@scenario("interpreter-no-context")
def interpreter_no_context(live: Live) -> None:
    _interpret(live, code="1", contextId="nowhere")


#: Values of a sandbox that another machine, another run or another version of the engine has otherwise.
_OWN = ("cpu", "memory", "disk", "daytona-magics/isolation", "daemonVersion", "name", "id")


def _join(wire: Wire, key: str) -> None:
    wire.upgrade("/api/socket.io/?EIO=4&transport=websocket&source=golden")
    wire.receive(lambda _, data: data.startswith(b"0"))
    wire.send(TEXT, f'40{{"token":"{key}"}}'.encode())


def _without_ids(live: Live) -> None:
    for step in live.steps:
        if step.kind == "<text":
            step.data = re.sub(rb'"sid":"[^"]+"', b'"sid":"{sid}"', step.data)
            for name in _OWN:
                label = name.rpartition("/")[2].encode()
                pattern = rb'("%s":"?)(?:[^",}]+)' % re.escape(name.encode())
                step.data = re.sub(pattern, rb"\1{%s}" % label, step.data)


@scenario("socket-io")
def socket_io(live: Live) -> None:
    with live.wire("events") as wire:
        _join(wire, live.key)
        wire.receive(lambda _, data: data.startswith(b"40"))
        live.elsewhere("create", "POST", "/api/sandbox", {"name": "golden-events", "labels": {"a": "ü"}})
        wire.receive(lambda _, data: b'"newState":"started"' in data)
        live.elsewhere("stop", "POST", "/api/sandbox/golden-events/stop")
        wire.receive(lambda _, data: b'"newState":"stopped"' in data)
        live.elsewhere("delete", "DELETE", "/api/sandbox/golden-events")
        wire.receive(lambda _, data: b'"newState":"destroyed"' in data)
        wire.send(CLOSE, (1000).to_bytes(2, "big"))
    _without_ids(live)


@scenario("socket-io-refused")
def socket_io_refused(live: Live) -> None:
    with live.wire("events") as wire:
        _join(wire, "wrong")
        wire.receive(lambda _, data: data.startswith(b"44"))
    _without_ids(live)
