"""What the handlers share, kept in the application under one typed key."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from aiohttp import web

from daytona_magics.engine.life.lifecycle import Sandboxes
from daytona_magics.engine.life.sandbox import Sandbox
from daytona_magics.engine.store.folder import StateFolder

if TYPE_CHECKING:
    from daytona_magics.engine.life.activity import Activity
    from daytona_magics.engine.preview.server import Previews


@dataclass
class Context:
    """The running engine as its handlers see it.

    Attributes:
        base_url: ``http://127.0.0.1:PORT``.
        facts: what ``doctor`` shows (shell, why the isolation is not higher, ...).
        previews: the preview listener, None when it could not be opened.
    """

    sandboxes: Sandboxes
    activity: Activity
    folder: StateFolder
    base_url: str
    version: str
    facts: dict[str, object] = field(default_factory=dict)
    previews: Previews | None = None

    @property
    def toolbox_url(self) -> str:
        """Base of the toolbox routes, without the sandbox id."""
        return f"{self.base_url}/toolbox"


SKIP_ACTIVITY = "X-Daytona-Skip-Last-Activity-Update"
CONTEXT = web.AppKey("context", Context)


def context(request: web.Request) -> Context:
    """The engine a request is for."""
    return request.app[CONTEXT]


def sandbox_of(request: web.Request) -> Sandbox:
    """The sandbox named in the path of a request.

    Raises:
        ApiError: 404.
    """
    return context(request).sandboxes.get(request.match_info["sandbox"])


def counts_as_activity(request: web.Request) -> bool:
    """Whether a request shows that somebody uses the sandbox; a probe may say that it does not."""
    return request.headers.get(SKIP_ACTIVITY, "").lower() != "true"


def used(request: web.Request, sandbox: Sandbox) -> AbstractContextManager[None]:
    """While inside, the request keeps the sandbox from being stopped for inactivity."""
    return sandbox.used() if counts_as_activity(request) else nullcontext()
