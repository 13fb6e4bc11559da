"""Running the sandbox's own git: its environment, its time, its output, and how it learns a password.

git is always given a list of words, never a shell's line, and a fixed configuration on top of the user's:
no hooks (the platform runs none either: its git is a library, and where it calls the program it points
``core.hooksPath`` nowhere), no pager, editor, prompt, signing, background maintenance or file monitor, and
only the transports that run no programs. Of the sandbox's environment it gets everything but ``GIT_*``
variables that would redirect it, so proxies work.
"""

# ruff: noqa: ASYNC240 - a sandbox's disk is local, and the toolbox has no threads to wait in.

import asyncio
import contextlib
import os
import shutil
import signal
from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING, NamedTuple

from . import wire
from .agent import Refused
from .git_errors import failure
from .git_login import OPEN, Access, Extras
from .git_names import PROTOCOLS
from .processes import Child, pending
from .wire import ready

if TYPE_CHECKING:
    from .agent import Inside

#: Most bytes of a command's output; what git says on stderr is kept to its last part.
MAX_OUTPUT, _MAX_STDERR = 32 << 20, 64 << 10
#: Seconds a command may take, by what it does.
LOCAL_LIMIT, NETWORK_LIMIT = 600.0, 3600.0
#: Seconds between asking git to end, upon which it removes what is half done, and ending it.
_GRACE = 5.0
_READ = 64 << 10
_CONFIG = {
    "core.hooksPath": "/dev/null",
    "core.fsmonitor": "false",
    "gc.auto": "0",
    "maintenance.auto": "false",
    "submodule.recurse": "false",
    "commit.gpgSign": "false",
    "push.gpgSign": "false",
    "log.showSignature": "false",
    "color.ui": "false",
}
_FIXED = {
    "LC_ALL": "C",
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_ASKPASS": "",
    "GIT_PAGER": "cat",
    "GIT_EDITOR": ":",
    "GIT_SEQUENCE_EDITOR": ":",
    "GIT_ALLOW_PROTOCOL": PROTOCOLS,
    "GIT_LITERAL_PATHSPECS": "1",
}
#: Variables of the sandbox's own environment that may steer git.
_ALLOWED = {
    "GIT_CONFIG_GLOBAL",
    "GIT_CONFIG_NOSYSTEM",
    "GIT_CONFIG_SYSTEM",
    "GIT_EXEC_PATH",
    "GIT_HTTP_LOW_SPEED_LIMIT",
    "GIT_HTTP_LOW_SPEED_TIME",
    "GIT_HTTP_USER_AGENT",
    "GIT_SSH",
    "GIT_SSH_COMMAND",
    "GIT_SSH_VARIANT",
    "GIT_SSL_CAINFO",
    "GIT_SSL_CAPATH",
}
_DROPPED = {"SSH_ASKPASS", "LANGUAGE", "EDITOR", "VISUAL", "PAGER"}


class Output(NamedTuple):
    """How a command ended and what it printed (of ``err`` the last part)."""

    code: int
    out: bytes
    err: bytes


class _Turn:
    """Whose turn it is to change a repository, and how many want one."""

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.users = 0


_turns: dict[str, _Turn] = {}


@contextlib.asynccontextmanager
async def changing(folder: str) -> AsyncIterator[None]:
    """While inside, no other operation changes the repository of `folder` (git would refuse the second)."""
    key = os.path.realpath(folder)
    turn = _turns.setdefault(key, _Turn())
    turn.users += 1
    try:
        async with turn.lock:
            yield
    finally:
        turn.users -= 1
        if not turn.users:
            del _turns[key]


def environment(inside: "Inside") -> dict[str, str]:
    """The sandbox's environment as git gets it."""
    kept = {
        name: value
        for name, value in inside.env.items()
        if name not in _DROPPED and (not name.startswith("GIT_") or name in _ALLOWED)
    }
    # A transfer that stands still for two minutes has failed.
    added = {"GIT_HTTP_LOW_SPEED_LIMIT": "1", "GIT_HTTP_LOW_SPEED_TIME": "120"}
    if "HTTP_PROXY" in kept:
        # The library that git uses reads this one in lower case only.
        added["http_proxy"] = kept["HTTP_PROXY"]
    return {**added, **kept, **_FIXED}


class Git:
    """git in one folder of the sandbox. Without ``git_dir`` it is run outside of any repository."""

    def __init__(self, inside: "Inside", folder: str, git_dir: str | None = None) -> None:
        self._inside = inside
        self.folder = folder
        self.git_dir = git_dir

    def at(self, folder: str) -> "Git":
        """git in the repository of `folder` in the same sandbox."""
        return Git(self._inside, folder, os.path.join(folder, ".git"))

    def variable(self, name: str) -> str:
        """A variable of the sandbox's environment; empty when it is not set."""
        return self._inside.env.get(name, "")

    async def run(
        self,
        *words: str,
        stdin: bytes = b"",
        env: dict[str, str] | None = None,
        access: Access | None = None,
        codes: tuple[int, ...] = (0,),
    ) -> Output:
        """Run ``git WORDS``. With `access` (even an empty one) it is a command that talks to a remote.

        Raises Refused as `git_errors` says when it ends with none of `codes`, 413 when it prints too much,
        502 or 408 when it takes too long, 501 when there is no git. Cancelling ends it.
        """
        program = shutil.which("git", path=self._inside.env.get("PATH"))
        if program is None:
            raise Refused(
                501, "NOT_IMPLEMENTED", "this sandbox has no git; install git on the machine that runs it"
            )
        own = environment(self._inside)
        if self.git_dir is not None:
            own["GIT_DIR"] = self.git_dir
        limit = LOCAL_LIMIT if access is None else NETWORK_LIMIT
        try:
            with Extras(access or OPEN) as extras:
                own.update(extras.env)
                own.update(env or {})
                argv = [program, *_options(), *extras.options, *words]
                done = await _run(self._inside, argv, own, self.folder, stdin, extras, limit)
        except asyncio.TimeoutError:
            if access is None:
                message = f"git {words[0]} was ended after {limit:g} s"
                raise Refused(408, "PROCESS_EXECUTION_TIMEOUT", message) from None
            message = f"the remote did not finish within {limit:g} s"
            raise Refused(502, "GIT_TRANSPORT_FAILED", message) from None
        if done.code not in codes:
            raise failure(f"git {words[0]}", done.err, (access or OPEN).secrets)
        return done

    async def text(self, *words: str, codes: tuple[int, ...] = (0,)) -> str:
        """What ``git WORDS`` prints, without its last line break; empty when it ended with another code."""
        done = await self.run(*words, codes=codes)
        return os.fsdecode(done.out.removesuffix(b"\n")) if done.code == 0 else ""


def _options() -> list[str]:
    return [word for key, value in _CONFIG.items() for word in ("-c", f"{key}={value}")]


@contextlib.contextmanager
def _pipes() -> Iterator[list[int]]:
    """Three pipes' ends, the parent's non-blocking: [stdin read, write, out read, write, err read, write]."""
    fds: list[int] = []
    try:
        for ours in (1, 0, 0):
            pair = os.pipe2(os.O_CLOEXEC)
            fds += pair
            os.set_blocking(pair[ours], False)
        yield fds
    finally:
        wire.close_fds([fd for fd in fds if fd >= 0])


async def _run(
    inside: "Inside",
    argv: list[str],
    env: dict[str, str],
    cwd: str,
    stdin: bytes,
    extras: Extras,
    limit: float,
) -> Output:
    """Start git, feed it, read what it prints and wait for its end. Raises asyncio.TimeoutError."""
    with _pipes() as fds:
        stdio = (fds[0], fds[3], fds[5], *extras.fds)
        child = await inside.children.start(argv, env=env, cwd=cwd, stdio=stdio)
        extras.given()
        for number in (0, 3, 5):
            os.close(fds[number])
            fds[number] = -1
        out, err = _Kept(MAX_OUTPUT, whole=True), _Kept(_MAX_STDERR, whole=False)
        jobs = [
            asyncio.ensure_future(job)
            for job in (_feed(fds, stdin), extras.answer_helper(), _read(fds[4], err, child))
        ]
        try:
            await asyncio.wait_for(_read(fds[2], out, child), limit)
            if not out.overflow:
                await asyncio.wait_for(asyncio.shield(child.exited), limit)
                await jobs[2]
        finally:
            for job in jobs:
                job.cancel()
            await asyncio.gather(*jobs, return_exceptions=True)
            await _end(child)
        if out.overflow:
            message = f"git printed more than {MAX_OUTPUT >> 20} MiB; use a command in the sandbox instead"
            raise Refused(413, "PAYLOAD_TOO_LARGE", message)
        return Output(child.exited.result(), bytes(out.data), bytes(err.data))


async def _end(child: Child) -> None:
    """End git if it still runs: first kindly, so that it removes its locks and what is half cloned."""
    if not child.exited.done():
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGTERM)
        await asyncio.wait({child.exited}, timeout=_GRACE)
        child.kill()


class _Kept:
    """Bytes of an output: all of them up to a limit (``whole``), or the last ones."""

    def __init__(self, limit: int, *, whole: bool) -> None:
        self.data = bytearray()
        self.overflow = False
        self._limit = limit
        self._whole = whole

    def take(self, data: bytes) -> bool:
        """Keep `data`; False when no more is wanted."""
        self.data += data
        self.overflow = self.overflow or len(self.data) > self._limit
        if not self._whole and len(self.data) > 2 * self._limit:
            del self.data[: -self._limit]
        return not (self._whole and self.overflow)


async def _read(fd: int, kept: _Kept, child: Child) -> None:
    """Read `fd` until its end, or until what was written before git's own end."""
    left: int | None = None
    while left is None or left > 0:
        try:
            data = os.read(fd, _READ if left is None else min(_READ, left))
        except BlockingIOError:
            if left is not None:
                return
            await child.readable_or_ended(fd)
        else:
            if not data or not kept.take(data):
                return
            left = None if left is None else left - len(data)
        if left is None and child.exited.done():
            left = pending(fd)


async def _feed(fds: list[int], data: bytes) -> None:
    """Write `data` to git's input and close it."""
    view = memoryview(data)
    try:
        while view:
            try:
                view = view[os.write(fds[1], view) :]
            except BlockingIOError:
                await ready(fds[1], write=True)
    except BrokenPipeError:
        return  # git did not want all of it; its exit code says whether that is an error.
    finally:
        os.close(fds[1])
        fds[1] = -1
