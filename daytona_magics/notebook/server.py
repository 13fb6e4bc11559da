"""What ``%sandbox serve`` leaves in the notebook: a card of the server, and a handle for programs."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from daytona_magics.notebook.card import Card
from daytona_magics.notebook.job import Job, length
from daytona_magics.notebook.status import wait
from daytona_magics.sandboxes import serving

if TYPE_CHECKING:
    from daytona_magics.sandboxes.binding import Binding
    from daytona_magics.sandboxes.report import Reporter


class Server:
    """A server in the sandbox.

    In:  server = _          # after %sandbox serve --port 3000 python -m http.server 3000
         server.running, server.port
    Out: (True, 3000)

    Attributes:
        name: as it was given, "" for none.
        port: where it listens.
        command: what runs.
        status: HTTP status of its first answer; None when nobody has asked.
        job: it, as a background job: its output, waiting for its end.
    """

    def __init__(self, binding: Binding, known: serving.Server) -> None:
        self._known = known
        self.name, self.port, self.command, self.status = known.name, known.port, known.command, known.status
        self.job = Job(binding, known.look)

    @property
    def running(self) -> bool:
        """Whether it has not ended; asks the sandbox."""
        return not self.job.done()

    @property
    def label(self) -> str:
        """It in a few words."""
        return self._known.label

    def stop(self) -> None:
        """End it and what it started. Ended already is as good."""
        if self.running:
            self.job.cancel()

    @property
    def state(self) -> str:
        """ "running", or how it ended; as last seen."""
        return "stopped" if self.job.state == "ok" else self.job.state

    def row(self) -> tuple[str, ...]:
        """Its line in a list."""
        look = self._known.look
        return (self.name, str(self.port), self.state, length(look.seconds), self.job.id, self.command)

    def _card(self) -> Card:
        foot = [f"`%sandbox logs -f {self.job.id}` · `%sandbox serve --stop {self.port}`"]
        if self.state == "running":
            foot.insert(0, f"`%sandbox preview {self.port}` shows it.")
        facts = [
            ("name", self.name),
            ("port", self.port),
            ("command", self.command),
            ("answered", f"HTTP {self.status}" if self.status else ""),
            ("job", self.job.id),
            ("note", "It was running already." if self._known.reused else ""),
        ]
        return Card("Server in the sandbox", facts, self.state, foot)

    def __repr__(self) -> str:
        return repr(self._card())

    def _repr_html_(self) -> str:
        return self._card()._repr_html_()


def stop(binding: Binding, what: str) -> Server:
    """End the server with this name or port.

    Raises:
        SandboxUsageError: there is none.
    """

    async def end(tell: Reporter) -> serving.Server:
        from daytona_magics.sandboxes import jobs

        channel = await jobs.here(binding, tell)
        known = await serving.find(channel, what)
        if known.running:
            await serving.stop(channel, known)
        return replace(known, look=await channel.look(known.look.id))

    known = wait(end, f"ending {what}", cancelled="it may be running on: `%sandbox serve --list`")
    return Server(binding, known)
