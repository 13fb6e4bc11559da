"""What two sides of a case showed, brought into one form.

What differs by nature is taken out: numbers of cells, addresses of objects, times, the names of temporary
files, the colours of a traceback and which lines around the failing one it shows. What the page would be
given is sanitised on both sides, since that is what a sandbox's output always is: a local bundle from which
the sanitiser takes a mimetype away stays as it is, and so differs. The exception are the mimetypes that no
sandbox may send to a page (``NEVER``): for these the note that names them is compared.

Where a sandbox cell is meant to be better, it is so by a rule, for all cells alike:

- What the local kernel says of itself is left out: warnings naming its own files, its advice to restart it.
- An interrupt's last line says what was done and whether variables are alive: left out.
- A command's exit code is compared as such; locally it stands behind the whole script, as bytes.
- What the local kernel prints to stderr as ``UsageError: ...`` instead of reporting it is that error,
  compared by its first sentence.
- Tracebacks are compared in the form of :mod:`tests.parity.traces`.

Each rule has a test in ``test_compare.py`` that shows what still counts as a difference.
"""

from __future__ import annotations

import re
from typing import Any

import ipykernel

from daytona_magics.notebook.display import safe_bundle

from . import traces
from .suite import Case, Outcome

#: What no sandbox may send to a page: it would act there, or load from addresses.
NEVER = frozenset(
    {
        "application/javascript",
        "application/vnd.jupyter.widget-view+json",
        "application/vnd.bokehjs_exec.v0+json",
        "application/vnd.bokehjs_load.v0+json",
    }
)

_ANSI = re.compile(r"\x1b\[[0-9;]*m")
_SAME = (
    # A frame of the cell shows a magic as it stands there; locally what it was turned into.
    (re.compile(r"get_ipython\(\)\.run_line_magic\('(\w+)', '([^'\n]*)'\)"), r"%\1 \2"),
    (re.compile(r"0x[0-9a-f]{6,}"), "0xADDRESS"),
    (re.compile(r"\baltair-viz-[0-9a-f]{32}"), "altair-viz-ID"),
    (re.compile(r"Cell In\s?\[\d+\](?: \(\d+\))?"), "Cell In[#]"),
    (re.compile(r"(?:File )?<ipython-input-[^>]*>"), "Cell In[#]"),
    (re.compile(r"/tmp(?:/[^\s:\"]+)?/ipykernel_\d+/\d+\.py"), "Cell In[#]"),
    (re.compile(r"\b\d+\.py, line"), "Cell In[#], line"),
    (re.compile(r"\d+(?:\.\d+)?(?:e[+-]\d+)? (?:ns|[µμu]s|ms|s)\b"), "TIME"),
    (re.compile(r"(?:\d+ h )?\d+min TIME"), "TIME"),
    # What %timeit adds when the machine was busy in one of its runs.
    (re.compile(r"The slowest run took [\d.]+ times longer[^\n]*\n"), ""),
    (re.compile(r"(?<![\w./~-])[\w./~-]*/(site-packages|lib/python3\.\d+)/"), r"\1/"),
    (re.compile(r"line \d+ in run_code"), "line # in run_code"),
    # A terminal's line ends: a local command has a terminal.
    (re.compile(r"\r\n"), "\n"),
    (re.compile(r"\^+"), "^"),
)
#: What the local kernel says of itself.
_ITSELF = (
    # A frame of its own in the traceback of a thread.
    re.compile(r' *File "site-packages/ipykernel/[^\n]*\n[^\n]*\n'),
    re.compile(r"site-packages/(?:IPython|ipykernel)/[^\n]*Warning: [^\n]*\n(?:  [^\n]*\n)?"),
    re.compile(r"Note: you may need to restart the kernel to use updated packages\.\n"),
)
#: What a sandbox cell says of an interrupt behind the exception's own message.
_DONE = re.compile(r"(?:^|; )(?:sent Ctrl-C to the cell|the cell was interrupted)(?:; variables are alive)?$")
_EXIT_CODE = re.compile(
    r"(?s)(?:Command .* returned non-zero exit status|the cell ended with exit code) (\d+)\.?$"
)


def normal(case: Case, outcome: Outcome, *, sandbox: bool) -> list[Any]:
    """The outputs in a form that can be compared."""
    items: list[Any] = []
    ids: dict[str, str] = {}
    for kind, content in outcome.messages:
        items.append(_item(kind, content, ids, case.cells, sandbox))
    # Questions travel on a channel of their own.
    asked = [item for item in items if item[0] == "input"]
    items = [*asked, *_joined([item for item in items if item[0] != "input"])]
    if "exact" not in case.options:
        items = _by_stream(items)
    if "plain" in case.options:
        items = [("stream", i[1], _ANSI.sub("", i[2])) if i[0] == "stream" else i for i in items]
    items = [_text(item, sandbox) for item in items]
    texts = [item for item in items if item != ("stream", item[1], "")]
    if "display-error" in case.options and ipykernel.version_info[0] < 7:
        return texts
    return [*texts, ("statuses", outcome.statuses)]


def _joined(items: list[Any]) -> list[Any]:
    """Pieces of one stream that follow each other as one."""
    out: list[Any] = []
    for item in items:
        if item[0] == "stream" and out and out[-1][:2] == item[:2]:
            out[-1] = ("stream", item[1], out[-1][2] + item[2])
        else:
            out.append(item)
    return out


def _by_stream(items: list[Any]) -> list[Any]:
    """Between two outputs of another kind, all of stdout and then all of stderr."""
    out: list[Any] = []
    texts: dict[str, str] = {}

    def close() -> None:
        out.extend(("stream", name, texts.pop(name)) for name in sorted(texts, reverse=True))

    for item in items:
        if item[0] == "stream":
            texts[item[1]] = texts.get(item[1], "") + item[2]
        else:
            close()
            out.append(item)
    close()
    return out


def _text(item: Any, sandbox: bool) -> Any:
    """A stream's text, or the error that the local kernel prints as one."""
    if item[0] != "stream":
        return item
    text = _same(item[2])
    if not sandbox:
        for own in _ITSELF:
            text = own.sub("", text)
        usage = re.fullmatch(r"UsageError: (.*)\n", text)
        if usage and item[1] == "stderr":
            return _usage(usage.group(1))
    return ("stream", item[1], text)


def _usage(message: str) -> Any:
    return ("error", "UsageError", message.partition(". ")[0].rstrip("."), [])


def _item(kind: str, content: dict[str, Any], ids: dict[str, str], cells: list[str], sandbox: bool) -> Any:
    if kind == "stream":
        return ("stream", content["name"], content["text"])
    if kind in ("display_data", "update_display_data", "execute_result"):
        identity = content.get("transient", {}).get("display_id")
        known = ids.setdefault(identity, f"id {len(ids) + 1}") if identity else None
        data, metadata = _bundle(content["data"], content["metadata"], sandbox)
        return (kind, data, metadata, known)
    if kind == "error":
        return _error(content, cells, sandbox)
    if kind == "clear_output":
        return ("clear", content["wait"])
    if kind == "page":
        return (kind, re.sub(r"[ \t]+(?=\n)", "", _same(_ANSI.sub("", content["text"]))).strip())
    return (kind, content)


def _error(content: dict[str, Any], cells: list[str], sandbox: bool) -> Any:
    name, message = content["ename"], content["evalue"]
    if (code := _EXIT_CODE.match(message)) and name in ("CalledProcessError", "ExitCodeError"):
        return ("exit code", int(code.group(1)))
    if name == "UsageError":
        return _usage(_same(message))
    lines = "\n".join(content["traceback"])
    if sandbox and name == "KeyboardInterrupt":
        message = _DONE.sub("", message)
        head, _, last = lines.rpartition("\x1b[0m: ")
        lines = f"{head}\x1b[0m: {_DONE.sub('', last)}"
    trace = traces.normal(_same(_ANSI.sub("", lines)), cells, sandbox=sandbox)
    return ("error", name, _same(message), trace)


def _bundle(
    data: dict[str, Any], metadata: dict[str, Any], sandbox: bool
) -> tuple[dict[str, Any], dict[str, Any]]:
    # What comes from a sandbox has been sanitised already.
    safe, sizes = (data, metadata) if sandbox else safe_bundle(data, metadata)
    # An SVG is shown as an image: nothing is lost.
    lost = set(data) - set(safe) - {"image/svg+xml"} - NEVER
    if lost:
        safe = {**safe, "lost": sorted(lost)}
    return {mime: _same(value) if isinstance(value, str) else value for mime, value in safe.items()}, sizes


def _same(text: str) -> str:
    for pattern, put in _SAME:
        text = pattern.sub(put, text)
    return text
