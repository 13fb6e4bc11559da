"""The engine's side of searching, replacing, moving and modes: asks the toolbox and checks its answers."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from . import wire
from .answers import check_path, printable, protocol_errors
from .client import Toolbox
from .searching import MAX_BYTES, MAX_RESULTS
from .wire import JSON, WireError

T = TypeVar("T")

#: Seconds in which one part of the results, or the whole answer of a short operation, must come.
ANSWER_SECONDS = 600.0
#: Seconds all of the results may take.
TOTAL_SECONDS = 3600.0


@dataclass(frozen=True)
class Match:
    """A line that holds the text: ``file`` is its absolute path, ``line`` counts from 1."""

    file: str
    line: int
    content: str


@dataclass(frozen=True)
class Replaced:
    """What became of one file; ``error`` is empty when it went well."""

    file: str
    error: str


async def find(toolbox: Toolbox, path: str, pattern: str) -> list[Match]:
    """Lines with the text `pattern` in file `path`, or in all text files below folder `path`.

    Raises ToolboxError 404, 403, and 413 above 100,000 matches.
    """
    return [
        match async for match in _results(toolbox, "find", _match, path=check_path(path), pattern=pattern)
    ]


def _match(entry: Any) -> Match:
    if not isinstance(entry, list) or len(entry) != 3 or type(entry[1]) is not int:
        raise WireError("a match is not one")
    return Match(_text(entry[0]), entry[1], _text(entry[2]))


async def search(toolbox: Toolbox, path: str, pattern: str) -> list[str]:
    """Paths below folder `path` whose name (with a / in `pattern`: whose relative path) matches the glob."""
    return [name async for name in _results(toolbox, "search", _text, path=check_path(path), pattern=pattern)]


async def replace(toolbox: Toolbox, files: Sequence[str], pattern: str, value: str) -> list[Replaced]:
    """Replace the text `pattern` by `value` in `files`; one that cannot be changed stops no other."""
    paths = [check_path(path) for path in files]
    arguments = {"files": paths, "pattern": pattern, "value": value}
    return [one async for one in _results(toolbox, "replace", _replaced, **arguments)]


def _replaced(entry: Any) -> Replaced:
    if not isinstance(entry, list) or len(entry) != 2:
        raise WireError("a result is not one")
    return Replaced(_text(entry[0]), _text(entry[1]))


async def move(toolbox: Toolbox, source: str, destination: str) -> None:
    """Move or rename a file or folder. Raises ToolboxError 404, 403; 400 when the destination exists."""
    await _ask(toolbox, "move", source=check_path(source), destination=check_path(destination))


async def permissions(
    toolbox: Toolbox, path: str, *, mode: int | None, owner: str | None, group: str | None
) -> None:
    """Change mode, owner and group of a file; None leaves them. Raises ToolboxError 404, 403, 400."""
    await _ask(toolbox, "permissions", path=check_path(path), mode=mode, owner=owner, group=group)


async def _ask(toolbox: Toolbox, op: str, **arguments: Any) -> None:
    with await toolbox.begin(op, **arguments) as operation, protocol_errors():
        await operation.answer(ANSWER_SECONDS)


async def _results(
    toolbox: Toolbox, op: str, check: Callable[[Any], T], **arguments: Any
) -> AsyncIterator[T]:
    count = size = 0
    loop = asyncio.get_running_loop()
    end = loop.time() + TOTAL_SECONDS
    with await toolbox.begin(op, **arguments) as operation, protocol_errors():
        while True:
            frame = await operation.frame(max(0.0, min(ANSWER_SECONDS, end - loop.time())))
            wire.close_fds(frame.fds)
            if frame.fds or frame.type != JSON:
                raise WireError("a message was expected and something else came")
            results = wire.parse_json(frame.payload).get("results")
            if results is None:
                return
            if not isinstance(results, list) or not results:
                raise WireError("a part of the results holds none")
            count, size = count + len(results), size + len(frame.payload)
            # JSON makes up to six bytes of one, and adds names and brackets.
            if count > MAX_RESULTS or size > 8 * MAX_BYTES:
                raise WireError("there are more results than were agreed")
            for entry in results:
                yield check(entry)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise WireError("a result is not a text")
    try:
        return printable(value)
    except UnicodeEncodeError as error:
        raise WireError("a result is not valid text") from error
