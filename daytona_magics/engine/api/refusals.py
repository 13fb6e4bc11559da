"""Routes of the platform that this engine cannot serve: each answers with one honest sentence.

The table names the routes one by one, so that a route nobody thought of is still told apart from a refused
one. A refusal is status 501 in the platform's error shape; the sentence says what cannot be done here and
what to do instead. Where a route names a sandbox that does not exist, the answer is the usual 404.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import NamedTuple

from aiohttp import web

from daytona_magics.engine.api.context import sandbox_of
from daytona_magics.engine.api.models import SNAPSHOTS
from daytona_magics.engine.errors import ApiError

_CLOUD = "the Daytona cloud (set DAYTONA_API_KEY)"


class Refusal(NamedTuple):
    """One family of routes.

    Attributes:
        family: its name, as the platform's documentation has it.
        sentence: what a client is told.
        routes: ``METHOD path`` of each route.
    """

    family: str
    sentence: str
    routes: tuple[str, ...]


REFUSALS = (
    Refusal(
        "snapshots",
        "the embedded engine of this version cannot build or keep snapshots: create sandboxes from "
        f"{', '.join(SNAPSHOTS)}, or use {_CLOUD}",
        (
            "GET /api/snapshots",
            "POST /api/snapshots",
            "GET /api/snapshots/{id}",
            "DELETE /api/snapshots/{id}",
            "POST /api/snapshots/{id}/activate",
            "POST /api/snapshots/{id}/deactivate",
            "GET /api/snapshots/{id}/build-logs-url",
            "POST /api/sandbox/{sandbox}/snapshot",
        ),
    ),
    Refusal(
        "volumes",
        "the embedded engine of this version has no volumes: copy files with fs.upload_files and "
        f"fs.download_files, or use {_CLOUD}",
        (
            "GET /api/volumes",
            "POST /api/volumes",
            "GET /api/volumes/{id}",
            "DELETE /api/volumes/{id}",
            "GET /api/volumes/by-name/{name}",
        ),
    ),
    Refusal(
        "secrets",
        "the embedded engine of this version keeps no secrets: pass env_vars to create() if the sandbox may "
        f"read their values, or use {_CLOUD}",
        (
            "GET /api/secret",
            "GET /api/secret/paginated",
            "POST /api/secret",
            "GET /api/secret/{id}",
            "PATCH /api/secret/{id}",
            "DELETE /api/secret/{id}",
            "PUT /api/sandbox/{sandbox}/secrets",
        ),
    ),
    Refusal(
        "SSH",
        "the embedded engine of this version opens no SSH: use process.create_pty_session for a terminal, or "
        f"use {_CLOUD}",
        (
            "POST /api/sandbox/{sandbox}/ssh-access",
            "DELETE /api/sandbox/{sandbox}/ssh-access",
            "GET /api/sandbox/ssh-access/validate",
        ),
    ),
    Refusal(
        "warm pools",
        "the embedded engine keeps no warm pools, because it makes a sandbox in well under a second: call "
        "create()",
        (
            "GET /api/warm-pools",
            "POST /api/warm-pools",
            "PATCH /api/warm-pools/{id}",
            "DELETE /api/warm-pools/{id}",
        ),
    ),
    Refusal(
        "object-storage push",
        "the embedded engine has no object storage to push a build context to: upload the files to a sandbox "
        f"with fs.upload_files, or use {_CLOUD}",
        ("GET /api/object-storage/push-access",),
    ),
    Refusal(
        "private registries",
        f"the embedded engine pulls no images, so it keeps no logins of registries: use {_CLOUD}",
        (
            "GET /api/docker-registry",
            "POST /api/docker-registry",
            "GET /api/docker-registry/registry-push-access",
            "GET /api/docker-registry/{id}",
            "PATCH /api/docker-registry/{id}",
            "DELETE /api/docker-registry/{id}",
        ),
    ),
    Refusal(
        "language servers",
        "the embedded engine of this version starts no language servers: run one as a command of a session "
        f"(process.create_session), or use {_CLOUD}",
        (
            "POST /toolbox/{sandbox}/lsp/start",
            "POST /toolbox/{sandbox}/lsp/stop",
            "POST /toolbox/{sandbox}/lsp/did-open",
            "POST /toolbox/{sandbox}/lsp/did-close",
            "POST /toolbox/{sandbox}/lsp/completions",
            "GET /toolbox/{sandbox}/lsp/document-symbols",
            "GET /toolbox/{sandbox}/lsp/workspacesymbols",
        ),
    ),
    Refusal(
        "desktop",
        "sandboxes of the embedded engine of this version have no desktop, so there is no mouse, keyboard, "
        f"screen or recording: run a headless browser in the sandbox, or use {_CLOUD}",
        tuple(
            f"{method} /toolbox/{{sandbox}}/computeruse/{path}"
            for method, paths in {
                "GET": (
                    "a11y/tree display/info display/windows mouse/position process-status status "
                    "process/{name}/errors process/{name}/logs process/{name}/status "
                    "recordings recordings/{id} recordings/{id}/download "
                    "screenshot screenshot/compressed screenshot/region screenshot/region/compressed"
                ),
                "POST": (
                    "a11y/find a11y/node/focus a11y/node/invoke a11y/node/value "
                    "keyboard/down keyboard/hotkey keyboard/key keyboard/type keyboard/up "
                    "mouse/click mouse/down mouse/drag mouse/move mouse/scroll mouse/up "
                    "process/{name}/restart recordings/start recordings/stop start stop"
                ),
                "DELETE": "recordings/{id}",
            }.items()
            for path in paths.split()
        ),
    ),
)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def _refusing(sentence: str) -> Handler:
    async def refuse(request: web.Request) -> web.StreamResponse:
        if "sandbox" in request.match_info:
            sandbox_of(request)
        raise ApiError(501, sentence)

    return refuse


routes = [
    web.RouteDef(method, path, _refusing(refusal.sentence), {})
    for refusal in REFUSALS
    for method, _, path in (route.partition(" ") for route in refusal.routes)
]
