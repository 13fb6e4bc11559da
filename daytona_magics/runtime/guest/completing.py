"""What Tab and Shift-Tab show: names, attributes, keys, modules, paths; in the worker, between cells.

Nothing is called that a person did not call: an expression is followed through names, plain attributes and
keys only, and a property of an unknown class is not read. What must run all the same (``__dir__``,
``__repr__``, key completions of a library) is stopped by an interrupt when the time is over. Where that leads
nowhere jedi is asked, if the sandbox has it; it is imported by a thread, because that takes a while.
"""

from __future__ import annotations

import builtins
import json
import keyword
import os
import re
import signal
import sys
import threading

from . import following, looking

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable

    Match = tuple[str, str]

#: Seconds an answer may take, most matches in one, and the longest text of one, characters.
WITHIN, MOST, LONGEST = 0.2, 500, 200
#: Characters of documentation in an answer; entries of a folder that are looked at.
DOC, ENTRIES = 32 << 10, 5000

#: Patterns, compiled when a first question comes: every start of a sandbox reads this module.
_MAGIC = r"^[ \t]*(%{1,2})(\w*)$"
_COMMAND = r"^[ \t]*(?:!{1,2}|%(?:cd|ls|run|load|writefile|env)\b)"
_IMPORT = r"^[ \t]*(?:import[ \t]+(?:[\w. \t]+,[ \t]*)*|from[ \t]+)([\w.]*)$"
_FROM = r"^[ \t]*from[ \t]+([\w.]+)[ \t]+import[ \t]+\(?(?:[\w \t]+,[ \t]*)*(\w*)$"
_ATTRIBUTE = r"\.[ \t]*([^\W\d]\w*|)$"
_NAME = r"([^\W\d]\w*|)$"
_DEFINED = r"(?m)\b(?:def|class|import|as|for)[ \t]+([^\W\d]\w*)|^[ \t]*([^\W\d]\w*)[ \t]*=[^=]"


def answer(namespace: dict[str, Any], helper: Any, query: dict[str, Any]) -> bytes:
    """The answer to one question as JSON; an empty one when the time was over.

    Args:
        namespace: the cells' names.
        helper: has the magics, as methods ``magic_cd`` and ``cell_time``.
        query: ``{"kind": "complete" or "inspect", "code": ..., "cursor": ..., "detail": ...}``.
    """
    code, cursor = query["code"], query["cursor"]

    def found() -> dict[str, Any]:
        if query["kind"] == "inspect":
            return inspected(namespace, code, cursor, query["detail"])
        start, matches = completions(namespace, magic_names(helper), code, cursor)
        return {"start": start, "matches": matches[:MOST]}

    value = _in_time(found) or {}
    return json.dumps(dict(value, number=query["number"])).encode("utf-8", "replace")


def _in_time(function: Callable[[], Any]) -> Any:
    """A function's value; None when it fails or takes too long, which is ended by SIGINT."""
    waiting, lock, main = [True], threading.Lock(), threading.main_thread().ident or 0

    def stop() -> None:
        with lock:
            if waiting[0]:
                signal.pthread_kill(main, signal.SIGINT)

    timer = threading.Timer(WITHIN, stop)
    timer.daemon = True
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        timer.start()
        try:
            return function()
        finally:
            with lock:
                waiting[0] = False
    except (Exception, KeyboardInterrupt, SystemExit):
        return None
    finally:
        signal.signal(signal.SIGINT, before)
        timer.cancel()


def magic_names(helper: Any) -> list[str]:
    """The magics that work in a cell: ``cd`` for ``%cd``, ``%time`` for ``%%time``."""
    own = dir(type(helper))
    found = [n[6:] for n in own if n.startswith("magic_")] + [
        "%" + n[5:] for n in own if n.startswith("cell_")
    ]
    registered = getattr(helper, "registered", {})
    return found + [("%" if kind == "cell" else "") + str(name) for kind, name in registered]


# -- completion --------------------------------------------------------------------------------------------


def completions(
    namespace: dict[str, Any], magics: list[str], code: str, cursor: int
) -> tuple[int, list[Match]]:
    """Where the word to be replaced begins, and what may stand there as (text, kind).

    In:  completions({"value": 1}, [], "val", 3)
    Out: (0, [('value', 'instance')])
    """
    before = code[:cursor]
    line = before.rpartition("\n")[2]
    found = re.match(_MAGIC, line)
    if found:
        return _chosen(cursor, found.group(2), _magics(magics, found.group(1)))
    if re.match(_COMMAND, line):
        word = re.search(r"[^\s'\"=]*$", line).group()  # type: ignore[union-attr]
        return _chosen(cursor, word, _paths(word))
    string = following.open_string(before)
    if string is not None:
        return _in_string(namespace, before, string, cursor)
    found = re.match(_FROM, line)
    if found:
        return _chosen(cursor, found.group(2), _members(found.group(1)))
    found = re.match(_IMPORT, line)
    if found:
        head, _, last = found.group(1).rpartition(".")
        return _chosen(cursor, last, _submodules(head) if head else _modules())
    found = re.search(_ATTRIBUTE, before)
    if found:
        return _attributes(namespace, before, found, cursor)
    if before.endswith("["):
        return cursor, [(repr(key), "dict key") for key in _keys(namespace, before[:-1])[:MOST]]
    found = re.search(_NAME, before)
    assert found is not None
    return _chosen(cursor, found.group(1), _names(namespace, code, before, found.group(1)))


def _chosen(cursor: int, word: str, found: list[Match]) -> tuple[int, list[Match]]:
    matches, seen = [], set()
    for text, kind in found:
        if text.startswith(word) and len(text) <= LONGEST and text not in seen:
            seen.add(text)
            matches.append((text, kind))
            if len(matches) == MOST:
                break
    return cursor - len(word), matches


def _magics(names: list[str], sign: str) -> list[Match]:
    cell = len(sign) == 2
    return [(n[1:] if cell else n, "magic") for n in sorted(names) if n.startswith("%") == cell]


def _attributes(
    namespace: dict[str, Any], before: str, found: re.Match[str], cursor: int
) -> tuple[int, list[Match]]:
    expression = following.expression_before(before[: found.start()].rstrip())
    word = found.group(1)
    try:
        value = following.value_of(expression, namespace)
    except following.Unknown:
        return _chosen(cursor, word, _by_jedi(namespace, before))
    names = [n for n in dir(value) if isinstance(n, str) and n.startswith(word) and n.isidentifier()]
    if not word.startswith("_"):
        names = [n for n in names if not n.startswith("_")]
    # In order already, and sorted again by rank; the names of a flood are cut first.
    chosen = sorted(names[:ENTRIES], key=_rank)[:MOST]
    return _chosen(cursor, word, [(n, following.kind_of(value, n)) for n in chosen])


def _rank(name: str) -> tuple[int, str]:
    return (len(name) - len(name.lstrip("_")), name.lower())


def _names(namespace: dict[str, Any], code: str, before: str, word: str) -> list[Match]:
    found = [(name + "=", "param") for name in _parameters(namespace, before)]
    own = [n for n in namespace if isinstance(n, str) and n.isidentifier()]
    if not word.startswith("_"):
        own = [n for n in own if not n.startswith("_") and n not in ("In", "Out", "exit", "quit")]
    found += [(n, following.kind(namespace[n])) for n in sorted(own, key=_rank)]
    found += [(a or b, "statement") for a, b in re.findall(_DEFINED, code[:100_000]) if (a or b) != word]
    if word:
        found += [(n, "keyword") for n in keyword.kwlist]
        found += [(n, following.kind(getattr(builtins, n))) for n in sorted(dir(builtins)) if n[0] != "_"]
    return found


def _parameters(namespace: dict[str, Any], before: str) -> list[str]:
    """Names of the parameters of the call that is being typed."""
    call = following.open_call(before)
    if not call:
        return []
    import inspect

    try:
        signature = inspect.signature(following.value_of(call, namespace))
    except (following.Unknown, TypeError, ValueError):
        return []
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return [name for name, one in signature.parameters.items() if one.kind in named]


def _in_string(
    namespace: dict[str, Any], before: str, string: tuple[int, str], cursor: int
) -> tuple[int, list[Match]]:
    start, quote = string
    word = before[start:]
    opened = before[: start - len(quote)].rstrip("rbfuRBFU")
    if opened.endswith("["):
        keys = [k for k in _keys(namespace, opened[:-1]) if isinstance(k, str)]
        plain = [k for k in keys if k.isprintable() and quote not in k and "\\" not in k]
        return _chosen(cursor, word, [(k, "dict key") for k in plain])
    return _chosen(cursor, word, _paths(word) if "\n" not in word else [])


def _keys(namespace: dict[str, Any], before: str) -> list[Any]:
    try:
        value = following.value_of(following.expression_before(before), namespace)
    except following.Unknown:
        return []
    offered = getattr(type(value), "_ipython_key_completions_", None)
    if isinstance(value, dict):
        keys = list(dict.keys(value))[:ENTRIES]
    elif offered is not None:
        keys = list(offered(value))[:ENTRIES]
    else:
        keys = list(getattr(getattr(value, "dtype", None), "names", None) or ())
    return [k for k in keys if type(k) in (str, int, float, bool)]


# -- modules and paths -------------------------------------------------------------------------------------


def _modules() -> list[Match]:
    import pkgutil

    names = {one.name for one in pkgutil.iter_modules()} | set(sys.builtin_module_names) | set(sys.modules)
    return [(n, "module") for n in sorted(names, key=_rank) if n.isidentifier()]


def _folders(name: str) -> list[str]:
    """Where the parts of a package lie, without importing it."""
    import importlib.util

    module = sys.modules.get(name)
    if module is None and "." not in name:
        module = importlib.util.find_spec(name)  # type: ignore[assignment]
    places = getattr(module, "__path__", None) or getattr(module, "submodule_search_locations", None)
    if places is None and "." in name:
        head, _, last = name.rpartition(".")
        places = [path for path in (os.path.join(p, last) for p in _folders(head)) if os.path.isdir(path)]
    return [str(place) for place in places or ()]


def _submodules(name: str) -> list[Match]:
    import pkgutil

    return [(one.name, "module") for one in pkgutil.iter_modules(_folders(name))]


def _members(name: str) -> list[Match]:
    module = sys.modules.get(name)
    names = [] if module is None else [n for n in dir(module) if not n.startswith("_")]
    return [(n, following.kind_of(module, n)) for n in sorted(names, key=_rank)] + _submodules(name)


def _paths(word: str) -> list[Match]:
    head, slash, tail = word.rpartition("/")
    found = []
    try:
        with os.scandir(os.path.expanduser(head + slash) or ".") as entries:
            for number, entry in enumerate(entries):
                if number >= ENTRIES:
                    break
                hidden = entry.name.startswith(".") and not tail.startswith(".")
                if entry.name.startswith(tail) and not hidden and entry.name.isprintable():
                    found.append((head + slash + entry.name + ("/" if entry.is_dir() else ""), "path"))
    except OSError:
        return []
    return sorted(found)


# -- jedi --------------------------------------------------------------------------------------------------

_jedi: list[Any] = []


def _import_jedi() -> None:
    try:
        import jedi  # type: ignore[import-not-found,import-untyped,unused-ignore]
    except Exception:
        return
    # It must not read properties of objects either.
    jedi.Interpreter._allow_descriptor_getattr_default = False
    jedi.settings.allow_unsafe_interpreter_executions = False
    _jedi.append(jedi)


def _by_jedi(namespace: dict[str, Any], before: str) -> list[Match]:
    """What jedi knows; nothing before it is imported."""
    if not _jedi:
        if not any(thread.name == "import-jedi" for thread in threading.enumerate()):
            threading.Thread(target=_import_jedi, name="import-jedi", daemon=True).start()
        return []
    lines = before.split("\n")
    # It looks closely at objects; those that answer by code of their own are kept from it.
    plain = {name: value for name, value in namespace.items() if following.ordinary(value)}
    found = _jedi[0].Interpreter(before, [plain]).complete(len(lines), len(lines[-1]))
    return [(one.name, one.type) for one in found[:MOST]]


# -- inspection --------------------------------------------------------------------------------------------


def inspected(namespace: dict[str, Any], code: str, cursor: int, detail: bool) -> dict[str, Any]:
    """The documentation of what stands at the cursor, or of the call it stands in."""
    name = following.expression_at(code, cursor) or following.open_call(code[:cursor])
    if not name:
        return {}
    try:
        value = following.value_of(name, namespace)
    except following.Unknown:
        return {}
    return {"name": name[:LONGEST], "text": looking.describe(value, detail)[:DOC]}
