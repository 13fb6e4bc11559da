"""Whole-notebook mode: ``%sandbox on`` sends every following cell to the sandbox.

The mode is an input transformer of the shell: it puts a magic's line in front of a cell and changes nothing
else, so the history keeps what was typed, and nothing of the kernel is patched. It sees the cell's text and
the mode only; IPython calls it twice for each cell, and again for a cell run by another one.

The mode lives in the kernel's memory. A restarted kernel runs cells on its own machine until ``%sandbox on``
is run again, as it runs no ``import`` again either. A file beside the kernel's connection file, which a
restart keeps, lets ``%load_ext`` say so.

With ``--tagged`` only cells with the tag ``sandbox`` go. Tags come with each request from the front end, and
some send none (nbclient, papermill). So the cell that turns this on must carry the tag itself, which shows
that tags are seen; and a later cell whose request says nothing of a cell is refused.
"""

from __future__ import annotations

import html
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from daytona_magics.config import MODE_ATTRIBUTE
from daytona_magics.errors import printable
from daytona_magics.magics.places import CARRIER, place

#: The tag that sends a cell to the sandbox.
TAG = "sandbox"


#: Texts that stand in the place of a cell that must not run; they run here, and only raise.
REFUSALS: set[str] = set()


def refusal(sentence: str) -> str:
    """What a cell becomes so that nothing of it runs, and its reader is told why.

    In:  refusal("this is why")
    Out: "raise ...SandboxUsageError('nothing was run: this is why')\\n"
    """
    text = (
        "raise __import__('daytona_magics.errors', fromlist=['errors']).SandboxUsageError("
        f"'nothing was run: {sentence}')\n"
    )
    REFUSALS.add(text)
    return text


_MIXED = refusal(
    "this cell has commands to the magics, which run on this machine, and code, which runs in the sandbox; "
    "put them into cells of their own, or write %%local on the first line to run all of it on this machine"
)
_UNSEEN = refusal(
    "%sandbox on --tagged holds, and this front end does not say which tags the cell has; "
    "write %%sandbox or %%local on its first line"
)


class Whole:
    """Where the cells of one shell run; registered as an input transformer.

    Attributes:
        on: whether cells go to the sandbox.
        options: what stands behind ``%%sandbox`` for each of them.
        tagged: only those with the tag go.
        quiet: no mark of where a cell ran.
    """

    # Left out when IPython only asks whether what was typed so far is complete.
    has_side_effects = True

    def __init__(self, shell: Any) -> None:
        self._shell = shell
        self.on, self.options, self.tagged, self.quiet = False, "", False, False
        self._here: Any = None  # what says that a cell of this machine is running

    def start(self, options: str, *, tagged: bool, quiet: bool) -> None:
        """From the next cell on."""
        self.stop()
        self.on, self.options, self.tagged, self.quiet = True, options, tagged, quiet
        self._shell.events.register("pre_run_cell", self._before_cell)
        self._shell.events.register("post_run_cell", self._after_cell)
        remember(True)

    def stop(self) -> None:
        """Cells run on this machine again."""
        if self.on:
            self._shell.events.unregister("pre_run_cell", self._before_cell)
            self._shell.events.unregister("post_run_cell", self._after_cell)
            remember(False)
        self.on = False

    def __call__(self, lines: list[str]) -> list[str]:
        where = place(lines)
        if where == "here":
            return _here(lines)
        if not self.on or self._here is not None or where in ("own", "nothing") or "".join(lines) in REFUSALS:
            return lines
        if self.tagged:
            tags = tags_of(self._shell)
            if tags is None:
                return [_UNSEEN]
            if TAG not in tags:
                return lines
        if where == "mixed":
            return [_MIXED]
        return [f"%%{CARRIER} {self.options}".rstrip() + "\n", *lines]

    def sends(self, text: str, *, tagged: bool = False) -> bool:
        """Whether a cell with this text runs in the sandbox; for completion, which is not told of tags.

        Args:
            tagged: take it that the cell has the tag.
        """
        return self.on and (tagged or not self.tagged) and place(text.splitlines(keepends=True)) == "sandbox"

    def _before_cell(self, info: Any) -> None:
        text = getattr(info, "raw_cell", None) or ""
        if self._here is None and place(text.splitlines(keepends=True)) == "here":
            self._here = info
            if not self.quiet and not self.tagged:
                mark("this machine")

    def _after_cell(self, result: Any) -> None:
        if self._here is not None and getattr(result, "info", None) is self._here:
            self._here = None

    @contextmanager
    def here(self) -> Iterator[None]:
        """Meanwhile texts run on this machine.

        Magics like ``%time`` and ``%%capture`` hand what they are to run to the transformers once more.
        """
        before, self._here = self._here, self._here or self
        try:
            yield
        finally:
            self._here = before


def _here(lines: list[str]) -> list[str]:
    """Make ``%%local`` a comment: the rest is then an ordinary cell of this kernel, with its line numbers.

    With a cell magic below it, it stays what it is, and hands over to that magic itself.
    """
    for index, line in enumerate(lines):
        stripped = line.lstrip()
        if stripped.startswith("%%local"):
            rest = next((one for one in lines[index + 1 :] if one.strip()), "")
            if rest.lstrip().startswith("%%") or stripped[7:].split("#")[0].strip():
                body = ["\n"] * index + lines[index + 1 :]
                return [stripped if stripped.endswith("\n") else stripped + "\n", *(body or ["\n"])]
            return [*lines[:index], "# " + stripped, *lines[index + 1 :]]
        if stripped and not stripped.startswith("#"):
            break
    return lines


def of(shell: Any) -> Whole:
    """The mode of a shell; made with its first use, and kept when the extension is loaded again."""
    found = getattr(shell, MODE_ATTRIBUTE, None)
    if found is None:
        found = Whole(shell)
        setattr(shell, MODE_ATTRIBUTE, found)
    assert isinstance(found, Whole)
    return found


def typed(shell: Any) -> str:
    """The text of the running cell, as typed."""
    parent = shell.get_parent() if hasattr(shell, "get_parent") else {}
    code = (parent.get("content") or {}).get("code") if isinstance(parent, dict) else None
    if isinstance(code, str):
        return code
    history = getattr(getattr(shell, "history_manager", None), "input_hist_raw", None)
    return str(history[-1]) if history else ""


def _reminder() -> Path | None:
    """The file that outlives a restart; None without a kernel."""
    connect = sys.modules.get("ipykernel.connect")
    try:
        return None if connect is None else Path(connect.get_connection_file()).with_suffix(".sandbox-on")
    except RuntimeError:
        return None  # IPython without a kernel: no application has a connection file


def remember(on: bool) -> None:
    """Note for the next process of this kernel that the mode was on. Where that fails, nothing is said."""
    path = _reminder()
    if path is None:
        return
    with suppress(OSError):
        if not on:
            path.unlink(missing_ok=True)
            return
        # What kernels left that ended without a word.
        for other in path.parent.glob("*.sandbox-on"):
            if not other.with_suffix(".json").exists():
                other.unlink(missing_ok=True)
        path.touch(mode=0o600)


def before_restart(shell: Any) -> str:
    """What to say to a kernel that was restarted while the mode was on; "" to others."""
    path = _reminder()
    if path is None or not path.exists() or re.search(r"(?m)^\s*%sandbox\s+on\b", typed(shell)):
        return ""
    return "this kernel was restarted: its cells run on this machine until %sandbox on is run again"


def tags_of(shell: Any) -> list[str] | None:
    """The tags of the running cell; None when the front end does not say anything about the cell."""
    parent = shell.get_parent() if hasattr(shell, "get_parent") else {}
    metadata = parent.get("metadata") if isinstance(parent, dict) else None
    if not isinstance(metadata, dict):
        return None
    tags = metadata.get("tags")
    if isinstance(tags, list):
        return [str(tag) for tag in tags]
    return [] if "cellId" in metadata else None


def called(name: str) -> str:
    """In: called("lab"), called("sandbox-12ab34")  Out: ('sandbox lab', 'sandbox-12ab34')"""
    return name if name.startswith("sandbox") else f"sandbox {name}"


def mark(where: str) -> None:
    """Show where a cell ran: one small line above its output, which a saved notebook keeps."""
    from daytona_magics.notebook.status import in_kernel

    text, shell = f"▸ {printable(where, line=True)}", in_kernel()
    if shell is None:
        print(text, flush=True)
        return
    if (shell.get_parent().get("content") or {}).get("silent"):
        return  # a front end's own business, not a cell that anybody sees
    style = "color:var(--jp-ui-font-color2,GrayText);font-size:var(--jp-ui-font-size0,11px);text-align:right"
    shell.display_pub.publish(
        {"text/plain": text, "text/html": f'<div style="{style};padding:0 4px">{html.escape(text)}</div>'},
        metadata={"daytona_magics": {"ran_in": where}},
    )
