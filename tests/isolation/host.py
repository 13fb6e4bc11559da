"""The host as an attacker wants it: a home with a key, services, processes, terminals, shared memory."""

import contextlib
import ctypes
import os
import shutil
import socket
import subprocess
import sys
import sysconfig
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from daytona_magics.engine.launch import visible

_libc = ctypes.CDLL(None, use_errno=True)
#: Signals to pids below would sometimes meet a process of the sandbox's own that has the same number inside.
_LOWEST_VICTIM = 1500


class Host:
    """Everything there is to attack; ``facts`` are what the attackers know. Use as a context manager."""

    def __init__(self, secret: str, state: Path) -> None:
        self._stack = contextlib.ExitStack()
        self._secret = secret
        self.home = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="dm-victim-")))
        self.marker = "marker-" + os.urandom(6).hex()
        self.facts: dict[str, Any] = {
            "secret": secret,
            "marker": self.marker,
            "hostname": socket.gethostname(),
            "state": str(state),
            "packages": sysconfig.get_paths()["purelib"],
            "netns": os.stat("/proc/self/ns/net").st_ino,
            "pidns": os.stat("/proc/self/ns/pid").st_ino,
        }
        self._files()
        self._services()
        self._shared_memory()
        self._terminal()

    def __enter__(self) -> "Host":
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    # -- files

    def _files(self) -> None:
        key = self._file("key", self._secret)
        self._file("program", f"#!/bin/sh\necho {self._secret}\n").chmod(0o700)
        watched = self.home / "watched"
        watched.mkdir()
        (self.home / "folder").mkdir()
        names = ("cut", "opened", "deleted", "renamed", "exchanged", "mode")
        victims = {name: str(self._file(name, self._secret)) for name in names}
        tmp_file = Path(tempfile.mkstemp(prefix="dm-", dir="/tmp")[1])
        tmp_file.write_text(self._secret)
        tmp_file.chmod(0o644)
        self._stack.callback(tmp_file.unlink)
        tmp_link = tmp_file.with_name(tmp_file.name + "-link")
        tmp_link.symlink_to(key)
        self._stack.callback(tmp_link.unlink)
        real_home = os.path.expanduser("~")
        below = real_home.rstrip("/") + "/"
        # Of the real home only what Python itself needs may show.
        needed = [inside for _, inside in visible.plan().binds if inside.startswith(below)]
        shown = {Path(inside).relative_to(real_home).parts[0] for inside in needed}
        self.facts |= {
            "home": str(self.home),
            "key": str(key),
            "tmp_link": str(tmp_link),
            "account": Path("/etc/passwd").read_text().splitlines()[-1],
            "program": str(self.home / "program"),
            "watched": str(watched),
            "victims": {**victims, "folder": str(self.home / "folder")},
            "tmp_file": str(tmp_file),
            "configuration": self._stack.enter_context(configuration(self._secret)),
            "homes": {
                str(self.home): sorted(os.listdir(self.home)),
                real_home: sorted(set(os.listdir(real_home)) - shown),
            },
        }
        stop = threading.Event()

        def live() -> None:
            while not stop.wait(0.05):
                (watched / "file").touch()
                (watched / "file").unlink()

        thread = threading.Thread(target=live, daemon=True)
        thread.start()
        self._stack.callback(thread.join)
        self._stack.callback(stop.set)

    def _file(self, name: str, text: str) -> Path:
        path = self.home / name
        path.write_text(text)
        path.chmod(0o600)
        return path

    # -- services

    def _services(self) -> None:
        unix_tmp = tempfile.mktemp(prefix="dm-", dir="/tmp")
        self._stack.callback(lambda: os.unlink(unix_tmp))
        datagram = str(self.home / "datagram")
        for address in (datagram, f"\0{self.marker}d"):
            self._stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)).bind(address)
        self.facts |= {
            "tcp_port": self._serve(socket.AF_INET, ("127.0.0.1", 0))[1],
            "tcp6_port": self._serve(socket.AF_INET6, ("::", 0))[1],
            "udp_port": self._serve_udp(),
            "unix_path": self._serve(socket.AF_UNIX, str(self.home / "socket")),
            "unix_tmp": self._serve(socket.AF_UNIX, unix_tmp),
            "unix_datagram": datagram,
            "unix_abstract": self.marker,
        }
        self._serve(socket.AF_UNIX, "\0" + self.marker)
        with socket.create_server(("127.0.0.1", 0)) as server:
            self.facts["free_port"] = server.getsockname()[1]

    def serve_elsewhere(self, port: int) -> None:
        """A service at another address than the loopback's usual one, standing for another machine's."""
        self.facts["own_port"] = self._serve(socket.AF_INET, ("127.0.0.3", port))[1]

    def _serve(self, family: int, address: Any) -> Any:
        server = self._stack.enter_context(socket.socket(family, socket.SOCK_STREAM))
        if family == socket.AF_INET6:
            server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        server.bind(address)
        server.listen(16)

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = server.accept()
                    with connection:
                        connection.sendall(b"hello from the host")

        threading.Thread(target=accept, daemon=True).start()
        self._stack.callback(server.shutdown, socket.SHUT_RDWR)
        return server.getsockname()

    def _serve_udp(self) -> int:
        server = self._stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        server.bind(("127.0.0.1", 0))
        port: int = server.getsockname()[1]

        def answer() -> None:
            while True:
                data, address = server.recvfrom(100)
                if data == b"stop":
                    return
                server.sendto(b"hello from the host", address)

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()

        def stop() -> None:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
                sender.sendto(b"stop", ("127.0.0.1", port))
            thread.join(5)

        self._stack.callback(stop)
        return port

    # -- memory and terminals

    def _shared_memory(self) -> None:
        shm_file = Path("/dev/shm") / f"dm-{self.marker}"
        shm_file.write_text(self._secret)
        self._stack.callback(shm_file.unlink)
        key = int.from_bytes(os.urandom(3), "big") + 1
        mode = 0o1600  # IPC_CREAT
        made = (_libc.shmget(key, 4096, mode), _libc.semget(key, 1, mode), _libc.msgget(key, mode))
        assert min(made) >= 0, os.strerror(ctypes.get_errno())
        self._stack.callback(_libc.shmctl, made[0], 0, None)
        self._stack.callback(_libc.semctl, made[1], 0, 0)
        self._stack.callback(_libc.msgctl, made[2], 0, None)
        flags, name = os.O_CREAT | os.O_RDWR, self.marker.encode()
        queue = _libc.syscall(240, name, flags, 0o600, None)
        if queue >= 0:
            os.close(queue)
            self._stack.callback(_libc.syscall, 241, name)
        self.facts |= {"shm_file": str(shm_file), "shm_key": key, "shm_id": made[0]}

    def _terminal(self) -> None:
        master, terminal = os.openpty()
        self._stack.callback(os.close, master)
        self._stack.callback(os.close, terminal)
        os.write(master, self._secret.encode() + b"\n")
        self.facts["terminal"] = os.ttyname(terminal)

    # -- processes

    @contextlib.contextmanager
    def processes(self, count: int) -> Iterator[list["subprocess.Popen[bytes]"]]:
        """`count` fresh processes of the host that hold the key open and the secret in their environment."""
        program = self.home / self.facts.setdefault("comm", "dm-" + self.marker[-8:])
        if not program.exists():
            program.symlink_to("/bin/sh")
            _pass_low_pids()
        found: list[subprocess.Popen[bytes]] = []
        try:
            for _ in range(count):
                found.append(self._process(str(program)))
            yield found
        finally:
            for process in found:
                process.kill()
                process.communicate()

    def _process(self, program: str) -> "subprocess.Popen[bytes]":
        with open(self.facts["key"], "rb") as key:
            return subprocess.Popen(
                [program, "-c", "read x", self.marker],
                stdin=subprocess.PIPE,
                pass_fds=[key.fileno()],
                cwd=self.home,
                env={"HOST_SECRET": self._secret},
                start_new_session=True,
            )

    def planted(self) -> list[str]:
        """Names in the home that an attack has put there."""
        return [name for name in os.listdir(self.home) if name == "planted"]


@contextlib.contextmanager
def shown_packages() -> Iterator[str]:
    """A package folder that sandboxes may read, and this account may write, as in a venv of one's own."""
    with tempfile.TemporaryDirectory(prefix="dm-venv-") as folder:
        os.chmod(folder, 0o755)
        packages = Path(folder, "site-packages")
        packages.mkdir()
        for name in ("opened.py", "cut.py"):
            (packages / name).write_text("shown = True\n")
        sys.path.append(str(packages))
        try:
            yield str(packages)
        finally:
            sys.path.remove(str(packages))


@contextlib.contextmanager
def configuration(secret: str) -> Iterator[list[str]]:
    """pip's and Jupyter's configuration in Python's prefix, with the secret in it: where it could be put.

    Whoever may write there puts it for those he starts; to pip it is a comment, Jupyter does not read it.
    """
    prefix = Path(sys.prefix)
    wanted = [prefix / "pip.conf", prefix / "etc/jupyter/dm_secret", prefix / "share/jupyter/dm_secret"]
    with contextlib.ExitStack() as stack:
        for path in wanted:
            if not path.exists() and os.access(prefix, os.W_OK):
                first = next(p for p in reversed([path, *path.parents]) if not p.exists())
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(f"# {secret}\n")
                stack.callback(os.unlink if first == path else shutil.rmtree, first)
        yield [str(path) for path in wanted if path.exists() and secret in path.read_text()]


def _pass_low_pids() -> None:
    """Use up low pids, which matters in a container, where all are low. Threads take numbers as well."""
    highest = 0
    while highest < _LOWEST_VICTIM:
        thread = threading.Thread(target=int)
        thread.start()
        highest = max(highest, thread.native_id or 0)
        thread.join()
