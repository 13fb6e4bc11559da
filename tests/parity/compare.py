"""What two sides of a case showed, brought into one form.

What differs by nature is taken out: numbers of cells, addresses of objects, times, the names of temporary
files, the colours of a traceback and which lines around the failing one it shows. What the page would be
given is sanitised on both sides, since that is what a sandbox's output always is: a local bundle from which
the sanitiser takes a mimetype away stays as it is, and so differs.
"""

from __future__ import annotations

import re
from typing import Any

import ipykernel

from daytona_magics.notebook.display import safe_bundle

from .suite import Case, Outcome

_ANSI = re.compile(r"\x1b\[[0-9;]*m")
_SAME = (
    # A frame of the cell shows a magic as it stands there; locally what it was turned into.
    (re.compile(r"get_ipython\(\)\.run_line_magic\('(\w+)', '([^'\n]*)'\)"), r"%\1 \2"),
    (re.compile(r"0x[0-9a-f]{6,}"), "0xADDRESS"),
    (re.compile(r"Cell In\s?\[\d+\](?: \(\d+\))?"), "Cell In[#]"),
    (re.compile(r"(?:File )?<ipython-input-[^>]*>"), "Cell In[#]"),
    (re.compile(r"/tmp(?:/[^\s:\"]+)?/ipykernel_\d+/\d+\.py"), "Cell In[#]"),
    (re.compile(r"\b\d+\.py, line"), "Cell In[#], line"),
    (re.compile(r"\d+(?:\.\d+)?(?:e[+-]\d+)? (?:ns|[µμu]s|ms|s)\b"), "TIME"),
    (re.compile(r"(?:\d+ h )?\d+min TIME"), "TIME"),
    (re.compile(r"(?<![\w./~-])[\w./~-]*/(site-packages|lib/python3\.\d+)/"), r"\1/"),
    (re.compile(r"line \d+ in run_code"), "line # in run_code"),
    # A frame of the local kernel's own in the traceback of a thread.
    (re.compile(r' *File "site-packages/ipykernel/[^\n]*\n[^\n]*\n'), ""),
    # A terminal's line ends: a local command has a terminal.
    (re.compile(r"\r\n"), "\n"),
    (re.compile(r"\^+"), "^"),
)
#: A traceback's lines that say where and what; the others are context.
_WHERE = re.compile(r"(?:Cell In|File )|-+> ?\d|\s*\^")


def normal(case: Case, outcome: Outcome, *, sandbox: bool) -> list[Any]:
    """The outputs in a form that can be compared."""
    items: list[Any] = []
    ids: dict[str, str] = {}
    for kind, content in outcome.messages:
        item = _item(kind, content, ids, sandbox)
        if item is None:
            continue
        items.append(item)
    # Questions travel on a channel of their own.
    asked = [item for item in items if item[0] == "input"]
    items = [*asked, *_joined([item for item in items if item[0] != "input"])]
    if "exact" not in case.options:
        items = _by_stream(items)
    if "plain" in case.options:
        items = [("stream", i[1], _ANSI.sub("", i[2])) if i[0] == "stream" else i for i in items]
    texts = [("stream", i[1], _same(i[2])) if i[0] == "stream" else i for i in items]
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


def _item(kind: str, content: dict[str, Any], ids: dict[str, str], sandbox: bool) -> Any:
    if kind == "stream":
        return ("stream", content["name"], content["text"])
    if kind in ("display_data", "update_display_data", "execute_result"):
        identity = content.get("transient", {}).get("display_id")
        known = ids.setdefault(identity, f"id {len(ids) + 1}") if identity else None
        data, metadata = _bundle(content["data"], content["metadata"], sandbox)
        return (kind, data, metadata, known)
    if kind == "error":
        return ("error", content["ename"], _same(content["evalue"]), _trace(content["traceback"]))
    if kind == "clear_output":
        return ("clear", content["wait"])
    if kind == "page":
        return (kind, re.sub(r"[ \t]+(?=\n)", "", _same(_ANSI.sub("", content["text"]))).strip())
    return (kind, content)


def _bundle(
    data: dict[str, Any], metadata: dict[str, Any], sandbox: bool
) -> tuple[dict[str, Any], dict[str, Any]]:
    # What comes from a sandbox has been sanitised already.
    safe, sizes = (data, metadata) if sandbox else safe_bundle(data, metadata)
    # An SVG is shown as an image: nothing is lost.
    lost = set(data) - set(safe) - {"image/svg+xml"}
    if lost:
        safe = {**safe, "lost": sorted(lost)}
    return {mime: _same(value) if isinstance(value, str) else value for mime, value in safe.items()}, sizes


def _same(text: str) -> str:
    for pattern, put in _SAME:
        text = pattern.sub(put, text)
    return text


def _trace(lines: list[str]) -> list[str]:
    """Where each frame is and its line, and everything from the first line of the message on."""
    text = _same(_ANSI.sub("", "\n".join(lines)))
    kept: list[str] = []
    ours = False  # a frame of the local kernel's own machinery
    for line in text.split("\n"):
        if line.startswith(("File ", "Cell In")):
            ours = "site-packages/ipykernel/" in line or "site-packages/IPython/core/" in line
        if ours and not re.match(r"[A-Z]\w*: ", line):
            continue
        context = re.match(r"\s*\d+(?: |$)", line) and not _WHERE.match(line)
        if not context and line.strip() and not line.strip().startswith("(...)"):
            kept.append(re.sub(r"^-+> (\d+) *", r"-> \1 ", line.rstrip()))
    return kept
