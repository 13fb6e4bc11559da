"""Tab completion for ``%sandbox`` and ``%%sandbox``, from the grammar that parses them, and in sandbox cells.

One matcher of IPython's second matcher protocol, added to the completer's own list. Verbs, options and
choices need no sandbox and come at once. Sandboxes, remote paths and the names of a sandbox cell ask the
endpoint or the sandbox with a cap of 300 ms, and only when this kernel is connected already: pressing Tab
never starts anything. In a sandbox cell names of this machine are never offered.
"""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Callable, Coroutine, Iterable
from concurrent.futures import TimeoutError as FutureTimeout
from pathlib import Path
from typing import TYPE_CHECKING, Any

from daytona_magics.magics import grammar
from daytona_magics.magics.grammar import Command
from daytona_magics.magics.grammar.cell import CELL_VERBS

if TYPE_CHECKING:
    from concurrent.futures import Future

    from daytona_magics.magics.inside import Place

_LINE = re.compile(
    r"^\s*(?:#+\s*(?=%%)|[\w.,\s]+=\s*)?(?P<percent>%{1,2})(?P<magic>sandbox(?:_git)?)\s(?P<rest>.*)$",
    re.DOTALL,
)

Found = list[tuple[str, str]]

#: Seconds an endpoint may take for an answer that is offered the next time; answers kept; most names of one,
#: and the longest in characters.
LATER, KEPT, MOST, LONGEST = 5.0, 50, 1000, 300
#: The last answers, and those that are under way.
_known: dict[str, Found] = {}
_under_way: dict[str, Future[Found]] = {}


def candidates(text: str) -> tuple[str, Found] | None:
    """What may follow ``text``, the line up to the cursor.

    Returns:
        the word being typed and (completion, kind) pairs; None when the line is not one of ours.

    In:  candidates("%sandbox sta")
    Out: ('sta', [('status', 'verb'), ('start', 'verb'), ('stat', 'verb')])
    """
    found = _LINE.match(text)
    if found is None:
        return None
    rest = found["rest"]
    word = re.search(r"(?:\\.|[^\s])*\Z", rest)
    current = word.group() if word else ""
    before = rest[: len(rest) - len(current)].split()
    family = grammar.FAMILIES[found["magic"]]
    if found["percent"] == "%%" and found["magic"] == "sandbox":
        verb = CELL_VERBS.get(before[0]) if before else None
        if verb is not None:
            return current, _starting(current, _for(verb, before[1:], current))
        verbs = [] if before else [(name, "verb") for name in CELL_VERBS]
        return current, _starting(current, [*_for(grammar.CELL, before, current), *verbs])
    if not before:
        return current, _starting(current, [(name, "verb") for name in family])
    command = family.get(before[0])
    return current, _starting(current, _for(command, before[1:], current) if command else [])


def _starting(word: str, options: Iterable[tuple[str, str]]) -> Found:
    return [(text, kind) for text, kind in options if text.startswith(word)]


def _for(command: Command, before: list[str], word: str) -> Found:
    by_flag = {flag: option for option in command.options for flag in option.flags}
    if before and before[-1] in by_flag and by_flag[before[-1]].metavar:
        option = by_flag[before[-1]]
        return _values(option.choices, option.values, word, _folder(before))
    if word.startswith("-"):
        used = {by_flag[w].dest for w in before if w in by_flag and not by_flag[w].repeat}
        flags = [(o.flags[-1], "option") for o in command.options if o.dest not in used]
        short = [(f, "option") for o in command.options for f in o.flags[:-1] if o.dest not in used]
        return [*flags, ("--help", "option"), *([] if word.startswith("--") else short)]
    place = _positionals(before, by_flag)
    if not command.arguments:
        return []
    argument = command.arguments[min(place, len(command.arguments) - 1)]
    if place >= len(command.arguments) and argument.nargs not in ("+", "*"):
        return []
    return _values(argument.choices, argument.values, word, _folder(before))


def _folder(before: list[str]) -> str:
    """The folder that -C of %sandbox_git names; "" where none is named."""
    named = [value for flag, value in itertools.pairwise(before) if flag in ("-C", "--repository")]
    return named[-1].strip("'\"") if named else ""


def _positionals(before: list[str], by_flag: dict[str, Any]) -> int:
    count, skip = 0, False
    for word in before:
        if skip:
            skip = False
        elif word.startswith("-"):
            skip = word in by_flag and bool(by_flag[word].metavar)
        else:
            count += 1
    return count


def _values(choices: tuple[str, ...], values: str, word: str, folder: str = "") -> Found:
    if choices:
        return [(choice, "value") for choice in choices]
    if values in (grammar.VERB, grammar.GIT_VERB):
        return [
            (name, "verb") for name in grammar.FAMILIES["sandbox" + "_git" * (values == grammar.GIT_VERB)]
        ]
    if values == grammar.ENV_NAME:
        return [(name, "variable") for name in sorted(os.environ)]
    if values == grammar.LOCAL_PATH:
        return _local(word)
    if values == grammar.SETTING:
        return _settings()
    if values == grammar.NAME:
        return _variables(word)
    if values in _ASKED:
        return _remote(values, word, folder)
    return []


def _variables(word: str) -> Found:
    """Names of the notebook, after what was typed of a list like ``new=a,b``."""
    from IPython import get_ipython

    shell = get_ipython()  # type: ignore[no-untyped-call,unused-ignore]
    typed = re.split(r"(?<=[,=])", word)
    before = "".join(typed[:-1])
    names = sorted(getattr(shell, "user_ns", {}))
    return [(before + name, "variable") for name in names if not name.startswith("_")]


def _settings() -> Found:
    from daytona_magics.config import SandboxConfig

    return [(f"{name}=", "setting") for name in sorted(SandboxConfig.class_own_traits(config=True))]


def _local(word: str) -> Found:
    typed = word.replace("\\ ", " ")
    head, _, tail = typed.rpartition("/")
    folder = Path(head or ("/" if typed.startswith("/") else ".")).expanduser()
    try:
        entries = sorted(folder.iterdir())[:500]
    except OSError:
        return []
    prefix = f"{head}/" if "/" in typed else ""
    return [
        ((prefix + entry.name + ("/" if entry.is_dir() else "")).replace(" ", "\\ "), "path")
        for entry in entries
        if entry.name.startswith(tail) and (tail.startswith(".") or not entry.name.startswith("."))
    ]


def _remote(kind: str, word: str, folder: str) -> Found:
    from daytona_magics import sandboxes

    binding = sandboxes.bound()
    if binding is None or binding.client is None:
        return []
    box = binding.sandbox.id if binding.sandbox is not None else ""
    about = folder if kind == grammar.BRANCH else word
    key = f"{kind} {box} {word.rpartition('/')[0] if kind == grammar.REMOTE_PATH else folder}"
    return _asked(key, lambda: _ASKED[kind](binding, about))


def _asked(key: str, ask: Callable[[], Coroutine[Any, Any, Found]]) -> Found:
    """The answer to a question, or the last one to it when this takes long; it goes on, for the next time."""
    from daytona_magics.magics.inside import CAP
    from daytona_magics.runtime.loop import loop_thread

    if key not in _under_way:
        _under_way[key] = loop_thread().submit(_later(key, ask()))
    try:
        return _under_way[key].result(CAP)
    except FutureTimeout:
        return _known.get(key, [])
    except Exception:  # noqa: BLE001 - a completion that cannot be had is no completion, whatever the cause
        return []


async def _later(key: str, asking: Coroutine[Any, Any, Found]) -> Found:
    import asyncio

    try:
        found = await asyncio.wait_for(asking, LATER)
    finally:
        _under_way.pop(key, None)
    if len(_known) >= KEPT:
        _known.clear()
    _known[key] = found
    return found


async def _boxes(binding: Any) -> list[Any]:
    from daytona_magics.sandboxes import attaching
    from daytona_magics.sandboxes.report import Silent

    return await attaching.find(binding.client, {}, Silent())


async def _names(binding: Any, word: str) -> Found:
    return [(box.name, "sandbox") for box in await _boxes(binding)]


async def _labels(binding: Any, word: str) -> Found:
    """Labels that sandboxes have, but for those that the magics and the SDK keep for themselves."""
    from daytona_magics.sandboxes.tags import reserved

    found = {pair for box in await _boxes(binding) for pair in box.labels.items() if not reserved(pair[0])}
    whole = [f"{key}={value}".replace(" ", "\\ ") for key, value in sorted(found)]
    return [(text, "label") for text in whole if text.isprintable() and len(text) <= LONGEST][:MOST]


async def _jobs(binding: Any, word: str, *, running: bool = False) -> Found:
    """Ids of jobs and cells, the newest first; ``running``: of those that have not ended."""
    from daytona_magics.notebook.spool import NAME
    from daytona_magics.sandboxes import jobs

    if binding.channel is None or binding.channel.closed:
        return []
    known = [one for one in await jobs.listed(binding.channel) if not (running and one.state == "done")]
    return [(one.id[:NAME], "job") for one in reversed(known)][:MOST]


async def _running(binding: Any, word: str) -> Found:
    return await _jobs(binding, word, running=True)


async def _branches(binding: Any, named: str) -> Found:
    """Branches of the repository of a folder, and those of its remotes that are known there."""
    from daytona_magics.git import reading, repository
    from daytona_magics.sandboxes import files

    if binding.sandbox is None:
        return []
    if named:
        where = await files.remote_path(binding.sandbox, named)
        found, _ = await repository.around(binding, binding.sandbox, where)
    else:
        found, _, _ = await repository.nearest(binding, binding.sandbox)
    names = [one.name for one in await reading.branches(found, remote=True)] if found is not None else []
    good = [one for one in names if one.isprintable() and len(one) <= LONGEST]
    return [(name, "branch") for name in good][:MOST]


async def _shell_paths(tie: Any, channel: Any, context: str, cwd: str, word: str) -> Found:
    """Paths as a bash cell sees them, which begin in its shell's working directory."""
    records = [] if cwd else (await channel.status())["contexts"]
    own = [one for one in records if one.get("name") == context and one.get("language") == "bash"]
    folder = cwd or (str(own[0].get("directory") or "") if own else "")
    return await _paths(tie, word, folder or "~")


async def _paths(binding: Any, word: str, folder: str = "~") -> Found:
    """Paths below what was typed of one; a relative one is meant from ``folder``."""
    from daytona_magics.sandboxes.files import remote_path

    if binding.sandbox is None:
        return []
    head, slash, tail = word.rpartition("/")
    typed, tail = f"{head}{slash}".replace("\\ ", " "), tail.replace("\\ ", " ")
    absolute = typed.startswith("/") or typed.split("/")[0] == "~"
    where = await remote_path(binding.sandbox, typed if absolute else f"{folder.rstrip('/')}/{typed}")
    entries = await binding.sandbox.fs.list_files(where.rstrip("/") or "/")
    # Also those that do not begin with it, so that another letter finds its own here, but behind them. What
    # acts on a terminal is no name.
    named = sorted(
        ((str(entry.name), bool(entry.is_dir)) for entry in entries),
        key=lambda one: (not one[0].startswith(tail), one),
    )
    return [
        ((typed + name).replace(" ", "\\ ") + ("/" if inner else ""), "path")
        for name, inner in named
        if name.isprintable() and len(name) <= LONGEST and (tail[:1] == "." or name[:1] != ".")
    ][:MOST]


_ASKED: dict[str, Callable[[Any, str], Coroutine[Any, Any, Found]]] = {
    grammar.SANDBOX: _names,
    grammar.LABEL: _labels,
    grammar.JOB: _jobs,
    grammar.RUNNING: _running,
    grammar.REMOTE_PATH: _paths,
    grammar.BRANCH: _branches,
}


def in_cell(place: Place) -> tuple[str, Found]:
    """The word being typed in a sandbox cell, and what may become of it."""
    from daytona_magics.magics.inside import asked, opened

    before = place.code[: place.cursor]
    word = re.search(r"(?:\\ |[^\s'\"=(){}\[\];|&<>])*\Z", before)
    typed = word.group() if word else ""
    if place.language == "python":
        matches = asked(place, _complete)
        return (matches.word, matches.found) if matches is not None else (typed, [])
    found = opened(place)
    if not place.language or found is None:
        return typed, []
    tie, channel = found
    context = place.context or tie.context
    # Other programs than bash begin at home each time.
    cwd = place.cwd or ("" if place.language == "bash" else "~")
    key = f"{tie.bound().id} {context} {cwd} {typed.rpartition('/')[0]}"
    return typed, _starting(typed, _asked(key, lambda: _shell_paths(tie, channel, context, cwd, typed)))


async def _complete(channel: Any, context: str, code: str, cursor: int) -> Any:
    from daytona_magics.runtime import looking

    return await looking.complete(channel, context, code, cursor)


def _beside(place: Place | None) -> dict[str, Any]:
    """Names of the sandbox beside those of this machine, where it is not known which of the two is meant."""
    from IPython.core.completer import SimpleCompletion

    word, texts = in_cell(place) if place is not None else ("", [])
    offered = [SimpleCompletion(text=text, type=kind) for text, kind in texts]
    return {"completions": offered, "suppress": False, **({"matched_fragment": word} if offered else {})}


def make_matcher(shell: Any) -> Any:
    """The matcher to add to ``ip.Completer.custom_matchers`` of a shell."""
    from IPython.core.completer import SimpleCompletion, context_matcher

    @context_matcher(identifier="daytona_magics", priority=1000)  # type: ignore[untyped-decorator,unused-ignore]
    def daytona_magics_matcher(context: Any) -> dict[str, Any]:
        from daytona_magics.magics.inside import place_of

        lines = context.full_text.split("\n")
        line = lines[context.cursor_line][: context.cursor_position]
        found = candidates(line)
        if found is None:
            cursor = sum(len(one) + 1 for one in lines[: context.cursor_line]) + context.cursor_position
            place = place_of(shell, context.full_text, cursor)
            if place is None:
                return _beside(place_of(shell, context.full_text, cursor, tagged=True))
            found = in_cell(place)
        word, texts = found
        # An empty list would let the others offer names of this machine; the word itself changes nothing.
        texts = texts or [(word, "")]
        return {
            "completions": [SimpleCompletion(text=text, type=kind) for text, kind in texts],
            "matched_fragment": word,
            "ordered": True,
            "suppress": True,
        }

    return daytona_magics_matcher
