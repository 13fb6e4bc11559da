"""File routes of the toolbox.  Every path is resolved inside the sandbox, so none can leave it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from email.message import Message
from pathlib import PurePosixPath
from typing import Any

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from daytona_magics.engine.api import straight
from daytona_magics.engine.api.context import context, sandbox_of, used
from daytona_magics.engine.api.errors import as_api_error, error_body, json_body
from daytona_magics.engine.api.models import whole
from daytona_magics.engine.api.multipart import CHUNK, Form, MultipartResponse, content_disposition
from daytona_magics.engine.errors import ApiError
from daytona_magics.engine.toolbox.client import Download, FileInfo, Toolbox, ToolboxError

routes = web.RouteTableDef()

FILES = "/toolbox/{sandbox}/files"
#: Entries of a listing that are written at once.
LISTING_PART = 500


def file_json(info: FileInfo) -> dict[str, Any]:
    """A file as the SDK's ``FileInfo`` reads it."""
    return {
        "name": info.name,
        "path": str(PurePosixPath(info.path)),
        "isDir": info.is_dir,
        "size": info.size,
        "mode": info.mode,
        "permissions": info.permissions,
        "modTime": info.mod_time,
        "modifiedAt": info.mod_time,
        "owner": info.owner,
        "group": info.group,
    }


def _path(request: web.Request, default: str | None = None) -> str:
    path = request.query.get("path") or default
    if path is None:
        raise ApiError(400, "path is required", "INVALID_FILE_PATH")
    return clean_path(path)


def clean_path(path: object) -> str:
    """`path` as a client sent it, if it can be one. Raises ApiError 400."""
    if not isinstance(path, str) or not path or "\0" in path:
        raise ApiError(400, "a path is a text without NUL", "INVALID_FILE_PATH")
    try:
        path.encode()
    except UnicodeEncodeError as error:
        raise ApiError(400, "a path must be valid Unicode", "INVALID_FILE_PATH") from error
    return path


@routes.get(FILES)
async def list_files(request: web.Request) -> web.StreamResponse:
    """The entries of a folder, ``depth`` levels deep."""
    sandbox = sandbox_of(request)
    depth = whole(request.query.get("depth", "1"), "depth", 1)
    with used(request, sandbox):
        found = await sandbox.toolbox.list_files(_path(request, "."), depth)
        return await send_listing(request, found)


async def send_listing(request: web.Request, found: list[FileInfo]) -> web.StreamResponse:
    """The JSON array of ``found``; a long one in parts, between which other requests are served."""
    if len(found) <= LISTING_PART:
        return web.json_response([file_json(info) for info in found])
    response = web.StreamResponse(headers={"Content-Type": "application/json; charset=utf-8"})
    await response.prepare(request)
    for start in range(0, len(found), LISTING_PART):
        part = json.dumps([file_json(info) for info in found[start : start + LISTING_PART]])
        await response.write((("," if start else "[") + part[1:-1]).encode())
        await asyncio.sleep(0)
    await response.write(b"]")
    await response.write_eof()
    return response


@routes.get(f"{FILES}/info")
async def file_info(request: web.Request) -> web.Response:
    """One file or folder."""
    sandbox = sandbox_of(request)
    with used(request, sandbox):
        return web.json_response(file_json(await sandbox.toolbox.file_info(_path(request))))


@routes.post(f"{FILES}/folder")
async def create_folder(request: web.Request) -> web.Response:
    """Make a folder and its parents."""
    sandbox = sandbox_of(request)
    with used(request, sandbox):
        await sandbox.toolbox.create_folder(_path(request), request.query.get("mode") or "755")
    return web.Response(status=201)


@routes.delete(FILES)
async def delete_file(request: web.Request) -> web.Response:
    """Delete a file, or with ``recursive`` a folder."""
    sandbox = sandbox_of(request)
    recursive = request.query.get("recursive", "").lower() in ("true", "1")
    with used(request, sandbox):
        await sandbox.toolbox.delete_file(_path(request), recursive)
    return web.Response(status=204)


@routes.post(f"{FILES}/bulk-upload")
async def bulk_upload(request: web.Request) -> web.Response:
    """Fields ``files[i].path`` and then ``files[i].file``; the path field names the destination.

    A file that cannot be written does not stop the others; the answer then is ≥ 400 with ``errors``.
    """
    sandbox = sandbox_of(request)
    toolbox, limiter = sandbox.toolbox, context(request).sandboxes.limiter
    paths: dict[str, str] = {}
    written: list[dict[str, Any]] = []
    failures: list[ApiError] = []
    with used(request, sandbox), _form_errors():
        form = _form(request)
        while (name := await form.next()) is not None:
            index, _, field = name.partition("].")
            if field == "path":
                paths[index] = (await form.field()).decode("utf-8", "surrogateescape")
            elif field == "file":
                try:
                    path = clean_path(paths.get(index))
                    chunks = limiter.counted(sandbox.record.id, form.pieces())
                    written.append({"path": path, "bytes": await toolbox.upload(path, chunks)})
                except (ToolboxError, ApiError) as error:
                    known = as_api_error(error)
                    known.message = f"{paths.get(index, name)}: {known.message}"
                    failures.append(known)
    if failures:
        body = {**error_body(request, failures[0]), "errors": [f.message for f in failures], "files": written}
        return web.json_response(body, status=failures[0].status)
    return web.json_response({"files": written, "errors": []})


@routes.post(f"{FILES}/upload-v2")
async def upload(request: web.Request) -> web.Response:
    """One file to ``path``: the field ``file`` of a form, or the raw body."""
    sandbox = sandbox_of(request)
    path = _path(request)
    limiter = context(request).sandboxes.limiter
    with used(request, sandbox):
        if straight.wanted(request):
            await straight.upload(request, sandbox.record.id, sandbox.toolbox, limiter, path)
        else:
            chunks = limiter.counted(sandbox.record.id, _single_body(request))
            await sandbox.toolbox.upload(path, chunks)
    return web.json_response({"name": path.rpartition("/")[2], "path": path, "type": "file"})


async def _single_body(request: web.Request) -> AsyncIterator[memoryview]:
    if not request.content_type.startswith("multipart/"):
        async for chunk in request.content.iter_chunked(CHUNK):
            yield memoryview(chunk)
        return
    with _form_errors():
        form = _form(request)
        while (name := await form.next()) is not None:
            if name == "file":
                async for piece in form.pieces():
                    yield piece
                return
    raise ApiError(400, "the form has no field 'file'")


def _form(request: web.Request) -> Form:
    """The body as a form. Raises ValueError."""
    head = Message()
    head["Content-Type"] = request.headers.get("Content-Type", "")
    if not head.get_content_type().startswith("multipart/"):
        raise ValueError("its Content-Type is not multipart/form-data")
    return Form(request.content, str(head.get_boundary("")))


@contextmanager
def _form_errors() -> Iterator[None]:
    """Refuse with 400 a form that cannot be read."""
    try:
        yield
    except (ValueError, HttpProcessingError) as error:
        raise ApiError(
            400, f"the request body is not a multipart form: {error}", "INVALID_REQUEST_BODY"
        ) from error


@routes.post(f"{FILES}/bulk-download")
async def bulk_download(request: web.Request) -> web.StreamResponse:
    """Files as the parts of a multipart answer, each a ``file`` or an ``error``."""
    sandbox = sandbox_of(request)
    paths = (await json_body(request)).get("paths")
    if not isinstance(paths, list) or not paths:
        raise ApiError(400, "paths must be a list of at least one path")
    cleaned = [clean_path(path) for path in paths]
    with used(request, sandbox):
        toolbox = sandbox.toolbox
        if len(cleaned) == 1:
            return await _send_only(request, toolbox, cleaned[0])
        answer = await MultipartResponse.begin(request)
        for path in cleaned:
            await _send_part(request, toolbox, path, answer)
        return await answer.end()


async def _send_only(request: web.Request, toolbox: Toolbox, path: str) -> web.StreamResponse:
    try:
        download = await toolbox.download(path)
    except ToolboxError as error:
        answer = await MultipartResponse.begin(request)
        await answer.error(path, error_body(request, as_api_error(error)))
        return await answer.end()
    async with download:
        if download.size >= straight.LEAST:
            with _whole(request):
                return await MultipartResponse.new().only(request, path, download)
        answer = await MultipartResponse.begin(request)
        await answer.header("file", path, "application/octet-stream", download.size)
        await _copy(request, download, answer.write)
        return await answer.end()


async def _send_part(request: web.Request, toolbox: Toolbox, path: str, answer: MultipartResponse) -> None:
    try:
        download = await toolbox.download(path)
    except ToolboxError as error:
        await answer.error(path, error_body(request, as_api_error(error)))
        return
    async with download:
        await answer.header("file", path, "application/octet-stream", download.size)
        await _copy(request, download, answer.write)


async def _copy(request: web.Request, download: Download, write: Any) -> None:
    with _whole(request):
        async for chunk in download:
            await write(chunk)


@contextmanager
def _whole(request: web.Request) -> Iterator[None]:
    """Once a size is announced, only a broken connection tells the client that bytes are missing."""
    try:
        yield
    except ToolboxError:
        if request.transport is not None:
            request.transport.abort()
        raise


@routes.get(f"{FILES}/download")
async def download_file(request: web.Request) -> web.StreamResponse:
    """One file as the body."""
    sandbox = sandbox_of(request)
    path, pipe = _path(request), straight.pipe_size(request)
    with used(request, sandbox):
        async with await sandbox.toolbox.download(path, pipe) as download:
            name = content_disposition("file", path.rpartition("/")[2]).replace(
                'form-data; name="file"', "attachment"
            )
            response = web.StreamResponse(
                headers={"Content-Type": "application/octet-stream", "Content-Disposition": name}
            )
            if download.size >= straight.LEAST or straight.FROM in request.headers:
                with _whole(request):
                    await straight.send(request, response, download)
                return response
            response.content_length = download.size
            await response.prepare(request)
            await _copy(request, download, response.write)
            await response.write_eof()
            return response
