"""Cells to compare: read from text files, run on both sides of one kernel.

A file holds cases. A case starts with ``=== name option ...``; a line ``---`` separates its cells, which run
one after the other. Options:

    lib              the cells use packages that are installed beside the engine
    exact            the order of stdout and stderr pieces counts (the cell flushes, or displays between)
    display-error    a display fails; the status counts from ipykernel 7 on, which no longer calls that ok
    plain            colours do not count
    bash             the cells are bash: ``%%bash`` here, ``%%sandbox bash`` there
    stdin:a|b        answers to the prompts, in order
    nostdin          the front end takes no input
    interrupt:text   interrupt once ``text`` was printed
    interrupt-input  interrupt instead of answering a prompt
    if NAME          only with this module installed (``py311``: from that Python on)
"""

from __future__ import annotations

import importlib.util
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.kernel_client import Kernel

CELLS = Path(__file__).parent / "cells"


@dataclass
class Case:
    """One comparison; ``cells`` run in order, the outputs of all of them are compared."""

    name: str
    cells: list[str]
    options: frozenset[str] = frozenset()
    stdin: list[str] | None = None
    interrupt: str = ""
    needs: str = ""

    @property
    def possible(self) -> bool:
        """Whether what the case needs is installed."""
        if self.needs == "py311":
            return sys.version_info >= (3, 11)
        return not self.needs or importlib.util.find_spec(self.needs) is not None


def _case(head: str, body: str) -> Case:
    name, *words = head.split(" ")
    case = Case(name, [cell.removesuffix("\n") for cell in body.split("\n---\n")])
    rest = " ".join(words)
    if "stdin:" in rest and "nostdin" not in rest:
        rest, _, answers = rest.partition("stdin:")
        case.stdin = answers.split("|")
    parts = rest.split()
    while parts:
        word = parts.pop(0)
        if word == "if":
            case.needs = parts.pop(0)
        elif word.startswith("interrupt:"):
            case.interrupt = word.partition(":")[2]
        else:
            case.options |= {word}
    known = {"lib", "exact", "plain", "display-error", "bash", "nostdin", "interrupt-input"}
    assert case.options <= known, (name, case.options)
    return case


def cases() -> list[Case]:
    """Every case of every file, in order."""
    found: list[Case] = []
    for path in sorted(CELLS.glob("*.txt")):
        for part in ("\n" + path.read_text(encoding="utf-8")).split("\n=== ")[1:]:
            head, _, body = part.partition("\n")
            found.append(_case(head, body.removesuffix("\n")))
    names = [case.name for case in found]
    assert len(set(names)) == len(names), sorted(n for n in set(names) if names.count(n) > 1)
    return found


@dataclass
class Outcome:
    """What one side of a case sent: messages of its cells, prompts among them, and each reply's status."""

    messages: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    statuses: list[str] = field(default_factory=list)


def run(kernel: Kernel, case: Case, *, sandbox: bool) -> Outcome:
    """Run a case on one side."""
    outcome = Outcome()
    for cell in case.cells:
        _run_cell(kernel, case, _code(case, cell, sandbox), outcome)
    return outcome


def _code(case: Case, cell: str, sandbox: bool) -> str:
    if "bash" in case.options:
        return ("%%sandbox bash\n" if sandbox else "%%bash\n") + cell
    if sandbox:
        return "%%sandbox\n" + cell
    # A first line here too, so that the numbers of the lines are the same; as far in as the cell's own.
    indent = cell[: len(cell) - len(cell.lstrip(" "))]
    return cell if cell.startswith("%%") else f"{indent}# a first line\n{cell}"


def _run_cell(kernel: Kernel, case: Case, code: str, outcome: Outcome) -> None:
    answers = list(case.stdin or [])
    pressed: list[bool] = []

    def output(message: dict[str, Any]) -> None:
        kind, content = message["msg_type"], message["content"]
        if kind in ("status", "execute_input"):
            return
        outcome.messages.append((kind, content))
        printed = "".join(c.get("text", "") for k, c in outcome.messages if k == "stream")
        if case.interrupt and case.interrupt in printed and not pressed:
            pressed.append(True)
            threading.Timer(0.3, kernel.interrupt).start()

    def prompt(message: dict[str, Any]) -> None:
        content = message["content"]
        outcome.messages.append(("input", {"prompt": content["prompt"], "password": content["password"]}))
        if "interrupt-input" in case.options:
            time.sleep(0.2)
            kernel.interrupt()
        else:
            kernel.client.input(answers.pop(0) if answers else "")

    stdin = case.stdin is not None or "interrupt-input" in case.options
    reply = kernel.client.execute_interactive(
        code, allow_stdin=stdin, output_hook=output, stdin_hook=prompt, timeout=60, store_history=True
    )
    outcome.statuses.append(reply["content"]["status"])
    for payload in reply["content"].get("payload", []):
        if payload["source"] == "page":
            outcome.messages.append(("page", {"text": payload["data"]["text/plain"]}))
