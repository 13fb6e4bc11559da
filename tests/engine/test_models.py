"""Every JSON answer of the engine through the SDK's synchronous and asynchronous models, strictly."""

from __future__ import annotations

import importlib
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from tests.engine_process import IsolatedEngine

API = ("daytona_api_client", "daytona_api_client_async")
TOOLBOX = ("daytona_toolbox_api_client", "daytona_toolbox_api_client_async")

# (method, path below /api or /toolbox/ID, body, status, clients, model); in this order, on one sandbox.
ANSWERS: list[tuple[str, str, Any, int, tuple[str, str], str]] = [
    ("GET", "/health", None, 200, API, "HealthControllerCheck200Response"),
    ("GET", "/config", None, 200, API, "DaytonaConfiguration"),
    ("GET", "/regions", None, 200, API, "[Region]"),
    ("GET", "/shared-regions", None, 200, API, "[Region]"),
    ("GET", "/sandbox", None, 200, API, "ListSandboxesResponse"),
    ("GET", "/sandbox?limit=1", None, 200, API, "ListSandboxesResponse"),
    ("GET", "/sandbox/ID", None, 200, API, "Sandbox"),
    ("GET", "/sandbox/ID/toolbox-proxy-url", None, 200, API, "ToolboxProxyUrl"),
    ("PUT", "/sandbox/ID/labels", {"labels": {"a": "b"}}, 200, API, "SandboxLabels"),
    ("POST", "/sandbox/ID/autostop/30", None, 200, API, "Sandbox"),
    ("POST", "/sandbox/ID/autoarchive/30", None, 200, API, "Sandbox"),
    ("POST", "/sandbox/ID/autodelete/-1", None, 200, API, "Sandbox"),
    ("POST", "/sandbox/ID/autopause/0", None, 200, API, "Sandbox"),
    ("POST", "/sandbox/ID/ttl/5", None, 200, API, "Sandbox"),
    ("POST", "/sandbox/ID/public/true", None, 200, API, "Sandbox"),
    ("POST", "/sandbox/ID/last-activity", None, 201, API, ""),
    ("GET", "/work-dir", None, 200, TOOLBOX, "WorkDirResponse"),
    ("GET", "/user-home-dir", None, 200, TOOLBOX, "UserHomeDirResponse"),
    ("GET", "/version", None, 200, TOOLBOX, "{str}"),
    ("POST", "/init", {"token": ""}, 400, TOOLBOX, "ErrorResponse"),
    ("POST", "/process/execute", {"command": "echo"}, 200, TOOLBOX, "ExecuteResponse"),
    ("POST", "/process/code-run", {"code": "1", "language": "python"}, 200, TOOLBOX, "CodeRunResponse"),
    ("POST", "/files/folder?path=f&mode=755", None, 201, TOOLBOX, ""),
    ("GET", "/files?path=.", None, 200, TOOLBOX, "[FileInfo]"),
    ("GET", "/files/info?path=f", None, 200, TOOLBOX, "FileInfo"),
    ("POST", "/files/upload-v2?path=u", "raw", 200, TOOLBOX, "UploadedFile"),
    ("DELETE", "/files?path=f&recursive=true", None, 204, TOOLBOX, ""),
    ("GET", "/files/info?path=gone", None, 404, TOOLBOX, "ErrorResponse"),
    ("POST", "/process/execute", {"command": ""}, 400, TOOLBOX, "ErrorResponse"),
    ("POST", "/process/pty", {"id": "p"}, 201, TOOLBOX, "PtyCreateResponse"),
    ("POST", "/process/pty", {"id": "p"}, 409, TOOLBOX, "ErrorResponse"),
    ("GET", "/process/pty", None, 200, TOOLBOX, "PtyListResponse"),
    ("GET", "/process/pty/p", None, 200, TOOLBOX, "PtySessionInfo"),
    ("POST", "/process/pty/p/resize", {"cols": 5, "rows": 6}, 200, TOOLBOX, "PtySessionInfo"),
    ("POST", "/process/pty/p/resize", {"cols": 1001, "rows": 6}, 400, TOOLBOX, "ErrorResponse"),
    ("DELETE", "/process/pty/p", None, 200, TOOLBOX, "{str}"),
    ("GET", "/lsp/symbols", None, 501, TOOLBOX, "ErrorResponse"),
    ("POST", "/sandbox/ID/stop", None, 200, API, "Sandbox"),
    ("POST", "/sandbox/ID/resize", {"cpu": 1}, 200, API, "Sandbox"),
    ("POST", "/sandbox/ID/start", None, 200, API, "Sandbox"),
    ("DELETE", "/sandbox/ID", None, 200, API, "Sandbox"),
]


@pytest.fixture
async def http(engine: IsolatedEngine) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {engine.key}"}) as session:
        yield session


def _parse(clients: tuple[str, str], model: str, value: Any) -> None:
    for client in clients:
        module = importlib.import_module(client)
        if model == "{str}":
            assert all(isinstance(v, str) for v in value.values())
        elif model.startswith("["):
            assert value
            for item in value:
                _strict(getattr(module, model[1:-1]), item)
        else:
            _strict(getattr(module, model), value)


def _strict(model: Any, value: dict[str, Any]) -> None:
    parsed = model.from_dict(value)
    # Unknown values of an enumeration are swallowed by the models; here they are mistakes.
    assert "unknown_default_open_api" not in parsed.to_json() or value.get("statusCode") == 501
    sent_back = parsed.to_dict()
    for key, sent in value.items():
        if sent is not None and sent != "NOT_IMPLEMENTED":
            assert sent_back[key] == sent or key in ("items", "sessions", "artifacts", "info", "details"), key


async def test_every_answer_parses(engine: IsolatedEngine, http: aiohttp.ClientSession) -> None:
    wanted = {"name": "models", "env": {"A": "1"}}
    async with http.post(f"{engine.url}/api/sandbox", json=wanted) as answer:
        made = await answer.json()
    _parse(API, "Sandbox", made)
    assert made["state"] == "started"
    for method, path, body, status, clients, model in ANSWERS:
        base = f"{engine.url}/api" if clients is API else f"{engine.url}/toolbox/{made['id']}"
        sent = {"data": body} if isinstance(body, str) else {"json": body} if body is not None else {}
        async with http.request(method, base + path.replace("ID", made["id"]), **sent) as answer:
            assert answer.status == status, f"{method} {path}: {await answer.text()}"
            if not model:
                assert await answer.read() == b""
                continue
            assert answer.content_type == "application/json"
            _parse(clients, model, await answer.json())


async def test_failed_uploads_parse(
    engine: IsolatedEngine, http: aiohttp.ClientSession, sandbox: Any
) -> None:
    form = aiohttp.FormData()
    form.add_field("files[0].path", "/proc/nope")
    form.add_field("files[0].file", b"x", filename="x")
    async with http.post(f"{engine.url}/toolbox/{sandbox.id}/files/bulk-upload", data=form) as answer:
        body = await answer.json()
    assert answer.status >= 400
    assert len(body["errors"]) == 1
    for client in TOOLBOX:
        assert importlib.import_module(client).UploadFilesResponse.from_dict(body).errors == body["errors"]


async def test_every_route_is_among_the_answers(engine: IsolatedEngine) -> None:
    """A route that is added must be added to the table above, or named here with the test that has it."""
    from aiohttp.web import RouteDef

    from daytona_magics.engine.api import (
        files,
        interpreter,
        platform,
        ports,
        previews,
        process,
        pty,
        sandboxes,
        searching,
        sessions,
        signing,
    )

    elsewhere = {
        ("POST", "/api/sandbox"),  # above
        ("GET", "/api/engine/status"),  # not the platform's
        ("POST", "/api/engine/stop"),
        ("POST", "/toolbox/{sandbox}/files/bulk-upload"),
        ("POST", "/toolbox/{sandbox}/files/bulk-download"),  # test_toolbox_routes
        ("GET", "/toolbox/{sandbox}/files/download"),
        ("GET", "/toolbox/{sandbox}/process/pty/create-connect"),  # test_pty
        ("GET", "/toolbox/{sandbox}/process/pty/{session}/connect"),
        # test_sessions, test_interpreter, test_ports, test_previews, test_searching, test_signing
        *(
            (route.method, route.path)
            for module in (sessions, interpreter, ports, previews, searching, signing)
            for route in module.routes
            if isinstance(route, RouteDef)
        ),
    }
    tested = {(method, _shape(path, clients)) for method, path, _, _, clients, _ in ANSWERS}
    for module in (platform, sandboxes, process, files, pty):
        for route in module.routes:
            if (route.method, route.path) not in elsewhere:
                shape = route.path
                for name in ("interval", "minutes", "flag", "session"):
                    shape = shape.replace(f"{{{name}}}", "*")
                assert (route.method, shape) in tested, f"{route.method} {route.path}"


def _shape(path: str, clients: tuple[str, str]) -> str:
    parts = path.partition("?")[0].split("/")
    for n, part in enumerate(parts):
        if part == "ID":
            parts[n] = "{sandbox}"
        elif n and (parts[n - 1] in ("ttl", "public", "pty") or parts[n - 1].startswith("auto")):
            parts[n] = "*"
    return ("/api" if clients is API else "/toolbox/{sandbox}") + "/".join(parts)
