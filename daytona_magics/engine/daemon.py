"""The engine's process: take the lock, bind, open the state, leave the record, serve, clean up.

The order makes one engine per user certain. Only the holder of ``engine.lock`` in the runtime folder goes on,
and only the holder of ``engine.lock`` in the state folder opens the database; both are flocks, so a killed
engine leaves nothing to clean. The record that clients look for is written last, when every request can be
answered, and removed first; then new work is refused, and only then what runs is ended. Port and key are kept
in the state folder, so that a restart does not break a shell that has evaluated ``env``; when the port has
been taken by somebody else, the key changes with it, because a client with the old pair may have shown the
key to whoever listens there now.

Most of the start is reading programs. So only what starts the launcher is imported here; the rest (`front`)
is read on a thread while the launcher waits for the sandbox it tries.
"""

from __future__ import annotations

import asyncio
import faulthandler
import fcntl
import importlib
import json
import os
import secrets
import shutil
import signal
import socket
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from daytona_magics import __version__
from daytona_magics.engine import address, logs, places
from daytona_magics.engine.ending import end
from daytona_magics.engine.launch.launcher import Launcher, LaunchError
from daytona_magics.engine.launch.visible import plan
from daytona_magics.engine.life.activity import Activity
from daytona_magics.engine.life.janitor import Janitor
from daytona_magics.engine.life.lifecycle import Sandboxes
from daytona_magics.engine.log import hide, log, open_log
from daytona_magics.engine.proxy.egress import Egress
from daytona_magics.engine.proxy.settings import HostNetwork, forget, read_host
from daytona_magics.engine.store.database import SCHEMA_VERSION, Database, StoreError
from daytona_magics.engine.store.folder import StateFolder, prepare

if TYPE_CHECKING:
    from daytona_magics.engine.api.context import Context

STDERR_SECONDS = 10.0
FRONT = "daytona_magics.engine.front"
# What the toolbox inside looks for, in its order, and where.
SHELLS = ("zsh", "bash", "sh")
SANDBOX_PATH = "/usr/local/bin:/usr/bin:/bin"


class AlreadyRunning(Exception):
    """Another engine holds the lock."""


def _lock(path: Path) -> int:
    """Take the flock ``path`` for the life of this process.

    Raises:
        AlreadyRunning: somebody else has it.
    """
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(handle)
        raise AlreadyRunning(f"another embedded engine holds {path}") from error
    return handle


def _state_folder() -> tuple[StateFolder, int]:
    """The state folder with its lock; the fallback when another machine's engine has the preferred one."""
    folder = prepare(places.state_dir())
    try:
        return folder, _lock(folder.path / "engine.lock")
    except AlreadyRunning:
        fallback = places.fallback_state_dir()
        if folder.path == fallback or _record_is_here(folder.path):
            raise
        second = prepare(fallback)
        message = f"{folder.path} is in use by an engine on another machine; {second.path} is used instead"
        return StateFolder(second.path, folder.wanted, message, second.network), _lock(
            second.path / "engine.lock"
        )


def _record_is_here(folder: Path) -> bool:
    record = places.read_record(folder)
    return record is None or record["place"] == places.place()


def _endpoint(folder: Path) -> tuple[socket.socket, str]:
    """The listening socket and the key: those of last time when the port is free, else new ones."""
    path = folder / "endpoint.json"
    port, key = 0, ""
    with suppress(OSError, ValueError, TypeError, KeyError):
        kept = json.loads(path.read_text())
        port, key = int(kept["port"]), str(kept["key"])
    listener = _bind(port) if port and len(key) >= 32 else None
    if listener is None:
        listener, key = _bind(0), secrets.token_hex(32)
    if listener is None:
        raise address.EngineStartError("no port on 127.0.0.1 can be bound")
    temporary = path.with_suffix(".new")
    with os.fdopen(
        os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "w"
    ) as file:
        json.dump({"port": listener.getsockname()[1], "key": key}, file)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    return listener, key


def _bind(port: int) -> socket.socket | None:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    # Old connections may still be in TIME_WAIT; a listener of somebody else still refuses.
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(("127.0.0.1", port))
        listener.listen(1024)
    except OSError:
        listener.close()
        return None
    listener.setblocking(False)
    return listener


def serve(ready: Callable[[], None]) -> None:
    """Run the engine until it is told to stop or nobody uses it.

    Args:
        ready: called when it answers.

    Raises:
        AlreadyRunning: there is one.
        address.EngineStartError: it cannot run here; the message says why.
    """
    os.umask(0o077)
    os.chdir("/")
    runtime = places.runtime_dir()
    locks = [_lock(runtime / "engine.lock")]
    folder, state_lock = _state_folder()
    locks.append(state_lock)
    # Only what leaves a sandbox goes through the host's proxy: not the engine itself, nor what it starts.
    host = read_host(visible=plan().shows, copies=folder.path / "certificates")
    forget(os.environ)
    with (folder.path / "engine.crash").open("a") as crash:
        faulthandler.enable(crash)
        open_log(folder.path)
        try:
            asyncio.run(_Engine(runtime, folder, host).run(ready))
        finally:
            faulthandler.disable()
            for handle in locks:
                os.close(handle)


class _Engine:
    def __init__(self, runtime: Path, folder: StateFolder, host: HostNetwork) -> None:
        self._runtime = runtime
        self._folder = folder
        self._host = host
        self._restart: asyncio.Future[None] | None = None
        self._launcher = Launcher(
            isolation=os.environ.get("DAYTONA_MAGICS_ISOLATION") or None,
            stderr_dir=folder.path / "stderr",
            private=(runtime, folder.path),
        )
        self._launcher.also_visible = host.bundles

    async def run(self, ready: Callable[[], None]) -> None:
        listener, key = _endpoint(self._folder.path)
        hide(key)
        port = listener.getsockname()[1]
        # What was begun last is ended first, and a failure of one does not keep the others from ending:
        # no record, no listener, no new sandboxes, no sandboxes, no clients, no zygote, no database.
        async with AsyncExitStack() as ends:
            database = Database(self._folder.path, network=self._folder.network)
            try:
                await database.open()
            except StoreError as error:
                raise address.EngineStartError(str(error)) from error
            ends.push_async_callback(end, "closing the database", database.close)
            egress = Egress(self._host)
            egress.start()
            ends.push_async_callback(end, "closing the way out", egress.close)
            sandboxes = Sandboxes(database, self._launcher, self._folder.path, egress)
            # What it has to make is made while the launcher tries how to isolate.
            sandboxes.system.begin()
            ends.push_async_callback(end, "ending the zygote", self._launcher.stop)
            sandboxes.limiter.open()
            ends.push_async_callback(end, "taking the limits away", sandboxes.limiter.close)
            reading = asyncio.ensure_future(asyncio.to_thread(importlib.import_module, FRONT))
            await self._start_launcher(sandboxes)
            await sandboxes.load()
            front = await reading
            activity = Activity()
            base = f"http://127.0.0.1:{port}"
            ctx: Context = front.Context(
                sandboxes, activity, self._folder, base, __version__, self._facts(port)
            )
            await front.open_front(ctx, database, key, listener, ends)
            self._keep_a_zygote(sandboxes)
            ends.push_async_callback(self._stop_restarting)
            loop = asyncio.get_running_loop()
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                loop.add_signal_handler(number, activity.stop.set)
            short = asyncio.create_task(_keep_short(self._folder.path / "stderr"))
            ends.push_async_callback(_cancel, short)
            janitor = asyncio.create_task(Janitor(sandboxes, activity).run())
            janitor.add_done_callback(lambda task: _stop_on_failure(task, activity))
            ends.push_async_callback(_cancel, janitor)
            ends.callback(self._remove_records)
            self._write_records(port, key, ctx.previews.port if ctx.previews else 0)
            log.info("engine %s serves %s at isolation %s", __version__, base, sandboxes.isolation)
            ready()
            await activity.stop.wait()
            log.info("the engine ends")

    def _keep_a_zygote(self, sandboxes: Sandboxes) -> None:
        def zygote_died() -> None:
            self._restart = asyncio.ensure_future(self._restart_launcher(sandboxes))

        self._launcher.on_zygote_death = zygote_died

    async def _stop_restarting(self) -> None:
        self._launcher.on_zygote_death = None
        if self._restart is not None:
            await _cancel(self._restart)

    async def _start_launcher(self, sandboxes: Sandboxes, *, again: bool = False) -> None:
        try:
            await (self._launcher.restart() if again else self._launcher.start())
            sandboxes.unavailable = ""
        except LaunchError as error:
            sandboxes.unavailable = str(error)
            log.error("no sandbox can be created: %s", error)

    async def _restart_launcher(self, sandboxes: Sandboxes) -> None:
        log.error("the zygote died; its sandboxes died with it; starting another")
        await self._start_launcher(sandboxes, again=True)

    def _facts(self, port: int) -> dict[str, object]:
        return {
            "port": port,
            "schema": SCHEMA_VERSION,
            "why_not_higher": self._launcher.reason,
            "shell": next(filter(None, (shutil.which(s, path=SANDBOX_PATH) for s in SHELLS)), "none"),
            "journal": "DELETE" if self._folder.network else "WAL",
        }

    def _write_records(self, port: int, key: str, previews: int) -> None:
        record: dict[str, Any] = {
            "pid": os.getpid(),
            "start_time": places.process_start_time(os.getpid()),
            "place": places.place(),
            "port": port,
            "previews": previews,
            "api_key": key,
            "api": address.API_VERSION,
            "version": __version__,
            "schema": SCHEMA_VERSION,
            "state_dir": str(self._folder.path),
            "asked_for": str(places.state_dir()),
        }
        for where in (self._folder.path, self._runtime):
            places.write_record(where, record)

    def _remove_records(self) -> None:
        for where in (self._runtime, self._folder.path):
            try:
                places.remove_record(where, os.getpid())
            except OSError as error:
                log.error("the record in %s cannot be removed: %s", where, error)


async def _keep_short(stderr: Path) -> None:
    """What toolboxes and the zygote say on stderr is kept for `logs`, within bounds."""
    while True:
        await asyncio.sleep(STDERR_SECONDS)
        try:
            await asyncio.to_thread(logs.shorten, stderr)
        except OSError as error:
            log.warning("what was said on stderr cannot be shortened: %s", error)


async def _cancel(task: asyncio.Future[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def _stop_on_failure(task: asyncio.Task[None], activity: Activity) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        log.critical("the janitor failed; the engine ends rather than keep sandboxes forever", exc_info=error)
        activity.stop.set()
