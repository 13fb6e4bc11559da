"""Asking a sandbox for completions and documentation, and believing nothing of the answer.

What comes back may end up in a person's cell or on their page. A completion only ever goes on with what was
typed, on its own line, in printable characters, and there are few of them; documentation is text of a limited
length. While the sandbox is busy, names that it gave before are offered.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from daytona_magics.runtime import decode

if TYPE_CHECKING:
    from daytona_magics.runtime.channel import Channel

#: Most matches believed, the longest of one and of a documentation in characters, and names remembered.
MOST, LONGEST, DOC, REMEMBERED = 1000, 300, 64 << 10, 2000
#: Characters before and behind the cursor that are sent.
BEFORE, BEHIND = 100_000, 20_000

_KIND = re.compile(r"[a-z ]{1,20}")


@dataclass(frozen=True)
class Matches:
    """Completions of one place.

    Attributes:
        word: what was typed of them; each begins with it.
        found: (text, kind) pairs.
    """

    word: str
    found: list[tuple[str, str]]


class Names:
    """Names that sandboxes have given, to be offered while they are busy."""

    def __init__(self) -> None:
        self._names: dict[str, dict[str, str]] = {}

    def remember(self, key: str, matches: Matches, before: str) -> None:
        """Keep what is a name of its own, not an attribute of something."""
        if before[: len(before) - len(matches.word)].rstrip().endswith((".", "[", "'", '"', "%")):
            return
        if key not in self._names and len(self._names) > 50:
            self._names.clear()
        known = self._names.setdefault(key, {})
        for text, kind in matches.found:
            if text.isidentifier() and len(known) < REMEMBERED:
                known[text] = kind

    def recall(self, key: str, before: str) -> Matches:
        """Names that go on with the word the text ends with."""
        found = re.search(r"(\.?)[ \t]*([^\W\d]\w*|)\Z", before)
        assert found is not None
        word = found.group(2)
        if found.group(1):
            return Matches(word, [])
        known = self._names.get(key, {}) if word else {}
        return Matches(word, [(text, kind) for text, kind in sorted(known.items()) if text.startswith(word)])


_names = Names()


async def complete(channel: Channel, context: str, code: str, cursor: int) -> Matches:
    """What may follow at a place of a cell.

    Args:
        channel: the way to the sandbox; it is not opened for this.
        context: whose names count.
        code: the cell, without its magic.
        cursor: the place in it.

    Raises:
        ProtocolError: the answer is not what our guest would send.
        SandboxUnreachable: the way broke.
    """
    code, cursor = _cut(code, cursor)
    key = f"{channel.sandbox.id} {context}"
    reply = await channel.ask("names", kind="complete", context=context, code=code, cursor=cursor)
    before = code[:cursor]
    if reply.get("state") != "ok":
        return _names.recall(key, before)
    if "matches" not in reply:
        return Matches("", [])
    matches = checked(reply, before)
    _names.remember(key, matches, before)
    return matches


def checked(reply: dict[str, Any], before: str) -> Matches:
    """The matches of an answer, without those that do not go on with what was typed.

    In:  checked({"start": 0, "matches": [["name", "instance"], ["na\\n%%local", "x"]]}, "na")
    Out: Matches(word='na', found=[('name', 'instance')])
    """
    start = decode.integer(reply, "start", before.rfind("\n") + 1, len(before))
    listed = reply.get("matches")
    if not isinstance(listed, list) or len(listed) > MOST:
        decode.refuse("matches is not a short list")
    word, found = before[start:], []
    for one in listed:
        if not isinstance(one, list) or len(one) != 2 or not all(isinstance(part, str) for part in one):
            decode.refuse("a match is not a text and its kind")
        text, kind = one
        if text.startswith(word) and len(text) <= LONGEST and text.isprintable():
            found.append((text, kind if _KIND.fullmatch(kind) else ""))
    return Matches(word, found)


async def inspect(channel: Channel, context: str, code: str, cursor: int, *, detail: bool = False) -> str:
    """The documentation of what stands at a place of a cell; "" when there is none, or none can be had now.

    Args:
        detail: with the source.

    Raises:
        ProtocolError, SandboxUnreachable: as with :func:`complete`.
    """
    code, cursor = _cut(code, cursor)
    reply = await channel.ask(
        "names", kind="inspect", context=context, code=code, cursor=cursor, detail=detail
    )
    return decode.text(reply, "text", "", limit=DOC) if reply.get("state") == "ok" else ""


def _cut(code: str, cursor: int) -> tuple[str, int]:
    start = max(0, cursor - BEFORE)
    return code[start : cursor + BEHIND], cursor - start
