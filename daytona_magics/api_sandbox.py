"""One sandbox as a Python object; each method with an awaitable twin of the same work.

The work is a coroutine of the package's loop thread, where the SDK's objects and the channels live. The plain
method waits for it, the twin awaits it on whatever loop its caller runs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, TypeVar

from daytona_magics.api_life import Life
from daytona_magics.api_waiting import now, soon
from daytona_magics.errors import SandboxError, SandboxUsageError
from daytona_magics.sandboxes.report import Silent, state_of

if TYPE_CHECKING:
    from daytona import AsyncSandbox

    from daytona_magics.notebook.collecting import OnOutput
    from daytona_magics.notebook.outcome import CellOutput
    from daytona_magics.runtime.events import Variables
    from daytona_magics.sandboxes.binding import Binding

T = TypeVar("T")

#: Languages of :meth:`Sandbox.run`: the first two keep their state from run to run.
LANGUAGES = ("python", "bash", "fresh", "node", "ts", "ruby", "R", "perl")
#: Bytes of a file that :meth:`Sandbox.read` returns at most, unless told otherwise.
READ_LIMIT = 64 << 20


class Sandbox(Life):
    """A sandbox. Made by :func:`current`, :func:`create`, :func:`use` and :func:`get`.

    Args:
        tie: what binds it; for the current one, the notebook's, which may be bound to another one later.
    """

    def __init__(self, tie: Binding) -> None:
        self._tie = tie

    def __repr__(self) -> str:
        box = self._tie.sandbox
        return "<Sandbox: none yet>" if box is None else f"<Sandbox {box.name}, {state_of(box)}>"

    # -- what it is ----------------------------------------------------------------------------------------

    @property
    def sandbox(self) -> AsyncSandbox:
        """The SDK's own object, whose coroutines belong to the loop thread: see :meth:`wait`.

        Raises:
            SandboxError: there is none yet; the first :meth:`run` makes one.
        """
        return self._tie.bound()

    @property
    def id(self) -> str:
        """Its id at the endpoint."""
        return str(self.sandbox.id)

    @property
    def name(self) -> str:
        """Its name."""
        return str(self.sandbox.name)

    @property
    def state(self) -> str:
        """Its state when it was last asked for: "started", "stopped", ..."""
        return state_of(self.sandbox)

    def wait(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine of the SDK's object to its end.

        In:  box.wait(box.sandbox.fs.list_files("."))
        """
        return now(work)

    async def wait_async(self, work: Coroutine[Any, Any, T]) -> T:
        """:meth:`wait`, awaitable."""
        return await soon(work)

    # -- code ----------------------------------------------------------------------------------------------

    def run(
        self,
        code: str,
        *,
        language: str = "python",
        timeout: float | None = None,
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
        context: str = "",
        argv: tuple[str, ...] = (),
        check: bool = True,
        on_output: OnOutput | None = None,
    ) -> CellOutput:
        """Run code, as a ``%%sandbox`` cell does, and keep its output.

        Args:
            code: the program.
            language: one of :data:`LANGUAGES`.
            timeout: seconds until it is stopped; None for the setting ``timeout``, 0 for no limit.
            cwd: folder to run in; None for the context's current folder.
            env: environment variables for this run.
            context: whose variables it sees; "" for those of the notebook's cells.
            argv: words for bash, "fresh" and other programs.
            check: raise what it raised; otherwise that is the outcome's ``error``.
            on_output: called with "stdout" or "stderr" and a piece of text as it comes, on another thread.

        Returns:
            ``stdout``, ``stderr``, ``result`` (the last expression), ``displays``, ``error``, ``exit_code``.

        Raises:
            RemoteError, ExitCodeError, CellTimeout, WorkerDied: it failed in the sandbox, and ``check``.
            SandboxError: there is no way to the sandbox. Nothing is ever run on this machine instead.
            KeyboardInterrupt: pressed; the code was interrupted.

        In:  current().run("print('out'); 40 + 2").result
        Out: 42
        """
        return now(self._run(code, language, timeout, cwd, env, context, argv, check, on_output))

    async def run_async(
        self,
        code: str,
        *,
        language: str = "python",
        timeout: float | None = None,
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
        context: str = "",
        argv: tuple[str, ...] = (),
        check: bool = True,
        on_output: OnOutput | None = None,
    ) -> CellOutput:
        """:meth:`run`, awaitable; cancelled, it interrupts the code before it is over."""
        return await soon(self._run(code, language, timeout, cwd, env, context, argv, check, on_output))

    async def _run(
        self,
        code: str,
        language: str,
        timeout: float | None,
        cwd: str | None,
        env: Mapping[str, str] | None,
        context: str,
        argv: tuple[str, ...],
        check: bool,
        on_output: OnOutput | None,
    ) -> CellOutput:
        from daytona_magics.notebook.collecting import collect
        from daytona_magics.runtime.records import ExecRequest, new_id

        if language not in LANGUAGES:
            raise SandboxUsageError(f"language is one of {', '.join(LANGUAGES)}, not {language!r}")
        channel = await self._tie.ready(Silent())
        request = ExecRequest(
            id=new_id(),
            context=context or self._tie.context,
            language=language,
            code=code,
            name="run",
            cwd=cwd,
            env={**self._tie.env, **(env or {})},
            timeout=self._tie.config.timeout if timeout is None else timeout,
            argv=("", *argv) if language == "fresh" else argv,
        )
        outcome, _ = await collect(self._tie, channel, request, on_output)
        if check and outcome.error is not None:
            raise outcome.error
        return outcome

    # -- variables -----------------------------------------------------------------------------------------

    def push(self, **values: Any) -> None:
        """Set Python variables in the sandbox.

        Args:
            values: plain Python values, bytes, arrays, frames, images.

        Raises:
            SandboxError: one cannot be carried exactly and safely; none was set.
        """
        now(self._push(values))

    async def push_async(self, **values: Any) -> None:
        """:meth:`push`, awaitable."""
        await soon(self._push(values))

    async def _push(self, values: dict[str, Any]) -> None:
        from daytona_magics.runtime.variables import CannotCarry, pack
        from daytona_magics.sandboxes import variables

        try:
            package = pack(values)
        except CannotCarry as error:
            raise SandboxError(f"push: {error}") from None
        channel = await self._tie.ready(Silent())
        inputs = await variables.send(self._tie, Silent(), package)
        await self._carry(channel, variables.asked(self._tie.bound(), inputs, [], False))

    def pull(self, *names: str) -> Any:
        """Python variables of the sandbox: the value of one name, a tuple for several.

        Raises:
            SandboxError: there is no such variable, or it cannot be carried exactly and safely.
        """
        return now(self._pull(names))

    async def pull_async(self, *names: str) -> Any:
        """:meth:`pull`, awaitable."""
        return await soon(self._pull(names))

    async def _pull(self, names: tuple[str, ...]) -> Any:
        from daytona_magics.sandboxes import variables

        wrong = next((name for name in names if not name.isidentifier()), None)
        if wrong is not None or not names:
            raise SandboxUsageError(f"pull: {wrong!r} is not a variable name" if names else "pull: name one")
        channel = await self._tie.ready(Silent())
        wanted = [[name, name] for name in dict.fromkeys(names)]
        given = await self._carry(channel, variables.asked(self._tie.bound(), None, wanted, False))
        if given is None:
            raise SandboxError("the sandbox did not send the variables it was asked for")
        found = await variables.fetch(self._tie, Silent(), given, set(names))
        return found[names[0]] if len(names) == 1 else tuple(found[name] for name in names)

    async def _carry(self, channel: Any, carried: dict[str, Any]) -> Variables | None:
        from daytona_magics.notebook.collecting import collect
        from daytona_magics.runtime.records import ExecRequest, new_id

        request = ExecRequest(
            new_id(), self._tie.context, "python", code="", name="variables", variables=carried
        )
        outcome, given = await collect(self._tie, channel, request)
        if getattr(outcome.error, "ename", "") == "TransferError":
            text = str(getattr(outcome.error, "evalue", ""))
            raise SandboxError(text.partition(": ")[2] if text.startswith(("-i: ", "-o: ")) else text)
        if outcome.error is not None:
            raise outcome.error
        return given

    # -- files ---------------------------------------------------------------------------------------------

    def upload(self, local: str | Path, remote: str = "~") -> str:
        """Copy a file into the sandbox.

        Args:
            remote: a file, or a folder when it is one or ends in "/".

        Returns:
            its path there.
        """
        return now(self._upload(Path(local), remote))

    async def upload_async(self, local: str | Path, remote: str = "~") -> str:
        """:meth:`upload`, awaitable."""
        return await soon(self._upload(Path(local), remote))

    async def _upload(self, local: Path, remote: str) -> str:
        from daytona_magics.sandboxes import files

        if not await asyncio.to_thread(local.is_file):
            raise SandboxUsageError(f"upload: there is no file {str(local)!r} on this machine")
        return (await files.upload(self._tie, Silent(), [local], remote))[0][0]

    def download(self, remote: str, local: str | Path = ".") -> Path:
        """Copy a file out of the sandbox; it appears complete or not at all.

        Args:
            local: a file, or a folder that exists; a file that exists is replaced.

        Returns:
            where it is.
        """
        return now(self._download(remote, Path(local)))

    async def download_async(self, remote: str, local: str | Path = ".") -> Path:
        """:meth:`download`, awaitable."""
        return await soon(self._download(remote, Path(local)))

    async def _download(self, remote: str, local: Path) -> Path:
        from daytona_magics.sandboxes import files

        inside = await asyncio.to_thread(local.is_dir)
        target = local / PurePosixPath(remote).name if inside else local
        await files.download(self._tie, Silent(), remote, target)
        return target

    def read(self, path: str, *, limit: int = READ_LIMIT) -> bytes:
        """The content of a file of the sandbox.

        Raises:
            SandboxError: it does not exist, or has more than ``limit`` bytes.
        """
        return now(self._read(path, limit))

    async def read_async(self, path: str, *, limit: int = READ_LIMIT) -> bytes:
        """:meth:`read`, awaitable."""
        return await soon(self._read(path, limit))

    async def _read(self, path: str, limit: int) -> bytes:
        from daytona_magics.sandboxes import files

        return await files.read(self._tie, Silent(), path, limit=limit)

    def write(self, path: str, data: bytes | str) -> None:
        """Write a file of the sandbox; text as UTF-8. Its folder must exist."""
        now(self._write(path, data))

    async def write_async(self, path: str, data: bytes | str) -> None:
        """:meth:`write`, awaitable."""
        await soon(self._write(path, data))

    async def _write(self, path: str, data: bytes | str) -> None:
        from daytona_magics.sandboxes import files

        box = await self._tie.usable(Silent())
        content = data.encode() if isinstance(data, str) else data
        where = await files.remote_path(box, path)
        await files.asked(path, box.fs.upload_file(content, where))

    # -- life ----------------------------------------------------------------------------------------------

    def preview_pattern(self) -> str:
        """The address of what the sandbox serves, with ``{PORT}`` for the port: for an agent's instructions.

        In:  box.preview_pattern()
        Out: 'http://{PORT}-3f9c2a.localhost:41000/'

        Whoever opens it needs the token of ``box.sandbox.get_preview_link(port)`` in the header
        ``x-daytona-preview-token``, unless the sandbox is public.
        """
        return now(self._preview_pattern())

    async def preview_pattern_async(self) -> str:
        """:meth:`preview_pattern`, awaitable."""
        return await soon(self._preview_pattern())

    async def _preview_pattern(self) -> str:
        from daytona_magics.sandboxes import previewing

        return await previewing.pattern(await self._tie.usable(Silent()))

    def system_prompt(self, base: str = "") -> str:
        """Instructions for an agent of this process whose commands run in the sandbox.

        Args:
            base: its own. The line ``Current working directory:`` is replaced by the sandbox's folder and id;
                in a repository it is told to commit, and not to push.

        In:  box.system_prompt("You are helpful.\\nCurrent working directory: /home/me")
        Out: 'You are helpful.\\nCurrent working directory: /home/daytona (in Daytona sandbox 3f9c2a…)\\n'
        """
        return now(self._system_prompt(base))

    async def system_prompt_async(self, base: str = "") -> str:
        """:meth:`system_prompt`, awaitable."""
        return await soon(self._system_prompt(base))

    async def _system_prompt(self, base: str) -> str:
        from daytona_magics.git import briefing

        return await briefing.system_prompt(self._tie, base)
