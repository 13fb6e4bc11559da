"""A guest in a temporary home, and a small blocking client that talks to it over a local pty."""

from __future__ import annotations

import json
import os
import pty
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from typing import Any

from daytona_magics.runtime.guest import frames, processes

from . import no_unix_sockets

MODULE = [sys.executable, "-m", "daytona_magics.runtime.guest"]


def alive(pid: int) -> bool:
    """Whether a process runs; a zombie that nobody has reaped yet does not."""
    found = processes.read(pid)
    return found is not None and found.alive


class Guest:
    """A daemon of its own; ``close`` ends it and everything it started.

    Args:
        pipes: unix sockets are refused to it and to its clients, so that they speak through named pipes.
    """

    def __init__(self, pipes: bool = False, **env: str) -> None:
        self.pipes = pipes
        self.home = tempfile.mkdtemp(prefix="dm-")
        self.run = os.path.join(self.home, ".daytona-magics", "run")
        self.env = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "MPL"))}
        self.env.update(HOME=self.home, TERM="dumb", **env)
        self.clients: list[Client] = []
        self.hello = self.daemon()
        assert self.hello["ok"], self.hello

    def daemon(self) -> dict[str, Any]:
        done = subprocess.run(
            [*MODULE, "daemon"],
            env=self.env,
            stdout=subprocess.PIPE,
            timeout=20,
            check=False,
            preexec_fn=no_unix_sockets.refuse if self.pipes else None,
        )
        return json.loads(done.stdout)

    def client(self, **options: Any) -> Client:
        client = Client(self, **options)
        self.clients.append(client)
        return client

    def errors(self) -> str:
        with open(os.path.join(self.run, "guest.err")) as file:
            return file.read()

    def close(self) -> None:
        for client in self.clients:
            client.close()
        try:
            with_pid = self.hello["pid"]
            last = Client(self)
            last.request("shutdown")
            last.close()
            deadline = time.monotonic() + 5
            while alive(with_pid) and time.monotonic() < deadline:
                time.sleep(0.005)
        except (OSError, EOFError, TimeoutError):
            os.kill(self.hello["pid"], signal.SIGKILL)
        shutil.rmtree(self.home, ignore_errors=True)


class Run:
    """What came of one execution."""

    def __init__(self, stream: int, exec_id: str) -> None:
        self.stream = stream
        self.id = exec_id
        self.sequence = 0
        self.out = bytearray()
        self.err = bytearray()
        self.both: list[tuple[str, bytes]] = []
        self.messages: list[dict[str, Any]] = []
        self.gaps: list[dict[str, Any]] = []
        self.done: dict[str, Any] | None = None
        self._partial = bytearray()

    def take(self, frame: frames.Frame) -> None:
        if frame.type == frames.GAP:
            gap = json.loads(frame.payload)
            assert frame.sequence == self.sequence + gap["frames"]
            self.gaps.append(gap)
            self.sequence = frame.sequence
            return
        assert frame.sequence == self.sequence + 1, (frame.sequence, self.sequence)
        assert self.done is None, "a frame after done"
        self.sequence = frame.sequence
        if frame.type == frames.STDOUT:
            self.out += frame.payload
            self.both.append(("out", frame.payload))
        elif frame.type == frames.STDERR:
            self.err += frame.payload
            self.both.append(("err", frame.payload))
        elif frame.type == frames.MESSAGE:
            self._partial += frame.payload
            if not frame.flags & frames.FLAG_MORE:
                message = json.loads(self._partial)
                self._partial.clear()
                self.messages.append(message)
                if message["msg"] == "done":
                    self.done = message

    @property
    def text(self) -> str:
        return self.out.decode()

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [m for m in self.messages if m["msg"] == kind]

    @property
    def result(self) -> Any:
        found = self.of("result")
        return found[0]["data"]["text/plain"] if found else None

    @property
    def error(self) -> dict[str, Any]:
        return self.of("error")[0]

    @property
    def status(self) -> str:
        assert self.done is not None
        return self.done["status"]


class Client:
    """Speaks the protocol over ``attach`` on a pty.

    Args:
        acks: False never acknowledges anything.
    """

    def __init__(self, guest: Guest, acks: bool = True) -> None:
        self.guest = guest
        self.acks = acks
        self.decoder = frames.Decoder()
        self.runs: dict[int, Run] = {}
        self.waiting: dict[int, dict[str, Any]] = {}
        self.sequence = 0
        self.control_in = 0
        self.received = 0
        self.acked = 0
        self.since_ack = 0
        self.reads: list[int] = []
        self.number = 0
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            if guest.pipes:
                no_unix_sockets.refuse()
            os.execve(MODULE[0], [*MODULE, "attach"], guest.env)
        self.closed = False
        # The next client must not inherit this terminal, or closing it here would hang up nobody.
        os.set_inheritable(self.fd, False)
        self.hello: dict[str, Any] = {}
        self._partial = bytearray()
        self.until(lambda: self.hello)

    def send_raw(self, data: bytes) -> None:
        while data:
            data = data[os.write(self.fd, data[:4000]) :]

    def send(self, message: dict[str, Any]) -> None:
        for flags, piece in frames.split(json.dumps(message).encode()):
            self.sequence += 1
            self.send_raw(frames.encode(frames.CONTROL, 0, self.sequence, piece, flags))

    def ack(self) -> None:
        if self.acks and self.received > self.acked:
            self.acked, self.since_ack = self.received, 0
            self.send({"op": "ack", "bytes": self.received})

    def read(self, timeout: float) -> bool:
        """Read once; False when nothing came."""
        if not select.select([self.fd], [], [], timeout)[0]:
            return False
        try:
            data = os.read(self.fd, 65536)
        except OSError:
            data = b""
        if not data:
            raise EOFError("attach ended")
        self.reads.append(len(data))
        for frame in self.decoder.feed(data):
            self.received += frame.size
            self.since_ack += 1
            self.take(frame)
        if self.received - self.acked >= 16384 or self.since_ack >= 16:
            self.ack()
        return True

    def take(self, frame: frames.Frame) -> None:
        if frame.type != frames.CONTROL:
            run = self.runs.get(frame.stream)
            if run is None:
                run = self.runs[frame.stream] = Run(frame.stream, "")
            run.take(frame)
            return
        self.control_in += 1
        assert frame.sequence == self.control_in
        self._partial += frame.payload
        if frame.flags & frames.FLAG_MORE:
            return
        message = json.loads(self._partial)
        self._partial.clear()
        if message["op"] == "hello":
            self.hello = message
        elif message["req"] is not None:
            self.waiting[message["req"]] = message

    def until(self, condition: Any, timeout: float = 30.0) -> Any:
        """Read until ``condition()`` is true; its value."""
        deadline = time.monotonic() + timeout
        while not condition():
            if not self.read(0.02):
                self.ack()
            if time.monotonic() > deadline:
                raise TimeoutError(self.story())
        return condition()

    def story(self) -> str:
        """What is known about everything that was run, for whoever waited in vain."""
        known = [
            f"stream {run.stream}: out {run.out[-500:]!r} err {run.err[-500:]!r} messages {run.messages}"
            for run in self.runs.values()
        ]
        return "\n".join([*known, "guest.err: " + self.guest.errors()[-2000:]])

    def request(self, op: str, **fields: Any) -> dict[str, Any]:
        self.number += 1
        number = self.number
        self.send({"op": op, "req": number, **fields})
        self.until(lambda: number in self.waiting)
        return self.waiting.pop(number)

    def start(self, code: str, language: str = "python", context: str = "main", **options: Any) -> Run:
        options.setdefault("id", uuid.uuid4().hex)
        options.setdefault("name", "Cell In[1]")
        reply = self.request("execute", code=code, language=language, context=context, **options)
        assert reply["ok"], reply
        run = self.runs.get(reply["stream"])
        if run is None:
            run = self.runs[reply["stream"]] = Run(reply["stream"], options["id"])
        run.id = options["id"]
        return run

    def wait(self, run: Run, timeout: float = 30.0) -> Run:
        self.until(lambda: run.done, timeout)
        return run

    def run(self, code: str, language: str = "python", timeout_s: float = 30.0, **options: Any) -> Run:
        return self.wait(self.start(code, language, **options), timeout_s)

    def bash(self, code: str, **options: Any) -> Run:
        return self.run(code, "bash", **options)

    def until_out(self, run: Run, text: bytes) -> None:
        self.until(lambda: text in run.out)

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            os.close(self.fd)
            os.waitpid(self.pid, 0)
