"""What a forge answered, read within bounds and believed only where it has the right form.

Numbers are numbers, commits are commits, texts are one line, and an address that is shown lies on the forge.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from daytona_magics.errors import GitError, printable
from daytona_magics.git.logins import Server, server_of

if TYPE_CHECKING:
    import aiohttp

#: Bytes of an answer that are read; characters of what a forge says that are repeated.
ANSWER_LIMIT, SAID = 4 << 20, 300


@dataclass(frozen=True)
class Answer:
    """What a call of the API brought: HTTP status, the JSON in it (None without any), headers."""

    status: int
    value: Any
    headers: Mapping[str, str]


async def read(response: aiohttp.ClientResponse) -> bytes:
    """The body. Raises GitError when it is too long."""
    found = bytearray()
    async for piece in response.content.iter_chunked(1 << 16):
        found += piece
        if len(found) > ANSWER_LIMIT:
            raise GitError(f"an answer of more than {ANSWER_LIMIT >> 20} MiB", code="FORGE_FAILED")
    return bytes(found)


def parsed(response: aiohttp.ClientResponse, body: bytes) -> Any:
    """The JSON of a body, None where a refusal has none. Raises GitError when an answer is no API's."""
    try:
        return json.loads(body)
    except ValueError:
        if response.status < 300:
            raise GitError(
                f"{response.url.host} does not answer like a forge's API", code="FORGE_FAILED"
            ) from None
        return None


def said(answer: Answer) -> str:
    """What a refusal says, ready to be put behind what we say."""
    value = answer.value if isinstance(answer.value, dict) else {}
    parts = [value.get("message"), value.get("error"), value.get("error_description")]
    errors = value.get("errors")
    for one in errors[:3] if isinstance(errors, list) else []:
        parts.append(one.get("message") or one.get("code") if isinstance(one, dict) else one)
    texts = []
    for part in parts:
        if isinstance(part, dict):
            part = "; ".join(f"{key}: {_flat(one)}" for key, one in part.items())
        if text := _flat(part):
            texts.append(text)
    text = "; ".join(dict.fromkeys(texts))[:SAID]
    return f": {printable(text, line=True)}" if text else ""


def _flat(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return str(value) if value else ""


def until(answer: Answer) -> str:
    """When a forge that had enough takes calls again."""
    after, reset = answer.headers.get("Retry-After", ""), answer.headers.get("X-RateLimit-Reset", "")
    seconds = int(after) if after.isdigit() else int(reset) - int(time.time()) if reset.isdigit() else 0
    if not 0 < seconds < 100_000:
        return ""
    return f"; try again in {seconds} seconds" if seconds < 120 else f"; try again in {seconds // 60} minutes"


def sso(answer: Answer, server: Server) -> str:
    """Where a token is admitted to an organisation with single sign-on."""
    match = re.search(r"url=(\S+)", answer.headers.get("X-GitHub-SSO", ""))
    if match is None or server_of(match[1]) != server:
        return ""
    return f"Its organisation wants the token admitted once: {printable(match[1], line=True)}"


def rows(value: Any) -> list[dict[str, Any]]:
    """The objects of a list; of anything else none."""
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def count(value: Any, name: str) -> int | None:
    """A number of an object that is 0 or more; else None."""
    found = value.get(name) if isinstance(value, dict) else None
    return found if isinstance(found, int) and not isinstance(found, bool) and found >= 0 else None


def sha_of(value: Any) -> str:
    """The name of a commit; "" for what is none."""
    return value if isinstance(value, str) and re.fullmatch(r"[0-9a-f]{40,64}", value) else ""


def branch_of(value: Any) -> str:
    """The name of a branch. Raises GitError for what is none."""
    if not isinstance(value, str) or not value or printable(value, line=True) != value:
        raise GitError("the forge does not say which branch is its default", code="FORGE_FAILED")
    return value


def title_of(value: Any) -> str:
    """The title in an object, as one line."""
    return printable(str(value.get("title") or ""), line=True)[:SAID]
