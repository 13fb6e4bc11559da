"""Starting, stopping and deleting of :class:`~daytona_magics.api_sandbox.Sandbox`, and what ``with`` does."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

from daytona_magics import sandboxes
from daytona_magics.api_waiting import now, soon
from daytona_magics.errors import SandboxError
from daytona_magics.sandboxes.report import Silent

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

    from daytona_magics.sandboxes.binding import Binding


class Life:
    """The life of the sandbox that a tie binds. With ``with`` it is deleted at the end of the block."""

    _tie: Binding

    def start(self) -> None:
        """Make sure it is there and started; a new one is created when there is none."""
        now(self._start())

    async def start_async(self) -> None:
        """:meth:`start`, awaitable."""
        await soon(self._start())

    async def _start(self) -> None:
        await self._tie.ready(Silent())

    def stop(self) -> None:
        """Stop it: variables are lost, files kept. The next use starts it again."""
        now(self._stop())

    async def stop_async(self) -> None:
        """:meth:`stop`, awaitable."""
        await soon(self._stop())

    async def _stop(self) -> None:
        async with self._tie.locked():
            await self._tie.stop(Silent())

    def delete(self) -> None:
        """Delete it with all its files; nothing happens when it is gone."""
        now(self._delete())

    async def delete_async(self) -> None:
        """:meth:`delete`, awaitable."""
        await soon(self._delete())

    async def _delete(self) -> None:
        from daytona_magics.sandboxes import client as sdk

        async with self._tie.locked():
            box = self._tie.sandbox
            if box is None:
                return
            await self._tie.unbind()
            sandboxes.current().beside.pop(box.id, None)
            try:
                await box.delete(timeout=self._tie.config.create_timeout, wait=True)
            except sdk.error_class() as error:
                if not sdk.not_found(error):
                    raise sdk.translate(error, f"deleting {box.name}") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.delete()
        except SandboxError as failed:
            self._kept(failed, error)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self.delete_async()
        except SandboxError as failed:
            self._kept(failed, error)

    def _kept(self, failed: SandboxError, error: BaseException | None) -> None:
        """It could not be deleted; what went wrong in the block is more important than that."""
        if error is None:
            raise failed
        warnings.warn(f"the sandbox was not deleted: {failed}", ResourceWarning, stacklevel=3)
