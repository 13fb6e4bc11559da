"""Signed file URLs: a sandbox's signing key, and the check of a URL that was signed with it.

A client that has the key signs the method, the path and the time of expiry; whoever has the URL can then
download or upload that one file without the engine's bearer, until it expires or the key is rotated. The key
is made when it is first asked for and kept in the sandbox's record.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
import time

from aiohttp import web

from daytona_magics.engine.api.context import context, sandbox_of
from daytona_magics.engine.errors import ApiError
from daytona_magics.engine.life.lifecycle import Sandboxes
from daytona_magics.engine.store.records import SandboxRecord

routes = web.RouteTableDef()

#: What can be done by a signed URL.
SIGNED = {("GET", "download"), ("POST", "upload-v2")}


def sign(key: str, method: str, path: str, expires: int) -> str:
    """The signature of a URL; `expires` is in seconds since 1970, 0 for never.

    Example:
        >>> sign("key", "GET", "a.txt", 0)
        'v1_Wa95Ytq0rH0KgrHh0YFuuuANX_CKh3UUh8k2kwSQBoE'
    """
    said = f"v1:files:{method}:{path}:{expires}".encode("utf-8", "surrogatepass")
    digest = hmac.new(key.encode(), said, hashlib.sha256).digest()
    return "v1_" + base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def is_signed(sandboxes: Sandboxes, request: web.BaseRequest) -> bool:
    """Whether a request is for one file of a sandbox and carries a valid signature for it.

    False, too, for a request that carries none: it needs the bearer.

    Raises:
        ApiError: 401 for a signature that is wrong or has expired.
    """
    parts = request.path.split("/")
    # /toolbox/ID/files/download
    if len(parts) != 5 or parts[1] != "toolbox" or parts[3] != "files":
        return False
    if (request.method, parts[4]) not in SIGNED or "signature" not in request.query:
        return False
    given = [request.query.getall(name, []) for name in ("path", "expires", "signature")]
    if all(len(values) == 1 for values in given):
        (path,), (expires,), (signature,) = given
        # A sandbox that does not exist is not told from a wrong signature.
        key = next(
            (s.record.signing_key for s in sandboxes if parts[2] in (s.record.id, s.record.name)), None
        )
        if key and expires.isascii() and expires.isdigit() and len(expires) < 20:
            right = sign(key, request.method, path, int(expires))
            in_time = int(expires) == 0 or time.time() < int(expires)
            if hmac.compare_digest(right.encode(), signature.encode("utf-8", "replace")) and in_time:
                return True
    raise ApiError(401, "the signature of this URL is not valid or has expired", source="DAYTONA_PROXY")


async def _with_new_key(request: web.Request) -> web.Response:
    def change(record: SandboxRecord) -> None:
        record.signing_key = secrets.token_hex(32)

    sandbox = sandbox_of(request)
    await context(request).sandboxes.change(sandbox, change)
    return web.json_response(sandbox.record.signing_key)


@routes.get("/api/sandbox/{sandbox}/signing-key")
async def signing_key(request: web.Request) -> web.Response:
    """The key with which a client signs file URLs, as a JSON text."""
    key = sandbox_of(request).record.signing_key
    return await _with_new_key(request) if key is None else web.json_response(key)


@routes.post("/api/sandbox/{sandbox}/signing-key/rotate")
async def rotate(request: web.Request) -> web.Response:
    """A new key; URLs signed with the old one are worth nothing from now on."""
    return await _with_new_key(request)
