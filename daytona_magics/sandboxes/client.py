"""The Daytona SDK as we use it: one ``AsyncDaytona`` living on the loop thread.

Four of the SDK's habits are turned off, because they would act on things nobody typed:

- values missing from its configuration are filled in from ``.env`` files of the working directory;
- logins are taken from ``~/.netrc`` (:mod:`daytona_magics.runtime.proxies`);
- OpenTelemetry is switched on by an environment variable, for the whole process;
- a warning about ``.env`` is printed into the notebook.

Importing the SDK takes most of a second, so it happens here and never at load time; :func:`warm` does it in
the background.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import warnings
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

from daytona_magics.errors import EndpointError, SandboxError, SandboxGone, SandboxUnreachable
from daytona_magics.sandboxes import spare

if TYPE_CHECKING:
    from daytona import AsyncDaytona

    from daytona_magics.sandboxes.endpoint import Endpoint

T = TypeVar("T")
Say = Callable[[str], None]

#: Pauses before a REST call whose connection failed is tried again, seconds.
RETRY_PAUSES = (5.0, 10.0, 20.0)


def warm() -> threading.Thread:
    """Import the SDK on a low-priority background thread, so that the first cell does not wait for it."""

    def load() -> None:
        with suppress(OSError, AttributeError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)
        with suppress(ImportError), warnings.catch_warnings():
            # What is missing or broken is reported by the first use, where somebody is looking.
            import daytona  # noqa: F401

            from daytona_magics.runtime.bundle import bundle

            bundle()

    thread = threading.Thread(target=load, name="daytona-magics-warm", daemon=True)
    thread.start()
    return thread


def open_client(endpoint: Endpoint) -> AsyncDaytona:
    """Make the SDK's client for an endpoint. Must be called on the loop thread."""
    from daytona import AsyncDaytona, DaytonaConfig

    class Client(AsyncDaytona):
        def _init_otel(self, sdk_version: str) -> None:
            """Tracing somebody switched on for another program stays there."""

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        client = Client(
            DaytonaConfig(
                **_proof(endpoint),
                api_url=endpoint.api_url,
                target=endpoint.target or None,
                otel_enabled=False,
            )
        )
    _without_netrc(client, endpoint.api_url)
    if endpoint.kind == "embedded":
        client._api_client.default_headers.update(spare.header())
    # Left empty above, the SDK fills the region from .env files; ours is the only word.
    client._target = endpoint.target or None
    return client


def _without_netrc(client: AsyncDaytona, url: str) -> None:
    """A login for everybody in ~/.netrc, beside the key, would be an error with every call."""
    from daytona_magics.runtime import proxies

    shared: Any = client._shared_session
    make = shared._ensure_session

    def ensure(rest_client: Any) -> None:
        before = shared.session
        make(rest_client)
        if shared.session is not before:
            proxies.proxy_only(shared.session, url)

    shared._ensure_session = ensure


def _proof(endpoint: Endpoint) -> dict[str, Any]:
    """A key, or a token with its organization; the SDK takes one of them."""
    if endpoint.organization:
        return {"jwt_token": endpoint.api_key, "organization_id": endpoint.organization}
    return {"api_key": endpoint.api_key}


def error_class() -> type[Exception]:
    """The SDK's base exception; a function, because importing the SDK is slow and an ``except`` clause is
    evaluated only when something was raised."""
    from daytona import DaytonaError

    return DaytonaError


def translate(error: BaseException, doing: str = "") -> BaseException:
    """Turn an SDK exception into one of ours; anything else is returned as it is.

    Args:
        error: what was raised.
        doing: what was being done, for the message ("creating a sandbox").
    """
    sdk = sys.modules.get("daytona.common.errors")
    if sdk is None or not isinstance(error, sdk.DaytonaError):
        return error
    prefix = f"{doing}: " if doing else ""
    said = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, sdk.DaytonaAuthenticationError | sdk.DaytonaForbiddenError):
        return EndpointError(
            f"{prefix}the endpoint refuses the API key ({said})", hint="%sandbox config  shows it."
        )
    if isinstance(error, sdk.DaytonaNotFoundError):
        return SandboxError(f"{prefix}{said}")
    if isinstance(error, sdk.DaytonaConnectionError):
        return SandboxUnreachable(f"{prefix}the endpoint does not answer ({said})", hint="%sandbox doctor")
    return SandboxError(f"{prefix}{said}")


def connection_failed(error: BaseException) -> bool:
    """Whether a REST call failed on its way, as opposed to being answered with a refusal."""
    sdk = sys.modules.get("daytona.common.errors")
    return sdk is not None and isinstance(error, sdk.DaytonaConnectionError)


def not_found(error: BaseException) -> bool:
    """Whether the endpoint says that the thing does not exist."""
    sdk = sys.modules.get("daytona.common.errors")
    return sdk is not None and isinstance(error, sdk.DaytonaNotFoundError)


def timed_out(error: BaseException) -> bool:
    """Whether a call took longer than it was given."""
    sdk = sys.modules.get("daytona.common.errors")
    return sdk is not None and isinstance(error, sdk.DaytonaTimeoutError)


def refused(error: BaseException) -> bool:
    """Whether the endpoint answered that it will not do it (HTTP 4xx)."""
    status = getattr(error, "status_code", None)
    return isinstance(status, int) and 400 <= status < 500


def conflicts(error: BaseException) -> bool:
    """Whether the endpoint says that the name is taken."""
    sdk = sys.modules.get("daytona.common.errors")
    return sdk is not None and isinstance(error, sdk.DaytonaConflictError)


async def asked(call: Awaitable[Any], doing: str) -> Any:
    """Await a call of the SDK; its exceptions come out as ours."""
    try:
        return await call
    except error_class() as error:
        raise translate(error, doing) from None


async def retrying(call: Callable[[], Awaitable[T]], say: Say, pauses: tuple[float, ...] = RETRY_PAUSES) -> T:
    """Make a REST call again when its connection failed; every refusal and every answer ends it at once."""
    for pause in (*pauses, None):
        try:
            return await call()
        except error_class() as error:
            if pause is None or not connection_failed(error):
                raise
            say(f"the endpoint does not answer; trying again in {pause:g} s")
            await asyncio.sleep(pause)
    raise AssertionError("unreachable")


def gone(sandbox: Any, state: str) -> SandboxGone:
    """The error for a sandbox that no longer exists, with the command that makes a new one."""
    return SandboxGone(
        f"sandbox {sandbox.name} ({sandbox.id}) no longer exists; its last known state was {state}",
        hint="Variables and files are lost.  %sandbox create  makes a new one.",
    )
