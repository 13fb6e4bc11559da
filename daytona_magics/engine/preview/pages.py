"""Pages of the engine's own among the previews: the warning, and failures."""

from __future__ import annotations

import html
from urllib.parse import quote, unquote

from aiohttp import web

from daytona_magics.engine.api.errors import error_response
from daytona_magics.engine.log import log
from daytona_magics.engine.preview.address import Wanted, is_own_origin
from daytona_magics.engine.preview.headers import ACCEPTED_COOKIE, without_key

SKIP_WARNING = "X-Daytona-Skip-Preview-Warning"
#: Where the warning's button leads, below the preview's own name.
ACCEPT_PATH = "/daytona-preview-accept"
ACCEPTED_SECONDS = 24 * 3600

_PAGE = """<!doctype html><html lang=en><meta charset=utf-8><title>{title}</title>
<meta name=viewport content="width=device-width"><meta name=color-scheme content="light dark">
<style>body{{font:16px/1.5 system-ui;max-width:40rem;margin:15vh auto;padding:0 1rem}}
button{{font:inherit;padding:.4em 1em}}</style><main><h1>{title}</h1>{body}</main>"""


def _page(title: str, body: str, status: int, policy: str) -> web.Response:
    """A page without scripts; `body` is HTML."""
    return web.Response(
        status=status,
        text=_PAGE.format(title=html.escape(title), body=body),
        content_type="text/html",
        headers={
            "Cache-Control": "no-store",
            "Content-Security-Policy": f"default-src 'none'; style-src 'unsafe-inline'; {policy}",
        },
    )


def needs_warning(request: web.Request, wanted: Wanted) -> bool:
    """Whether a person is about to see this preview in a tab of its own for the first time.

    Frames are shown by pages that know what they show, programs send no such request, and in the path form no
    cookie can be set.
    """
    if wanted.by_path or request.method != "GET" or request.headers.get(SKIP_WARNING, "").lower() == "true":
        return False
    if request.cookies.get(ACCEPTED_COOKIE) == "true":
        return False
    destination = request.headers.get("Sec-Fetch-Dest")
    if destination is not None:
        return destination == "document"
    agent, accept = (request.headers.get(name, "") for name in ("User-Agent", "Accept"))
    return agent.startswith("Mozilla/") and "text/html" in accept


def warning(wanted: Wanted) -> web.Response:
    """Says where the page comes from, with a button that leads there."""
    to = quote(without_key(wanted.target), safe="")
    body = (
        f"<p>Port {wanted.port} of a sandbox wants to show you a page. Programs in the sandbox made it:"
        " do not type passwords into it that they must not know.</p>"
        f'<form method=post action="{ACCEPT_PATH}?to={to}"><button autofocus>Show the page</button></form>'
    )
    return _page("A page from a sandbox", body, 200, "form-action 'self'")


def accepted(request: web.Request) -> web.Response | None:
    """The answer to the warning's button; None for any other request."""
    path, _, query = request.raw_path.partition("?")
    if path != ACCEPT_PATH or request.method != "POST" or not is_own_origin(request):
        return None
    to = unquote(query.removeprefix("to="))
    # A path of this preview, nothing that a browser would read as another host.
    if not to.startswith("/") or to.startswith(("//", "/\\")) or not to.isprintable():
        to = "/"
    response = web.Response(status=303, headers={"Location": quote(to, safe="/%?&=+:;,@!$'()*~-._")})
    response.set_cookie(
        ACCEPTED_COOKIE, "true", max_age=ACCEPTED_SECONDS, path="/", httponly=True, samesite="Lax"
    )
    return response


def failure(request: web.Request, error: Exception) -> web.Response:
    """A page for browsers, the platform's error body for programs."""
    response = error_response(request, error)
    log.info("preview %s %s %s", request.method, request.path, response.status)
    if "text/html" not in request.headers.get("Accept", "") or request.method not in ("GET", "HEAD"):
        return response
    text = str(getattr(error, "message", "") or "the preview failed")
    body = f"<p>{html.escape(text)}</p>"
    if response.status in (502, 503):
        body += "<p><a href=''>Try again</a></p>"
    return _page(str(response.status), body, response.status, "sandbox")
